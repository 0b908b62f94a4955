"""Time per drafted token of each drafter, in turns on the same cores; llama.cpp beside them.

    python benchmarks/bench_draft.py                                     # the embedded draft
    python benchmarks/bench_draft.py --model DIR --gguf FILE             # another, and its peer

A run of tokens is drafted and confirmed, again and again; the time is that of `confirm` and `take`
together, divided by the tokens. llama.cpp feeds tokens one by one through its C API and takes the
highest of all logits. The drafters take turns, so that other load on the machine falls on all of
them alike; least times and, where all is done in this process, CPU times are what load does not
blur. Prints a table and, as its last line, one JSON object; all figures are measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from draft.factories import CpuDraft, ReferenceDraft
from draft.ngram import NgramDrafter
from draft.worker import WorkerDrafter
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.types import Drafter, SamplingParams

CONTEXT = 1024
PROMPT_LENGTH = 64
PEER = Path(__file__).parent.parent / "tests" / "goldens" / "llama_cpp.py"

Step = Callable[[], int]  # drafts some tokens; returns how many, 0 if the step is not to be counted


def drafting(
    drafter: Drafter, prompt_ids: list[int], length: int, sampling: SamplingParams
) -> Step:
    """Confirm the last run and draft the next; begin anew when the context is full."""
    tokens: list[int] = []
    last_run: list[int] = []

    def step() -> int:
        if not tokens or len(tokens) + 2 * length > CONTEXT:
            tokens[:], last_run[:] = prompt_ids, []
            drafter.open(0, prompt_ids, sampling)
            last_run[:] = drafter.take(0, len(tokens), length, 60.0).token_ids
            return 0
        drafter.confirm(0, last_run)
        tokens.extend(last_run)
        last_run[:] = drafter.take(0, len(tokens), length, 60.0).token_ids
        return len(last_run)

    return step


def decoding(peer: Any, prompt_ids: list[int], length: int) -> Step:
    """Greedy tokens from llama.cpp."""
    state = [prompt_ids[-1], CONTEXT]  # last token, position

    def step() -> int:
        if state[1] + length > CONTEXT:
            peer.logits(prompt_ids)
            state[1] = len(prompt_ids)
        for _ in range(length):
            state[0] = peer.next_token(*state)
            state[1] += 1
        return length

    return step


def steps(args: argparse.Namespace, stack: ExitStack) -> dict[str, Step]:
    """What is measured, by name."""
    vocab_size = open_checkpoint(args.model).info.shape.vocab_size
    random = np.random.default_rng(0)
    half = random.integers(500, min(vocab_size, 30000), PROMPT_LENGTH // 2).tolist()
    prompt_ids = half + half  # so that ngram finds something
    drafters: dict[str, Drafter] = {"ngram": NgramDrafter()}
    if not args.no_reference:
        drafters["reference"] = ReferenceDraft(args.model, CONTEXT)()
    drafters["ngram, worker"] = WorkerDrafter(NgramDrafter)
    for num_threads in args.threads:
        recipe = CpuDraft(args.model, CONTEXT, num_threads=num_threads)
        drafters[f"cpu, {num_threads} threads"] = recipe()
        drafters[f"cpu, {num_threads} threads, worker"] = WorkerDrafter(recipe)
    for drafter in drafters.values():
        stack.callback(drafter.release)
    sampling = SamplingParams(temperature=args.temperature, seed=1)
    found = {
        name: drafting(drafter, prompt_ids, args.draft_length, sampling)
        for name, drafter in drafters.items()
    }
    if args.gguf:
        for num_threads in args.threads:
            peer = load_peer(args.gguf, num_threads)
            name = f"llama.cpp, {num_threads} threads"
            found[name] = decoding(peer, prompt_ids, args.draft_length)
    return found


def load_peer(gguf: Path, num_threads: int) -> Any:
    """llama.cpp, as the golden files use it, but with its default layout of weights."""
    spec = importlib.util.spec_from_file_location("llama_cpp", PEER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["llama_cpp"] = module
    spec.loader.exec_module(module)
    return module.load_model(gguf, num_threads=num_threads, context_length=CONTEXT, repack=True)


def measure(found: dict[str, Step], num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Elapsed and CPU milliseconds per token of every counted step, three steps in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for step in found.values():
        step()
        step()
    for _ in range(num_rounds):
        for name, step in found.items():
            step()  # its data were pushed out of the caches by the others
            for _ in range(3):
                start, start_cpu = time.perf_counter(), time.process_time()
                count = step()
                elapsed, cpu = time.perf_counter() - start, time.process_time() - start_cpu
                if count:
                    times[name].append((1e3 * elapsed / count, 1e3 * cpu / count))
    return times


def row(name: str, times: list[tuple[float, float]]) -> dict[str, float | None]:
    """Median, spread and least, in milliseconds per token."""
    elapsed = [pair[0] for pair in times]
    quarters = statistics.quantiles(elapsed, n=4)
    cpu = statistics.median(pair[1] for pair in times)
    return {
        "n": len(times),
        "median_ms": round(statistics.median(elapsed), 4),
        "lower_quartile_ms": round(quarters[0], 4),
        "upper_quartile_ms": round(quarters[2], 4),
        "least_ms": round(min(elapsed), 4),
        "cpu_ms": None if "worker" in name else round(cpu, 4),
        "tokens_per_s": round(1e3 / statistics.median(elapsed), 1),
    }


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=embedded_model_dir("draft"))
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp, if installed")
    parser.add_argument("--draft-length", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=lambda text: [*map(int, text.split(","))], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-reference", action="store_true", help="leave out the numpy model")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = arguments()
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        times = measure(steps(args, stack), args.rounds)
    rows = {name: row(name, values) for name, values in times.items() if len(values) > 1}
    print(f"{'ms per token':26}{'median':>10}{'quartiles':>20}{'least':>10}{'CPU':>10}{'n':>6}")
    for name, entry in rows.items():
        spread = f"{entry['lower_quartile_ms']:.3f}-{entry['upper_quartile_ms']:.3f}"
        line = f"{name:26}{entry['median_ms']:10.3f}{spread:>20}{entry['least_ms']:10.3f}"
        cpu = "-" if entry["cpu_ms"] is None else f"{entry['cpu_ms']:.3f}"
        print(f"{line}{cpu:>10}{entry['n']:6}")
    document = {
        "benchmark": "draft",
        "label": "measured",
        "cpu": platform.processor() or platform.machine(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "load_before": round(load_before, 2),
        "model": args.model.name,
        "draft_length": args.draft_length,
        "temperature": args.temperature,
        "rows": rows,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
