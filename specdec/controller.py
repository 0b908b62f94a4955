"""How many tokens to draft and to check; it knows acceptances and costs, no model, no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from specdec.calibration import Calibration, Calibrator
from specdec.costs import Costs, CostTable
from specdec.outlook import Outlook
from specdec.overlap import OverlapChoice
from specdec.probing import Allowance, Probing
from specdec.stopping import AdaptiveStopping
from specdec.types import DraftRun, RoundReport, SamplingParams, StoppingRule

_NUM_POSITIONS = 4  # with odds of their own; the last holds from there on
_BIAS_GAIN, _BIAS_LEAK = 0.15, 0.02  # of a sequence's own bias, per verdict
_RATE_MEMORY = 0.95  # what a sequence's running rate keeps per round
_CARRIED_ROUNDS = 5.0  # rounds' worth of the last rate that a new sequence starts with
_SETTLED, _COSTS_KEPT = 100, 4  # after so many rounds a table of costs serves so many


@dataclass(frozen=True, slots=True)
class FixedStopping:
    """Draft `max_length` tokens, check them all."""

    max_length: int
    num_endings: int = 0
    patience_s: float = inf

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Until the length is reached."""
        return len(confidences) < self.max_length

    def num_to_check(self, run: DraftRun) -> int:
        """The whole run."""
        return min(len(run.token_ids), self.max_length)


class FixedLength:
    """The same draft length for every run; 0 is plain decoding."""

    def __init__(self, draft_length: int, overlap: str = "off") -> None:
        """`overlap` is a key of overlap.MODES."""
        self._draft_length = draft_length
        self._overlap = OverlapChoice(overlap)

    @property
    def mode(self) -> str:
        """`off` when nothing is ever drafted, else `fixed`."""
        return "fixed" if self._draft_length else "off"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Every sequence is treated alike."""

    def plan(self, slot: int, position: int, longest: int) -> FixedStopping:
        """The fixed length, wherever the sequence stands."""
        return FixedStopping(min(self._draft_length, longest), self._overlap.num_endings)

    def observe(self, slot: int, report: RoundReport) -> None:
        """Learn how to overlap."""
        self._overlap.observe(report)

    def close(self, slot: int) -> None:
        """Nothing is kept."""


class RunningRate:
    """Tokens per second over the last rounds."""

    def __init__(self, num_tokens: float = 0.0, elapsed_s: float = 0.0) -> None:
        self._num_tokens = num_tokens
        self._elapsed_s = elapsed_s

    def carried(self) -> RunningRate:
        """The same rate on little evidence, for the next sequence to start from."""
        if not self._elapsed_s:
            return RunningRate()
        weight = _CARRIED_ROUNDS * (1 - _RATE_MEMORY)
        return RunningRate(weight * self._num_tokens, weight * self._elapsed_s)

    def observe(self, num_tokens: int, elapsed_s: float) -> None:
        """Count one round."""
        self._num_tokens = _RATE_MEMORY * self._num_tokens + num_tokens
        self._elapsed_s = _RATE_MEMORY * self._elapsed_s + elapsed_s

    def tokens_per_s(self, costs: CostTable) -> float:
        """The rate; never below plain decoding's, which can always be had."""
        plain = 1.0 / costs.plain_s
        return max(plain, self._num_tokens / self._elapsed_s) if self._elapsed_s else plain


@dataclass(slots=True)
class _Slot:
    """What is kept of one running sequence."""

    calibrator: Calibrator
    outlook: Outlook
    margin_scale: float
    rate: RunningRate
    probing: Probing
    calibration: Calibration  # that the last plan was made with
    costs: CostTable | None = None  # that plans are made with
    costs_age: int = 0  # in rounds
    is_asked: bool = False  # the drafter, in this round
    own_bias: float = 0.0  # by how much this text is easier than others, in logits
    has_drafted: bool = False  # in the last round, so the drafter is not behind

    def learn(self, confidence: float, index: int, is_hit: bool) -> None:
        """One verdict of the target, for all sequences and for this one."""
        error = self.calibrator.observe(confidence, self.margin_scale, index, is_hit, self.own_bias)
        self.own_bias = (1 - _BIAS_LEAK) * self.own_bias + _BIAS_GAIN * error


class AdaptiveLength:
    """Drafts and checks what pays, at measured costs and calibrated odds; may stop drafting.

    Costs come from the rounds themselves, odds from the target's verdicts. The rate that seconds
    are charged at is that of a sequence's own last rounds: tokens saved in one text cannot be spent
    in another. Where drafting does not pay, single rounds find out whether it would again; what
    these may cost is bounded, and so is what a start with wrong odds may.
    """

    def __init__(self, costs: Costs, max_draft_length: int, overlap: str = "off") -> None:
        """`overlap` is a key of overlap.MODES."""
        self._overlap = OverlapChoice(overlap)
        self._costs = costs
        self._max_draft_length = max_draft_length
        self._calibrators: dict[bool, Calibrator] = {}  # by whether sampling is greedy
        self._outlooks: dict[bool, Outlook] = {}
        self._slots: dict[int, _Slot] = {}
        self._last_rate = RunningRate()
        self._allowance = Allowance()
        self._num_rounds = 0

    @property
    def mode(self) -> str:
        """The name of this mode in results."""
        return "auto"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Start from what the sequences before have taught."""
        is_greedy = sampling.temperature == 0.0
        calibrator = self._calibrators.setdefault(is_greedy, Calibrator(_NUM_POSITIONS))
        last = self._outlooks.get(is_greedy) or Outlook(self._max_draft_length)
        outlook = self._outlooks[is_greedy] = last.for_new_text()
        scale = 1.0 if is_greedy else sampling.temperature
        self._slots[slot] = _Slot(
            calibrator,
            outlook,
            scale,
            self._last_rate.carried(),
            Probing(),
            calibrator.snapshot(scale),
        )

    def plan(self, slot: int, position: int, longest: int) -> StoppingRule:
        """The rule for one run; a fixed length of 0 where drafting does not pay."""
        state = self._slots[slot]
        costs = self._cost_table(state, position)
        if costs is None or self._costs.is_plain_due:
            state.is_asked = False
            return FixedStopping(0)  # a plain pass tells what all else is compared with
        state.calibration = state.calibrator.snapshot(state.margin_scale, state.own_bias)
        longest = min(longest, self._max_draft_length, costs.longest_run)
        length = self._allowance.longest_run(costs, longest)
        odds = state.outlook.odds(state.calibration, length)
        rule = AdaptiveStopping(
            max_length=length,
            min_length=0,
            calibration=state.calibration,
            odds=odds,
            mean_probability=tuple(sum(p * share for p, share in pairs) for pairs in odds),
            costs=costs,
            rate=state.rate.tokens_per_s(costs),
            num_endings=self._overlap.num_endings,
        )
        expected = replace(rule, costs=costs.with_draft_share(self._overlap.waited_share))
        if rule.max_length > 0 and not expected.should_continue(()):
            is_probe = state.probing.is_due(costs)
            rule = replace(rule, min_length=is_probe, max_length=rule.max_length * is_probe)
        state.is_asked = rule.max_length > 0
        return rule

    def _cost_table(self, state: _Slot, position: int) -> CostTable | None:
        """Costs now; once much is known, as they were a few rounds ago, for tables take time."""
        if state.costs is None or self._num_rounds < _SETTLED or state.costs_age >= _COSTS_KEPT:
            state.costs, state.costs_age = self._costs.table(position), 0
        state.costs_age += 1
        return state.costs

    def observe(self, slot: int, report: RoundReport) -> None:
        """Learn costs and odds from a finished round."""
        self._num_rounds += 1
        state, run = self._slots[slot], report.run
        num_accepted = len(report.acceptance.accepted)
        num_drafted, num_checked = len(run.token_ids), report.num_checked
        self._costs.observe_pass(num_checked + 1, run.position, report.verify_s)
        self._costs.observe_other(report.other_s)
        if state.is_asked:
            self._overlap.observe(report)
            self._learn_draft_cost(state, report)
        state.has_drafted = num_drafted > 0
        state.outlook.observe(run.confidences, state.margin_scale)
        for index in range(min(num_checked, num_accepted + 1)):
            state.learn(run.confidences[index], index, index < num_accepted)
        if num_checked and state.costs is not None:
            state.probing.observe(num_accepted >= state.costs.price(num_drafted, num_checked))
        if state.costs is not None:
            num_waited_for = num_drafted - run.work.num_ready
            gain = num_accepted - state.costs.price(num_waited_for, num_checked)
            self._allowance.observe(gain)
        state.rate.observe(num_accepted + 1, report.draft_s + report.verify_s + report.other_s)

    def _learn_draft_cost(self, state: _Slot, report: RoundReport) -> None:
        """Learn from the tokens that were waited for; a run that was too late was dear, too."""
        num_waited_for = len(report.run.token_ids) - report.run.work.num_ready
        if num_waited_for > 0 and state.has_drafted:
            self._costs.observe_draft(num_waited_for, report.draft_s)
        elif not report.run.token_ids and report.draft_s > self._costs.draft.step_s:
            self._costs.observe_draft(1, report.draft_s)

    def close(self, slot: int) -> None:
        """Keep the sequence's rate for the next to start from."""
        state = self._slots.pop(slot, None)
        if state is not None:
            self._last_rate = state.rate

    def to_json(self) -> dict[str, object]:
        """Everything learned, as numbers."""
        odds = {
            "greedy" if is_greedy else "sampled": {
                **calibrator.to_json(),
                "margins": self._outlooks[is_greedy].to_json(),
            }
            for is_greedy, calibrator in self._calibrators.items()
        }
        return {"mode": self.mode, "odds": odds, "costs": self._costs.to_json()}
