"""Bytes and operations of a model from its shape alone; it knows no device and opens no file."""

from __future__ import annotations

from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.weights import TILE_ROWS, Bits, matrix_sizes

_PASS_ROWS = 64  # of the largest pass that chooses tokens
_CHUNK = 256  # keys of an attention chunk


def weight_bytes(shape: Gemma3Shape, head_bits: Bits) -> int:
    """All matrices with their scales: what a pass reads once (the head is the embedding)."""
    return sum(
        matrix_bytes(rows, columns, head_bits if name == "embed" else 4)
        for name, (rows, columns) in matrix_sizes(shape).items()
    )


def matrix_bytes(num_rows: int, num_columns: int, bits: Bits) -> int:
    """Values and one fp16 scale per group of 32, in whole tiles of rows."""
    padded = -(-num_rows // TILE_ROWS) * TILE_ROWS
    return padded * (num_columns * bits // 8 + num_columns // GROUP * 2)


def num_weights(shape: Gemma3Shape) -> int:
    """Weights that every token is multiplied with."""
    return sum(rows * columns for rows, columns in matrix_sizes(shape).values())


def kv_bytes(
    shape: Gemma3Shape, context_length: int, num_slots: int, kv: str, prefill_rows: int = 64
) -> int:
    """The cache of `num_slots` sequences: rings in local layers, everything in global ones.

    A ring holds a window and the largest pass more: `prefill_rows` is the device's.
    """
    ring = min(context_length, shape.sliding_window + max(_PASS_ROWS, prefill_rows) - 1)
    positions = sum(context_length if is_global else ring for is_global in shape.is_global_layer)
    return num_slots * positions * _kv_position_bytes(shape, kv)


def kv_bytes_per_token(shape: Gemma3Shape, kv: str) -> int:
    """What a longer context adds per token and sequence once the windows are full."""
    return sum(shape.is_global_layer) * _kv_position_bytes(shape, kv)


def kv_read_bytes(shape: Gemma3Shape, depth: int, kv: str) -> int:
    """Keys and values that one token at position `depth` sees."""
    seen = sum(
        depth if is_global else min(depth, shape.sliding_window)
        for is_global in shape.is_global_layer
    )
    return seen * _kv_position_bytes(shape, kv)


def scratch_bytes(
    shape: Gemma3Shape, context_length: int, num_slots: int, prefill_rows: int = 64
) -> int:
    """About what passes compute in: logits, partial attention, rotary tables, activations."""
    rows = max(_PASS_ROWS, num_slots, prefill_rows)
    chunks = -(-context_length // _CHUNK)
    widest = max(shape.hidden_size, shape.query_size + 2 * shape.kv_size)
    per_row = 4 * (shape.hidden_size + widest + shape.query_size) + shape.intermediate_size * 9 // 8
    partials = rows * shape.num_heads * chunks * (4 * shape.head_dim + 8)
    logits = 4 * min(_PASS_ROWS, 16 * num_slots) * shape.vocab_size
    return rows * per_row + partials + logits + 8 * context_length * shape.head_dim


def _kv_position_bytes(shape: Gemma3Shape, kv: str) -> int:
    """Keys and values of one position of one layer; int8 has a float32 scale per 32."""
    values = 2 * shape.kv_size
    return 2 * values if kv == "fp16" else values * 9 // 8
