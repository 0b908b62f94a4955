"""The int8 form of the KV cache: written by the rotation, read by attention, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from shader_cases import (
    INACTIVE,
    Heads,
    Row,
    int8_keys_from,
    int8_values_from,
    lay_out_int8_keys,
    lay_out_int8_values,
    quantised_heads,
    rms_norm,
    rope_table,
    rotate,
    segment,
    step_buffer,
)
from test_shaders_attention import Layer, assert_attends, assert_same_bits
from vulkan_harness import run

from target.vulkan import Device


class Int8Layer(Layer):
    """A layer whose keys and values went through int8; positions no row may read are garbage."""

    defines: ClassVar[dict[str, int]] = {"KV_INT8": 1}

    def __init__(self, shape: Heads, length: int, scale: float = 1.0) -> None:
        super().__init__(shape, length, scale)
        self.packed_keys = quantised_heads(self.keys.astype(np.float64))
        self.packed_values = quantised_heads(self.values.astype(np.float64))
        for name, (values, scales) in (
            ("keys", self.packed_keys),
            ("values", self.packed_values),
        ):
            setattr(self, name, values.astype(np.float64) * np.repeat(scales, 32, axis=-1))

    def caches(self, rows: Sequence[Row]) -> tuple[NDArray, NDArray]:
        shape = self.shape
        lead = (shape.num_slots, shape.num_kv_heads, shape.ring)
        buffers = []
        for values, scales in (self.packed_keys, self.packed_values):
            ring_values = np.full((*lead, shape.head_dim), 99, np.int8)
            ring_scales = np.full((*lead, shape.head_dim // 32), np.nan, np.float32)
            for row in rows:
                first = max(0, row.position - shape.window + 1) if shape.window else 0
                for p in range(first, row.position + 1) if row.position != INACTIVE else ():
                    ring_values[row.slot, :, p % shape.ring] = values[row.slot, :, p]
                    ring_scales[row.slot, :, p % shape.ring] = scales[row.slot, :, p]
            buffers.append((ring_values, ring_scales))
        return lay_out_int8_keys(*buffers[0]), lay_out_int8_values(*buffers[1])


@pytest.mark.parametrize("dim", [32, 64, 128, 256])
def test_keys_and_values_are_cached_in_int8(device: Device, dim: int) -> None:
    shape = Heads(dim, 2, 2, 64, 0, num_slots=2)
    rng = np.random.default_rng(dim)
    rows = [Row(0), Row(1), Row(407, slot=1, start=2), Row(INACTIVE, start=3)]
    y = rng.standard_normal((4, 6, dim)).astype(np.float32)
    y[1, 5, :3] = [np.inf, np.nan, -np.inf]
    factor = (rng.standard_normal(dim) + 1).astype(np.float32)
    cache = np.zeros(4 * 64 * dim * 9 // 8, np.uint8)
    q = np.zeros((4, 2, dim), np.float32)
    buffers = [step_buffer(rows), y, factor, factor, rope_table(500, dim), q, cache, cache]
    constants = {**shape.constants, "NUM_KV_HEADS": 2}
    out = run(
        device,
        "qk_norm_rope",
        buffers,
        (6, 4),
        [64],
        constants=constants,
        defines={"KV_INT8": 1},
    )
    keys, values = int8_keys_from(out[6], 64, dim), int8_values_from(out[7], 64, dim)
    assert np.isfinite(values).all()
    turns = rope_table(500, dim).astype(np.float64)
    written = 0
    for r, row in enumerate(rows[:3]):
        key = rotate(rms_norm(y[r, 2:4], factor), turns[row.position])
        at = slice(row.slot * 2, row.slot * 2 + 2), row.position % 64
        assert_within_half_a_step(keys[at], key)
        if r != 1:
            assert_within_half_a_step(values[at], y[r, 4:].astype(np.float64))
        written += 2
    assert np.count_nonzero(keys.any(axis=-1)) == written


def assert_within_half_a_step(cached: NDArray, expected: NDArray) -> None:
    groups = expected.reshape(*expected.shape[:-1], -1, 32)
    step = np.abs(groups).max(axis=-1, keepdims=True) / 127
    error = np.abs(cached.reshape(groups.shape) - groups)
    assert (error <= step * 0.5 + 1e-5).all()


SHAPES = [
    (Heads(32, 4, 4, 192, 0), 32),
    (Heads(64, 8, 2, 192, 0), 32),
    (Heads(128, 4, 2, 192, 0), 64),
    (Heads(256, 4, 1, 192, 0), 64),
    (Heads(128, 4, 4, 256, 0), 256),
]


@pytest.mark.parametrize(("shape", "chunk"), SHAPES, ids=str)
def test_rows_attend_over_an_int8_cache(device: Device, shape: Heads, chunk: int) -> None:
    layer = Int8Layer(shape, 190, scale=4.0)
    rows = [*segment(123, 6), Row(INACTIVE, start=6)]
    assert_attends(layer, rows, layer.run(device, rows, chunk))


@pytest.mark.parametrize("position", [0, 47, 48, 49, 94, 95, 96, 300])
def test_an_int8_ring_keeps_a_rows_bits_at_its_edges(device: Device, position: int) -> None:
    layer = Int8Layer(Heads(64, 4, 2, 96, 48), 320)
    rows = segment(position, 5)
    outcome = layer.run(device, rows)
    assert_attends(layer, rows, outcome)
    for row in range(5):
        alone = layer.run(device, [Row(position + row)], max_rows=1)
        assert_same_bits(0, alone, row, outcome)
