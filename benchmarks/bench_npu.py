"""The draft on the emulated NPU: its step timed here, and what Phoenix would take by a model.

    python benchmarks/bench_npu.py                    # the embedded draft, one core
    python benchmarks/bench_npu.py --steps 2000

*emulated*: wall-clock time of a draft step on this machine's processor, kernels compiled for it,
latency model off. It says how fast tests run, nothing about an NPU.
*modelled*: seconds that the latency model (draft/npu/emulated/latency.py, published figures of
Phoenix) gives for the instruction stream of one draft token: a submission, waits, bytes. Arithmetic
in the cores, the firmware's work per instruction and the host's are not in it. No NPU ran anything.
Prints tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import cast

from draft.npu.build import emulated_build
from draft.npu.emulated.latency import LatencyModel, phases
from draft.npu.emulated.machine import Machine
from draft.npu.emulated.shim_decoder import decode_stream
from draft.npu.emulated.xrt import EmulatedXrt
from draft.npu.host_kernels import load
from draft.npu.layout import BATCH_ROWS, KV_POSITIONS, NUM_COLUMNS
from draft.npu.memory_map import MemoryMap, tile_bucket
from draft.npu.model import NpuModel, NpuSettings
from draft.npu.session import Session
from draft.npu.step_stream import StepForm, build_step
from draft.npu.surface import Xrt
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.gemma3.shape import Gemma3Shape
from specdec.head_tokens import DEFAULT_SIZE

CONTEXT = 1024
POSITION = 256  # tokens cached when a step is timed or modelled
WARM_UP = 100


def gemma3(num_layers: int, hidden: int, ffn: int) -> Gemma3Shape:
    """A released Gemma 3 of one key head of 256."""
    return Gemma3Shape(
        vocab_size=262144,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_heads=4,
        num_kv_heads=1,
        head_dim=256,
        context_length=32768,
        sliding_window=512,
        is_global_layer=tuple(layer % 6 == 5 for layer in range(num_layers)),
        query_pre_attn_scalar=256.0,
    )


SHAPES = {"270M": gemma3(18, 640, 2048), "1B": gemma3(26, 1152, 6912)}


def timed_steps(num_rows: int, count: int) -> list[float]:
    """Seconds of steps of the embedded draft that feed one token to each of `num_rows` slots."""
    checkpoint = open_checkpoint(embedded_model_dir("draft"))
    session = Session(cast(Xrt, EmulatedXrt(Machine(load()))), emulated_build())
    settings = NpuSettings(CONTEXT, num_rows)
    model = NpuModel(session, checkpoint.info.shape, checkpoint, settings)
    prompt = [100 + place % 5000 for place in range(POSITION)]
    for slot in range(num_rows):
        model.feed(slot, prompt, 0)
    seconds = []
    for step in range(WARM_UP + count):
        for slot in range(num_rows):
            model.truncate(slot, POSITION + step % 8)  # runs of 8, then back
        start = time.perf_counter()
        model.feed_each(0, [1000 + step] * num_rows)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def emulated(num_rows: int, count: int) -> dict[str, object]:
    """Median and spread of the emulated step."""
    found = sorted(timed_steps(num_rows, count))
    tenth = len(found) // 10
    return {
        "kind": "emulated",
        "rows": num_rows,
        "n": len(found),
        "median_ms": round(1e3 * statistics.median(found), 3),
        "p10_ms": round(1e3 * found[tenth], 3),
        "p90_ms": round(1e3 * found[-tenth - 1], 3),
        "min_ms": round(1e3 * found[0], 3),
    }


def modelled(name: str, shape: Gemma3Shape, num_rows: int) -> dict[str, object]:
    """What the latency model says of a step's stream."""
    num_head_rows = min(shape.vocab_size, DEFAULT_SIZE)
    memory = MemoryMap(shape, num_head_rows, CONTEXT, num_rows)
    tiles = (tile_bucket(POSITION // KV_POSITIONS, memory.kv.num_tiles(kind)) for kind in (0, 1))
    form = StepForm(tuple(range(num_rows)), False, cast(tuple[int, int], tuple(tiles)), True)
    stream = build_step(memory, form)
    decoded = decode_stream(stream, NUM_COLUMNS)
    found, model = phases(decoded), LatencyModel()
    num_waits = sum(phase.num_waits for phase in found)
    total_s = model.run_s(decoded)
    return {
        "kind": "modelled",
        "shape": name,
        "rows": num_rows,
        "read_mb": round(sum(phase.read_bytes for phase in found) / 1e6, 1),
        "stream_kb": round(len(stream) / 1e3),
        "phases": len(found),
        "waits": num_waits,
        "step_ms": round(1e3 * total_s, 2),
        "step_ms_if_a_phase_waits_once": round(
            1e3 * (total_s - model.wait_s * (num_waits - len(found))), 2
        ),
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def print_table(rows: list[dict[str, object]]) -> None:
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print("  ".join(key.rjust(width) for key, width in widths.items()))
    for row in rows:
        print("  ".join(str(row[key]).rjust(width) for key, width in widths.items()))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="timed steps (default 500)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    timed = [emulated(rows, args.steps) for rows in (1, BATCH_ROWS)]
    embedded = open_checkpoint(embedded_model_dir("draft")).info.shape
    shapes = {"embedded": embedded, **SHAPES}
    models = [modelled(name, shape, rows) for name, shape in shapes.items() for rows in (1, 4)]
    print(f"emulated: embedded draft, {processor()}, one core, after {POSITION} tokens")
    print_table(timed)
    print(f"modelled: Phoenix, head of {DEFAULT_SIZE} tokens, after {POSITION} tokens; 1B does not")
    print("fit the cores' memory as they are built now (hidden size above 640)")
    print_table(models)
    result = {"benchmark": "npu", "processor": processor(), "position": POSITION}
    print(json.dumps(result | {"emulated": timed, "modelled": models}))


if __name__ == "__main__":
    main()
