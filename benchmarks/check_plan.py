"""Does `specdec plan` predict this machine's speed from its measured inputs? Within 10 per cent.

    python benchmarks/check_plan.py
    python benchmarks/check_plan.py --target DIR --set target.device=H100 --seconds 100

Acceptance is measured by recording the draft's whole chain at every position of the prompts' text.
Then each prompt runs live plain, at fixed lengths and adaptive, and with rounds of changing
length, which alone tell what passes and draft steps cost: six turns that make a block, in balanced
order, so that a slow moment of the machine hits all alike. The plan forecasts tokens per second
from acceptance and costs alone; outputs must be equal.

Prints forecast, measurement and their ratio (95 % bootstrap interval over blocks), the milliseconds
a token by what they go into, and, as its last line, one JSON object; fails where forecast and
measurement differ by more than 10 per cent or an output differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from measure_costs import Cycle, table
from overlap_costs import Watch
from ratios import Ratio, Totals, ratio_of_totals
from switched import Switched, turn_order

import specdec
from specdec.controller import AdaptiveLength, FixedLength
from specdec.cost_cache import processor_name
from specdec.costs import Costs, CostTable
from specdec.load import load_target
from specdec.plan.acceptance import MAX_DRAFT, Outcome, TraceAcceptance
from specdec.planning import Controller
from specdec.traces import FullChain
from specdec.types import Verifier

PROMPTS = Path(__file__).parent / "prompts"
TOLERANCE = 0.10
LENGTHS = {"plain": 0, "fixed 2": 2, "fixed 4": 4, "fixed 7": 7}
SETTINGS = (*LENGTHS, "auto")
_MEASURE = "costs"  # the way that costs are measured in
_LEAST_BLOCKS = 2

Row = dict[str, Any]  # of the table and of the JSON object


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="embedded")
    parser.add_argument("--kinds", default="code,prose,question_answering")
    parser.add_argument("--prompts-per-kind", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=110.0, help="once models are loaded")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def read_requests(args: argparse.Namespace) -> list[specdec.Prompt]:
    """The first prompts of every kind, kinds in turn."""
    kinds = args.kinds.split(",")
    by_kind = [list(specdec.read_prompts(PROMPTS / f"{kind}.jsonl")) for kind in kinds]
    return [
        replace(prompts[index], id=f"{kind}-{index}", max_new_tokens=args.max_new_tokens)
        for index in range(args.prompts_per_kind)
        for kind, prompts in zip(kinds, by_kind, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Live:
    """What was run: a result by way for every block, and the rounds that costs are known by."""

    blocks: Sequence[Mapping[str, specdec.Generation]]
    acceptance: TraceAcceptance  # its kinds are the prompts
    cycle: Cycle
    is_padded: bool

    @property
    def is_equal(self) -> bool:
        """Whether every way gave the same text in every block."""
        return all(len({one.token_ids for one in block.values()}) == 1 for block in self.blocks)

    def total(self, way: str) -> specdec.SpecStats:
        """Counts and times of one way."""
        total = specdec.SpecStats()
        for block in self.blocks:
            total.add(block[way].stats)
        return total


def controllers(verifier: Verifier) -> dict[str, Controller]:
    """One for each way."""
    costs = Costs(MAX_DRAFT + 1, verifier.pass_sizes)
    fixed: dict[str, Controller] = {name: FixedLength(k) for name, k in LENGTHS.items()}
    return fixed | {"auto": AdaptiveLength(costs, MAX_DRAFT), "record": FullChain(MAX_DRAFT)}


def run(args: argparse.Namespace) -> Live:
    """Record every prompt, then run blocks while there is time."""
    settings = [f"target.model={args.target}", "draft.device=cpu", "run.context_length=1024"]
    config = specdec.with_overrides(specdec.Config(), [*settings, *args.set])
    target, cycle, watch = load_target(config), Cycle(), Watch(None)
    switched = Switched(controllers(target) | {_MEASURE: cycle})
    is_padded = bool(target.pass_sizes)
    prompts, ways = read_requests(args), [*SETTINGS, _MEASURE]
    with specdec.load(config, controller=switched, recorder=watch, target=target) as engine:

        def one(way: str, prompt: specdec.Prompt) -> specdec.Generation:
            switched.choose(way)
            watch.way = way
            (result,) = (event.result for event in engine.generate([prompt]) if event.result)
            return result

        for way in [*ways, *["auto"] * 2]:  # which knows its costs then, as plans suppose
            one(way, replace(prompts[0], id="warm-up"))
        cycle.forget()
        until_s = time.perf_counter() + args.seconds
        for prompt in prompts:
            one("record", prompt)
        blocks: list[Mapping[str, specdec.Generation]] = []
        block_s = 0.0
        while len(blocks) < _LEAST_BLOCKS or time.perf_counter() + block_s < until_s:
            start_s, prompt = time.perf_counter(), prompts[len(blocks) % len(prompts)]
            blocks.append({way: one(way, prompt) for way in turn_order(ways, len(blocks))})
            block_s = time.perf_counter() - start_s
    acceptance = TraceAcceptance(tuple(watch.recorded()), "recorded now")
    return Live(blocks, acceptance, cycle, is_padded)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Measured costs."""

    table: CostTable
    start_s: float  # that the first run of a text is waited for beyond what it costs later

    def per_token(self, outcome: Outcome, num_tokens: int) -> dict[str, float]:
        """Seconds a token by what they go into, as forecast for texts of `num_tokens`."""
        total_s = 1.0 / outcome.tokens_per_s
        draft_s = outcome.draft_share * total_s
        other_s = self.table.other_s / outcome.tokens_per_pass
        start_s = self.start_s / num_tokens if draft_s else 0.0
        return {"draft": draft_s + start_s, "pass": total_s - draft_s - other_s, "other": other_s}


def inputs_of(live: Live) -> Inputs:
    """What passes and draft steps took in these very texts, and all else per round."""
    found = table(live.cycle.reports, live.is_padded)
    pass_s = found["pass_s"]
    assert isinstance(pass_s, list)
    step_s, fixed_s = (float(str(found[name])) for name in ("draft_step_s", "draft_fixed_s"))
    total = live.total(_MEASURE)
    other_s = (total.decode_s - total.verify_s - total.draft_s) / total.num_passes
    costs = CostTable(tuple(pass_s), step_s, fixed_s, other_s)
    starts = [
        report.draft_s - costs.draft_s(len(report.run.token_ids))
        for report in live.cycle.starts
        if report.run.token_ids
    ]
    return Inputs(costs, max(0.0, fmean(starts)) if starts else 0.0)


def forecasts(live: Live, inputs: Inputs) -> dict[str, list[dict[str, float]]]:
    """Seconds a token of every block, by setting and what they go into."""
    adaptive = live.acceptance.adaptive(inputs.table)
    found: dict[str, list[dict[str, float]]] = {}
    for name in SETTINGS:
        found[name] = []
        for block in live.blocks:
            result = block[name]
            if name == "auto":
                outcome = adaptive[result.id]
            else:
                outcome = live.acceptance.fixed(result.id, LENGTHS[name], inputs.table)
            found[name].append(inputs.per_token(outcome, len(result.token_ids)))
    return found


def ratio(
    live: Live, name: str, predicted: Sequence[Mapping[str, float]], costs: CostTable
) -> Ratio:
    """Forecast over measured tokens per second.

    Costs are as uncertain as the times they are held against: a resample's forecast is raised by
    what its own rounds of changing length took more than all of them.
    """
    reports = iter(live.cycle.reports)
    rows = []
    for block, parts in zip(live.blocks, predicted, strict=True):
        told = block[_MEASURE].stats
        own = [report for report, _ in islice(reports, told.num_passes)]
        table_s = sum(costs.round_s(len(one.run.token_ids), one.num_checked) for one in own)
        forecast_s = sum(parts.values()) * len(block[name].token_ids)
        rows.append((block[name].stats.decode_s, forecast_s, told.decode_s, table_s))
    usual = sum(row[2] for row in rows) / sum(row[3] for row in rows)

    def value(totals: Totals) -> Totals:
        raised = totals[..., 2] / totals[..., 3] / usual
        return totals[..., 0] / (totals[..., 1] * raised)

    return ratio_of_totals(rows, value)


def row(live: Live, name: str, inputs: Inputs, predicted: list[dict[str, float]]) -> Row:
    """One setting: rates, their ratio, and milliseconds a token, forecast and measured."""
    total, found = live.total(name), ratio(live, name, predicted, inputs.table)
    other_s = total.decode_s - total.draft_s - total.verify_s
    measured = {"draft": total.draft_s, "pass": total.verify_s, "other": other_s}
    lengths, count = [len(block[name].token_ids) for block in live.blocks], total.num_tokens
    parts = {
        part: {
            "forecast": round(
                1e3 * float(np.dot([p[part] for p in predicted], lengths)) / count, 3
            ),
            "measured": round(1e3 * seconds / count, 3),
        }
        for part, seconds in measured.items()
    }
    return {
        "forecast": round(found.value * total.tokens_per_s, 2),
        "measured": round(total.tokens_per_s, 2),
        "ratio": found.to_json(),
        "ms_per_token": parts,
    }


def main() -> int:
    """Measure, forecast, compare."""
    args = arguments()
    live = run(args)
    inputs = inputs_of(live)
    predicted = forecasts(live, inputs)
    rows = {name: row(live, name, inputs, predicted[name]) for name in SETTINGS}
    print(f"{'tokens/s':10}forecast measured  ratio [95 %]          ms a token, forecast/measured")
    for name, found in rows.items():
        print(line(name, found))
    first = live.blocks[0]["auto"]
    worst = max(abs(found["ratio"]["value"] - 1.0) for found in rows.values())
    result = {
        "benchmark": "check_plan",
        "label": "modelled (forecast) and measured",
        "processor": processor_name(),
        "target_device": first.target_device,
        "draft_device": first.draft_device,
        "num_blocks": len(live.blocks),
        "inputs": asdict(inputs),
    }
    print(json.dumps(result | {"rows": rows, "worst_error": worst, "is_equal": live.is_equal}))
    return 0 if worst <= TOLERANCE and live.is_equal else 1


def line(name: str, found: Row) -> str:
    """One setting for people."""
    ratio = found["ratio"]
    parts = "  ".join(
        f"{part} {times['forecast']:.2f}/{times['measured']:.2f}"
        for part, times in found["ms_per_token"].items()
    )
    interval = f"{ratio['value']:.3f} [{ratio['low']:.3f}-{ratio['high']:.3f}]"
    return f"{name:10}{found['forecast']:8.1f} {found['measured']:8.1f}  {interval:22}{parts}"


if __name__ == "__main__":
    sys.exit(main())
