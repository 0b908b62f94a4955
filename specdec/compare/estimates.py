"""A typical value with its 95 % interval from repeated measurements; it knows no engine.

Measurements come as prompts x repeats. A prompt's value is the median of its repeats, the whole's
the median over prompts. Everything is done on logarithms: a ratio and its inverse tell the same.

Outliers: a repeat further from its prompt's median than 5 robust standard deviations (1.4826 x
the median absolute deviation, of all repeats that are not themselves their prompt's median) is
removed and counted. Prompts may differ as they like, so none is removed for being unusual; with
fewer than 3 repeats nothing is. The interval is a percentile bootstrap, widened for
small samples (the expanded percentile interval of Hesterberg, "What Teachers Should Know About the
Bootstrap", 2015). It resamples prompts; where there are fewer than 6, which cannot speak for their
kind, it resamples repeats, and holds for these prompts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.float64]

LEAST_PROMPTS = 6  # of 5, the least and largest value enclose the median in 93.75 % at best
_LEAST_REPEATS = 3
_NUM_DEVIATIONS = 5.0
_LEAST_DEVIATION = 0.005  # clocks and schedulers alone scatter by half a percent
_NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over prompts; `low` and `high` are its 95 % interval, None where too few values."""

    value: float
    low: float | None
    high: float | None
    over: str  # what the interval varies: `prompts`, `repeats`, or nothing
    num_prompts: int
    num_values: int  # kept
    num_outliers: int  # removed


def estimate(prompts: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """The typical value of positive measurements, a sequence of repeats for every prompt."""
    logs = [np.log(np.asarray(repeats, np.float64)) for repeats in prompts]
    kept = without_outliers(logs)
    medians = np.array([np.median(repeats) for repeats in kept])
    num_values = sum(map(len, kept))
    rng = np.random.default_rng(seed)
    over, bounds = "", None
    if len(medians) >= LEAST_PROMPTS:
        over = "prompts"
        sample = rng.choice(medians, (_NUM_RESAMPLES, len(medians)))
        bounds = _interval(np.median(sample, axis=1), len(medians))
    elif all(len(repeats) >= LEAST_PROMPTS for repeats in kept):
        over = "repeats"
        bounds = _interval(_resampled_repeats(rng, kept), min(map(len, kept)))
    return Estimate(
        exp(float(np.median(medians))),
        exp(bounds[0]) if bounds else None,
        exp(bounds[1]) if bounds else None,
        over,
        len(medians),
        num_values,
        sum(map(len, logs)) - num_values,
    )


def without_outliers(logs: Sequence[Logs]) -> list[Logs]:
    """Each prompt's repeats (logarithms) without those the rule above removes."""
    judged = [repeats for repeats in logs if len(repeats) >= _LEAST_REPEATS]
    if not judged:
        return list(logs)
    distances = np.concatenate([np.abs(repeats - np.median(repeats)) for repeats in judged])
    moved = distances[distances > 0.0]
    spread = 1.4826 * float(np.median(moved)) if len(moved) else 0.0
    limit = _NUM_DEVIATIONS * max(spread, _LEAST_DEVIATION)
    return [
        repeats[np.abs(repeats - np.median(repeats)) <= limit]
        if len(repeats) >= _LEAST_REPEATS
        else repeats
        for repeats in logs
    ]


def _resampled_repeats(rng: np.random.Generator, kept: Sequence[Logs]) -> Logs:
    """Medians over prompts (resamples,) when the repeats of each had come out otherwise."""
    medians = [
        np.median(rng.choice(repeats, (_NUM_RESAMPLES, len(repeats))), axis=1) for repeats in kept
    ]
    result: Logs = np.median(medians, axis=0)
    return result


def _interval(resamples: Logs, size: int) -> tuple[float, float]:
    """The 95 % interval from resampled medians of a sample of `size`."""
    tail = NormalDist().cdf(-sqrt(size / (size - 1)) * _student_975(size - 1))
    low, high = np.quantile(resamples, [tail, 1.0 - tail])
    return float(low), float(high)


def _student_975(freedom: int) -> float:
    """The 0.975 quantile of Student's t: Abramowitz & Stegun 26.7.5, within 0.5 % from 4 on."""
    x = NormalDist().inv_cdf(0.975)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(freedom) ** (i + 1) for i, term in enumerate(terms))
