"""What RADV's compiler makes of the shaders for the Radeon 780M, which nobody here has.

Compiled for hardware that is not there, with the constants of rdna3.toml, by benchmarks/rdna3.py.
The table of each version of Mesa is in goldens/rdna3.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("target.vulkan", exc_type=Exception)

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "rdna3.py"
REMEDY = "if it is meant: python benchmarks/rdna3.py --write-table"
Row = Mapping[str, int]

sys.path.insert(0, str(SCRIPT.parent))
from rdna3 import NO_RADV, TABLE, code_of  # noqa: E402


def faults(found: Mapping[str, Row], table: Mapping[str, Row]) -> list[str]:
    """Why programs are worse than the table says, a line each."""
    lines = []
    for label, row in found.items():
        if row["vgpr_spills"] or row["sgpr_spills"]:
            lines.append(f"spills {row['vgpr_spills']} VGPRs, {row['sgpr_spills']} SGPRs: {label}")
        if label not in table:
            lines.append(f"not in the table: {label}")
            continue
        if row["vgprs"] > table[label]["vgprs"]:
            lines.append(f"{row['vgprs']} VGPRs, were {table[label]['vgprs']}: {label}")
        for key in ("dot4", "wide_loads"):
            if row[key] < table[label][key]:
                lines.append(f"{row[key]} {key}, were {table[label][key]}: {label}")
    return lines + [f"no longer made: {label}" for label in table if label not in found]


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode == NO_RADV:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_no_program_is_worse_than_the_table(report: dict[str, object]) -> None:
    tables = json.loads(TABLE.read_text())
    if report["mesa"] not in tables:
        pytest.skip(f"no table for Mesa {report['mesa']}, only {', '.join(tables)}")
    assert faults(report["programs"], tables[report["mesa"]]) == [], REMEDY


@pytest.mark.slow
def test_no_program_spills_whatever_the_version_of_mesa(report: dict[str, object]) -> None:
    programs = report["programs"]
    assert any(label.startswith("gemm_geglu") for label in programs)
    assert [line for line in faults(programs, programs) if "spills" in line] == []


@pytest.mark.slow
def test_passes_of_up_to_16_tokens_wait_for_memory_on_paper(report: dict[str, object]) -> None:
    estimates = report["estimates"]
    small = [row for row in estimates if row["m"] <= 16]
    assert {row["m"] for row in small} == {1, 2, 4, 8, 16}
    for row in small:
        assert 0 < row["products_ms"] + row["attention_ms"] < 0.75 * row["memory_ms"], row


GOOD = {"vgprs": 32, "vgpr_spills": 0, "sgpr_spills": 0, "dot4": 16, "wide_loads": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vgpr_spills": 1}, "spills 1 VGPRs"),
        ({"sgpr_spills": 94}, "94 SGPRs"),
        ({"vgprs": 40}, "40 VGPRs, were 32"),
        ({"dot4": 0}, "0 dot4, were 16"),
        ({"wide_loads": 1}, "1 wide_loads, were 2"),
    ],
)
def test_the_gate_tells_what_is_worse(change: Row, words: str) -> None:
    (line,) = faults({"gemm": {**GOOD, **change}}, {"gemm": GOOD})
    assert words in line
    assert faults({"gemm": {**GOOD, "vgprs": 24, "dot4": 32}}, {"gemm": GOOD}) == []


def test_programs_beside_the_table_are_told() -> None:
    assert faults({"new": GOOD}, {"old": GOOD}) == ["not in the table: new", "no longer made: old"]


def test_the_loop_with_the_products_is_counted_apart() -> None:
    code = code_of(
        "BB0:\n\tv_mov_b32 v0, 0\nBB1:\n\ts_cbranch_scc1 BB4\n\tv_dot4_i32_iu8 v1\n\tv_cvt v1\n"
        "\ts_branch BB1\nBB2:\n\tv_dot4_i32_iu8 v2\n\ts_cbranch_vccz BB2\nBB4:\n\tv_add v1\n"
        "BB5:\n\tv_add v1\n\tv_add v1\n\tv_add v1\n\ts_cbranch_scc0 BB5\n"
    )
    assert (code.loop, code.total) == (1, 8)
