"""What must be true of jobs besides what must be true of every batch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from sluiced.outcome import Fate
from sluiced.ports import DeadLetter, JobAnswer
from sluiced.record import TopicPartition

from .audit import Audit
from .job_api import SimJob
from .topics import Coordinates, SimRecord, at

if TYPE_CHECKING:
    from .jobs import JobWorld


class JobAudit(Audit):
    """Each prompt has one answer, of one job, or one dead letter; and was submitted once for each
    time that a job did not say what has become of it.

    **The gap.** A request that was on its way when its maker lost the partitions may make a job
    after the next owner has looked for one and found none. Neither can know of it. Of the two
    jobs one comes into the plan. The other one is paid for and of no further consequence; the audit
    lets it pass, and nothing else.
    """

    def __init__(self, world: JobWorld) -> None:
        super().__init__(world)
        self._jobs_of: dict[Coordinates, list[SimJob]] = {}
        self._answered: dict[Coordinates, str] = {}  # by which job
        self._dead: set[Coordinates] = set()
        self._exhausted: set[Coordinates] = set()

    def submitted(self, job: SimJob) -> None:
        """The API has made a job."""
        for where in job.holds:
            before = self._jobs_of.setdefault(where, [])
            for other in before:
                if _left_open(other, where):
                    continue
                if job.late or ((other.late or other.gap) and not self._planned(other, where)):
                    self._world.trace.counts["a job is made in the gap"] += 1
                    other.gap = job.gap = True
                else:
                    self.fail("submitted twice", f"{where} is in {other.id} and in {job.id}")
            before.append(job)

    def _planned(self, job: SimJob, where: Coordinates) -> bool:
        committed = self._world.broker.offsets.get(TopicPartition(where.topic, where.partition))
        return committed is not None and f"@{job.id}" in re.split("(@[^@,]*)", committed.metadata)

    def answered(self, answer: JobAnswer) -> None:
        """A result is in the topic of results. The same one of the same job may be twice."""
        where = Coordinates(*answer.tp, answer.offset)
        if self._answered.setdefault(where, answer.job) != answer.job:
            self.fail("one answer", f"{where} by {self._answered[where]} and by {answer.job}")
        if answer.key != self._topics.find(where).key:
            self.fail("answer", f"{where} is answered under {answer.key!r}")
        if where in self._dead:
            self._both(where)

    def acknowledged(self, answers: Sequence[JobAnswer]) -> None:
        """A member knows that these have been written."""
        self._acknowledged.update(Coordinates(*a.tp, a.offset) for a in answers)

    def dead_letter(self, letter: DeadLetter) -> None:
        super().dead_letter(letter)
        self._dead.add(at(letter.record))
        if letter.reason == "exhausted":
            self._exhausted.add(at(letter.record))
        if at(letter.record) in self._answered:
            self._both(at(letter.record))

    def _both(self, where: Coordinates) -> None:
        """Who gives up on a batch may have made a job of it all the same."""
        # And after a crash right behind a dead letter, the next member may have more attempts.
        if math.isinf(self._scenario.give_up_after) and where not in self._exhausted:
            self.fail("both", f"{where} is answered and is a dead letter")

    def _deserves(self, record: SimRecord, letter: DeadLetter) -> bool:
        where = at(record)
        if letter.reason == "exhausted":
            open_ = [job for job in self._jobs_of.get(where, ()) if _left_open(job, where)]
            enough = len(open_) >= letter.attempts >= self._scenario.max_item_attempts
            return enough or not math.isinf(self._scenario.give_up_after)
        return super()._deserves(record, letter)

    def final(self) -> None:
        super().final()
        for tp, records in self._topics.records.items():
            for record in records:
                kind = self._topics.kinds.get(at(record))
                found = (at(record) in self._answered) + (at(record) in self._dead)
                if not found and kind != "tombstone":
                    self.fail("lost", f"{at(record)} of {TopicPartition(*tp)} is nowhere")


def _left_open(job: SimJob, where: Coordinates) -> bool:
    """Whether whoever has read its results must submit this record again."""
    if job.failure is not None:
        return True
    verdict = job.verdicts[where]
    return job.ends <= trio.current_time() and (verdict is None or verdict.fate is Fate.RETRY)
