"""Runs seeds of the world of jobs, as `run` does those of the other one.

python -m simulation.run_jobs --seeds 1000 --jobs 2
python -m simulation.run_jobs --seed 4711 --trace
"""

from .run import main

if __name__ == "__main__":
    main("jobs", "simulation.run_jobs")
