"""Plots of draft length policies: adaptive against fixed by cost table, and at a switch of task.

    pip install 'specdec[bench]'
    python benchmarks/plot_policies.py benchmarks/results/replay-embedded.json

Reads what replay.py --out wrote and the traces; writes policies.svg and task-switch.svg beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from policies import adaptive, modelled_tables, run
from policies import measured_table as measured

from specdec.costs import CostTable
from specdec.traces import Trace, load_traces

TRACES = Path(__file__).parent / "traces"
BEFORE, AFTER = ("prose", 0.7), ("code", 0.0)  # kind and temperature
NUM_TEXTS = 10  # on either side
NUM_ROUNDS, NUM_RUNS, SMOOTHING = 120, 10, 7

plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "specdec", "font.size": 9})


def plot_tables(tables: dict[str, dict[str, object]], path: Path) -> None:
    """Tokens per second by fixed length, and the adaptive controller's as a line."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, (name, found) in zip(axes.flat, tables.items(), strict=False):
        rates = np.array(found["fixed_tokens_per_s"], float)
        best = int(rates.argmax())
        axis.bar(
            range(len(rates)), rates, color=["0.45" if k == best else "0.8" for k in range(16)]
        )
        mine = float(str(found["tokens_per_s"]))
        axis.axhline(mine, color="C3", label=f"adaptive, {mine / rates[best]:.3f} x best fixed")
        axis.set_ylim(0.0, 1.2 * mine)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(range(0, len(rates), 3))
        axis.set_xlabel("fixed draft length")
        axis.set_ylabel("tokens/s")
        axis.legend(loc="lower right", fontsize=8)
    figure.suptitle("Exact replay of 200 traces of the embedded pair (times from the table named)")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def lengths(
    before: Sequence[Trace], after: Sequence[Trace], costs: CostTable, seed: int
) -> list[int]:
    """Draft length of each round, NUM_ROUNDS before the switch and as many after."""
    rng, controller = random.Random(seed), adaptive()
    rounds = []
    for traces in (before, after):
        texts = run(rng.sample(list(traces), NUM_TEXTS), controller, costs, seed)
        counts = [done.num_drafted for text in texts for done in text]
        rounds.append(counts[-NUM_ROUNDS:] if traces is before else counts[:NUM_ROUNDS])
    return rounds[0] + rounds[1]


def plot_switch(traces: Sequence[Trace], tables: dict[str, CostTable], path: Path) -> None:
    """The mean draft length around a switch of task, over several runs."""
    before, after = (
        [trace for trace in traces if (trace.kind, trace.temperature) == task]
        for task in (BEFORE, AFTER)
    )
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for name, costs in tables.items():
        runs = np.array([lengths(before, after, costs, seed) for seed in range(NUM_RUNS)], float)
        mean = np.convolve(runs.mean(axis=0), np.ones(SMOOTHING) / SMOOTHING, mode="same")
        inner = slice(SMOOTHING, -SMOOTHING)
        axis.plot(np.arange(-NUM_ROUNDS, NUM_ROUNDS)[inner], mean[inner], label=name)
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.axvline(50, color="0.5", linewidth=0.8, linestyle=":")
    axis.set_xlabel(f"rounds since the switch from {BEFORE[0]} to {AFTER[0]} (dotted: 50)")
    axis.set_ylabel("draft length")
    axis.set_title(
        f"{BEFORE[0]} at temperature {BEFORE[1]}, then {AFTER[0]}, greedy: mean of {NUM_RUNS} "
        f"replays over {SMOOTHING} rounds",
        fontsize=9,
    )
    axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path, help="written by replay.py --out")
    args = parser.parse_args()
    found = json.loads(args.results.read_text(encoding="utf-8"))["tables"]
    plot_tables(found, args.results.parent / "policies.svg")
    tables = modelled_tables() | dict(map(measured, sorted(TRACES.glob("costs-*.json"))))
    shown = {name: tables[name] for name in list(tables)[1::2] + list(tables)[-2:]}
    plot_switch(
        load_traces(TRACES / "embedded.npz"), shown, args.results.parent / "task-switch.svg"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
