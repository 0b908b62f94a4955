"""What the adaptive controller knows of one running sequence; it knows no other and no device."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.calibration import Calibration, Calibrator
from specdec.costs import CostTable
from specdec.late_opening import FADED_ROUNDS
from specdec.outlook import Odds, Outlook
from specdec.pacing import RunningRate
from specdec.probing import Probing
from specdec.sharing import Stakes
from specdec.stopping import AdaptiveStopping
from specdec.types import RoundReport

_BIAS_GAIN, _BIAS_LEAK = 0.15, 0.02  # of a sequence's own bias, per verdict
_LEAST_SURVIVAL = 0.05  # of a token that is looked forward to beside other sequences


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is expected of a run before it is drafted."""

    calibration: Calibration
    odds: Odds
    mean_probability: tuple[float, ...]

    def stakes(self) -> Stakes:
        """What the run should win."""
        survival, reached = [], 1.0
        for p in self.mean_probability:
            reached *= p
            if reached < _LEAST_SURVIVAL:
                break
            survival.append(reached)
        return Stakes(tuple(survival))

    def rule(
        self, length: int, costs: CostTable, rate: float, num_endings: int = 0
    ) -> AdaptiveStopping:
        """The rule for a run of up to `length` tokens, at most as many as were looked at."""
        return AdaptiveStopping(
            max_length=length,
            min_length=0,
            calibration=self.calibration,
            odds=self.odds[:length],
            mean_probability=self.mean_probability[:length],
            costs=costs,
            rate=rate,
            num_endings=num_endings,
        )


@dataclass(slots=True)
class SlotState:
    """What is kept of one running sequence."""

    calibrator: Calibrator
    outlook: Outlook
    margin_scale: float
    rate: RunningRate
    probing: Probing
    costs: CostTable | None = None  # of the pass that is planned, if this sequence is alone in it
    is_asked: bool = False  # the drafter, this round
    own_bias: float = 0.0  # by how much this text is easier than others, in logits
    has_drafted: bool = False  # in the last round, so the drafter is not behind
    is_read: bool = False  # by the drafter, which may forget a sequence again
    num_in_vain: int = 0  # rounds since it was asked first, or since a run came
    num_idle: int = 0  # rounds since it was asked

    def prospect(self, length: int) -> Prospect:
        """What is expected of a run of so many tokens."""
        calibration = self.calibrator.snapshot(self.margin_scale, self.own_bias)
        odds = self.outlook.odds(calibration, length)
        means = tuple(sum(p * share for p, share in pairs) for pairs in odds)
        return Prospect(calibration, odds, means)

    def observe(self, report: RoundReport, elapsed_s: float) -> None:
        """Learn from a round; `elapsed_s` is the whole pass's."""
        run, num_checked = report.run, report.num_checked
        num_drafted, num_accepted = len(run.token_ids), len(report.acceptance.accepted)
        self._note_drafting(num_drafted > 0)
        self.outlook.observe(run.confidences, self.margin_scale)
        for index in range(min(num_checked, num_accepted + 1)):
            self._learn(run.confidences[index], index, index < num_accepted)
        if num_checked and self.costs is not None:
            self.probing.observe(num_accepted >= self.costs.price(num_drafted, num_checked))
        self.rate.observe(num_accepted + 1, elapsed_s)

    def _note_drafting(self, has_drafted: bool) -> None:
        """Keep count of what the drafter knows."""
        self.has_drafted = has_drafted
        self.num_idle = 0 if self.is_asked else self.num_idle + 1
        self.is_read = has_drafted or (self.is_read and self.num_idle < FADED_ROUNDS)
        if self.is_asked:
            self.num_in_vain = 0 if has_drafted else self.num_in_vain + 1

    def _learn(self, confidence: float, index: int, is_hit: bool) -> None:
        """One verdict of the target, for all sequences and for this one."""
        error = self.calibrator.observe(confidence, self.margin_scale, index, is_hit, self.own_bias)
        self.own_bias = (1 - _BIAS_LEAK) * self.own_bias + _BIAS_GAIN * error
