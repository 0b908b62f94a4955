"""How the pass in flight may end, the likeliest endings first; it knows no model and no cache.

A pass over a run x_1 .. x_K ends with j accepted tokens and the target's next token t. The draft
already knows what it would have taken instead of x_(j+1), so the ending (j, t) has probability
    S_j (1 - p_(j+1)) r(t),
S_j the survival of the run to token j, p its tokens' odds of acceptance, r(t) how often the target
takes the draft's second, third, ... choice where it rejects the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.calibration import Calibration

NUM_OTHERS = 4  # choices after the first that are told apart
GROUP_ROWS = 4  # rows of a draft's cache that go ahead together
LEAST_PROBABILITY = 0.01  # of an ending that is worth a row

_PRIOR_SHARES = (0.4, 0.15, 0.08, 0.05)
_PRIOR_WEIGHT = 20.0  # rejections' worth of belief in them
_MEMORY = 0.99  # of a count, per rejection


@dataclass(frozen=True, slots=True)
class Ending:
    """One way a pass may end, other than with the draft's own next choice."""

    num_accepted: int
    rank: int  # of the next token among the draft's other choices, from 0
    probability: float


def rank_endings(
    margins: Sequence[float], num_checked: int, calibration: Calibration, shares: Sequence[float]
) -> list[Ending]:
    """Endings of a pass that checks `num_checked` tokens, the likeliest first.

    `margins` are those of all tokens drafted: one more than are checked, if the token after the
    run is known. Where it is not, neither are the endings with it.
    """
    reached = 1.0
    endings: list[Ending] = []
    for j, margin in enumerate(margins[: num_checked + 1]):
        p = calibration.probability(margin, j)
        endings += [Ending(j, r, reached * (1.0 - p) * share) for r, share in enumerate(shares)]
        reached *= p
    return sorted(endings, key=lambda ending: -ending.probability)


class RankShares:
    """How often a rejected token gives way to the draft's second choice, third, ..."""

    def __init__(self) -> None:
        self._counts = [_PRIOR_WEIGHT * share for share in _PRIOR_SHARES]
        self._total = _PRIOR_WEIGHT

    @property
    def shares(self) -> tuple[float, ...]:
        """By rank; the rest to 1 are tokens that the draft did not think of."""
        return tuple(count / self._total for count in self._counts)

    def observe(self, rank: int) -> None:
        """A token was rejected for the draft's other choice `rank`; NUM_OTHERS: for none."""
        self._total = _MEMORY * self._total + 1.0
        self._counts = [_MEMORY * count + (r == rank) for r, count in enumerate(self._counts)]
