"""The converted model directory: quantised matrices and how to read them; it knows no arithmetic.

    config.json             shape, special tokens, format version, source hash
    model-*.safetensors     packed matrices, scales, norms
    tokenizer.model         sentencepiece

A matrix of N rows and K columns (`y = W x`) is stored in tiles of 32 rows, one scale per row and
group of 32 columns, so that 32 lanes of a shader read 512 consecutive bytes:

    <name>.int4     uint8   (N/32, K/32, 32, 16)       value = nibble - 8, in -8 .. 7
    <name>.int8     int8    (N/32, K/32, 2, 32, 16)    half h holds columns 16h .. 16h + 15
    <name>.scales   float16 (N/32, K/32, 32)           weight = value x scale

Byte 4j + b of an int4 row-group holds column 8j + b in its low and 8j + 4 + b in its high nibble
(j, b in 0..3): masking a 32-bit word with 0x0F0F0F0F gives four consecutive columns. N is padded to
a multiple of 32 with rows whose scale is 0.

Matrices: `embed` (also the head), `layers.I.qkv` (rows of q, k, v in this order), `layers.I.o`,
`layers.I.gate_up` (tile 2i is tile i of gate, tile 2i + 1 tile i of up), `layers.I.down`.
Vectors, float32: `layers.I.{input,post_attention,pre_feedforward,post_feedforward}_norm`,
`layers.I.{q,k}_norm`, `final_norm`, each the factor itself (Gemma's 1 + w already added).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import GROUP, Gemma3Shape

TILE_ROWS = 32

Bits = Literal[4, 8]


def matrix_sizes(shape: Gemma3Shape) -> dict[str, tuple[int, int]]:
    """Rows and columns of every matrix of a model, by name."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    sizes = {"embed": (shape.vocab_size, hidden)}
    for layer in range(shape.num_layers):
        sizes[f"layers.{layer}.qkv"] = (shape.query_size + 2 * shape.kv_size, hidden)
        sizes[f"layers.{layer}.o"] = (hidden, shape.query_size)
        sizes[f"layers.{layer}.gate_up"] = (2 * ffn, hidden)
        sizes[f"layers.{layer}.down"] = (hidden, ffn)
    return sizes


def vector_sizes(shape: Gemma3Shape) -> dict[str, int]:
    """Length of every vector of a model, by name."""
    sizes = {}
    for layer in range(shape.num_layers):
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            sizes[f"layers.{layer}.{norm}_norm"] = shape.hidden_size
        sizes[f"layers.{layer}.q_norm"] = sizes[f"layers.{layer}.k_norm"] = shape.head_dim
    return sizes | {"final_norm": shape.hidden_size}


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix of `num_rows` x `num_columns` in the tile layout above."""

    bits: Bits
    num_rows: int
    num_columns: int
    packed: NDArray[np.uint8] | NDArray[np.int8]
    scales: NDArray[np.float16]

    def values(self) -> NDArray[np.int8]:
        """Integer values, int8 (num_rows, num_columns)."""
        tiles, groups = self.scales.shape[:2]
        if self.bits == 4:
            words = self.packed.view(np.uint8).reshape(tiles, groups, TILE_ROWS, 4, 4)
            # (..., j, half, b) is column 8j + 4 half + b
            nibbles = np.stack((words & 15, words >> 4), axis=4)
            values = nibbles.astype(np.int8).reshape(tiles, groups, TILE_ROWS, GROUP) - np.int8(8)
        else:
            halves = self.packed.view(np.int8).reshape(tiles, groups, 2, TILE_ROWS, 16)
            values = halves.transpose(0, 1, 3, 2, 4).reshape(tiles, groups, TILE_ROWS, GROUP)
        rows = values.transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, groups * GROUP)
        return rows[: self.num_rows]

    def row_scales(self) -> NDArray[np.float16]:
        """Scales, float16 (num_rows, num_columns / 32)."""
        tiles, groups = self.scales.shape[:2]
        rows = self.scales.transpose(0, 2, 1).reshape(tiles * TILE_ROWS, groups)
        return rows[: self.num_rows]

    def dequantize(self) -> NDArray[np.float32]:
        """Weights as float32 (num_rows, num_columns); exact: 8-bit integer times float16."""
        scales = np.repeat(self.row_scales().astype(np.float32), GROUP, axis=1)
        return self.values().astype(np.float32) * scales

    def rows(self, row_ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """Some rows as float32 (len(row_ids), num_columns); reads only their tiles."""
        tiles, lanes = row_ids // TILE_ROWS, row_ids % TILE_ROWS
        num_rows = len(row_ids) * TILE_ROWS
        packed, scales = self.packed[tiles], self.scales[tiles]
        gathered = QuantizedMatrix(self.bits, num_rows, self.num_columns, packed, scales)
        return gathered.dequantize()[np.arange(len(row_ids)) * TILE_ROWS + lanes]


def pack(bits: Bits, values: NDArray[np.int8], row_scales: NDArray[np.float16]) -> QuantizedMatrix:
    """Lay out int8 values (N, K) and float16 scales (N, K/32) in tiles; K is a multiple of 32."""
    num_rows, num_columns = values.shape
    assert num_columns % GROUP == 0 and row_scales.shape == (num_rows, num_columns // GROUP)
    padding = -num_rows % TILE_ROWS
    values = np.pad(values, ((0, padding), (0, 0)))
    scales = np.pad(row_scales, ((0, padding), (0, 0)))
    tiles, groups = len(values) // TILE_ROWS, num_columns // GROUP
    tiled = values.reshape(tiles, TILE_ROWS, groups, GROUP).transpose(0, 2, 1, 3)
    packed: NDArray[np.uint8] | NDArray[np.int8]
    if bits == 4:
        nibbles = (tiled + np.int8(8)).astype(np.uint8).reshape(tiles, groups, TILE_ROWS, 4, 2, 4)
        both = nibbles[..., 0, :] | nibbles[..., 1, :] << 4
        packed = both.reshape(tiles, groups, TILE_ROWS, 16)
    else:
        halves = tiled.reshape(tiles, groups, TILE_ROWS, 2, 16)
        packed = np.ascontiguousarray(halves.transpose(0, 1, 3, 2, 4))
    tiled_scales = np.ascontiguousarray(
        scales.reshape(tiles, TILE_ROWS, groups).transpose(0, 2, 1), dtype=np.float16
    )
    return QuantizedMatrix(bits, num_rows, num_columns, packed, tiled_scales)
