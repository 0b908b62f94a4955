"""What a model takes on the device: told before loading, refused where too much, all given back."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, RandomModel, with_shape
from vulkan_harness import open_device

from specdec.errors import DeviceError
from specdec.types import SamplingParams, Segment

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target.memory_needs import check_memory, memory_needs
from target.model import VulkanVerifier, open_verifier
from target.packing import PackedModel, WeightMap
from target.sizes import RunSizes, fit_rows, matrix_parts
from target.vulkan import Device, Memory, Transfer
from target.vulkan.arena import lay_out


def sizes(context_length: int = 256, num_slots: int = 1) -> RunSizes:
    return RunSizes(SMALL, 8, context_length, num_slots, 64, 64, 4)


def load(device: Device, model: RandomModel, context_length: int = 256) -> VulkanVerifier:
    return open_verifier(model, model.shape, model.head_bits, device, context_length=context_length)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_regions_never_straddle_a_block() -> None:
    layout = lay_out([100, 300, 700, 256, 1024, 1], alignment=256, block_limit_bytes=1024)
    assert layout.places == ((0, 0), (0, 256), (1, 0), (1, 768), (2, 0), (3, 0))
    assert layout.block_bytes == (768, 1024, 1024, 256)


def test_a_matrix_is_cut_into_whole_tiles_that_fit_a_binding() -> None:
    tile_bytes = 32 * 5376
    limit = 128 << 20
    parts = list(matrix_parts(262144 - 5, 5376, 8, limit))
    assert all(part.packed_bytes == part.num_tiles * tile_bytes <= limit for part in parts)
    assert all(part.first_row % (32 * 16) == 0 for part in parts)
    assert sum(part.num_tiles for part in parts) == 8192
    assert sum(part.num_rows for part in parts) == 262144 - 5
    assert len(list(matrix_parts(43008, 5376, 4, limit))) == 1


def test_a_ring_holds_the_window_and_one_chunk() -> None:
    assert sizes().ring(0) == 128 and sizes().ring(1) == 256  # local: 40 + 64 - 1 in tiles of 32
    assert sizes(context_length=100).ring(0) == 128
    assert sizes(num_slots=3).kv_region_bytes(1) == 3 * 64 * 256 * 2


def test_attention_computes_few_rows_that_are_not_there() -> None:
    counts = [[1], [2], [3], [5], [16], [1] * 20, [2] * 8, [4] * 8, [1] * 30 + [34], [15, 1]]
    assert [sizes().group_rows(c) for c in counts] == [1, 2, 4, 4, 4, 1, 2, 4, 2, 4]
    wide = replace(sizes(), attention_pass_rows=1)
    assert [wide.group_rows(c) for c in counts] == [1, 1, 1, 1, 1, 1, 1, 4, 2, 1]


def test_prefill_chunks_shrink_until_their_scratch_can_be_bound() -> None:
    long = RunSizes(SMALL, 8, 1 << 17, 1, 64, 64, 4)
    partials = long.scratch_bytes()["partials"]
    assert fit_rows(long, partials).prefill_rows == 64
    assert fit_rows(long, partials - 1).prefill_rows == 32
    assert fit_rows(long, 1).prefill_rows == 16
    many = replace(long, pass_rows=64)
    logits = many.scratch_bytes()["logits"]
    assert fit_rows(many, max(partials, logits)).pass_rows == 64
    assert fit_rows(many, partials // 2).pass_rows == 32
    assert fit_rows(many, 1).pass_rows == 16


def test_needs_are_told_before_loading_and_are_what_loading_takes(quiet_device: Device) -> None:
    model = RandomModel()
    needs = memory_needs(quiet_device, WeightMap(sizes(), quiet_device))
    loads: list[tuple[int, int]] = []
    verifier = open_verifier(
        model,
        SMALL,
        8,
        quiet_device,
        context_length=256,
        load=lambda done, total: loads.append((done, total)),
    )
    used = quiet_device.memory.used_bytes
    assert used["weights"] == needs.weights_bytes
    assert used["kv cache"] == needs.kv_bytes
    assert used["scratch"] == needs.scratch_bytes
    assert loads == sorted(loads) and loads[-1][0] == loads[-1][1]
    verifier.release()
    assert used.total() == 0


def test_too_little_memory_names_needed_and_available_per_part(
    quiet_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "available_bytes", lambda _: 100_000)
    with pytest.raises(DeviceError, match=r"has 0.00 GiB free.*weights.*KV cache.*scratch"):
        load(quiet_device, RandomModel())
    assert quiet_device.handle is None  # given back


def test_a_context_too_long_for_a_binding_is_refused(quiet_device: Device) -> None:
    shape = with_shape(context_length=1 << 26)
    with pytest.raises(DeviceError, match=r"KV cache of layer 1 needs .*run.context_length"):
        load(quiet_device, RandomModel(shape), context_length=1 << 26)


def test_too_many_slots_for_a_binding_are_refused(quiet_device: Device) -> None:
    most = quiet_device.memory.binding_limit_bytes // sizes().kv_region_bytes(1)
    wanted = rf"KV cache of layer 1 needs .*use run.batch_size = {most} at most"
    with pytest.raises(DeviceError, match=wanted):
        open_verifier(RandomModel(), SMALL, 8, quiet_device, context_length=256, num_slots=most + 1)
    assert quiet_device.handle is None


def test_too_little_memory_for_a_batch_names_the_largest_that_fits(
    quiet_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = memory_needs(quiet_device, WeightMap(sizes(num_slots=16), quiet_device))
    monkeypatch.setattr(Memory, "available_bytes", lambda _: needs.total_bytes)
    check_memory(quiet_device, needs)
    too_little = needs.total_bytes - needs.kv_bytes // 2
    monkeypatch.setattr(Memory, "available_bytes", lambda _: too_little)
    with pytest.raises(DeviceError, match=r"use run.batch_size = 8 at most"):
        check_memory(quiet_device, needs)


def test_a_fault_while_loading_gives_everything_back(quiet_device: Device) -> None:
    class Broken(RandomModel):
        def vector(self, name: str) -> np.ndarray:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        load(quiet_device, Broken())
    assert quiet_device.handle is None


def test_weights_survive_parts_and_staging(quiet_device: Device) -> None:
    """With a small binding limit every matrix has many parts; read back they are the file's."""
    model = RandomModel()
    weights = WeightMap(sizes(), quiet_device)
    weights.matrices["embed"] = tuple(matrix_parts(500, 96, 8, 16 * 32 * 96))
    quiet_device.memory = Memory(quiet_device, in_place=False)
    packed = PackedModel(quiet_device, weights, model, lambda *_: None)
    transfer = Transfer(quiet_device)
    for name, matrix in packed.matrices.items():
        read = [transfer.read(part.packed) for part in matrix.parts]
        source = model.matrix(name).packed.view(np.uint8).reshape(-1)
        np.testing.assert_array_equal(np.concatenate(read), source)
    packed.release()


def step(verifier: VulkanVerifier) -> None:
    position = verifier.length(0)
    if position + 4 > verifier.context_length:
        verifier.truncate(0, 0)
        position = 0
    verifier.verify([Segment(0, position, (1, 2, 3, 4))])
    verifier.truncate(0, position + 2)


def steps(verifier: VulkanVerifier, count: int) -> int:
    """Growth in bytes over the last half of `count` steps."""
    verifier.open(0, SamplingParams())
    for _ in range(count // 2):
        step(verifier)
    before = rss_bytes()
    for _ in range(count // 2):
        step(verifier)
    return rss_bytes() - before


def test_a_hundred_steps_allocate_nothing(
    quiet_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = load(quiet_device, RandomModel())
    allocated: list[object] = []
    allocate: Callable[..., object] = Memory.allocate
    monkeypatch.setattr(Memory, "allocate", lambda *args: allocated.append(args) or allocate(*args))
    assert steps(verifier, 100) < 1 << 20
    assert not allocated
    verifier.release()


@pytest.mark.prove
def test_two_thousand_steps_and_twenty_loads_leave_no_memory_behind() -> None:
    model, sizes_after = RandomModel(), []
    for index in range(20):
        verifier = load(open_device(validation=False), model)
        # lavapipe's own pools grow for some 2500 steps; the second half of 6000 must not
        growth = steps(verifier, 6000 if index == 0 else 10)
        assert index > 0 or growth < 1 << 20
        verifier.release()
        sizes_after.append(rss_bytes())
    assert sizes_after[-1] - sizes_after[10] < 8 << 20
