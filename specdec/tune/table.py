"""The state of a search and its end as text for people; it prints nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.tune.choice import Choice
from specdec.tune.halving import Trial


def table(trials: Sequence[Trial]) -> list[str]:
    """A line per setting, the fastest first; shares are of it on the same prompts."""
    ranked = sorted(trials, key=lambda trial: (-trial.rung, -trial.tokens_per_s))
    width = max(len(trial.setting.name) for trial in trials)
    lines = [
        f"  {'setting':{width}}{'tokens/s':>10}{'of first':>10}{'tokens/pass':>13}{'prompts':>9}"
    ]
    for trial in ranked:
        passes = sum(sample.num_passes for sample in trial.samples)
        tokens = sum(sample.num_tokens for sample in trial.samples)
        share = trial.share_of(ranked[0])
        lines.append(
            f"  {trial.setting.name:{width}}{trial.tokens_per_s:10.1f}{share:10.0%}"
            f"{tokens / max(passes, 1):13.2f}{len(trial.samples):9}"
        )
    return lines


def verdict(choice: Choice) -> list[str]:
    """What was found, in sentences."""
    best, fixed = choice.best, choice.best_fixed
    lines = [
        f"best: {best.setting.name}, {best.tokens_per_s:.1f} tokens/s over {len(best.samples)} "
        f"prompts (measured), {choice.speedup:.2f} x plain decoding on the same prompts"
    ]
    ratio = choice.adaptive_over_fixed
    if choice.adaptive is not None and ratio is not None:
        how = f"{ratio.value:.3f}"
        if ratio.low is not None and ratio.high is not None:
            how += f" [{ratio.low:.3f}, {ratio.high:.3f}]"
        claim = "beats every fixed choice" if choice.adaptive_wins else "does not beat the best"
        lines.append(
            f"{choice.adaptive.setting.name} {claim}: {how} x {fixed.setting.name} by prompt "
            f"(median, 95 % interval over {ratio.over or 'too few values'})"
        )
    return lines
