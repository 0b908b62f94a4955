"""What the host does between two passes: microseconds from the end of one to the next's submission.

    python benchmarks/host_time.py
    python benchmarks/host_time.py --target DIR --set target.device=H100

Text of one prompt after another is made plain, with a fixed draft length and adaptively, in turn.
Of each gap between two passes of a text, by parts: `read` from the device's signal to the ids in
hand, `loop` all that the engine does with them (acceptance, text, controller, events, plan) but for
waiting for the drafter, `write` the inputs of the next pass, `submit` the driver's call. Prints
medians and the 90th percentiles, and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import numpy as np
from switched import Switched, turn_order

import specdec
from draft.worker import WorkerDrafter
from specdec.controller import AdaptiveLength, FixedLength
from specdec.cost_cache import processor_name
from specdec.costs import Costs
from specdec.load import load_target
from specdec.planning import Controller
from target.model import VulkanVerifier
from target.vulkan.recording import Job

PROMPTS = Path(__file__).parent / "prompts"
PARTS = ("read", "loop", "write", "submit")
_MAX_DRAFT = 15

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(slots=True)
class Stamps:
    """When things of one pass happened, in seconds."""

    asked: float = 0.0
    submitted: float = 0.0  # the driver's call begins
    running: float = 0.0  # and ends
    finished: float = 0.0
    answered: float = 0.0
    waited: float = 0.0  # for the drafter, before the pass: a duration


@dataclass(slots=True)
class Probe:
    """Notes every pass; the last is the one under way."""

    passes: list[Stamps] = field(default_factory=lambda: [Stamps()])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch the target's calls."""
        verify = self._timed(VulkanVerifier.verify, "asked", "answered")
        submit = self._timed(Job.submit, "submitted", "running")
        wait = self._timed(Job.wait, "", "finished")
        with (
            patch.object(VulkanVerifier, "verify", verify),
            patch.object(Job, "submit", submit),
            patch.object(Job, "wait", wait),
            patch.object(WorkerDrafter, "take", self._waiting(WorkerDrafter.take)),
        ):
            yield

    def _waiting(self, call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The same call, its time kept apart."""

        def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            start_s = time.perf_counter()
            result = call(*args, **kwargs)
            self.passes[-1].waited += time.perf_counter() - start_s
            return result

        return timed

    def _timed(
        self, call: Callable[Arguments, Result], before: str, after: str
    ) -> Callable[Arguments, Result]:
        """The same call, noting when it begins and ends."""

        def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            stamps = self.passes[-1]
            if before:
                setattr(stamps, before, time.perf_counter())
            result = call(*args, **kwargs)
            setattr(stamps, after, time.perf_counter())
            if after == "answered":
                self.passes.append(Stamps())
            return result

        return timed

    def gaps(self) -> list[dict[str, float]]:
        """Seconds between every two passes, by parts."""
        done, found = self.passes[:-1], []
        for before, stamps in pairwise(done):
            parts = {
                "read": before.answered - before.finished,
                "loop": stamps.asked - before.answered - stamps.waited,
                "write": stamps.submitted - stamps.asked,
                "submit": stamps.running - stamps.submitted,
            }
            found.append(parts | {"all": sum(parts.values())})
        return found


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="embedded")
    parser.add_argument("--draft-length", type=int, default=7)
    parser.add_argument("--kind", default="code")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Gaps by way, and the target's device."""
    settings = [f"target.model={args.target}", "draft.device=cpu", "run.context_length=1024"]
    config = specdec.with_overrides(specdec.Config(), [*settings, *args.set])
    target = load_target(config)
    ways: dict[str, Controller] = {
        "plain": FixedLength(0),
        f"fixed {args.draft_length}": FixedLength(args.draft_length),
        "auto": AdaptiveLength(Costs(_MAX_DRAFT + 1, target.pass_sizes), _MAX_DRAFT, "auto"),
    }
    switched = Switched(ways)
    prompts = list(specdec.read_prompts(PROMPTS / f"{args.kind}.jsonl"))[: args.prompts]
    prompts = [replace(prompt, max_new_tokens=args.max_new_tokens) for prompt in prompts]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with specdec.load(config, controller=switched, target=target) as engine:
        for turn in range(-1, args.repeats * len(prompts)):  # the first warms up
            for way in turn_order(list(ways), turn):
                switched.choose(way)
                probe = Probe()
                with probe.at_work():
                    list(engine.generate([prompts[turn % len(prompts)]]))
                found[way] += probe.gaps() if turn >= 0 else []
        return found, engine.target_device


def row(gaps: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and 90th percentile of every part, in microseconds."""
    quantiles = {
        part: np.quantile([gap[part] for gap in gaps], (0.5, 0.9)) * 1e6 for part in (*PARTS, "all")
    }
    return {
        part: {"median_us": round(float(middle), 1), "p90_us": round(float(high), 1)}
        for part, (middle, high) in quantiles.items()
    }


def main() -> int:
    """Measure and print."""
    found, device = measure(arguments())
    rows = {way: row(gaps) for way, gaps in found.items()}
    print(f"{'us, median (p90)':18}" + "".join(f"{part:>18}" for part in rows["plain"]))
    for way, parts in rows.items():
        cells = (f"{us['median_us']:.0f} ({us['p90_us']:.0f})" for us in parts.values())
        print(f"{way:18}" + "".join(f"{cell:>18}" for cell in cells))
    counts = {way: len(gaps) for way, gaps in found.items()}
    facts = {"benchmark": "host_time", "label": "measured", "target": device}
    print(json.dumps({**facts, "cpu": processor_name(), "n": counts, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
