"""Which drafter `auto` takes: the tokens per second predicted for each; it opens and times nothing.

E(a, k) = (1 - a^(k+1)) / (1 - a) tokens are emitted by a round that drafts k tokens, each accepted
with probability a (Leviathan et al. 2022, arXiv 2211.17192); a round costs k draft steps and a pass
of k + 1 tokens. What will be accepted is not known before a run: `a` is assumed, and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MODEL_ACCEPTANCE = 0.7  # of a draft model made for its target
COPY_ACCEPTANCE = 0.2  # of copies of earlier text, over all kinds of text


@dataclass(frozen=True, slots=True)
class DraftOption:
    """A way to draft: what a step costs and how often its token is assumed to be accepted."""

    device: str
    step_s: float
    acceptance: float


def tokens_per_s(option: DraftOption, pass_s: Sequence[float]) -> float:
    """The best rate over all draft lengths; pass_s[m - 1] is the time of a pass of m tokens."""
    rates, emitted = [], 0.0
    for draft_length, elapsed_s in enumerate(pass_s):
        emitted += option.acceptance**draft_length
        rates.append(emitted / (draft_length * option.step_s + elapsed_s))
    return max(rates)


def select(options: Sequence[DraftOption], pass_s: Sequence[float]) -> tuple[str, str]:
    """The device of the fastest option (ties: the first), and why, in one line."""
    plain = 1.0 / pass_s[0]
    rated = [(tokens_per_s(option, pass_s), option) for option in options]
    best_rate, best = max(rated, key=lambda pair: pair[0])
    device = best.device if best_rate > plain else "off"
    rates = ", ".join(
        f"{option.device} {rate:.1f} (acceptance {option.acceptance:g} assumed)"
        for rate, option in rated
    )
    return device, f"predicted tokens/s: {rates}, off {plain:.1f}"
