"""Does `specdec plan` predict this machine's speed from its measured inputs? Within 10 per cent.

    python benchmarks/check_plan.py
    python benchmarks/check_plan.py --set target.device=H100 --prompts-per-kind 4

Acceptance is measured by recording the draft's whole chain at every position of the prompts' text.
Then the same prompts run live, plain, at fixed lengths and adaptive, taking turns with rounds of
changing length that costs are measured by, so that a slow moment of the machine hits all alike. The
plan forecasts tokens per second from acceptance and costs alone; outputs must be equal.

Prints a table and, as its last line, one JSON object; fails where forecast and measurement differ
by more than 10 per cent or an output differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from measure_costs import Cycle, table

import specdec
from specdec.cost_cache import processor_name
from specdec.costs import CostTable
from specdec.plan.acceptance import MAX_DRAFT, TraceAcceptance
from specdec.traces import FullChain, JsonlRecorder, read_record

PROMPTS = Path(__file__).parent / "prompts"
TOLERANCE = 0.10
LENGTHS = (2, 4, 7)


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="code,prose,question_answering")
    parser.add_argument("--prompts-per-kind", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def read_requests(args: argparse.Namespace) -> list[specdec.Prompt]:
    """The first prompts of every kind, named so that traces know their kind."""
    return [
        replace(prompt, id=f"{kind}/{prompt.id}")
        for kind in args.kinds.split(",")
        for prompt in list(specdec.read_prompts(PROMPTS / f"{kind}.jsonl"))[: args.prompts_per_kind]
    ]


def cost_table(cycle: Cycle, is_padded: bool) -> CostTable:
    """What passes and draft steps took in these very texts."""
    found = table(cycle.reports, is_padded)
    pass_s = found["pass_s"]
    assert isinstance(pass_s, list)
    rest = (float(str(found[name])) for name in ("draft_step_s", "draft_fixed_s", "other_s"))
    return CostTable(tuple(pass_s), *rest)


def measured_acceptance(config: specdec.Config, prompts: list[specdec.Prompt]) -> TraceAcceptance:
    """The chains along these very texts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.jsonl"
        recorder, controller = JsonlRecorder(path), FullChain(MAX_DRAFT)
        with specdec.load(config, controller=controller, recorder=recorder) as engine:
            list(engine.generate(prompts))
        return TraceAcceptance(tuple(read_record(path)), "recorded now")


def live(
    config: specdec.Config,
    settings: dict[str, list[str]],
    prompts: list[specdec.Prompt],
    turns: int,
) -> tuple[dict[str, float], CostTable, bool]:
    """Median tokens per second by setting, costs, and whether outputs are equal."""
    cycle = Cycle()
    rates: dict[str, list[float]] = {name: [] for name in settings}
    texts: dict[str, tuple[int, ...]] = {}
    is_equal = True
    for _ in range(turns):
        with specdec.load(config, controller=cycle) as engine:
            list(engine.generate(prompts))
            is_padded = engine.target_device != "reference"
        for name, overrides in settings.items():
            with specdec.load(specdec.with_overrides(config, overrides)) as engine:
                list(engine.generate([replace(prompts[0], id="warm-up", max_new_tokens=16)]))
                results = [event.result for event in engine.generate(prompts) if event.result]
            total = specdec.SpecStats()
            for result in results:
                total.add(result.stats)
                is_equal &= texts.setdefault(result.id, result.token_ids) == result.token_ids
            rates[name].append(total.tokens_per_s)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return medians, cost_table(cycle, is_padded), is_equal


def forecast(acceptance: TraceAcceptance, costs: CostTable) -> dict[str, float]:
    """Tokens per second over all texts, by setting."""
    tokens = {
        kind: sum(len(trace.margins) for trace in acceptance.traces if trace.kind == kind)
        for kind in acceptance.kinds
    }

    def overall(rates: dict[str, float]) -> float:
        return sum(tokens.values()) / sum(tokens[kind] / rate for kind, rate in rates.items())

    fixed = {
        length: {kind: acceptance.fixed(kind, length, costs).tokens_per_s for kind in tokens}
        for length in (0, *LENGTHS)
    }
    adaptive = {kind: found.tokens_per_s for kind, found in acceptance.adaptive(costs).items()}
    return {
        "plain": overall(fixed[0]),
        **{f"fixed {length}": overall(fixed[length]) for length in LENGTHS},
        "auto": overall(adaptive),
    }


def main() -> int:
    """Measure, forecast, compare."""
    args = arguments()
    defaults = [f"run.max_new_tokens={args.max_new_tokens}", "draft.device=cpu"]
    defaults += ["speculation.overlap=off", *args.set]
    config = specdec.with_overrides(specdec.Config(), defaults)
    prompts = read_requests(args)
    acceptance = measured_acceptance(config, prompts)
    settings = {
        "plain": ["speculation.mode=off"],
        **{
            f"fixed {length}": ["speculation.mode=fixed", f"speculation.draft_length={length}"]
            for length in LENGTHS
        },
        "auto": ["speculation.mode=auto"],
    }
    measured, costs, is_equal = live(config, settings, prompts, args.repeat)
    predicted = forecast(acceptance, costs)
    rows = {
        name: {
            "forecast": round(predicted[name], 2),
            "measured": round(measured[name], 2),
            "error": round(predicted[name] / measured[name] - 1.0, 4),
        }
        for name in settings
    }
    for name, row in rows.items():
        print(f"{name:10}forecast {row['forecast']:8.1f}  measured {row['measured']:8.1f} tokens/s")
    worst = max(abs(row["error"]) for row in rows.values())
    result = {"benchmark": "check_plan", "processor": processor_name(), "n": args.repeat}
    print(json.dumps(result | {"rows": rows, "worst_error": worst, "is_equal": is_equal}))
    return 0 if worst <= TOLERANCE and is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
