"""Who runs when: sequences join and leave between passes; it knows slots and turns, no tokens.

A step admits what there is room for, feeds a bounded part of the prompts that wait for it, and
makes one pass. So a long prompt delays the others by no more than its part, and is not delayed
by more than a pass. Sequences that are ready run as one cohort, or as two by turns: while the
target checks one the drafter works for the other, if it can.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from specdec.batch import Batch, EngineParts, Running
from specdec.cohorts import CohortChoice
from specdec.generation import Event
from specdec.prefixes import SharedPrefixes
from specdec.requests import Refusal, Waiting
from specdec.results import Results
from specdec.rounds import Cohort, Rounds

_PREFILL_TOKENS = 256  # fed between two passes
_PREFILL_ALONE = 512  # the same of a sequence that is alone


@dataclass(slots=True)
class StopFlags:
    """What has been asked of a run from outside; set from anywhere, read between passes."""

    is_draining: bool = False  # admit no more, finish what runs
    is_cancelled: bool = False  # finish nothing


class Scheduler:
    """Runs the requests of one call of `generate`."""

    def __init__(
        self,
        parts: EngineParts,
        num_slots: int,
        prefixes: SharedPrefixes,
        choice: CohortChoice,
        flags: StopFlags,
    ) -> None:
        self._batch = Batch(parts, num_slots, prefixes)
        self._rounds = Rounds(parts)
        self._results = Results(parts)
        self._choice = choice
        self._flags = flags
        self._idle: deque[Running] = deque()  # ready, and in no planned cohort
        self._planned: deque[Cohort] = deque()

    def run(self, waiting: Waiting) -> Iterator[Event]:
        """Run all that waits; slots are freed however the caller stops."""
        try:
            while not self._flags.is_cancelled:
                yield from self._admit(waiting)
                if not len(self._batch):
                    break
                most = _PREFILL_ALONE if len(self._batch) == 1 else _PREFILL_TOKENS
                self._idle.extend(self._batch.prefill(most))
                yield from self._step()
            if self._flags.is_cancelled:
                yield from self._cancel(waiting)
        finally:
            self._batch.close()

    def _admit(self, waiting: Waiting) -> Iterator[Event]:
        """Let requests join while there is room."""
        while self._batch.has_room and not (self._flags.is_draining or self._flags.is_cancelled):
            request = waiting.next()
            if request is None:
                return
            if isinstance(request, Refusal):
                yield self._results.refused(request)
            else:
                self._batch.join(request)

    def _step(self) -> Iterator[Event]:
        """Make the next pass, if anything is ready for one."""
        start = time.perf_counter()
        num_ready = len(self._idle) + sum(len(cohort.members) for cohort in self._planned)
        num_cohorts = self._choice.num_cohorts(num_ready)
        size = -(-num_ready // num_cohorts)
        while self._idle and len(self._planned) < num_cohorts:
            members = [self._idle.popleft() for _ in range(min(size, len(self._idle)))]
            self._planned.append(self._rounds.plan(members))
            if num_ready > 1:  # one alone is taken at once
                self._rounds.prepare(self._planned[-1])
        if not self._planned:
            return
        cohort = self._planned.popleft()
        done, times = self._rounds.run(cohort, start)
        self._choice.observe(sum(len(progress.emitted) for progress in done), times)
        for progress in done:
            if progress.running.sequence.finish_reason is None:
                self._idle.append(progress.running)
            else:
                self._batch.leave(progress.running)
        yield from map(self._results.progress, done)

    def _cancel(self, waiting: Waiting) -> Iterator[Event]:
        """End what runs, and all that waits."""
        yield from map(self._results.cut_short, self._batch.running)
        for prompt, sampling in waiting.left():
            yield self._results.never_run(prompt, sampling)
