"""The array's design, run without a compiler: what it asks of each tile, and its manifest."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from draft.npu import host_kernels, layout, manifest
from specdec.assets import asset_dir
from specdec.errors import DeviceError

KERNELS = asset_dir("kernels")
DESIGNS = KERNELS / "designs"


@pytest.fixture(scope="module")
def tools() -> Iterator[types.ModuleType]:
    """kernels/designs/write_manifest.py, which finds its neighbours on the path."""
    sys.path.insert(0, str(DESIGNS))
    import write_manifest

    yield write_manifest
    sys.path.remove(str(DESIGNS))


@pytest.fixture
def design(tools: types.ModuleType) -> types.ModuleType:
    loaded: types.ModuleType = tools.load_design(DESIGNS / "draft_array.py")
    return loaded


@pytest.fixture(scope="module")
def stored() -> manifest.Manifest:
    return manifest.parse((KERNELS / "draft_array.json").read_text())


def test_the_stored_manifest_is_what_the_design_gives(tools: types.ModuleType) -> None:
    written = (KERNELS / "draft_array.json").read_text()
    assert written == tools.manifest_text(), "run python kernels/designs/write_manifest.py"


def test_the_manifest_names_the_kernels_as_they_are(stored: manifest.Manifest) -> None:
    stored.check_sources(host_kernels.source_hashes(KERNELS))
    with pytest.raises(DeviceError, match=r"aie2/rope.cc is not the source.*build.sh"):
        stored.check_sources({**host_kernels.source_hashes(KERNELS), "aie2/rope.cc": "0" * 64})


def test_sixteen_cores_share_eight_channels_in_pairs(stored: manifest.Manifest) -> None:
    assert len(stored.cores) == layout.NUM_CORES
    pairs = {(entry.column, entry.channel): entry.cores for entry in stored.inputs}
    assert pairs == {
        (column, channel): ((column, 2 + 2 * channel), (column, 3 + 2 * channel))
        for column in range(4)
        for channel in range(2)
    }
    seconds = {core.tile for core in stored.cores if core.is_second}
    assert seconds == {(column, row) for column in range(4) for row in (3, 5)}
    assert {core.tile for core in stored.cores if core.is_vector} == {(c, 5) for c in range(4)}


def test_tiles_leave_on_channel_0_and_rows_on_channel_1(stored: manifest.Manifest) -> None:
    for entry in stored.outputs:
        assert entry.channel == int(entry.is_rows)
        rows = (5,) if entry.is_rows else (2, 3, 4, 5)
        assert entry.cores == tuple((entry.column, row) for row in rows)
        size = layout.ELEMENT_BYTES if entry.is_rows else layout.TILE_BYTES
        assert entry.element_bytes == size


def test_every_core_keeps_within_its_memory(stored: manifest.Manifest) -> None:
    for core in stored.cores:
        assert core.data_bytes <= 64 * 1024
        assert core.program_bytes_estimate <= 16 * 1024


def test_channels_descriptors_and_locks_are_counted_per_tile(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    needs = tools.needs_of(design.draft_array())
    by_place = {(tile.col, tile.row): need for tile, need in needs.items()}
    vector = by_place[1, 5]
    assert (len(vector.inputs), len(vector.outputs), vector.descriptors) == (1, 2, 6)
    memory = by_place[1, 1]
    assert (len(memory.inputs), len(memory.outputs)) == (4, 1)
    assert memory.data_bytes == 2 * 4 * layout.TILE_BYTES
    shim = by_place[1, 0]
    assert (len(shim.inputs), len(shim.outputs)) == (2, 2)


def test_the_design_counts_words_as_the_layout_does(design: types.ModuleType) -> None:
    assert 4 * design.ELEMENT_WORDS == layout.ELEMENT_BYTES
    assert 4 * design.TILE_WORDS == layout.TILE_BYTES
    header = (KERNELS / "aie2" / "message.h").read_text()
    stated = re.search(r"gemv_memory\) == (\d+) && sizeof\(vector_memory\) == (\d+)", header)
    assert stated is not None
    sizes = (4 * design.GEMV_MEMORY_WORDS, 4 * design.VECTOR_MEMORY_WORDS)
    assert sizes == tuple(map(int, stated.groups()))


def test_a_design_too_large_for_a_core_is_refused(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    design.vector_memory_type = design.words(12000)
    with pytest.raises(tools.DesignError, match="bytes of data, it has 65536"):
        tools.manifest(design)


def test_a_program_estimated_too_large_is_refused(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    design.PROGRAMS["vector_core.o"] *= 2
    with pytest.raises(tools.DesignError, match="a core has 16384"):
        tools.manifest(design)


def test_a_third_stream_into_a_core_is_refused(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    program = design.draft_array()
    worker = program.runtime.workers[0]
    for name in ("one", "two"):
        fifo = design.ObjectFifo(design.tile_type, name=name)
        fifo.cons().tile = worker.placement
        program.runtime.fill(fifo.prod(), None, placement=design.Tile(0, 0))
    with pytest.raises(tools.DesignError, match=r"needs [34] DMA channels"):
        tools.check(program, tools.program_estimates(design.PROGRAMS))


def test_a_kernel_called_with_the_wrong_buffer_is_refused(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    kernel = design.Kernel("step", "a.o", [design.element_type])
    with pytest.raises(tools.DesignError, match="step is called with"):
        kernel(design.memory_buffer(design.gemv_memory_type, "memory"))


def test_memory_that_begins_with_anything_is_refused(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    with pytest.raises(tools.DesignError, match="give it zeros"):
        design.Buffer(design.gemv_memory_type, name="memory")


def test_a_worker_that_keeps_an_object_is_refused(
    tools: types.ModuleType, design: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(design.Kernel, "__call__", lambda *_: None)
    monkeypatch.setattr(design, "gemv_body", lambda elements, *_: elements.acquire(1))
    with pytest.raises(tools.DesignError, match="keeps an object of in_l3_l1_0_0"):
        design.draft_array()


def test_channels_the_compiler_chose_otherwise_are_noticed(
    tools: types.ModuleType, design: types.ModuleType
) -> None:
    found = tools.manifest(design)
    lines = [
        f"shim_dma_allocation @{entry['fifo']}_shim_alloc(%t, {direction}, {entry['channel']})"
        for direction, part in (("MM2S", "inputs"), ("S2MM", "outputs"))
        for entry in found[part]
    ]
    tools.check_allocations(found, "\n".join(lines))
    tools.check_allocations(found, "\n".join(lines).replace("_shim_alloc(%t, ", "("))
    with pytest.raises(tools.DesignError, match="in_l3_l1_0_1 is on channel 0"):
        tools.check_allocations(found, "\n".join(lines).replace("MM2S, 1", "MM2S, 0"))
    with pytest.raises(tools.DesignError, match="rows_l1_l3_3 is on no channel"):
        tools.check_allocations(found, "\n".join(lines[:-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "manifest format 2"),
        ({"cores": [{"tile": [0]}]}, "not readable"),
        ({"inputs": None}, "not readable"),
    ],
)
def test_a_manifest_of_another_make_is_refused(change: dict[str, object], message: str) -> None:
    found = json.loads((KERNELS / "draft_array.json").read_text())
    with pytest.raises(DeviceError, match=message):
        manifest.parse(json.dumps({**found, **change}))
    with pytest.raises(DeviceError, match="not readable"):
        manifest.parse("{")


def test_every_kernel_states_its_formula_rounding_and_size() -> None:
    for path in sorted((KERNELS / "aie2").glob("*.cc")):
        text = path.read_text()
        assert "KB of program" in text, path.name
        if "aie::mac" in text or "multiply(" in text:
            assert "aie::rounding_mode::conv_even" in text, path.name


def test_the_build_script_names_what_to_install(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        ["/bin/sh", str(KERNELS / "build.sh")],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "mlir_aie" in done.stderr and "PEANO_INSTALL_DIR" in done.stderr
