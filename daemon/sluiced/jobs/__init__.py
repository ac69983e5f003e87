"""A batch that an API makes a job of: submitted, let go from memory, polled, taken in.

Takes the place of `delivery` where the sink is one of jobs. A job outlives the daemon that has
submitted it: all that is known of it stands in the plan, and whoever has its partitions next goes
on from there. `manager` is what the pipeline sees, `submission` makes jobs, `life` follows them to
their end, `harvest` takes in their results, and `book` is what these four have in common.
"""

from .book import Job
from .harvest import Harvester
from .manager import Jobs

__all__ = ["Harvester", "Job", "Jobs"]
