"""Drafting while the target checks against drafting between the passes, with the same pair.

    taskset -c 0,1 python benchmarks/overlap.py --step-ms 2
    python benchmarks/overlap.py --target DIR --draft DIR --target-cores 0 --draft-cores 1

Target and draft each get cores of their own: the Vulkan software device must be told to use as
many threads (LP_NUM_THREADS=1). `--step-ms` stretches every draft step, as on a slower device.
Prompts run under every way of overlapping in turn, in an order that rotates. Prints a table and,
as its last line, one JSON object. Fails if any two texts differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from overlap_costs import Watch, overlap_costs
from paced import PacedDraft
from switched import Switched

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
from specdec.types import Verifier

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


def row(
    kind: str, way: str, results: list[specdec.Generation], base: list[specdec.Generation]
) -> dict[str, object]:
    """One way on one kind of text against drafting between the passes."""
    ratios = [b.stats.decode_s / r.stats.decode_s for r, b in zip(results, base, strict=True)]
    total, plain = specdec.SpecStats(), specdec.SpecStats()
    for result, other in zip(results, base, strict=True):
        total.add(result.stats)
        plain.add(other.stats)
    overlap = total.overlap
    return {
        "kind": kind,
        "overlap": way,
        "n": len(ratios),
        "speed_up_median": round(statistics.median(ratios), 3),
        "speed_up_min": round(min(ratios), 3),
        "speed_up_max": round(max(ratios), 3),
        "tokens_per_s": round(total.tokens_per_s, 1),
        "tokens_per_pass": round(total.tokens_per_pass, 2),
        "hit_rate": round(overlap.hit_rate, 3),
        "hidden_share_on_hits": round(overlap.hidden_share, 3),
        "draft_share_of_synchronous": round(plain.draft_s / plain.decode_s, 3),
        "pass_ms": round(1e3 * total.verify_s / total.num_passes, 2),
        "pass_ms_of_synchronous": round(1e3 * plain.verify_s / plain.num_passes, 2),
    }


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was run."""

    results: dict[str, dict[str, list[specdec.Generation]]]  # by kind and way
    watch: Watch

    def of_way(self, way: str) -> list[specdec.Generation]:
        """All results of one way."""
        return [result for by_way in self.results.values() for result in by_way[way]]

    @property
    def is_equal(self) -> bool:
        """Whether every way gave the same texts."""
        return all(
            len({result.token_ids for result in same}) == 1
            for by_way in self.results.values()
            for same in zip(*(by_way[way] for way in WAYS), strict=True)
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
    found: dict[str, dict[str, list[specdec.Generation]]] = {}
    with specdec.load(
        config, controller=switched, recorder=watch, target=target, drafter=drafter
    ) as engine:
        list(engine.generate([specdec.Prompt(id="warm-up", text="def", max_new_tokens=8)]))
        for kind in args.kinds.split(","):
            found[kind] = {way: [] for way in (*WAYS, "record")}
            prompts = prompts_of(kind, args)
            for turn in range(args.repeats * len(prompts)):
                ways = WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]
                for way in (*ways, "record") if args.simulate and turn < len(prompts) else ways:
                    switched.choose(way)
                    watch.way = way
                    events = engine.generate([prompts[turn % len(prompts)]])
                    found[kind][way] += [event.result for event in events if event.result]
    return Measured(found, watch)


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
    for way in WAYS[:3]:
        controller = FixedLength(args.draft_length, way)
        said = simulate(traces, costs, controller, args.draft_length)
        total = specdec.SpecStats()
        for result in measured.of_way(way):
            total.add(result.stats)
        rows.append(
            {
                "overlap": way,
                "live_tokens_per_s": round(total.tokens_per_s, 1),
                "simulated_tokens_per_s": round(said.tokens_per_s, 1),
                "simulated_over_live": round(said.tokens_per_s / total.tokens_per_s, 3),
                "live_hit_rate": round(total.overlap.hit_rate, 3),
                "simulated_hit_rate": round(said.overlap.hit_rate, 3),
            }
        )
    return rows


def show(row: dict[str, object]) -> None:
    """Print one line of a table."""
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def main() -> int:
    """Measure and print; 1 if an output differs."""
    args = arguments()
    measured = measure(args)
    rows = [
        row(kind, way, by_way[way], by_way["off"])
        for kind, by_way in measured.results.items()
        for way in WAYS
    ]
    everything = measured.of_way("off")
    rows += [row("all", way, measured.of_way(way), everything) for way in WAYS[1:]]
    checks = simulated(args, measured) if args.simulate else []
    for line in rows + checks:
        show(line)
    first = everything[0]
    devices = {"target": first.target_device, "draft": first.draft_device}
    machine = {"cpu": processor_name(), "numerics": first.numerics_id, "label": "measured"}
    facts = {"benchmark": "overlap", **devices, **machine, "equal": measured.is_equal}
    print(json.dumps({**facts, "rows": rows, "simulator": checks}))
    return 0 if measured.is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
