"""Simulates drafting while the target checks, event by event, over recorded traces; runs no model.

The protocol is that of the engine and its draft worker: the worker takes one step at a time, sees a
verdict between two of them, keeps the path that begins with it, and is waited for only as long as
the run then still grows. What the target accepts comes from the trace and is exact; times are those
of a cost model. A controller under simulation decides as it would live.

What a branch for an ending that did not come true would have drafted is in no trace: such branches
are taken to be as long as the one that did, or as the run was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.calibration import Calibrator
from specdec.costs import CostTable
from specdec.endings import GROUP_ROWS, LEAST_PROBABILITY, NUM_OTHERS, RankShares, rank_endings
from specdec.overlap_stats import OverlapStats
from specdec.planning import Controller, PassPlan, Turn
from specdec.traces import Trace
from specdec.types import (
    Acceptance,
    DraftRun,
    DraftWork,
    RoundReport,
    SamplingParams,
    StoppingRule,
)

_SLOT = 0
_NUM_POSITIONS = 4


@dataclass(frozen=True, slots=True)
class OverlapCosts:
    """A cost table, and what it costs that two devices work at once."""

    table: CostTable
    row_s: float = 0.0  # what each further row adds to a draft step
    pass_slowdown: float = 0.0  # seconds that a pass loses per second of drafting beside it
    step_slowdown: float = 0.0  # by what part a draft step beside a pass takes longer

    def step_s(self, num_rows: int) -> float:
        """A draft step beside a pass."""
        alone_s = self.table.draft_step_s + (num_rows - 1) * self.row_s
        return alone_s * (1.0 + self.step_slowdown)


@dataclass(slots=True)
class Simulation:
    """What came of it."""

    num_tokens: int = 0
    num_rounds: int = 0
    elapsed_s: float = 0.0
    draft_s: float = 0.0  # of it: waiting for the drafter
    verify_s: float = 0.0
    overlap: OverlapStats = field(default_factory=OverlapStats)

    @property
    def tokens_per_s(self) -> float:
        """The rate of decoding."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0


def simulate(
    traces: Sequence[Trace],
    costs: OverlapCosts,
    controller: Controller,
    max_draft_length: int,
    num_rows: int = 8,
    seed: int = 0,
) -> Simulation:
    """Decode the traced texts one after the other under a controller.

    Args:
        traces: recorded with full chains. Where one does not know which of the draft's choices
            each token was, that is drawn from what is usual.
        costs: alone and together.
        controller: its rules say how far to draft, and for how many endings while a pass runs.
        max_draft_length: most tokens of a run.
        num_rows: of the draft's cache: as many endings can be worked for.
        seed: of what is drawn.
    """
    result, worker = Simulation(), _Worker(costs, num_rows, random.Random(seed))
    for trace in traces:
        sampling = SamplingParams(temperature=trace.temperature)
        controller.open(_SLOT, sampling)
        worker.open(trace)
        while worker.position < worker.num_tokens:
            longest = min(max_draft_length, worker.num_tokens - worker.position - 1)
            turn = Turn(_SLOT, trace.prompt_length + worker.position, longest)
            report = worker.round(controller.plan([turn], max_draft_length + 1))
            controller.observe({_SLOT: report})
            result.overlap.observe(report)
            result.num_rounds += 1
            result.num_tokens += len(report.emitted)
            result.draft_s += report.draft_s
            result.verify_s += report.verify_s
            result.elapsed_s += report.draft_s + report.verify_s + report.other_s
        controller.close(_SLOT)
    return result


class _Worker:
    """The drafter's side; times count from the beginning of each round."""

    def __init__(self, costs: OverlapCosts, num_rows: int, dice: random.Random) -> None:
        self._costs, self._num_rows, self._dice = costs, num_rows, dice
        self._calibrators = (Calibrator(_NUM_POSITIONS), Calibrator(_NUM_POSITIONS))
        self._shares = RankShares()
        self.num_tokens = self.position = 0

    def open(self, trace: Trace) -> None:
        """Start a text."""
        self._trace = trace
        self._scale = trace.temperature or 1.0
        self._calibrator = self._calibrators[trace.temperature == 0.0]
        self._ranks = trace.ranks if trace.ranks is not None else self._drawn_ranks(trace)
        self.num_tokens, self.position = len(trace.margins), 0
        self._work = DraftWork()  # of the pass before
        self._late_s = 0.0  # of the worker's last step, after the verdict

    def round(self, plan: PassPlan) -> RoundReport:
        """One round, and what the worker does while its pass runs."""
        rule = plan.rules[0]
        table, position = self._costs.table, self.position
        run, draft_s = self._take(rule)
        num_checked = plan.share([run])[0]
        num_accepted = min(int(self._trace.num_matching[position]), num_checked)
        alone_s = table.pass_s[num_checked + 1]
        self.position += num_accepted + 1
        self._work, self._late_s = DraftWork(), 0.0
        busy_s = 0.0
        if rule.max_length > 0:
            busy_s = self._work_ahead(rule, run, num_checked, num_accepted, alone_s, position)
        self._learn(position, run, num_accepted)
        accepted = run.token_ids[:num_accepted]
        return RoundReport(
            run,
            num_checked,
            Acceptance(accepted, 0, is_bonus=num_accepted == num_checked),
            (*accepted, 0),
            draft_s,
            alone_s + self._costs.pass_slowdown * min(busy_s, alone_s),
            table.other_s,
        )

    def _take(self, rule: StoppingRule) -> tuple[DraftRun, float]:
        """The run and how long it was waited for."""
        if rule.max_length <= 0:
            return DraftRun(self._trace.prompt_length + self.position), 0.0
        table, chain = self._costs.table, self._chain(self.position)
        num_ready = min(self._work.num_ready, rule.max_length, len(chain))
        length = num_ready
        most = min(rule.max_length, len(chain))
        while length < most and rule.should_continue(chain[:length]):
            length += 1
        draft_s = self._late_s + table.draft_fixed_s + (length - num_ready) * table.draft_step_s
        work = DraftWork(
            self._work.num_endings, self._work.is_hit, num_ready, num_ready * table.draft_step_s
        )
        place = self._trace.prompt_length + self.position
        return DraftRun(place, (0,) * length, tuple(chain[:length]), work), draft_s

    def _work_ahead(
        self,
        rule: StoppingRule,
        run: DraftRun,
        num_checked: int,
        num_accepted: int,
        pass_s: float,
        start: int,
    ) -> float:
        """Steps until the verdict; what is ready then, and how long the last one takes beyond."""
        chain = self._chain(start)
        num_branches = min(rule.num_endings, self._num_rows) - 1
        length = self._free_length(rule, self.position) or len(run.token_ids)
        main = _Row(None, num_checked + 1 + length - len(run.token_ids))
        rows, now_s, first = [main], 0.0, 0
        while num_branches >= 0 and first < len(rows) and now_s < pass_s:
            known = chain[: len(run.token_ids) + main.num_done]
            most = min(num_branches, first + GROUP_ROWS - 1)
            self._branch(rows, known, num_checked, most, length)
            active = [row for row in rows[first : first + GROUP_ROWS] if row.num_done < row.wanted]
            if not active:
                first += GROUP_ROWS
                self._branch(rows, known, num_checked, min(num_branches, most + GROUP_ROWS), length)
                continue
            if first and now_s + self._costs.step_s(len(active)) > pass_s:
                break  # the verdict would have to wait for it
            now_s += self._costs.step_s(len(active))
            for row in active:
                row.num_done += 1
        self._late_s = max(0.0, now_s - pass_s)
        hit = self._hit(rows, num_checked, num_accepted, start)
        offset = num_checked + 1 - len(run.token_ids)
        ready = 0 if hit is None else hit.num_done - (offset if hit is main else 0)
        num_ready = min(max(ready, 0), len(self._chain(self.position)))
        num_endings = len(rows) if rule.num_endings else 0
        self._work = DraftWork(num_endings, num_ready > 0 and num_endings > 0, num_ready)
        return now_s

    def _branch(
        self, rows: list[_Row], known: Sequence[float], num_checked: int, most: int, length: int
    ) -> None:
        """Rows for the likeliest endings without one."""
        if len(known) == num_checked:
            most -= 1  # the token after the run is unknown yet
        if len(rows) > most:
            return
        taken = {row.ending for row in rows}
        calibration = self._calibrator.snapshot(self._scale)
        for ending in rank_endings(known, num_checked, calibration, self._shares.shares):
            if len(rows) > most or ending.probability < LEAST_PROBABILITY:
                return
            if (ending.num_accepted, ending.rank) not in taken:
                rows.append(_Row((ending.num_accepted, ending.rank), length))

    def _hit(
        self, rows: Sequence[_Row], num_checked: int, num_accepted: int, start: int
    ) -> _Row | None:
        """The row that went for the ending that came."""
        at = start + num_accepted
        rank = int(self._ranks[at]) - 1 if at < self.num_tokens else NUM_OTHERS
        if num_accepted == num_checked:
            is_told = int(self._trace.num_drafted[start]) > num_checked
            if int(self._trace.num_matching[start]) > num_accepted or (rank < 0 and not is_told):
                return rows[0]
        return next((row for row in rows if row.ending == (num_accepted, rank)), None)

    def _free_length(self, rule: StoppingRule, position: int) -> int:
        """How long a run is drafted ahead at a position: while all of it is worth checking."""
        if position >= self.num_tokens:
            return 0
        chain, length = self._chain(position), 0
        while length < min(rule.max_length, len(chain)):
            run = DraftRun(0, (0,) * length, tuple(chain[:length]))
            if rule.num_to_check(run) < length and not rule.should_continue(chain[:length]):
                break
            length += 1
        return length

    def _chain(self, position: int) -> list[float]:
        """Margins of the draft's chain at a position of the text."""
        if position >= self.num_tokens:
            return []
        margins: list[float] = self._trace.margins[position].tolist()
        return margins[: int(self._trace.num_drafted[position])]

    def _learn(self, position: int, run: DraftRun, num_accepted: int) -> None:
        """The verdict teaches the odds of endings."""
        for index, margin in enumerate(run.confidences[: num_accepted + 1]):
            self._calibrator.observe(margin, self._scale, index, index < num_accepted)
        at = position + num_accepted
        if num_accepted < len(run.token_ids) and at < self.num_tokens and self._ranks[at]:
            self._shares.observe(min(int(self._ranks[at]) - 1, NUM_OTHERS))

    def _drawn_ranks(self, trace: Trace) -> list[int]:
        """Which of the draft's choices each token of the text was, where nobody looked."""
        shares = RankShares().shares
        weights = [*shares, 1.0 - sum(shares)]
        others = self._dice.choices(range(1, NUM_OTHERS + 2), weights, k=len(trace.margins))
        is_first = (int(count) > 0 for count in trace.num_matching)
        return [0 if first else rank for first, rank in zip(is_first, others, strict=True)]


@dataclass(slots=True)
class _Row:
    """A row of the draft's cache at work; the first, of no other ending, goes on from the run."""

    ending: tuple[int, int] | None  # accepted tokens, rank of the next one
    wanted: int  # steps
    num_done: int = 0
