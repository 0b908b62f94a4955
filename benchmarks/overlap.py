"""Drafting while the target checks against drafting between the passes, with the same pair.

    taskset -c 0,1 python benchmarks/overlap.py --step-ms 2
    python benchmarks/overlap.py --target-cores "" --draft-cores "" --ways off,auto --repeats 2

Target and draft each get cores of their own: the Vulkan software device must be told to use as
many threads (LP_NUM_THREADS=1); empty lists of cores share them all. `--step-ms` stretches every
draft step, as on a slower device. Prompts run under every way of overlapping in turn, in balanced
order: a block. Blocks are added, kinds of text in turn, until every prompt has had `--repeats` or
`--seconds` are over. Prints a table and, as its last line, one JSON object: `total_ratio` is the
time of all runs without overlap over that of the way, `mean_ratio` the geometric mean of the pairs'
ratios, both with 95 % bootstrap intervals over blocks. Fails if any two texts differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overlap_costs import Watch, hidden_of_possible, overlap_costs
from paced import PacedDraft
from ratios import mean_ratio, ratio_of_totals
from switched import Switched, turn_order

import specdec
from draft.worker import WorkerDrafter
from specdec.assets import embedded_model_dir
from specdec.controller import AdaptiveLength, FixedLength
from specdec.cost_cache import processor_name
from specdec.costs import Costs
from specdec.load import load_target
from specdec.planning import Controller
from specdec.simulator import simulate
from specdec.timeline import TimelineRecorder
from specdec.traces import FullChain
from specdec.types import RoundReport, Verifier

PROMPTS = Path(__file__).parent / "prompts"
WAYS = ("off", "chain", "branch", "auto")


def controllers(draft_length: int, verifier: Verifier) -> dict[str, Controller]:
    """One for each way of overlapping; a draft length of 0 is an adaptive one."""
    if draft_length:
        by_way: dict[str, Controller] = {way: FixedLength(draft_length, way) for way in WAYS}
        return by_way | {"record": FullChain(draft_length + 1)}
    sizes = verifier.max_pass_tokens, verifier.pass_sizes
    return {way: AdaptiveLength(Costs(*sizes), 15, way) for way in WAYS}


def pin(cores: str, is_worker: bool) -> None:
    """Keep this process, or its children, on some cores; nothing if none are named."""
    if not cores:
        return
    wanted = {int(core) for core in cores.split(",")}
    tasks = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    if is_worker:
        children = (Path(f"/proc/self/task/{t}/children").read_text().split() for t in tasks)
        pids = [pid for found in children for pid in found]
        tasks = [int(path.name) for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    for task in tasks:
        os.sched_setaffinity(task, wanted)


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="embedded")
    parser.add_argument("--draft", default="embedded")
    parser.add_argument("--step-ms", type=float, default=0.0, help="least time of a draft step")
    parser.add_argument("--draft-length", type=int, default=7, help="0: adaptive")
    parser.add_argument("--prompts-per-kind", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS), help="`off` and those held against it")
    parser.add_argument("--seconds", type=float, default=120.0, help="once models are loaded")
    parser.add_argument(
        "--kinds", default=",".join(sorted(p.stem for p in PROMPTS.glob("*.jsonl")))
    )
    parser.add_argument("--target-cores", default="0")
    parser.add_argument("--draft-cores", default="1")
    parser.add_argument("--draft-threads", type=int, default=1)
    parser.add_argument("--trace", type=Path, help="write the timeline of the branch runs")
    parser.add_argument(
        "--simulate", action="store_true", help="hold the simulator against it (fixed lengths)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


Row = dict[str, Any]


def row(
    kind: str,
    way: str,
    results: list[specdec.Generation],
    base: list[specdec.Generation],
    rounds: list[RoundReport],
) -> Row:
    """One way on one kind of text against drafting between the passes."""
    pairs = [(b.stats.decode_s, r.stats.decode_s) for r, b in zip(results, base, strict=True)]
    ratios = [other_s / own_s for other_s, own_s in pairs]
    total, plain = total_of(results), total_of(base)
    overlap = total.overlap
    return {
        "kind": kind,
        "overlap": way,
        "n": len(ratios),
        "total_ratio": ratio_of_totals(pairs).to_json(),
        "mean_ratio": mean_ratio(ratios).to_json(),
        "median_ratio": round(statistics.median(ratios), 3),
        "least_ratio": round(min(ratios), 3),
        "most_ratio": round(max(ratios), 3),
        "tokens_per_s": round(total.tokens_per_s, 1),
        "tokens_per_pass": round(total.tokens_per_pass, 2),
        "rounds_overlapped": round(overlap.num_rounds / total.num_passes, 3),
        "hit_rate": round(overlap.hit_rate, 3),
        "hidden_share_on_hits": round(overlap.hidden_share, 3),
        "hidden_of_possible_on_hits": round(hidden_of_possible(rounds), 3),
        "draft_share_of_synchronous": round(plain.draft_s / plain.decode_s, 3),
        "round_ms": parts_ms(total),
        "round_ms_of_synchronous": parts_ms(plain),
    }


def total_of(results: list[specdec.Generation]) -> specdec.SpecStats:
    """Counts and times of all together."""
    total = specdec.SpecStats()
    for result in results:
        total.add(result.stats)
    return total


def parts_ms(total: specdec.SpecStats) -> dict[str, float]:
    """Milliseconds a round by what they go into."""
    other_s = total.decode_s - total.draft_s - total.verify_s
    parts = {"draft": total.draft_s, "pass": total.verify_s, "other": other_s}
    return {name: round(1e3 * seconds / total.num_passes, 3) for name, seconds in parts.items()}


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was run."""

    results: dict[str, dict[str, list[specdec.Generation]]]  # by kind and way
    watch: Watch
    ways: list[str]

    def of_way(self, way: str) -> list[specdec.Generation]:
        """All results of one way."""
        return [result for by_way in self.results.values() for result in by_way[way]]

    @property
    def is_equal(self) -> bool:
        """Whether every way gave the same texts."""
        return all(
            len({result.token_ids for result in same}) == 1
            for by_way in self.results.values()
            for same in zip(*(by_way[way] for way in self.ways), strict=True)
        )


def measure(args: argparse.Namespace) -> Measured:
    """Run every prompt under every way, in turn; once more with full chains, to simulate."""
    config = specdec.with_overrides(
        specdec.Config(), [f"target.model={args.target}", "run.context_length=1024", *args.set]
    )
    target = load_target(config)
    pin(args.target_cores, is_worker=False)
    drafter = WorkerDrafter(recipe(args))
    pin(args.draft_cores, is_worker=True)
    switched = Switched(controllers(args.draft_length, target))
    watch = Watch(TimelineRecorder(args.trace) if args.trace else None)
    ways = args.ways.split(",")
    found: dict[str, dict[str, list[specdec.Generation]]] = {}
    with specdec.load(
        config, controller=switched, recorder=watch, target=target, drafter=drafter
    ) as engine:
        for way in ways:
            switched.choose(way)
            list(engine.generate([specdec.Prompt(id="warm-up", text="def", max_new_tokens=32)]))
        until_s = time.perf_counter() + args.seconds
        for turn, (kind, prompt) in enumerate(blocks(args)):
            by_way = found.setdefault(kind, {way: [] for way in (*ways, "record")})
            order = turn_order(ways, turn)
            is_first = len(by_way[ways[0]]) < args.prompts_per_kind
            for way in [*order, "record"] if args.simulate and is_first else order:
                switched.choose(way)
                watch.way = way
                events = engine.generate([prompt])
                by_way[way] += [event.result for event in events if event.result]
            if time.perf_counter() > until_s:
                break
    return Measured(found, watch, ways)


def blocks(args: argparse.Namespace) -> Iterator[tuple[str, specdec.Prompt]]:
    """Kinds and prompts in the order they run in."""
    by_kind = {kind: prompts_of(kind, args) for kind in args.kinds.split(",")}
    for _ in range(args.repeats):
        for index in range(args.prompts_per_kind):
            yield from ((kind, prompts[index]) for kind, prompts in by_kind.items())


def recipe(args: argparse.Namespace) -> PacedDraft:
    """The draft to build in the worker."""
    directory = embedded_model_dir("draft") if args.draft == "embedded" else Path(args.draft)
    return PacedDraft(directory, 1024, args.step_ms / 1e3, args.draft_threads)


def prompts_of(kind: str, args: argparse.Namespace) -> list[specdec.Prompt]:
    """The first prompts of a kind."""
    prompts = list(specdec.read_prompts(PROMPTS / f"{kind}.jsonl"))[: args.prompts_per_kind]
    return [
        replace(prompt, id=f"{kind}/{index}", max_new_tokens=args.max_new_tokens)
        for index, prompt in enumerate(prompts)
    ]


def simulated(args: argparse.Namespace, measured: Measured) -> list[dict[str, object]]:
    """What the simulator says of the same texts at the costs of these rounds."""
    texts = {result.id: result.token_ids for result in measured.of_way("record")}
    traces = measured.watch.traces(texts, replace(recipe(args), step_s=0.0).model())
    costs = overlap_costs(measured.watch.rounds, args.draft_length)
    rows: list[dict[str, object]] = []
    for way in WAYS[:3]:  # the fixed ones: what costs are known of
        controller = FixedLength(args.draft_length, way)
        said = simulate(traces, costs, controller, args.draft_length)
        total = total_of(measured.of_way(way))
        live = [(one.stats.num_tokens, one.stats.decode_s) for one in measured.of_way(way)]
        rows.append(
            {
                "overlap": way,
                "live_tokens_per_s": ratio_of_totals(live).to_json(),
                "simulated_tokens_per_s": round(said.tokens_per_s, 1),
                "simulated_over_live": round(said.tokens_per_s / total.tokens_per_s, 3),
                "live_hit_rate": round(total.overlap.hit_rate, 3),
                "simulated_hit_rate": round(said.overlap.hit_rate, 3),
            }
        )
    return rows


def show(row: Row) -> None:
    """Print one line of the table."""
    total, mean = (
        f"{row[name]['value']:.3f} [{row[name]['low']:.3f}-{row[name]['high']:.3f}]"
        for name in ("total_ratio", "mean_ratio")
    )
    parts = "/".join(f"{ms:.2f}" for ms in row["round_ms"].values())
    print(
        f"{row['kind']:19}{row['overlap']:7}n {row['n']:<4}{row['tokens_per_s']:7.1f} tok/s  "
        f"total {total}  mean {mean}  {row['tokens_per_pass']:.2f} tok/pass  "
        f"hits {row['hit_rate']:.2f} of {row['rounds_overlapped']:.2f}  "
        f"hidden {row['hidden_share_on_hits']:.2f} ({row['hidden_of_possible_on_hits']:.2f})  "
        f"ms a round, draft/pass/other {parts}",
        flush=True,
    )


def main() -> int:
    """Measure and print; 1 if an output differs."""
    args = arguments()
    measured = measure(args)
    rows = [
        row(kind, way, by_way[way], by_way["off"], measured.watch.by_kind[kind, way])
        for kind, by_way in measured.results.items()
        for way in measured.ways
    ]
    everything = measured.of_way("off")
    rows += [
        row("all", way, measured.of_way(way), everything, measured.watch.rounds[way])
        for way in measured.ways
    ]
    for line in rows:
        show(line)
    checks = simulated(args, measured) if args.simulate else []
    for check in checks:
        print("  ".join(f"{name} {value}" for name, value in check.items()))
    first = everything[0]
    devices = {"target": first.target_device, "draft": first.draft_device}
    machine = {"cpu": processor_name(), "numerics": first.numerics_id, "label": "measured"}
    facts = {"benchmark": "overlap", **devices, **machine, "equal": measured.is_equal}
    print(json.dumps({**facts, "rows": rows, "simulator": checks}))
    return 0 if measured.is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
