"""Regret of draft length policies on recorded traces: exact replay, intervals by prompt.

    python benchmarks/replay.py benchmarks/traces/embedded.npz
    python benchmarks/replay.py TRACES --costs benchmarks/traces/costs-cpu.json

Each cost table is replayed under every fixed length and under the adaptive controller, which starts
knowing nothing, meets the prompts in several random orders, and sees times with 4 % of jitter and
one outlier in a hundred. Intervals are 95 %, by bootstrap over prompts. Modelled tables are named
so: their passes take what a 27B target on a 780M is expected to take (a flat 200 ms to 16 tokens,
or mat-vec kernels that slow down beyond 8), no such device was measured.

Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.planning import Controller
from specdec.replay import Noise, ReplayedRound, clairvoyant_s, replay, total_s
from specdec.traces import Trace, load_traces

MAX_DRAFT = 15
NUM_ORDERS = 3
NUM_RESAMPLES = 2000
SETTLING_PASSES = 50
NUM_TEXTS = 6  # that a recovery is measured on

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


def hopeless(trace: Trace, seed: int) -> Trace:
    """The same margins, with a draft that is right one time in ten whatever they say."""
    rng = np.random.default_rng(seed)
    hits = rng.geometric(0.9, len(trace.num_matching)) - 1
    return replace(trace, num_matching=np.minimum(hits, trace.num_drafted).astype(np.uint8))


def seconds_from(rounds: Sequence[ReplayedRound], num_tokens: int) -> float:
    """Seconds spent beyond the first tokens; a round that straddles the limit counts in part."""
    total, position = 0.0, 0
    for done in rounds:
        length = done.num_accepted + 1
        position += length
        total += done.elapsed_s * min(max(position - num_tokens, 0), length) / length
    return total


def recovery(
    before: Sequence[Trace],
    after: Sequence[Trace],
    costs_before: CostTable,
    costs_after: CostTable,
) -> float:
    """Speed on the text beyond the first settling passes, over that of one that knew it all."""
    switched, settled = adaptive(), adaptive()
    texts, others = after[-NUM_TEXTS:], after[:-NUM_TEXTS]
    run(before, switched, costs_before, 1)
    run(others, settled, costs_after, 1)
    mine, its = (
        [done for rounds in run(texts, controller, costs_after, 2) for done in rounds]
        for controller in (switched, settled)
    )
    num_settling = sum(done.num_accepted + 1 for done in mine[:SETTLING_PASSES])
    return seconds_from(its, num_settling) / seconds_from(mine, num_settling)


def slower(costs: CostTable) -> CostTable:
    """The same with passes that take 1.4 times as long."""
    return replace(costs, pass_s=tuple(1.4 * x for x in costs.pass_s))


def recoveries(traces: Sequence[Trace], costs: CostTable) -> dict[str, float]:
    """How well it does beyond 50 passes after a switch of task, and after one of the clock."""
    kinds = sorted({trace.kind for trace in traces})
    by_kind = {kind: [trace for trace in traces if trace.kind == kind] for kind in kinds}
    switches = [
        recovery(by_kind[a], by_kind[b], costs, costs) for a in kinds for b in kinds if a != b
    ]
    mixed = random.Random(5).sample(list(traces), len(traces))
    half = len(mixed) // 2
    return {
        "task_switch_mean": float(np.mean(switches)),
        "task_switch_worst": min(switches),
        "clock_1.4x": recovery(mixed[:half], mixed[half:], costs, slower(costs)),
        "clock_back": recovery(mixed[:half], mixed[half:], slower(costs), costs),
    }


def evaluate(traces: Sequence[Trace], costs: CostTable) -> dict[str, object]:
    """All figures of one cost table."""
    fixed, mine = fixed_s(traces, costs), adaptive_s(traces, costs)
    bound = np.array([clairvoyant_s(trace, costs, MAX_DRAFT) for trace in traces])
    kinds = np.array([trace.kind for trace in traces])
    num_tokens = sum(len(trace.margins) for trace in traces)
    best_length = int(fixed.sum(axis=1).argmin())
    per_kind = {}
    for kind in sorted(set(kinds)):
        own = np.flatnonzero(kinds == kind)
        subset = [traces[i] for i in own]
        ratio = bootstrap(
            subset, lambda i, own=own: fixed[:, own[i]].sum(axis=1).min() / mine[own[i]].sum()
        )
        length = int(fixed[:, own].sum(axis=1).argmin())
        per_kind[kind] = {"best_fixed": length, "adaptive_over_it": ratio}
    bad = [hopeless(trace, i) for i, trace in enumerate(traces)]
    bad_s, plain_s = adaptive_s(bad, costs), fixed_s(bad, costs)[0]
    best_by_kind_s = sum(fixed[:, kinds == kind].sum(axis=1).min() for kind in set(kinds))
    return {
        "tokens_per_s": num_tokens / mine.sum(),
        "plain_tokens_per_s": num_tokens / fixed[0].sum(),
        "best_fixed": best_length,
        "fixed_tokens_per_s": (num_tokens / fixed.sum(axis=1)).round(3).tolist(),
        "adaptive_over_plain": bootstrap(traces, lambda i: fixed[0, i].sum() / mine[i].sum()),
        "adaptive_over_best_fixed": bootstrap(
            traces, lambda i: fixed[:, i].sum(axis=1).min() / mine[i].sum()
        ),
        "best_fixed_per_kind_over_best_fixed": fixed[best_length].sum() / best_by_kind_s,
        "clairvoyant_over_best_fixed": fixed[best_length].sum() / bound.sum(),
        "per_kind": per_kind,
        "acceptance_0.1_over_plain": bootstrap(bad, lambda i: plain_s[i].sum() / bad_s[i].sum()),
        "recovery": recoveries(traces, costs),
    }


def show(name: str, figures: dict[str, object]) -> None:
    """One table for people."""
    print(f"\n{name}")
    for key, value in figures.items():
        if isinstance(value, dict):
            for part, detail in value.items():
                text = (
                    f"{detail['adaptive_over_it']}  (best fixed K = {detail['best_fixed']})"
                    if isinstance(detail, dict)
                    else f"{detail:.3f}"
                )
                print(f"  {key + ' ' + part:42s}{text}")
        elif isinstance(value, float):
            print(f"  {key:42s}{value:.3f}")
        else:
            print(f"  {key:42s}{value}")


def plain(value: object) -> object:
    """Figures as JSON takes them."""
    if isinstance(value, Interval):
        return [round(x, 4) for x in (value.value, value.low, value.high)]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("traces", type=Path, nargs="+", help="npz, made by record_traces.py")
    parser.add_argument("--costs", type=Path, action="append", default=[], help="measured tables")
    args = parser.parse_args()
    traces = [trace for path in args.traces for trace in load_traces(path)]
    tables = modelled_tables() | dict(measured_table(path) for path in args.costs)
    num_prompts = len({trace.request_id.rpartition("/")[0] for trace in traces})
    print(f"{len(traces)} traces of {num_prompts} prompts")
    results = {}
    for name, costs in tables.items():
        figures = evaluate(traces, costs)
        show(name, figures)
        results[name] = plain(figures)
    print(json.dumps({"num_traces": len(traces), "num_prompts": num_prompts, "tables": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
