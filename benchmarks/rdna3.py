"""The Radeon 780M (gfx1103) on paper: registers, spills and issue time of every shader of a pass.

    python benchmarks/rdna3.py                  # table and JSON; needs Mesa's RADV, no GPU
    python benchmarks/rdna3.py --write-table    # keeps this Mesa's part of tests/goldens/rdna3.json

RADV compiles for hardware that is not there (RADV_FORCE_FAMILY) and tells statistics and
instructions. VK_DRIVER_FILES=.../radeon_icd.json takes another Mesa than the system's, unpacked,
with LD_LIBRARY_PATH to its libraries. Nothing is measured. Modelled, for a 27B shape with the
tuning of rdna3.toml:

- memory: all weights (and the cache at --depth) once at the 780M's 89.6 GB/s;
- issue: vector instructions of the matrix products. Each takes its lanes of 12 x 64 at 2.7 GHz;
  an inner loop counts as often as it runs, the rest of a program once. Attention adds two
  multiplications and additions per key, dimension and query. Stalls, scalar instructions and the
  small operations between are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench_target import SHAPES

from specdec.weights import Bits
from target.paper import PaperPasses
from target.pass_sizes import PASS_ROWS
from target.plan import Head
from target.sizes import KvFormat, RunSizes
from target.tuning import Tuning, shipped_tuning
from target.vulkan import Device, PipelineStatistics, pipeline_statistics

FAMILIES = ("PHOENIX", "GFX1103_R1")  # gfx1103's name differs between versions of Mesa
DRIVER_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")
TABLE = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "rdna3.json"
NO_RADV = 3  # exit status: this machine cannot compile for the 780M

BANDWIDTH = 89.6e9  # bytes/s, LPDDR5x-5600 on 128 bits
LANES_PER_S = 12 * 64 * 2.7e9
VGPRS_PER_LANE_SLOT = 512  # of a SIMD, for 64 lanes
CONTEXT_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class Code:
    """Vector instructions of a program: in the loop with most integer dot products, and in all."""

    loop: int
    total: int


@cache
def code_of(instructions: str) -> Code:
    """Counts from a disassembly of labelled blocks, `BB1:` and branches to them."""
    blocks: dict[str, list[str]] = {"": []}
    for line in instructions.splitlines():
        if re.match(r"BB\d+:", line):
            blocks[line.split(":")[0]] = []
        elif line.strip():
            blocks[list(blocks)[-1]].append(line.strip())
    names = list(blocks)
    loops = []
    for last, name in enumerate(names):
        for line in blocks[name]:
            jump = re.match(r"s_c?branch\w* (BB\d+)", line)
            if jump and names.index(jump[1]) <= last:
                body = names[names.index(jump[1]) : last + 1]
                loops.append([line for block in body for line in blocks[block]])
    everything = [line for block in blocks.values() for line in block]
    # of nested loops with the same products the smallest
    best = max(loops, key=lambda body: (count(body, "v_dot4"), -len(body)), default=[])
    return Code(count(best, "v_"), count(everything, "v_"))


def count(lines: list[str], start: str) -> int:
    return sum(line.startswith(start) for line in lines)


def table_row(statistics: PipelineStatistics) -> dict[str, int]:
    """What the gate looks at."""
    lines = [line.strip() for line in statistics.instructions.splitlines()]
    vgprs = statistics.numbers["VGPRs"]
    return {
        "subgroup": statistics.subgroup_size,
        "vgprs": vgprs,
        "vgpr_spills": statistics.numbers["Spilled VGPRs"],
        "sgpr_spills": statistics.numbers["Spilled SGPRs"],
        "dot4": count(lines, "v_dot4"),
        "wide_loads": count(lines, "buffer_load_b128") + count(lines, "global_load_b128"),
        "shared_bytes": statistics.numbers["LDS size"],
        "waves": min(16, VGPRS_PER_LANE_SLOT * 64 // (vgprs * statistics.subgroup_size)),
    }


class Paper:
    """Passes of the 27B shape on the null device."""

    def __init__(self, device: Device, tuning: Tuning) -> None:
        self.tuning = tuning
        self.device = device
        self.passes = [self._passes(4, "fp16"), self._passes(8, "int8")]  # head bits, cache
        self.statistics: dict[str, PipelineStatistics] = {}  # by program label

    def _passes(self, head_bits: Bits, kv: KvFormat) -> PaperPasses:
        tuning = self.tuning
        sizes = RunSizes(
            SHAPES["27b"],
            head_bits,
            CONTEXT_LENGTH,
            1,
            tuning.prefill_rows,
            tuning.attention_chunk,
            tuning.attention_rows,
            kv,
            PASS_ROWS[-1],
        )
        return PaperPasses(self.device, sizes, tuning)

    def compile_all(self) -> dict[str, dict[str, int]]:
        """A row of the table for every program that a 27B run can need."""
        for passes in self.passes:
            for rows in PASS_ROWS:
                for head in (Head.CHOOSE, Head.SCORE):
                    for dispatch in passes.dispatches(rows, head):
                        label = dispatch.program.label
                        if label not in self.statistics:
                            compiled = pipeline_statistics(self.device, dispatch.program)
                            self.statistics[label] = compiled
        return {label: table_row(self.statistics[label]) for label in sorted(self.statistics)}

    def estimate(self, rows: int, depth: int) -> dict[str, float]:
        """Milliseconds of a greedy pass with an INT4 head; all modelled."""
        passes = self.passes[0]
        slots = 0.0
        for dispatch in passes.dispatches(rows, Head.CHOOSE):
            if dispatch.program.label.startswith("gemm") and dispatch.groups:
                settings = passes.settings(dispatch.program)
                code = code_of(self.statistics[dispatch.program.label].instructions)
                threads = settings["WIDTH"] * settings["SLICES"]
                turns = dispatch.push[0] / settings["SLICES"] / settings.get("UNROLL", 1)
                x, y, _ = dispatch.groups
                slots += x * y * threads * (turns * code.loop + code.total - code.loop)
        shape = SHAPES["27b"]
        seen = sum(
            depth if is_global else min(depth, shape.sliding_window)
            for is_global in shape.is_global_layer
        )
        attention = 2 * rows * shape.num_heads * shape.head_dim * seen
        cache_bytes = 4 * shape.kv_size * seen
        return {
            "m": rows,
            "depth": depth,
            "products_ms": round(slots / LANES_PER_S * 1e3, 1),
            "attention_ms": round(attention / LANES_PER_S * 1e3, 1),
            "memory_ms": round((passes.weights_bytes + cache_bytes) / BANDWIDTH * 1e3, 1),
        }


def printed(programs: dict[str, dict[str, int]], estimates: list[dict[str, float]]) -> str:
    lines = [f"{'VGPRs':>5} {'waves':>5} {'spills':>6} {'dot4':>5} {'b128':>5}  program"]
    for label, row in programs.items():
        spills = row["vgpr_spills"] + row["sgpr_spills"]
        shown = (
            f"{row['vgprs']:5} {row['waves']:5} {spills:6} {row['dot4']:5} {row['wide_loads']:5}"
        )
        lines.append(f"{shown}  {label}")
    lines.append(
        "modelled ms of a pass: issue of products, of attention, memory; issue over memory"
    )
    for row in estimates:
        issue = row["products_ms"] + row["attention_ms"]
        times = f"{row['products_ms']:6} {row['attention_ms']:5} {row['memory_ms']:6}"
        ratio = issue / row["memory_ms"]
        lines.append(f"  m = {row['m']:2}, depth {row['depth']:4}: {times}  {ratio:.2f}")
    return "\n".join(lines)


def compile_here(write_table: bool, depths: list[int]) -> None:
    """With RADV pretending to drive a 780M: compile, estimate, print."""
    device = Device.open("auto", statistics=True)
    version = device.info.driver.rpartition("Mesa ")[2].split("-")[0]
    paper = Paper(device, shipped_tuning(device.info))
    programs = paper.compile_all()
    estimates = [paper.estimate(rows, depth) for depth in depths for rows in PASS_ROWS]
    for passes in paper.passes:
        passes.release()
    print(f"{device.info.name}, Mesa {version}, tuning {paper.tuning.name}: static, never run")
    print(printed(programs, estimates))
    result = {"bench": "rdna3", "mesa": version, "programs": programs, "estimates": estimates}
    print(json.dumps(result))
    if write_table:
        tables = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        tables[version] = programs
        TABLE.write_text(json.dumps(tables, indent=1, sort_keys=True) + "\n")
    device.lost()  # there is nothing to wait for, and null hardware cannot
    device.release()


def null_hardware(family: str) -> dict[str, str] | None:
    """Environment in which the Vulkan loader finds RADV alone; it is read as that is loaded."""
    given = Path(os.environ.get("VK_DRIVER_FILES", ""))
    found = [file for folder in DRIVER_FOLDERS for file in Path(folder).glob("radeon*.json")]
    if given.name.startswith("radeon"):
        found.insert(0, given)
    if not found:
        return None
    driver = str(found[0])
    return {
        **os.environ,
        "VK_DRIVER_FILES": driver,
        "VK_ICD_FILENAMES": driver,  # loaders before 1.3.234
        "RADV_FORCE_FAMILY": family,
        "MESA_SHADER_CACHE_DISABLE": "1",
        "NODEVICE_SELECT": "1",
    }


def knows_family(environment: dict[str, str]) -> bool:
    """Whether RADV starts so; it aborts where the name is not one of its own."""
    probe = [sys.executable, "-c", "from target.vulkan import list_devices; list_devices()"]
    return subprocess.run(probe, env=environment, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-table", action="store_true", help="keep this Mesa's statistics")
    parser.add_argument("--depth", type=int, nargs="*", default=[128, 4096])
    args = parser.parse_args()
    if "RADV_FORCE_FAMILY" in os.environ:
        compile_here(args.write_table, args.depth)
        return
    for family in FAMILIES:
        environment = null_hardware(family)
        if environment and knows_family(environment):
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    print("no RADV that knows gfx1103 (Debian: mesa-vulkan-drivers)", file=sys.stderr)
    sys.exit(NO_RADV)


if __name__ == "__main__":
    main()
