"""Measure what passes and draft steps cost on this machine, for benchmarks/replay.py.

    python benchmarks/measure_costs.py --out benchmarks/traces/costs-cpu.json --name CPU

Runs short generations through the engine with draft lengths that change from round to round, and
fits what adds up to the time they took: pass times by size, draft runs by a line through lengths.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import specdec
from specdec.controller import FixedPlan
from specdec.cost_cache import processor_name
from specdec.planning import Turn
from specdec.stopping import FixedStopping
from specdec.types import RoundReport, SamplingParams

LENGTHS = (0, 1, 3, 7, 15)  # passes of 1, 2, 4, 8 and 16 tokens
_ROUNDS_EACH = 4
PROMPTS = Path(__file__).parent / "prompts"


class Cycle:
    """A controller that goes through the lengths in turn and keeps every report.

    Each length holds for some rounds, and the first of them counts for nothing: the drafter may
    still be at work for the length before, and slow the pass.
    """

    mode = "cycle"

    def __init__(self) -> None:
        self.reports: list[tuple[RoundReport, bool]] = []  # and whether the one before was alike
        self.starts: list[RoundReport] = []  # of texts: the drafter had the prompt to read
        self._num_planned = 0
        self._is_start = False

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """A text starts."""
        self._is_start = True

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> FixedPlan:
        """The next length, where the text still allows it; prompts run one by one."""
        self._num_planned += 1
        length = LENGTHS[self._num_planned // _ROUNDS_EACH % len(LENGTHS)]
        return FixedPlan(tuple(FixedStopping(min(length, turn.longest)) for turn in turns))

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Keep them."""
        for report in reports.values():
            before = self.reports[-1][0].num_checked if self.reports else -1
            is_settled = before == report.num_checked and not self._is_start
            self.reports.append((report, is_settled))
            self.starts += [report] * self._is_start
            self._is_start = False

    def close(self, slot: int) -> None:
        """Nothing to do."""

    def forget(self) -> None:
        """Start anew, after a warm-up."""
        self.reports.clear()
        self.starts.clear()


def table(reports: Sequence[tuple[RoundReport, bool]], is_padded: bool) -> dict[str, object]:
    """A cost table of passes of 0 to 16 tokens.

    Medians by size say how sizes compare, but what a run takes is a sum, hold-ups included: all are
    raised alike so that their sum is that of the rounds. Sizes between the measured ones cost what
    the next larger does where passes are padded to those, else they lie on the line between them.
    """
    passes: dict[int, list[float]] = defaultdict(list)
    drafts: dict[int, list[float]] = defaultdict(list)
    for report, is_settled in reports:
        if is_settled:
            passes[report.num_checked + 1].append(report.verify_s)
        if report.run.token_ids and is_settled:
            drafts[len(report.run.token_ids)].append(report.draft_s)
    sizes = [length + 1 for length in LENGTHS]
    levels = np.maximum.accumulate([statistics.median(passes[size]) for size in sizes])
    counts = [len(passes[size]) for size in sizes]
    levels *= sum(sum(passes[size]) for size in sizes) / np.dot(levels, counts)
    if is_padded:
        between = levels[np.searchsorted(sizes, range(1, 17))]
    else:
        between = np.interp(range(1, 17), sizes, levels)
    pass_s = [0.0, *between.tolist()]
    lengths = sorted(drafts)
    weights = [len(drafts[length]) ** 0.5 for length in lengths]
    means = [statistics.fmean(drafts[length]) for length in lengths]
    step_s, fixed_s = np.polyfit(lengths, means, 1, w=weights)
    return {
        "num_samples": {str(size): len(passes[size]) for size in sizes},
        "pass_s": [round(x, 6) for x in pass_s],
        "draft_step_s": round(float(step_s), 6),
        "draft_fixed_s": round(max(float(fixed_s), 0.0), 6),
        "other_s": round(statistics.fmean(report.other_s for report, _ in reports), 6),
    }


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of this cost table in results")
    parser.add_argument("--padded", action="store_true", help="passes are padded to 1, 2, 4, ...")
    parser.add_argument("--num-prompts", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    config = specdec.with_overrides(
        specdec.Config(),
        [f"run.max_new_tokens={args.max_new_tokens}", "speculation.overlap=off", *args.set],
    )
    prompts = list(specdec.read_prompts(PROMPTS / "prose.jsonl"))[: args.num_prompts]
    controller = Cycle()
    with specdec.load(config, controller=controller) as engine:
        for _ in engine.generate(prompts):
            pass
        devices = {"target_device": engine.target_device, "draft_device": engine.draft_device}
    result = {
        "name": args.name,
        "is_measured": True,
        **devices,
        "processor": processor_name(),
        "python": platform.python_version(),
        **table(controller.reports, args.padded),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
