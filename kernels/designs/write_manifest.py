"""Checks a design against the budgets of npu1 and writes the manifest the runtime reads.

`python kernels/designs/write_manifest.py` writes kernels/draft_array.json; build.sh adds the
hash of what it compiled. Per tile it counts DMA
channels, buffer descriptors, locks and bytes, and adds the kernels' own estimates of their
programs; it refuses what does not fit. It knows no kernels' contents.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iron_stand_in import DesignError, Program, Tile, load_design, size_bytes

KERNELS = Path(__file__).resolve().parent.parent
DESIGN = KERNELS / "designs" / "draft_array.py"
LOOP_PROGRAM_BYTES = 1024  # a worker's loop, start-up code and division in software


@dataclass(frozen=True)
class Limits:
    """What one tile has; channels are per direction."""

    channels: int
    descriptors: int
    locks: int
    data_bytes: int


LIMITS = {  # by kind of tile
    "shim": Limits(2, 16, 16, 0),
    "memory": Limits(6, 48, 64, 512 * 1024),
    "core": Limits(2, 16, 16, 64 * 1024),
}
PROGRAM_BYTES = 16 * 1024


@dataclass(eq=False)
class Needs:
    """What a tile is asked for."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    descriptors: int = 0
    locks: int = 0
    data_bytes: int = 0


def needs_of(program: Program) -> dict[Tile, Needs]:
    """Per tile: fifos in and out of its DMA in order, descriptors, locks, bytes."""
    tiles: dict[Tile, Needs] = {}
    for fifo in program.runtime.fifos():
        for handle in (fifo.prod(), *fifo.consumers):
            if handle.tile is None:
                raise DesignError(f"{fifo.name} has an end on no tile")
            need = tiles.setdefault(handle.tile, Needs())
            (need.outputs if handle.is_producer else need.inputs).append(fifo.name)
            if handle.tile.kind == "shim":
                continue
            need.descriptors += fifo.depth
            # the parts of a join live in the joined objects
            if not (handle.tile.kind == "memory" and not handle.is_producer):
                need.data_bytes += fifo.depth * size_bytes(fifo.obj_type)
            need.locks += 2
    for worker in program.runtime.workers:
        tiles[worker.placement].data_bytes += worker.buffer_bytes + worker.stack_size
    return tiles


def check(program: Program, estimates: dict[str, int]) -> None:
    """Raise DesignError for the first tile that cannot hold what is asked."""
    for tile, need in needs_of(program).items():
        limits = LIMITS[tile.kind]
        asked = (
            (max(len(need.inputs), len(need.outputs)), limits.channels, "DMA channels"),
            (need.descriptors, limits.descriptors, "buffer descriptors"),
            (need.locks, limits.locks, "locks"),
            (need.data_bytes, limits.data_bytes, "bytes of data"),
        )
        for wanted, available, what in asked:
            if wanted > available:
                raise DesignError(f"{tile} needs {wanted} {what}, it has {available}")
    for worker in program.runtime.workers:
        if estimates[worker.binary] > PROGRAM_BYTES:
            raise DesignError(
                f"{worker.binary} is estimated at {estimates[worker.binary]} bytes of program, "
                f"a core has {PROGRAM_BYTES}"
            )


def program_estimates(programs: dict[str, Sequence[str]]) -> dict[str, int]:
    """Bytes of each program: what the headers of its kernels say, and the worker's loop."""
    sizes = {}
    for binary, kernels in programs.items():
        total = LOOP_PROGRAM_BYTES
        for kernel in kernels:
            text = (KERNELS / "aie2" / f"{kernel}.cc").read_text()
            stated = re.search(r"([\d.]+) KB of program", text)
            if stated is None:
                raise DesignError(f"{kernel}.cc does not estimate its program memory")
            total += int(float(stated[1]) * 1024)
        sizes[binary] = total
    return sizes


def channels(program: Program) -> dict[str, list[dict[str, Any]]]:
    """Shim channels, numbered per tile and direction in the order of the sequence."""
    found: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
    used: dict[tuple[int, bool], int] = {}
    for handle, shim in program.runtime.transfers:
        number = used.get((shim.col, handle.is_producer), 0)
        used[shim.col, handle.is_producer] = number + 1
        parts = handle.fifo.joined_from
        ends = handle.fifo.consumers if handle.is_producer else [handle.fifo.prod()]
        cores = [end.tile for end in ([part.prod() for part in parts] or ends)]
        entry = {
            "fifo": handle.fifo.name,
            "column": shim.col,
            "channel": number,
            "cores": [[core.col, core.row] for core in cores if core is not None],
            "element_bytes": size_bytes((parts or [handle.fifo])[0].obj_type),
            "is_rows": not handle.is_producer and not parts,
        }
        found["inputs" if handle.is_producer else "outputs"].append(entry)
    return found


def cores(program: Program, estimates: dict[str, int]) -> list[dict[str, Any]]:
    """Every core, its place in the pair that shares a channel, and what it needs."""
    needs = needs_of(program)
    return [
        {
            "tile": [worker.placement.col, worker.placement.row],
            "is_vector": worker.binary == "vector_core.o",
            "is_second": bool(worker.fn_args[-1]),
            "data_bytes": needs[worker.placement].data_bytes,
            "program_bytes_estimate": estimates[worker.binary],
        }
        for worker in program.runtime.workers
    ]


def manifest(design: types.ModuleType) -> dict[str, Any]:
    """What the runtime and the emulated array read, of a design that fits."""
    program: Program = design.draft_array()
    estimates = program_estimates(design.PROGRAMS)
    check(program, estimates)
    sources = [path for path in (KERNELS / "aie2").iterdir() if path.suffix in (".cc", ".h")]
    return {
        "format": 1,
        "design": Path(str(design.__file__)).stem,
        "device": program.device.name,
        "num_columns": program.device.columns,
        "arguments": [
            {"name": name, "index": 3 + place, "patch": place}
            for place, name in enumerate(design.ARGUMENTS)
        ],
        **channels(program),
        "cores": cores(program, estimates),
        "source_hashes": {
            path.relative_to(KERNELS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(sources)
        },
    }


def manifest_text() -> str:
    """The manifest of the draft's array as it is stored."""
    return json.dumps(manifest(load_design(DESIGN)), indent=1) + "\n"


def check_allocations(found: dict[str, Any], mlir: str) -> None:
    """Raise DesignError where the compiler gave a fifo another shim channel than the manifest."""
    chosen = {
        name.removesuffix("_shim_alloc"): int(channel)
        for name, channel in re.findall(
            r"shim_dma_allocation @(\w+)\s*\((?:%\w+, )?(?:MM2S|S2MM), (\d+)", mlir
        )
    }
    for entry in (*found["inputs"], *found["outputs"]):
        if chosen.get(entry["fifo"]) != entry["channel"]:
            raise DesignError(
                f"{entry['fifo']} is on channel {chosen[entry['fifo']]} of the compiled "
                f"array, the manifest says {entry['channel']}"
                if entry["fifo"] in chosen
                else f"{entry['fifo']} is on no channel of the compiled array"
            )


def write_build(folder: Path) -> None:
    """The manifest of a compiled array, beside its xclbin and with its hash."""
    found = manifest(load_design(DESIGN))
    lowered = (folder / "draft_array.prj").glob("*.mlir")
    check_allocations(found, "".join(path.read_text() for path in lowered))
    xclbin = (folder / "draft_array.xclbin").read_bytes()
    found["xclbin_sha256"] = hashlib.sha256(xclbin).hexdigest()
    (folder / "draft_array.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, help="folder of a compiled array to describe")
    build = parser.parse_args().build
    if build is None:
        (KERNELS / "draft_array.json").write_text(manifest_text())
    else:
        write_build(build)
