"""One pass of several sequences: draft, verify, accept, learn; it knows no queue and no slots.

The caches of target and draft never hold a token past the last accepted one when a round ends, and
the last confirmed token is always the next to be fed. So full acceptance needs no special case.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from specdec.accept import accept
from specdec.batch import EngineParts, Running
from specdec.planning import PassPlan, Turn
from specdec.types import Acceptance, DraftRun, RoundReport, Segment, StoppingRule

_DRAFT_TIMEOUT_S = 5.0  # a drafter that takes longer costs one plain pass, never the run


@dataclass(frozen=True, slots=True)
class Cohort:
    """Sequences that share the next pass, and the plan for it."""

    members: tuple[Running, ...]
    plan: PassPlan


@dataclass(frozen=True, slots=True)
class Progress:
    """What a pass did for one sequence."""

    running: Running
    emitted: tuple[int, ...]
    num_accepted: int  # how many of `emitted` were draft tokens


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Seconds of a pass by what they went into."""

    draft_s: float
    verify_s: float
    other_s: float
    verify_start_s: float  # on the clock of `time.perf_counter`

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.draft_s + self.verify_s + self.other_s


@dataclass(frozen=True, slots=True)
class _Checked:
    """A sequence's part in a pass that is over."""

    running: Running
    run: DraftRun  # all that was drafted
    num_checked: int
    acceptance: Acceptance
    emitted: tuple[int, ...]


class Rounds:
    """Makes passes of cohorts."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts

    def plan(self, members: Sequence[Running]) -> Cohort:
        """Plan the next pass of these sequences."""
        drafter = self._parts.drafter
        turns = []
        for running in members:
            sequence = running.sequence
            longest = sequence.num_remaining - 1 if drafter else 0
            turns.append(Turn(sequence.slot, sequence.length, longest))
        plan = self._parts.controller.plan(turns, self._parts.verifier.max_pass_tokens)
        return Cohort(tuple(members), plan)

    def prepare(self, cohort: Cohort) -> None:
        """Let the drafter begin, for all together or while another cohort is checked."""
        drafter = self._parts.drafter
        for running, rule in zip(cohort.members, cohort.plan.rules, strict=True):
            if drafter and rule.max_length > 0:
                sequence = running.sequence
                drafter.prepare(sequence.slot, sequence.length, rule.max_length, rule)

    def run(self, cohort: Cohort, start: float) -> tuple[list[Progress], PassTimes]:
        """Make the pass; `start` is when work for it began, by the performance counter."""
        draft_start = time.perf_counter()
        plan, members = cohort.plan, cohort.members
        give_up_at = draft_start + sum(rule.patience_s for rule in plan.rules)
        runs = [self._draft(*pair, give_up_at) for pair in zip(members, plan.rules, strict=True)]
        draft_end = time.perf_counter()
        lengths = plan.share(runs)
        checked = [
            run
            if length == len(run.token_ids)
            else DraftRun(run.position, run.token_ids[:length], run.confidences[:length])
            for run, length in zip(runs, lengths, strict=True)
        ]
        verify_start = time.perf_counter()
        target_ids = self._verify(members, checked)
        verify_end = time.perf_counter()
        done = [
            self._accept(*part) for part in zip(members, runs, checked, target_ids, strict=True)
        ]
        draft_s, verify_s = draft_end - draft_start, verify_end - verify_start
        other_s = time.perf_counter() - start - draft_s - verify_s
        times = PassTimes(draft_s, verify_s, other_s, verify_start)
        self._learn(done, times)
        self._count(done, time.perf_counter() - start - times.total_s)
        return [_progress(part) for part in done], times

    def _draft(self, running: Running, rule: StoppingRule, give_up_at: float) -> DraftRun:
        """The next run; K = 0 where drafting is off or failed."""
        sequence, drafter = running.sequence, self._parts.drafter
        position, longest = sequence.length, rule.max_length
        if drafter is None or longest <= 0:
            return DraftRun(position)
        patience_s = max(min(give_up_at - time.perf_counter(), _DRAFT_TIMEOUT_S), 0.0)
        run = drafter.take(sequence.slot, position, longest, patience_s, rule)
        if run.position != position:  # drafted for an ending that did not come true
            return DraftRun(position)
        return self._legal_part(run, longest)

    def _legal_part(self, run: DraftRun, longest: int) -> DraftRun:
        """The run's prefix of at most `longest` ids of the vocabulary: a drafter is not trusted."""
        vocab_size = self._parts.tokenizer.vocab_size
        legal = tuple(takewhile(lambda token: 0 <= token < vocab_size, run.token_ids[:longest]))
        return replace(run, token_ids=legal, confidences=run.confidences[: len(legal)])

    def _verify(
        self, members: Sequence[Running], runs: Sequence[DraftRun]
    ) -> list[tuple[int, ...]]:
        """The pass: the target's token after each fed token of every sequence."""
        segments = []
        for running, run in zip(members, runs, strict=True):
            sequence = running.sequence
            fed = (sequence.last_token_id, *run.token_ids)
            segments.append(Segment(sequence.slot, run.position - 1, fed))
            if self._parts.drafter:
                self._parts.drafter.in_flight(sequence.slot, run)
        return self._parts.verifier.verify(segments)

    def _accept(
        self, running: Running, run: DraftRun, checked: DraftRun, target_ids: tuple[int, ...]
    ) -> _Checked:
        """Take what the target agrees with, and cut all caches to it."""
        sequence = running.sequence
        acceptance = accept(checked, target_ids)
        self._parts.verifier.truncate(sequence.slot, checked.position + len(acceptance.accepted))
        log_probs = self._parts.verifier.log_probs(sequence.slot)
        emitted = sequence.extend(acceptance.emitted, log_probs)
        if self._parts.drafter:
            self._parts.drafter.confirm(sequence.slot, emitted)
        return _Checked(running, run, len(checked.token_ids), acceptance, emitted)

    def _learn(self, done: Sequence[_Checked], times: PassTimes) -> None:
        """Tell everybody who counts what the pass did, each sequence's share of its time."""
        drafted = sum(len(part.run.token_ids) for part in done)
        shares = _shares(done)
        reports = {}
        for part, share in zip(done, shares, strict=True):
            draft_share = len(part.run.token_ids) / drafted if drafted else share
            report = RoundReport(
                part.run,
                part.num_checked,
                part.acceptance,
                part.emitted,
                draft_share * times.draft_s,
                share * times.verify_s,
                share * times.other_s,
                times.verify_start_s,
            )
            slot = part.running.sequence.slot
            reports[slot] = report
            part.running.stats.observe(report)
            part.running.stats.decode_s += report.draft_s + report.verify_s + report.other_s
            for recorder in self._parts.recorders:
                recorder.observe(slot, report)
        self._parts.controller.observe(reports)

    def _count(self, done: Sequence[_Checked], learning_s: float) -> None:
        """Charge what telling everybody took, too."""
        for part, share in zip(done, _shares(done), strict=True):
            part.running.stats.decode_s += share * learning_s


def _shares(done: Sequence[_Checked]) -> list[float]:
    """Each sequence's part of the tokens that were fed."""
    num_tokens = sum(part.num_checked + 1 for part in done)
    return [(part.num_checked + 1) / num_tokens for part in done]


def _progress(part: _Checked) -> Progress:
    num_accepted = min(len(part.acceptance.accepted), len(part.emitted))
    return Progress(part.running, part.emitted, num_accepted)
