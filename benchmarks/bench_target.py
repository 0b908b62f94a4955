"""Time of one target pass by its number of tokens: T(m), prefill, bytes moved; a table and JSON.

    python benchmarks/bench_target.py --shape tiny 270m [--device auto] [--profile]
    python benchmarks/bench_target.py --model path/of/a/converted/model

Shapes have random weights (one tile repeated: time does not depend on values, and a 27B model
needs no 15 GB on the host). Passes of all sizes take turns, so that a slow moment hits all alike.
With `--slots N` the m tokens of a pass belong to up to N sequences, and m goes up to 64.
T(m) is what the host sees: writing the inputs, submit, wait, reading the ids. Bytes are those of
the weights and of the cache that a pass reads once; the embedding's rows are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from specdec.checkpoint import open_checkpoint
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.named import NAMED_SHAPES
from specdec.gemma3.named import gemma3_layers as layers
from specdec.gemma3.random_weights import RandomWeights
from specdec.gemma3.shape import Gemma3Shape
from specdec.model_bytes import kv_read_bytes
from specdec.types import SamplingParams, Segment
from specdec.weights import Bits
from target.model import VulkanVerifier, open_verifier
from target.pass_sizes import pass_rows_for
from target.vulkan import Device

SHAPES = {
    "tiny": replace(
        NAMED_SHAPES["gemma-3-270m"],
        vocab_size=32768,
        hidden_size=256,
        intermediate_size=1024,
        is_global_layer=layers(6),
    ),
    **{name.removeprefix("gemma-3-"): shape for name, shape in NAMED_SHAPES.items()},
}


def segments(m: int, ids: tuple[int, ...], args: argparse.Namespace) -> list[Segment]:
    """A pass of m tokens over as many slots as there are tokens for, at --depth."""
    used = min(m, args.slots)
    counts = [m // used + (slot < m % used) for slot in range(used)]
    return [Segment(slot, args.depth, ids[:count]) for slot, count in enumerate(counts)]


def timed_s(verifier: VulkanVerifier, fed: Sequence[Segment]) -> float:
    start = time.perf_counter()
    verifier.verify(fed)
    elapsed_s = time.perf_counter() - start
    for segment in fed:
        verifier.truncate(segment.slot, segment.position)
    return elapsed_s


def prefill_s(verifier: VulkanVerifier, ids: tuple[int, ...]) -> float:
    verifier.truncate(0, 0)
    start = time.perf_counter()
    verifier.prefill(Segment(0, 0, ids))
    return time.perf_counter() - start


def quantiles_ms(times_s: list[float]) -> dict[str, float]:
    low, _, middle, _, high = np.quantile(times_s, (0.1, 0.25, 0.5, 0.75, 0.9)) * 1e3
    return {
        "median_ms": round(float(middle), 4),
        "p10_ms": round(float(low), 4),
        "p90_ms": round(float(high), 4),
        "min_ms": round(min(times_s) * 1e3, 4),
    }


def time_passes(
    verifier: VulkanVerifier, ids: tuple[int, ...], args: argparse.Namespace
) -> tuple[list[float], dict[int, list[float]]]:
    """Seconds of prefills, and of passes by size; every slot ends at --depth."""
    verifier.open(0, SamplingParams())
    prefills = [prefill_s(verifier, ids[: args.prompt]) for _ in range(4)][1:]
    verifier.truncate(0, 0)
    verifier.prefill(Segment(0, 0, ids[: args.depth]))
    for slot in range(1, args.slots):
        verifier.open(slot, SamplingParams())
        verifier.copy_prefix(0, slot, args.depth)
    passes = {m: segments(m, ids, args) for m in verifier.pass_sizes}
    for fed in passes.values():
        timed_s(verifier, fed)  # the first replay of a size may compile
    times: dict[int, list[float]] = {m: [] for m in passes}
    for _ in range(args.repeat):
        for m, fed in passes.items():
            times[m].append(timed_s(verifier, fed))
    return prefills, times


def measure(
    name: str, source: MatrixSource, shape: Gemma3Shape, head_bits: Bits, args: argparse.Namespace
) -> dict[str, object]:
    device = Device.open(args.device)
    start = time.perf_counter()
    length = max(args.depth, args.prompt) + 64
    slots = {"num_slots": args.slots, "max_pass_tokens": pass_rows_for(args.slots)}
    verifier = open_verifier(source, shape, head_bits, device, context_length=length, **slots)
    load_s = time.perf_counter() - start
    ids = tuple(np.random.default_rng(0).integers(0, shape.vocab_size, length).tolist())
    prefills, times = time_passes(verifier, ids, args)
    moved = verifier.memory.weights_bytes + kv_read_bytes(shape, args.depth, "fp16")
    result = {
        "bench": "target",
        "shape": name,
        "device": device.info.name,
        "kind": device.info.kind,
        "driver": device.info.driver,
        "host": platform.machine(),
        "numerics_id": verifier.numerics_id,
        "head_bits": head_bits,
        "depth": args.depth,
        "slots": args.slots,
        "n": args.repeat,
        "load_s": round(load_s, 3),
        "weights_bytes": verifier.memory.weights_bytes,
        "kv_bytes": verifier.memory.kv_bytes,
        "scratch_bytes": verifier.memory.scratch_bytes,
        "bytes_moved": moved,
        "passes": {str(m): quantiles_ms(times[m]) for m in times},
        "prefill_tokens": args.prompt,
        "prefill_tok_s": round(args.prompt / statistics.median(prefills), 2),
    }
    if args.profile:
        result["profile_ms"] = {str(m): verifier.profile_ms(segments(m, ids, args)) for m in times}
    verifier.release()
    return result


def table(result: dict[str, object]) -> str:
    passes, moved = result["passes"], result["bytes_moved"]
    assert isinstance(passes, dict) and isinstance(moved, int)
    first = passes["1"]["median_ms"]
    lines = [
        f"{result['shape']}: {result['device']} ({result['driver']}), {result['numerics_id']}",
        f"  {moved / 1e9:.3f} GB a pass, depth {result['depth']}, slots {result['slots']}, "
        f"n = {result['n']}",
        f"  {'m':>4} {'T ms':>9} {'p10':>9} {'p90':>9} {'GB/s':>8} {'T(m)/T(1)':>10} {'tok/s':>8}",
    ]
    for m, row in passes.items():
        median = row["median_ms"]
        lines.append(
            f"  {m:>4} {median:9.3f} {row['p10_ms']:9.3f} {row['p90_ms']:9.3f} "
            f"{moved / median / 1e6:8.2f} {median / first:10.2f} {int(m) * 1e3 / median:8.1f}"
        )
    lines.append(f"  prefill of {result['prefill_tokens']}: {result['prefill_tok_s']} tok/s")
    profile = result.get("profile_ms", {})
    assert isinstance(profile, dict)
    for m, parts in profile.items():
        shown = ", ".join(f"{part} {value:.3f}" for part, value in parts.items())
        lines.append(f"  ms at m = {m}: {shown}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="*", default=[], choices=SHAPES)
    parser.add_argument("--model", nargs="*", default=[], type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--head-bits", type=int, default=8, choices=(4, 8))
    parser.add_argument("--depth", type=int, default=128, help="tokens before the pass")
    parser.add_argument("--slots", type=int, default=1, help="sequences that share a pass")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prefill")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="time by operation as well")
    args = parser.parse_args()
    if not args.shape and not args.model:
        args.shape = ["tiny"]
    for name in args.shape:
        shape = SHAPES[name]
        result = measure(name, RandomWeights(shape, args.head_bits), shape, args.head_bits, args)
        print(table(result), json.dumps(result), sep="\n", flush=True)
    for path in args.model:
        checkpoint = open_checkpoint(path)
        info = checkpoint.info
        result = measure(info.source_name, checkpoint, info.shape, info.head_bits, args)
        print(table(result), json.dumps(result), sep="\n", flush=True)


if __name__ == "__main__":
    main()
