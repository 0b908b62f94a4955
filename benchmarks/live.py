"""A live run with the adaptive controller beside its replay: how far replays can be trusted.

    python benchmarks/live.py --set draft.device=cpu --set run.context_length=1024

First a run drafts the whole chain at every position and checks none, which gives the traces. Then
the same prompts run live, with a controller that knows nothing yet. What its passes and drafts cost
is the table on which another such controller replays the traces. Drafting while the
target checks is off: replays know no overlap. Fails if the two texts differ in length.

Prints both speeds and their ratio, and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from record_traces import requests

import specdec
from specdec.controller import AdaptiveLength
from specdec.cost_cache import processor_name
from specdec.costs import Costs, CostTable
from specdec.planning import Controller, PassPlan, Turn
from specdec.replay import ReplayedRound, replay
from specdec.traces import FullChain, JsonlRecorder, Trace, read_record
from specdec.types import RoundReport, SamplingParams

MAX_DRAFT = 15


class Watched:
    """A controller that can be changed between runs, and every round of its own."""

    def __init__(self, inner: Controller) -> None:
        self.inner = inner
        self.reports: list[tuple[RoundReport, bool]] = []  # and whether the drafter was not behind
        self._was_drafting = False

    @property
    def mode(self) -> str:
        """The inner one's."""
        return self.inner.mode

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """A sequence starts."""
        self._was_drafting = False
        self.inner.open(slot, sampling)

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """The inner one's plan."""
        return self.inner.plan(turns, max_tokens)

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Keep the round."""
        for report in reports.values():
            self.reports.append((report, self._was_drafting))
            self._was_drafting = bool(report.run.token_ids)
        self.inner.observe(reports)

    def close(self, slot: int) -> None:
        """The sequence has ended."""
        self.inner.close(slot)


def record(config: specdec.Config, prompts: list[specdec.Prompt]) -> list[Trace]:
    """The traces of the prompts."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "record.jsonl"
        chain, recorder = FullChain(MAX_DRAFT), JsonlRecorder(path)
        with specdec.load(config, controller=chain, recorder=recorder) as engine:
            for event in engine.generate(prompts):
                if event.result:
                    print(f"recorded {event.result.id}", file=sys.stderr)
        return read_record(path)


def run_live(
    config: specdec.Config, prompts: list[specdec.Prompt], sizes: Sequence[int]
) -> tuple[list[tuple[RoundReport, bool]], dict[str, int]]:
    """All rounds of a run after a warm-up, and the length of every text."""
    watched = Watched(AdaptiveLength(Costs(MAX_DRAFT + 1, sizes), MAX_DRAFT))
    with specdec.load(config, controller=watched) as engine:
        list(engine.generate(["def", "The"]))
        watched.inner = AdaptiveLength(Costs(MAX_DRAFT + 1, sizes), MAX_DRAFT)
        watched.reports.clear()
        results = [event.result for event in engine.generate(prompts) if event.result]
    return watched.reports, {result.id: len(result.token_ids) for result in results}


def costs_of(reports: Sequence[tuple[RoundReport, bool]], sizes: Sequence[int]) -> CostTable:
    """What passes and drafts cost.

    Of passes medians by size, all raised alike so that their sum is that of the run; a size that
    never ran lies between its neighbours.
    """
    passes: dict[int, list[float]] = defaultdict(list)
    drafts: dict[int, list[float]] = defaultdict(list)
    for report, was_drafting in reports:
        passes[padded(report.num_checked + 1, sizes)].append(report.verify_s)
        if report.run.token_ids and was_drafting:
            drafts[len(report.run.token_ids)].append(report.draft_s)
    measured = sorted(passes)
    levels = np.maximum.accumulate([statistics.median(passes[size]) for size in measured])
    levels *= sum(map(sum, passes.values())) / np.dot(levels, [len(passes[m]) for m in measured])
    counts = [padded(count, sizes) for count in range(1, MAX_DRAFT + 2)]
    pass_s = (0.0, *np.interp(counts, measured, levels).tolist())
    lengths = sorted(drafts)
    weights = [len(drafts[length]) ** 0.5 for length in lengths]
    means = [statistics.fmean(drafts[length]) for length in lengths]
    step_s, fixed_s = np.polyfit(lengths, means, 1, w=weights)
    other_s = statistics.fmean(report.other_s for report, _ in reports)
    return CostTable(pass_s, max(float(step_s), 0.0), max(float(fixed_s), 0.0), other_s)


def padded(num_tokens: int, sizes: Sequence[int]) -> int:
    """The size that a pass of so many tokens has."""
    return next((size for size in sizes if size >= num_tokens), num_tokens)


def replayed(
    traces: Sequence[Trace], costs: CostTable, sizes: Sequence[int]
) -> list[ReplayedRound]:
    """Rounds of a controller that knows nothing yet."""
    controller = AdaptiveLength(Costs(MAX_DRAFT + 1, sizes), MAX_DRAFT)
    return [
        done for trace in traces for done in replay(trace, controller, lambda _: costs, MAX_DRAFT)
    ]


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="code,documentation,prose,copy_edit")
    parser.add_argument("--prompts-per-kind", type=int, default=5)
    parser.add_argument("--temperatures", default="0,0.7")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--pass-sizes", default="1,2,4,8,16", help="empty: not padded (reference)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="write the JSON object here, too")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    limits = [f"run.max_new_tokens={args.max_new_tokens}", "speculation.overlap=off"]
    config = specdec.with_overrides(specdec.Config(), [*limits, *args.set])
    temperatures = [float(text) for text in args.temperatures.split(",")]
    prompts = requests(args.kinds.split(","), args.prompts_per_kind, temperatures)
    sizes = tuple(map(int, filter(None, args.pass_sizes.split(","))))
    traces = record(config, prompts)
    reports, lengths = run_live(config, prompts, sizes)
    assert lengths == {trace.request_id: len(trace.margins) for trace in traces}, "texts differ"
    costs = costs_of(reports, sizes)
    rounds = replayed(traces, costs, sizes)
    num_tokens = sum(lengths.values())
    live_s = sum(report.draft_s + report.verify_s + report.other_s for report, _ in reports)
    replay_s = sum(done.elapsed_s for done in rounds)
    result = {
        "benchmark": "live",
        "label": "measured (live) and modelled (replay)",
        "processor": processor_name(),
        "num_requests": len(prompts),
        "num_tokens": num_tokens,
        "live": {"tokens_per_s": num_tokens / live_s, "num_rounds": len(reports)},
        "replay": {"tokens_per_s": num_tokens / replay_s, "num_rounds": len(rounds)},
        "live_over_replay": replay_s / live_s,
        "pass_s": list(costs.pass_s),
        "draft_step_s": costs.draft_step_s,
        "draft_fixed_s": costs.draft_fixed_s,
        "other_s": costs.other_s,
    }
    line = json.dumps(result)
    if args.out:
        args.out.write_text(line + "\n", encoding="utf-8")
    print(f"live {num_tokens / live_s:.1f} tokens/s in {len(reports)} rounds")
    print(f"replay {num_tokens / replay_s:.1f} tokens/s in {len(rounds)} rounds")
    print(f"live over replay {replay_s / live_s:.3f}\n{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
