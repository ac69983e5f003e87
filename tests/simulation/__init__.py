"""The core under a virtual clock in a world that misbehaves; one seed decides everything.

`world` puts a run together and `audit` judges it. `python -m simulation.run --help` runs seeds,
`python -m simulation.mutate` checks that planted bugs are found.
"""
