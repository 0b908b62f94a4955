"""Attention over rings and full caches on the device: numpy agrees, and bits stay unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from activation_rows import from_blocks, padded
from numpy.typing import NDArray
from shader_cases import (
    INACTIVE,
    Heads,
    Row,
    assert_quantised,
    attend,
    attention_work,
    lay_out_keys,
    segment,
    step_buffer,
)
from vulkan_harness import Bench

from specdec.types import FloatArray
from target.vulkan import Device


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass leaves for its rows."""

    partials: NDArray[np.float32]  # (M, heads, chunks, D)
    summary: NDArray[np.float32]  # (M, heads, chunks, 2)
    values: NDArray[np.uint32]
    scales: FloatArray


class Layer:
    """Queries, keys and values of every (slot, position) of one layer, and passes over them."""

    defines: ClassVar[dict[str, int]] = {}

    def __init__(self, shape: Heads, length: int, scale: float = 1.0) -> None:
        rng = np.random.default_rng(shape.head_dim + length)
        self.shape = shape
        cached = (shape.num_slots, shape.num_kv_heads, length, shape.head_dim)
        asked = (shape.num_slots, length, shape.num_heads, shape.head_dim)
        self.keys = rng.standard_normal(cached).astype(np.float16)
        self.values = rng.standard_normal(cached).astype(np.float16)
        self.queries = (rng.standard_normal(asked) * scale / shape.head_dim**0.5).astype(np.float32)

    def caches(self, rows: Sequence[Row]) -> tuple[NDArray, NDArray]:
        """K and V buffers as after the pass's own writes; what no row may read is NaN."""
        shape = self.shape
        lead = (shape.num_slots, shape.num_kv_heads, shape.ring, shape.head_dim)
        keys, values = np.full(lead, np.nan, np.float16), np.full(lead, np.nan, np.float16)
        for row in rows:
            if row.position == INACTIVE:
                continue
            first = max(0, row.position - shape.window + 1) if shape.window else 0
            for p in range(first, row.position + 1):
                keys[row.slot, :, p % shape.ring] = self.keys[row.slot, :, p]
                values[row.slot, :, p % shape.ring] = self.values[row.slot, :, p]
        return lay_out_keys(keys), values

    def run(
        self,
        device: Device,
        rows: Sequence[Row],
        chunk: int = 64,
        max_rows: int = 4,
        spread: int = 1,
        batch: int = 4,
    ) -> Outcome:
        """One pass: attention, then merge."""
        shape, count = self.shape, len(rows)
        active = [row if row.position != INACTIVE else Row(0) for row in rows]
        q = np.stack([self.queries[row.slot, row.position] for row in active])
        chunks, width = shape.max_chunks(chunk), shape.num_heads * shape.head_dim
        work = attention_work(rows, max_rows, chunk, shape.window)
        partials = np.full((count, shape.num_heads, chunks, shape.head_dim), np.nan, np.float32)
        summary = np.full((count, shape.num_heads, chunks, 2), np.nan, np.float32)
        constants = {**shape.constants, "CHUNK": chunk}
        with Bench(device) as bench:
            step, given = bench.upload(step_buffer(rows)), bench.upload(q)
            cache = [bench.upload(buffer) for buffer in self.caches(rows)]
            parts = [bench.upload(partials), bench.upload(summary)]
            out = [bench.zeros(padded(count) * width // share) for share in (1, 8)]
            speed = {"ROWS": max_rows, "SHUFFLE": spread, "BATCH": batch}
            speed["NUM_KV_HEADS"] = shape.num_kv_heads
            program = bench.program("attention", self.defines, {**constants, **speed})
            merge = bench.program("attention_merge", {}, constants)
            grid, push = (len(work), shape.num_kv_heads), [shape.ring, shape.window, chunks]
            regions = [step, given, *cache, *parts, bench.upload(work)]
            bench.dispatch(program, regions, grid, push)
            bench.dispatch(merge, [step, *parts, *out], (shape.num_heads, count), push[1:])
            bench.run()
            return Outcome(
                bench.download(parts[0], np.float32).reshape(partials.shape),
                bench.download(parts[1], np.float32).reshape(summary.shape),
                from_blocks(bench.download(out[0], np.uint32), count, width // 32),
                from_blocks(bench.download(out[1], np.float32), count, width // 32),
            )

    def expected(self, row: Row) -> NDArray[np.float64]:
        """The row's head outputs, (heads x D,)."""
        shape, share = self.shape, self.shape.num_heads // self.shape.num_kv_heads
        queries = self.queries[row.slot, row.position].astype(np.float64)
        heads = [
            attend(
                queries[h * share : (h + 1) * share],
                self.keys[row.slot, h].astype(np.float64),
                self.values[row.slot, h].astype(np.float64),
                row.position,
                shape.window,
            )
            for h in range(shape.num_kv_heads)
        ]
        return np.concatenate(heads).reshape(-1)


def assert_attends(layer: Layer, rows: Sequence[Row], outcome: Outcome) -> None:
    """Every active row's output is numpy's within rounding; padding rows are zero."""
    for r, row in enumerate(rows):
        if row.position == INACTIVE:
            assert not outcome.values[r].any() and not outcome.scales[r].any()
            continue
        # float32 sums of up to a few hundred terms of size 1: a few 1e-6
        expected = layer.expected(row)[None]
        assert_quantised(outcome.values[r : r + 1], outcome.scales[r : r + 1], expected, 2e-5)


def assert_same_bits(row: int, outcome: Outcome, other_row: int, other: Outcome) -> None:
    assert outcome.values[row].tobytes() == other.values[other_row].tobytes()
    assert outcome.scales[row].tobytes() == other.scales[other_row].tobytes()
    # a zero's sign may differ where a masked value was negative; nothing downstream sees it
    np.testing.assert_array_equal(outcome.partials[row], other.partials[other_row])
    np.testing.assert_array_equal(outcome.summary[row], other.summary[other_row])


SHAPES = [
    (Heads(32, 4, 4, 192, 0), 32),
    (Heads(32, 4, 2, 192, 0), 64),
    (Heads(64, 8, 2, 192, 0), 32),
    (Heads(64, 4, 4, 192, 0), 128),
    (Heads(128, 4, 2, 192, 0), 64),
    (Heads(128, 4, 2, 192, 0), 128),
    (Heads(128, 4, 4, 256, 0), 256),
    (Heads(256, 4, 1, 192, 0), 64),
    (Heads(256, 4, 1, 256, 0), 256),
]


@pytest.mark.parametrize(("shape", "chunk"), SHAPES, ids=str)
def test_rows_attend_over_a_full_cache(device: Device, shape: Heads, chunk: int) -> None:
    layer = Layer(shape, 190, scale=4.0)
    rows = [*segment(123, 6), Row(INACTIVE, start=6)]
    outcome = layer.run(device, rows, chunk)
    assert_attends(layer, rows, outcome)


RING_WINDOW = 48
RING = Heads(64, 4, 2, 96, RING_WINDOW)  # chunks of 64 wrap inside this ring


@pytest.mark.parametrize("position", [0, 1, 46, 47, 48, 49, 63, 64, 65, 94, 95, 96, 127, 128, 300])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_rows_attend_over_a_ring_at_its_edges(device: Device, position: int, num_rows: int) -> None:
    layer = Layer(RING, 320)
    rows = segment(position, num_rows)
    assert_attends(layer, rows, layer.run(device, rows))


@pytest.mark.parametrize("window", [0, 16, 32, 50])
def test_several_sequences_share_a_pass(device: Device, window: int) -> None:
    layer = Layer(Heads(32, 4, 2, 320 if window == 0 else 96, window, num_slots=4), 320)
    rows = [
        *segment(77, 3, slot=2, start=0),
        *segment(0, 1, slot=0, start=3),
        *segment(300, 5, slot=3, start=4),
        Row(INACTIVE, start=9),
        *segment(31, 2, slot=1, start=10),
    ]
    assert_attends(layer, rows, layer.run(device, rows, chunk=32))


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 50])
def test_a_rows_bits_depend_on_its_own_position_alone(device: Device, window: int) -> None:
    shape = Heads(64, 4, 2, 320 if window == 0 else 96, window, num_slots=3)
    layer = Layer(shape, 320)
    for position in (49, 64, 130):
        alone = layer.run(device, segment(position, 1, slot=1), max_rows=1)
        for max_rows in (1, 2, 4, 8):
            for before in (0, 1, 3, 6):
                rows = segment(position - before, before + 3, slot=1)
                outcome = layer.run(device, rows, max_rows=max_rows)
                assert_same_bits(0, alone, before, outcome)
        others = [*segment(200, 2, slot=0), *segment(position, 2, slot=1, start=2)]
        others += segment(5, 3, slot=2, start=4)
        assert_same_bits(0, alone, 2, layer.run(device, others))


def test_how_operands_are_loaded_changes_no_bits(device: Device) -> None:
    layer = Layer(Heads(128, 4, 2, 192, 0), 190)
    rows = segment(123, 6)
    first = layer.run(device, rows)
    for spread, batch in ((0, 4), (1, 1), (0, 8)):
        other = layer.run(device, rows, spread=spread, batch=batch)
        for row in range(6):
            assert_same_bits(row, first, row, other)


def test_a_prompt_cut_anywhere_gives_the_same_bits(device: Device) -> None:
    layer = Layer(Heads(32, 2, 1, 96, 40), 128)
    whole = {}
    for first in range(0, 96, 16):
        outcome = layer.run(device, segment(first, 16), chunk=32)
        whole |= {first + r: (r, outcome) for r in range(16)}
    for first, count in ((0, 5), (5, 11), (16, 1), (17, 13), (30, 16), (46, 4), (50, 16), (66, 9)):
        outcome = layer.run(device, segment(first, count), chunk=32)
        for r in range(count):
            row, other = whole[first + r]
            assert_same_bits(r, outcome, row, other)


def test_scores_of_any_size_stay_finite(device: Device) -> None:
    layer = Layer(Heads(32, 2, 1, 192, 0), 190, scale=300.0)
    rows = segment(180, 4)
    assert_attends(layer, rows, layer.run(device, rows, chunk=32))
