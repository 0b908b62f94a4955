"""Many prompts at once: tokens per second by batch size, plain and speculative, outputs compared.

    python benchmarks/throughput.py --batch-sizes 1,2,4,8,16,32
    python benchmarks/throughput.py --target /dev/shm/large --draft-device vulkan --pairs 5

Per batch size plain and speculative runs of the same prompts take turns, after a warm-up of each.
`plain` and `auto` are tokens per second of whole runs, prefill included (medians), `ratio` is the
median of the pairs' own ratios. Prints a table and, as its last line, one JSON object. Fails if any
text differs from the one that plain decoding at batch size 1 gives.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import specdec
from specdec.load import load_target
from specdec.load.borrowed import borrowed
from specdec.types import Verifier

PROMPTS = Path(__file__).parent / "prompts"

Texts = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of all prompts."""

    texts: Texts
    elapsed_s: float
    stats: specdec.SpecStats

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of the whole run."""
        return self.stats.num_tokens / self.elapsed_s


def measure(engine: specdec.Engine, prompts: list[specdec.Prompt]) -> Measured:
    """Run all prompts."""
    start, stats, texts = time.perf_counter(), specdec.SpecStats(), {}
    for event in engine.generate(prompts):
        if event.result:
            stats.add(event.result.stats)
            texts[event.result.id] = event.result.token_ids
    return Measured(texts, time.perf_counter() - start, stats)


def prompts_of_all_kinds(count: int, num_chars: int) -> list[specdec.Prompt]:
    """As many prompts, kind by kind in turn; their ids tell them apart."""
    files = sorted(PROMPTS.glob("*.jsonl"))
    kinds = [list(specdec.read_prompts(path)) for path in files]
    chosen = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        prompt = kind[number // len(kinds) % len(kind)]
        chosen.append(replace(prompt, id=str(number), text=(prompt.text or "")[:num_chars]))
    return chosen


def row(batch_size: int, plain: list[Measured], drafted: list[Measured]) -> dict[str, object]:
    """What the pairs of one batch size say."""
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(plain, drafted, strict=True)]
    stats = specdec.SpecStats()
    for run in drafted:
        stats.add(run.stats)
    return {
        "batch_size": batch_size,
        "pairs": len(ratios),
        "prompts": len(plain[0].texts),
        "plain": round(statistics.median(run.tokens_per_s for run in plain), 1),
        "auto": round(statistics.median(run.tokens_per_s for run in drafted), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "acceptance_rate": round(stats.acceptance_rate, 3),
        "drafted_per_token": round(stats.num_draft_tokens / max(stats.num_tokens, 1), 3),
    }


def compare(
    base: specdec.Config, target: Verifier, batch_size: int, args: argparse.Namespace
) -> tuple[list[Measured], list[Measured], str]:
    """Plain and speculative runs by turns; and what drafted."""
    count = max(args.prompts_per_slot * batch_size, args.least_prompts)
    prompts = prompts_of_all_kinds(count, args.prompt_chars)
    sized = specdec.with_overrides(base, [f"run.batch_size={batch_size}"])
    off = specdec.with_overrides(sized, ["speculation.mode=off"])
    plain, drafted = [], []
    with (
        specdec.load(off, target=borrowed(target)) as plainly,
        specdec.load(sized, target=borrowed(target)) as speculatively,
    ):
        for engine in (plainly, speculatively):
            measure(engine, prompts[:batch_size])
        for _ in range(args.pairs):
            plain.append(measure(plainly, prompts))
            drafted.append(measure(speculatively, prompts))
        return plain, drafted, speculatively.draft_device


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="embedded", metavar="MODEL")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--draft-device", default="cpu")
    parser.add_argument("--batch-sizes", default="1,2,4,8,16,32", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompts-per-slot", type=int, default=2)
    parser.add_argument("--least-prompts", type=int, default=8)
    parser.add_argument("--prompt-chars", type=int, default=300)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def settings(args: argparse.Namespace) -> specdec.Config:
    """The configuration common to all runs."""
    named = [
        f"target.model={args.target}",
        f"target.device={args.device}",
        f"draft.device={args.draft_device}",
        f"run.max_new_tokens={args.max_new_tokens}",
        "run.context_length=1024",
    ]
    return specdec.with_overrides(specdec.Config(), [*named, *args.set])


def main() -> int:
    """Measure and print; 1 if a text differs."""
    args = arguments()
    base = settings(args)
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    target = load_target(specdec.with_overrides(base, [f"run.batch_size={max(sizes)}"]))
    rows, alone, differing, draft = [], Texts(), set[str](), "off"
    for size in sizes:
        plain, drafted, draft = compare(base, target, size, args)
        for run in (*plain, *drafted):
            for name, ids in run.texts.items():
                if alone.setdefault(name, ids) != ids:
                    differing.add(name)
        rows.append(row(size, plain, drafted))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    devices = {"target": target.device, "numerics": target.numerics_id, "draft": draft}
    target.release()
    machine = {"cpu": platform.processor() or platform.machine(), "label": "measured"}
    print(f"texts that differ: {len(differing)} of {len(alone)}")
    print(json.dumps({"benchmark": "throughput", **machine, **devices, "rows": rows}))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
