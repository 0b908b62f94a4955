"""Ratios of total times of runs that took turns, with their 95 % intervals; it runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Totals = NDArray[np.float64]
_NUM_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and the interval of a percentile bootstrap over blocks of neighbouring runs."""

    value: float
    low: float
    high: float
    num_blocks: int

    def to_json(self) -> dict[str, float | int]:
        """Rounded."""
        bounds = {"value": self.value, "low": self.low, "high": self.high}
        return {name: round(value, 4) for name, value in bounds.items()} | {"n": self.num_blocks}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}-{self.high:.3f}]"


def ratio_of_totals(
    blocks: Sequence[Sequence[float]],
    ratio: Callable[[Totals], Totals] = lambda totals: totals[..., 0] / totals[..., 1],
    seed: int = 0,
) -> Ratio:
    """A ratio made of column totals; whole blocks are resampled, so what they share cancels.

    Args:
        blocks: a row of seconds for each block, a column for each way that took a turn in it.
        ratio: of totals (..., columns), by default the first over the second.
        seed: of the resampling.
    """
    rows = np.asarray(blocks, np.float64)
    drawn = np.random.default_rng(seed).integers(len(rows), size=(_NUM_RESAMPLES, len(rows)))
    low, high = np.quantile(ratio(rows[drawn].sum(axis=1)), (0.025, 0.975))
    return Ratio(float(ratio(rows.sum(axis=0))), float(low), float(high), len(rows))


def mean_ratio(ratios: Sequence[float], seed: int = 0) -> Ratio:
    """The geometric mean of paired ratios."""
    logs = np.log(np.asarray(ratios, np.float64))[:, None]
    size = len(ratios)
    return ratio_of_totals(logs.tolist(), lambda totals: np.exp(totals[..., 0] / size), seed)
