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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from paced import PacedDraft

import specdec
from draft.worker import WorkerDrafter
from specdec.assets import embedded_model_dir
from specdec.controller import AdaptiveLength, FixedLength
from specdec.cost_cache import processor_name
from specdec.costs import Costs
from specdec.load import load_target
from specdec.planning import Controller, PassPlan, Turn
from specdec.timeline import TimelineRecorder
from specdec.types import RoundReport, SamplingParams, Verifier

PROMPTS = Path(__file__).parent / "prompts"
WAYS = ("off", "chain", "branch", "auto")


class Switched:
    """The controller that is switched on; each keeps what it has learned."""

    def __init__(self, controllers: dict[str, Controller]) -> None:
        self._controllers = controllers
        self.current = controllers[WAYS[0]]

    @property
    def mode(self) -> str:
        """That of the current one."""
        return self.current.mode

    def switch(self, way: str) -> None:
        """Use another one."""
        self.current = self._controllers[way]

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """A sequence starts."""
        self.current.open(slot, sampling)

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """As the current one says."""
        return self.current.plan(turns, max_tokens)

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Teach the current one."""
        self.current.observe(reports)

    def close(self, slot: int) -> None:
        """The sequence has ended."""
        self.current.close(slot)


def controllers(draft_length: int, verifier: Verifier) -> dict[str, Controller]:
    """One for each way of overlapping; a draft length of 0 is an adaptive one."""
    if draft_length:
        return {way: FixedLength(draft_length, way) for way in WAYS}
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


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[specdec.Generation]]]:
    """Results by kind and way; every prompt runs under every way, in turn."""
    draft_dir = embedded_model_dir("draft") if args.draft == "embedded" else Path(args.draft)
    config = specdec.with_overrides(
        specdec.Config(), [f"target.model={args.target}", "run.context_length=1024", *args.set]
    )
    recipe = PacedDraft(draft_dir, 1024, args.step_ms / 1e3, args.draft_threads)
    target = load_target(config)
    pin(args.target_cores, is_worker=False)
    drafter = WorkerDrafter(recipe)
    pin(args.draft_cores, is_worker=True)
    switched = Switched(controllers(args.draft_length, target))
    recorder = TimelineRecorder(args.trace) if args.trace else None
    found: dict[str, dict[str, list[specdec.Generation]]] = {}
    with specdec.load(
        config, controller=switched, recorder=recorder, target=target, drafter=drafter
    ) as engine:
        list(engine.generate([specdec.Prompt(id="warm-up", text="def", max_new_tokens=8)]))
        for kind in args.kinds.split(","):
            prompts = list(specdec.read_prompts(PROMPTS / f"{kind}.jsonl"))[: args.prompts_per_kind]
            found[kind] = {way: [] for way in WAYS}
            for turn in range(args.repeats * len(prompts)):
                prompt = replace(prompts[turn % len(prompts)], max_new_tokens=args.max_new_tokens)
                for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
                    switched.switch(way)
                    results = (event.result for event in engine.generate([prompt]))
                    found[kind][way] += [result for result in results if result]
    return found


def main() -> int:
    """Measure and print; 1 if an output differs."""
    args = arguments()
    found = measure(args)
    rows = []
    for kind, by_way in found.items():
        for way in WAYS:
            rows.append(row(kind, way, by_way[way], by_way["off"]))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    everything = [result for by_way in found.values() for result in by_way["off"]]
    for way in WAYS[1:]:
        mine = [result for by_way in found.values() for result in by_way[way]]
        rows.append(row("all", way, mine, everything))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    first = everything[0]
    devices = {"target": first.target_device, "draft": first.draft_device}
    machine = {"cpu": processor_name(), "numerics": first.numerics_id, "label": "measured"}
    is_equal = all(
        len({result.token_ids for result in same}) == 1
        for by_way in found.values()
        for same in zip(*by_way.values(), strict=True)
    )
    print(
        json.dumps({"benchmark": "overlap", **devices, **machine, "equal": is_equal, "rows": rows})
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
