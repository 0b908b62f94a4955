"""Regret of draft length policies on recorded traces: exact replay, intervals by prompt.

    python benchmarks/replay.py benchmarks/traces/embedded.npz
    python benchmarks/replay.py TRACES --costs benchmarks/traces/costs-cpu.json --out results.json

Each cost table is replayed under every fixed length and under the adaptive controller, which starts
knowing nothing, meets the prompts in several random orders, and sees times with 4 % of jitter and
one outlier in a hundred. Intervals are 95 %, by bootstrap over prompts. `start` is the speed of the
first hundred rounds over plain decoding, for the draft recorded and for one that is right one time
in ten. Modelled tables are named so: their passes take what a 27B target on a 780M is expected to
take (a flat 200 ms to 16 tokens, or mat-vec kernels that slow down beyond 8), no such device was
measured.

Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from changes import hopeless, recoveries, starts
from policies import (
    MAX_DRAFT,
    Interval,
    adaptive_s,
    bootstrap,
    fixed_s,
    measured_table,
    modelled_tables,
)

from specdec.costs import CostTable
from specdec.replay import clairvoyant_s
from specdec.traces import Trace, load_traces


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
        "start": starts(traces, costs),
        "start_at_acceptance_0.1": starts(bad, costs),
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
    parser.add_argument("--only", default="", metavar="TEXT", help="tables with this in their name")
    parser.add_argument("--out", type=Path, help="write the JSON object here, too")
    args = parser.parse_args()
    traces = [trace for path in args.traces for trace in load_traces(path)]
    tables = modelled_tables() | dict(measured_table(path) for path in args.costs)
    tables = {name: costs for name, costs in tables.items() if args.only in name}
    num_prompts = len({trace.request_id.rpartition("/")[0] for trace in traces})
    print(f"{len(traces)} traces of {num_prompts} prompts")
    results = {}
    for name, costs in tables.items():
        figures = evaluate(traces, costs)
        show(name, figures)
        results[name] = plain(figures)
    line = json.dumps({"num_traces": len(traces), "num_prompts": num_prompts, "tables": results})
    if args.out:
        args.out.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
