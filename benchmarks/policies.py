"""Policies on recorded traces: cost tables, replays in random orders, intervals by prompt.

Shared by the benchmarks that replay; it prints nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.planning import Controller
from specdec.replay import Noise, ReplayedRound, replay, total_s
from specdec.traces import Trace

MAX_DRAFT = 15
NUM_ORDERS = 3
NUM_RESAMPLES = 2000
TIMED_SIZES = (1, 2, 4, 8, 16)

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def modelled_tables() -> dict[str, CostTable]:
    """Expected costs of a 27B target on a 780M with a draft on an NPU."""
    sizes = range(1, MAX_DRAFT + 2)
    flat = (0.0, *(0.2 for _ in sizes))
    stepped = (
        0.0,
        *(0.2 * (1 + 0.008 * (m - 1)) if m <= 8 else 0.27 + 0.005 * (m - 9) for m in sizes),
    )
    return {
        "modelled 780M flat, 6 ms": CostTable(flat, 0.006),
        "modelled 780M flat, 17 ms": CostTable(flat, 0.017),
        "modelled 780M stepped, 6 ms": CostTable(stepped, 0.006),
        "modelled 780M stepped, 17 ms": CostTable(stepped, 0.017),
    }


def measured_table(path: Path) -> tuple[str, CostTable]:
    """Name and table of a file made by measure_costs.py."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    table = CostTable(
        tuple(saved["pass_s"]), saved["draft_step_s"], saved["draft_fixed_s"], saved["other_s"]
    )
    return f"measured {saved['name']}", table


def adaptive() -> AdaptiveLength:
    """A controller that knows nothing yet."""
    return AdaptiveLength(Costs(MAX_DRAFT + 1), MAX_DRAFT)


def informed(costs: CostTable) -> AdaptiveLength:
    """A controller that has timed passes of 1, 2, 4, 8 and 16 tokens and draft steps, no more."""
    known = Costs(MAX_DRAFT + 1)
    levels = {size: (costs.pass_s[size], 0.0, 9) for size in TIMED_SIZES}
    known.restore(levels, 0.0, 0.0, costs.draft_step_s + costs.draft_fixed_s / 4, 0.0)
    return AdaptiveLength(known, MAX_DRAFT)


def jitter(seed: int) -> Noise:
    """Four per cent of jitter; one time in a hundred is four times as long."""
    rng = random.Random(seed)
    return lambda: rng.lognormvariate(0.0, 0.04) * (4.0 if rng.random() < 0.01 else 1.0)


def run(
    traces: Sequence[Trace], controller: Controller, costs: CostTable, seed: int
) -> list[list[ReplayedRound]]:
    """The rounds of every trace, replayed in the given order."""
    noise = jitter(seed)
    return [replay(trace, controller, lambda _: costs, MAX_DRAFT, noise) for trace in traces]


def fixed_s(traces: Sequence[Trace], costs: CostTable) -> Seconds:
    """Seconds by fixed length and trace: (K, N)."""
    return np.array(
        [
            [total_s(rounds) for rounds in run(traces, FixedLength(length), costs, 0)]
            for length in range(MAX_DRAFT + 1)
        ]
    )


def adaptive_s(traces: Sequence[Trace], costs: CostTable) -> Seconds:
    """Seconds by trace: (N,), the mean over several orders of the prompts."""
    total = np.zeros(len(traces))
    for seed in range(NUM_ORDERS):
        order = list(range(len(traces)))
        random.Random(seed).shuffle(order)
        for i, rounds in zip(
            order, run([traces[i] for i in order], adaptive(), costs, seed), strict=True
        ):
            total[i] += total_s(rounds) / NUM_ORDERS
    return total


def bootstrap(traces: Sequence[Trace], statistic: Callable[[NDArray[np.int64]], float]) -> Interval:
    """A statistic of trace indices, resampled by prompt within each kind."""
    prompts: dict[str, dict[str, list[int]]] = {}
    for i, trace in enumerate(traces):
        prompt = trace.request_id.rpartition("/")[0]
        prompts.setdefault(trace.kind, {}).setdefault(prompt, []).append(i)
    groups = [list(by_prompt.values()) for by_prompt in prompts.values()]
    rng = random.Random(0)
    values = [
        statistic(
            np.array([i for group in groups for _ in group for i in rng.choice(group)], np.int64)
        )
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(statistic(np.arange(len(traces))), float(low), float(high))
