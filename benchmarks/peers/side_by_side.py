"""Our target beside llama.cpp's Vulkan build on one device, in turns; a table and JSON.

    python benchmarks/peers/random_gguf.py /dev/shm/27b.gguf
    python benchmarks/peers/side_by_side.py /dev/shm/27b.gguf [--libraries DIR]

Both hold the same shape with random weights of about 4.5 bits, head included; time does not depend
on values. Blocks of equal work take turns, each after 200 ms of warm-up. Jobs:

- decode: 32 tokens one by one; T(m): one pass of m tokens with a choice (ours) or logits (theirs,
  no maximum taken) for all of them on the host, at 128 and 4,096 tokens in the cache;
- prefill: an empty cache, no logits.

`ratio` above 1 means that ours is faster. llama.cpp skips software devices unless
GGML_VK_VISIBLE_DEVICES=0 is set.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_target import SHAPES
from subjects import Job, LlamaOptions, OurOptions, Remote

_DECODED = 32
_OURS, _THEIRS = "specdec", "llama.cpp"

Times = dict[Job, dict[str, list[float]]]  # seconds, by job and subject


def jobs(args: argparse.Namespace) -> list[Job]:
    """Everything to time, jobs of one depth together."""
    found = [Job("prefill", size) for size in args.prefill]
    for depth in args.depths:
        found.append(Job("decode", _DECODED, depth))
        found += [Job("verify", size, depth) for size in args.sizes]
    return found


def measure(remotes: dict[str, Remote], args: argparse.Namespace) -> tuple[Times, dict[str, str]]:
    """Times of all jobs, and why a subject failed if one did."""
    times: Times = {job: {} for job in jobs(args)}
    failed: dict[str, str] = {}
    for _ in range(args.rounds):
        for job, found in times.items():
            repeat = args.repeat if job.kind == "verify" else 1
            for name, remote in remotes.items():
                if name in failed:
                    continue
                try:
                    found.setdefault(name, []).extend(remote.block(job, repeat))
                except RuntimeError as error:
                    failed[name] = str(error)
                    print(f"{name} failed at {job}: {error}", file=sys.stderr)
    return times, failed


def summary(times_s: list[float], job: Job) -> dict[str, float]:
    """Median and spread in ms of one pass or prompt (decode: of one token)."""
    per = _DECODED if job.kind == "decode" else 1
    low, middle, high = np.quantile(times_s, (0.1, 0.5, 0.9)) * 1e3 / per
    values = {"median_ms": middle, "p10_ms": low, "p90_ms": high}
    return {"n": len(times_s)} | {key: round(float(value), 3) for key, value in values.items()}


def rows(times: Times) -> list[dict[str, object]]:
    """One entry a job: what, both summaries, ratio (theirs over ours)."""
    found: list[dict[str, object]] = []
    for job, by_name in times.items():
        entry: dict[str, object] = {"kind": job.kind, "tokens": job.size, "depth": job.depth}
        parts = {name: summary(by_name[name], job) for name in by_name if by_name[name]}
        entry |= parts
        if len(parts) == len((_OURS, _THEIRS)):
            ratio = parts[_THEIRS]["median_ms"] / parts[_OURS]["median_ms"]
            entry["ratio"] = round(ratio, 3)
        found.append(entry)
    return found


def line(entry: dict[str, object]) -> str:
    """A row for people."""
    kind, tokens = entry["kind"], entry["tokens"]
    assert isinstance(tokens, int)
    what = {"prefill": f"prefill {tokens}", "decode": "decode"}.get(str(kind), f"T({tokens})")
    text = f"{what:<13} {entry['depth']:>6} "
    for name in (_OURS, _THEIRS):
        part = entry.get(name)
        if not isinstance(part, dict):
            text += f"{'-':>38}"
            continue
        spread = f"({part['p10_ms']:.2f}-{part['p90_ms']:.2f})"
        count = 1 if kind == "decode" else tokens
        text += f"{part['median_ms']:10.3f} {spread:>17}{count * 1e3 / part['median_ms']:10.1f}"
    ratio = entry.get("ratio")
    return text + (f"{ratio:8.2f}" if isinstance(ratio, float) else f"{'-':>8}")


def table(found: list[dict[str, object]]) -> str:
    heads = "".join(f"{name + ' ms':>10} {'p10-p90':>17}{'tok/s':>10}" for name in ("our", "its"))
    return "\n".join([f"{'':<13} {'depth':>6} {heads}{'ratio':>8}", *map(line, found)])


def clocks() -> str:
    """Clocks and power as NVIDIA's tool reads them; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path, help="made by random_gguf.py, of the same shape")
    parser.add_argument("--shape", choices=SHAPES, default="27b")
    parser.add_argument("--device", default="auto", help="of ours; theirs is their first")
    parser.add_argument("--libraries", type=Path, help="folder of llama.cpp's libraries")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--depths", type=int, nargs="*", default=[128, 4096])
    parser.add_argument("--prefill", type=int, nargs="*", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=7, help="passes in a block")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if a subject failed."""
    args = arguments()
    length = max([*args.depths, *args.prefill]) + 2 * _DECODED
    vocab_size = SHAPES[args.shape].vocab_size
    options: dict[str, OurOptions | LlamaOptions] = {
        _OURS: OurOptions(args.shape, args.device, length),
        _THEIRS: LlamaOptions(args.gguf, args.libraries, length),
    }
    names: dict[str, str] = {}
    failed: dict[str, str] = {}
    with ExitStack() as held:
        remotes = {
            name: held.enter_context(Remote(option.open, vocab_size))
            for name, option in options.items()
        }
        for name, remote in list(remotes.items()):
            try:
                names[name] = remote.name()
            except RuntimeError as error:
                failed[name] = str(error)
                del remotes[name]
        times, later = measure(remotes, args)
        device = clocks()
    failed |= later
    found = rows(times)
    print(*names.values(), device, table(found), sep="\n")
    what = {"shape": args.shape, "cpu": platform.machine(), "device": device, "label": "measured"}
    document = {"benchmark": "side_by_side", "subjects": names, "failed": failed, **what}
    print(json.dumps({**document, "rows": found}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
