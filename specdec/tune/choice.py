"""Which setting a search has found best, with the evidence; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.compare.estimates import Estimate, estimate
from specdec.tune.halving import Trial


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, and how the adaptive controller fares against the best fixed choice."""

    best: Trial
    best_fixed: Trial
    adaptive: Trial | None
    adaptive_over_fixed: Estimate | None  # decode time of the latter over the former's, by prompt
    speedup: float  # over plain decoding, on the prompts that both have run

    @property
    def adaptive_wins(self) -> bool:
        """The adaptive controller is at least as fast as every fixed choice."""
        return self.best is self.adaptive


def choose(trials: Sequence[Trial]) -> Choice:
    """The best of what stayed in longest; `auto` wins ties, for it follows the text."""
    last = max(trial.rung for trial in trials)
    finalists = [trial for trial in trials if trial.rung == last]
    fixed = [trial for trial in finalists if trial.setting.is_fixed]
    best_fixed = max(fixed, key=lambda trial: trial.tokens_per_s)
    adaptive = max(
        (trial for trial in finalists if not trial.setting.is_fixed),
        key=lambda trial: trial.tokens_per_s,
        default=None,
    )
    wins = adaptive is not None and adaptive.tokens_per_s >= best_fixed.tokens_per_s
    best = adaptive if wins and adaptive is not None else best_fixed
    plain = next((trial for trial in trials if trial.setting.mode == "off"), None)
    return Choice(
        best,
        best_fixed,
        adaptive,
        _ratio(adaptive, best_fixed) if adaptive else None,
        best.share_of(plain) if plain else 1.0,
    )


def _ratio(adaptive: Trial, fixed: Trial) -> Estimate:
    """Prompt by prompt: both ran the same ones in the same order."""
    ratios: dict[str, list[float]] = {}
    for mine, its in zip(adaptive.samples, fixed.samples, strict=True):
        assert mine.prompt_id == its.prompt_id, "a pair is one prompt"
        ratios.setdefault(mine.prompt_id, []).append(its.elapsed_s / mine.elapsed_s)
    return estimate(list(ratios.values()))
