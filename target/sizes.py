"""How large a run is, and the bytes it needs on the device, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.weights import TILE_ROWS, Bits
from target.pass_sizes import BLOCK_ROWS, PASS_ROWS, PREFILL_ROWS

KvFormat = Literal["fp16", "int8"]

_PART_TILES = 16  # parts start at multiples of this many tiles, which every product divides
KV_TILE = 32  # cached positions are kept in whole tiles of this many


@dataclass(frozen=True, slots=True)
class RunSizes:
    """A model's shape and what one run does with it."""

    shape: Gemma3Shape
    head_bits: Bits
    context_length: int
    num_slots: int
    prefill_rows: int
    attention_chunk: int
    attention_rows: int
    kv: KvFormat = "fp16"
    pass_rows: int = BLOCK_ROWS  # of the largest pass that chooses tokens, one of PASS_ROWS
    attention_pass_rows: int = 4  # instead of attention_rows, in passes of a block or less

    @property
    def max_rows(self) -> int:
        """Rows of the largest pass."""
        return max(self.pass_rows, self.prefill_rows)

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Sizes of passes that choose tokens, ascending."""
        return tuple(rows for rows in PASS_ROWS if rows <= self.pass_rows)

    @property
    def prefill_sizes(self) -> tuple[int, ...]:
        """Sizes of passes that choose nothing, ascending."""
        smaller = (rows for rows in PREFILL_ROWS if rows < self.prefill_rows)
        return (*smaller, self.prefill_rows)

    def window(self, layer: int) -> int:
        """Positions a layer's token sees; 0 for all."""
        return 0 if self.shape.is_global_layer[layer] else self.shape.sliding_window

    def ring(self, layer: int) -> int:
        """Positions a layer's cache holds: what is visible and one pass more, or the context.

        A rejected run has then not overwritten anything that is visible after it is cut off.
        """
        needed = self.context_length
        if not self.shape.is_global_layer[layer]:
            needed = min(needed, self.shape.sliding_window + self.max_rows - 1)
        needed = max(needed, self.attention_chunk)  # a chunk wraps around at most once
        return -(-needed // KV_TILE) * KV_TILE

    def group_rows(self, counts: Sequence[int]) -> int:
        """Rows that share one read of the cache in attention, for segments of `counts` rows.

        Each group computes as many rows, whether it has them or not; its read costs about as much
        as two. A small pass leaves a large device half idle: there groups may be smaller.
        """
        is_small = sum(counts) <= BLOCK_ROWS
        most = self.attention_pass_rows if is_small else self.attention_rows
        options = [most >> halvings for halvings in range(8)]
        costs = {
            size: (2 + size) * sum(-(-count // size) for count in counts)
            for size in options
            if size
        }
        return min(costs, key=lambda size: costs[size])  # of equals the first, the largest

    def max_chunks(self, window: int) -> int:
        """Most attention chunks that one token sees keys in."""
        chunk = self.attention_chunk
        whole = -(-self.context_length // chunk)
        return min(whole, (window - 1 + chunk - 1) // chunk + 1) if window else whole

    def kv_region_bytes(self, layer: int) -> int:
        """Bytes of a layer's keys, and of its values; int8 has a float32 scale per 32."""
        dims = self.num_slots * self.shape.kv_size * self.ring(layer)
        return dims * 2 if self.kv == "fp16" else dims * 9 // 8

    def scratch_bytes(self) -> dict[str, int]:
        """Bytes of every buffer that a pass computes in, by name."""
        shape, rows = self.shape, self.max_rows
        widest = max(shape.hidden_size, shape.query_size + 2 * shape.kv_size)
        padded = -(-widest // TILE_ROWS) * TILE_ROWS
        chunks = max(self.max_chunks(0), self.max_chunks(shape.sliding_window))
        partials = rows * shape.num_heads * chunks
        vocab_tiles = -(-shape.vocab_size // TILE_ROWS)
        sizes = {
            "x": 4 * rows * shape.hidden_size,
            "y": 4 * rows * padded,
            "q": 4 * rows * shape.query_size,
            "partials": 4 * partials * shape.head_dim,
            "summaries": 8 * partials,
            "best_values": 4 * self.pass_rows * vocab_tiles,
            "best_ids": 4 * self.pass_rows * vocab_tiles,
            "logits": 4 * self.pass_rows * vocab_tiles * TILE_ROWS,
            "rope_local": 4 * self.context_length * shape.head_dim,
            "rope_global": 4 * self.context_length * shape.head_dim,
        }
        for name, columns in (
            ("hidden", shape.hidden_size),
            ("mixed", shape.query_size),
            ("inner", shape.intermediate_size),
        ):
            sizes[f"{name}_values"] = rows * columns
            sizes[f"{name}_scales"] = 4 * rows * (columns // GROUP)
        return sizes


def fit_rows(sizes: RunSizes, binding_limit_bytes: int) -> RunSizes:
    """The same run with prefill chunks and passes small enough that their scratch can be bound."""
    while sizes.max_rows > BLOCK_ROWS and max(sizes.scratch_bytes().values()) > binding_limit_bytes:
        rows = max(BLOCK_ROWS, sizes.max_rows // 2 // BLOCK_ROWS * BLOCK_ROWS)
        sizes = replace(
            sizes,
            prefill_rows=min(rows, sizes.prefill_rows),
            pass_rows=max(size for size in sizes.pass_sizes if size <= rows),
        )
    return sizes


@dataclass(frozen=True, slots=True)
class MatrixPart:
    """Whole tiles of a matrix small enough to bind: rows, and bytes of values and scales."""

    first_row: int
    num_rows: int  # without padding rows
    num_tiles: int
    packed_bytes: int
    scale_bytes: int


def matrix_parts(
    num_rows: int, num_columns: int, bits: Bits, binding_limit_bytes: int
) -> Iterator[MatrixPart]:
    """Cut a matrix into as few parts as bindings of the given size allow."""
    tile_bytes = TILE_ROWS * num_columns * bits // 8
    num_tiles = -(-num_rows // TILE_ROWS)
    most = binding_limit_bytes // tile_bytes
    if most < num_tiles:
        most = max(1, most // _PART_TILES) * _PART_TILES
    for first in range(0, num_tiles, most):
        tiles = min(most, num_tiles - first)
        first_row = first * TILE_ROWS
        rows = min(tiles * TILE_ROWS, num_rows - first_row)
        scale_bytes = tiles * TILE_ROWS * (num_columns // GROUP) * 2
        yield MatrixPart(first_row, rows, tiles, tiles * tile_bytes, scale_bytes)
