"""When to stop drafting and how much to check: a pure rule made of odds and costs; no state.

At a long-run rate of rho tokens per second every second costs rho tokens (Dinkelbach 1967, "On
nonlinear fractional programming"). So checking m of the drafted tokens is worth
    V(m) = S_1 + ... + S_m - rho T(m + 1),
S_i the probability that the run is accepted at least to token i, and drafting on is right while
some number of further tokens promises more than its time costs. Looking only one token ahead would
fail: T has steps, and on a step's plateau further tokens are almost free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from specdec.calibration import Calibration
from specdec.costs import CostTable
from specdec.sharing import Stakes, share_budget
from specdec.types import DraftRun

_LEAST_PATIENCE_S = 0.002  # less than what a busy system may take to wake a process
_LEAST_HOPE = 0.02  # tokens less likely to survive than this are not looked forward to


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


@dataclass(frozen=True, slots=True)
class AdaptiveStopping:
    """The rule for one run: a snapshot of calibration, costs and rate.

    `odds` says, by position, how likely a token not drafted yet is to be accepted: pairs of a
    probability and how often it is met; `mean_probability` is their mean. A run is at least
    `min_length` long, and is then checked as far: that is how a controller that has stopped
    drafting finds out whether it would pay again.
    """

    max_length: int
    min_length: int
    calibration: Calibration
    odds: tuple[tuple[tuple[float, float], ...], ...]
    mean_probability: tuple[float, ...]
    costs: CostTable
    rate: float  # rho, tokens per second
    num_endings: int = 0

    @property
    def patience_s(self) -> float:
        """What the best run in sight is worth in time; at least twice what its first tokens take.

        Waiting longer would cost more than any verdict can bring back.
        """
        plain_s, survival, total, worth_s = self.costs.pass_s[1], 1.0, 0.0, 0.0
        for index in range(self.max_length):
            survival *= self.mean_probability[index]
            total += survival
            gain_s = total / self.rate - (self.costs.pass_s[index + 2] - plain_s)
            worth_s = max(worth_s, gain_s)
        first_s = self.costs.draft_fixed_s + max(self.min_length, 1) * self.costs.draft_step_s
        return max(worth_s, 2.0 * first_s, _LEAST_PATIENCE_S)

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Whether one more draft token is worth its time."""
        num_drafted = len(confidences)
        if num_drafted >= self.max_length:
            return False
        if num_drafted < self.min_length:
            return True
        reached, total, best = 1.0, 0.0, -self.rate * self.costs.pass_s[1]
        for index, confidence in enumerate(confidences):
            reached *= self.calibration.probability(confidence, index)
            total += reached
            best = max(best, total - self.rate * self.costs.pass_s[index + 2])
        spent_s = self.costs.draft_step_s + (0.0 if num_drafted else self.costs.draft_fixed_s)
        hope = 0.0
        for p, share in self.odds[num_drafted]:
            hope += share * max(best, self._hope(num_drafted + 1, reached * p, total + reached * p))
        return hope - self.rate * spent_s > best

    def num_to_check(self, run: DraftRun) -> int:
        """The prefix of greatest value."""
        most = len(self.costs.pass_s) - 1
        return share_budget([self.stakes(run)], self.costs, self.rate, most)[0]

    def stakes(self, run: DraftRun) -> Stakes:
        """What the run has to win in a pass."""
        length = min(len(run.token_ids), self.max_length)
        survival = self.calibration.survival(run.confidences[:length])
        return Stakes(tuple(survival), min(self.min_length, length))

    def _hope(self, num_drafted: int, reached: float, total: float) -> float:
        """The best V in sight after so many tokens of such odds, less the drafting it takes.

        `reached` is the last token's survival and `total` the sum of all; tokens further on are
        taken for average ones.
        """
        pass_s, rate, step_s = self.costs.pass_s, self.rate, self.costs.draft_step_s
        best = total - rate * pass_s[num_drafted + 1]
        spent_s = 0.0
        for index in range(num_drafted, self.max_length):
            reached *= self.mean_probability[index]
            if reached < _LEAST_HOPE:
                break
            total += reached
            spent_s += step_s
            value = total - rate * (spent_s + pass_s[index + 2])
            if value > best:
                best = value
        return best


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """Every sequence drafts up to a length, and all is checked."""

    rules: tuple[FixedStopping, ...]

    def share(self, runs: Sequence[DraftRun]) -> tuple[int, ...]:
        """The whole runs."""
        return tuple(rule.num_to_check(run) for rule, run in zip(self.rules, runs, strict=True))


@dataclass(frozen=True, slots=True)
class AdaptivePlan:
    """The rules of sequences that share a pass, and what sharing it costs them."""

    rules: tuple[AdaptiveStopping | FixedStopping, ...]  # fixed ones draft nothing
    costs: CostTable
    rate: float  # of all sequences together, tokens per second
    max_tokens: int

    def share(self, runs: Sequence[DraftRun]) -> tuple[int, ...]:
        """The prefixes that are together of the greatest value."""
        stakes = [
            rule.stakes(run) if isinstance(rule, AdaptiveStopping) else Stakes()
            for rule, run in zip(self.rules, runs, strict=True)
        ]
        return share_budget(stakes, self.costs, self.rate, self.max_tokens)
