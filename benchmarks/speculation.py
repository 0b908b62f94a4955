"""Speculative against plain decoding by kind of text, with a check that all outputs are equal.

    python benchmarks/speculation.py --draft-lengths 1,2,4,8 --prompts-per-kind 4
    python benchmarks/speculation.py --kinds copy_edit --set draft.device=ngram

Prints a table and, as its last line, one JSON object. Fails if any output differs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path

import specdec

PROMPTS = Path(__file__).parent / "prompts"


def run(config: specdec.Config, prompts: list[specdec.Prompt]) -> list[specdec.Generation]:
    """Generate for all prompts after one warm-up."""
    with specdec.load(config) as engine:
        list(engine.generate([specdec.Prompt(id="warm-up", text="def", max_new_tokens=4)]))
        return [event.result for event in engine.generate(prompts) if event.result]


def row(plain: list[specdec.Generation], results: list[specdec.Generation]) -> dict[str, object]:
    """Ratios of decode time, tokens per pass and acceptance of one configuration on one kind."""
    ratios = [a.stats.decode_s / b.stats.decode_s for a, b in zip(plain, results, strict=True)]
    total = specdec.SpecStats()
    for result in results:
        total.add(result.stats)
    return {
        "n": len(ratios),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "tokens_per_s": round(total.tokens_per_s, 1),
        "tokens_per_pass": round(total.tokens_per_pass, 3),
        "acceptance_rate": round(total.acceptance_rate, 3),
        "is_equal": all(a.token_ids == b.token_ids for a, b in zip(plain, results, strict=True)),
    }


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draft-lengths", default="1,2,4,7", help="default: %(default)s")
    parser.add_argument("--prompts-per-kind", type=int, default=4)
    parser.add_argument(
        "--kinds", default=",".join(sorted(p.stem for p in PROMPTS.glob("*.jsonl")))
    )
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if an output differs."""
    args = arguments()
    base = specdec.with_overrides(specdec.Config(), args.set)
    rows = []
    for kind in args.kinds.split(","):
        prompts = list(specdec.read_prompts(PROMPTS / f"{kind}.jsonl"))[: args.prompts_per_kind]
        limit = [f"run.max_new_tokens={args.max_new_tokens}"]
        plain = run(specdec.with_overrides(base, [*limit, "speculation.mode=off"]), prompts)
        devices = {"target": plain[0].target_device, "numerics": plain[0].numerics_id}
        for draft_length in map(int, args.draft_lengths.split(",")):
            chosen = [*limit, "speculation.mode=fixed", f"speculation.draft_length={draft_length}"]
            results = run(specdec.with_overrides(base, chosen), prompts)
            what = {"kind": kind, "draft_length": draft_length, "draft": results[0].draft_device}
            rows.append(what | row(plain, results))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "label": "measured"}
    print(json.dumps({"benchmark": "speculation", **machine, **devices, "rows": rows}))
    return 0 if all(entry["is_equal"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
