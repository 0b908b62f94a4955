"""How a source file encodes weights, and their values in float32; it knows no files."""

from __future__ import annotations

import enum

import gguf
import numpy as np
from numpy.typing import NDArray

RawRows = NDArray[np.uint8]  # (rows, bytes of one row)

_Q4_0_BYTES = 18  # float16 scale, 16 bytes: column b low and column 16 + b high nibble of byte b
_Q8_0_BYTES = 34  # float16 scale, 32 signed bytes


class Encoding(enum.Enum):
    """Encodings that can be imported, by GGUF's names; blocks lie along a row."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q5_0 = "Q5_0"
    Q4_0 = "Q4_0"
    Q4_K = "Q4_K"
    Q6_K = "Q6_K"

    @property
    def block_length(self) -> int:
        """Weights in one block."""
        return int(gguf.GGML_QUANT_SIZES[self._gguf_type][0])

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return int(gguf.GGML_QUANT_SIZES[self._gguf_type][1])

    def row_bytes(self, num_columns: int) -> int:
        """Bytes of one row, whose length is a multiple of the block length."""
        return num_columns // self.block_length * self.block_bytes

    @property
    def _gguf_type(self) -> gguf.GGMLQuantizationType:
        return gguf.GGMLQuantizationType[self.value]


def decode(encoding: Encoding, raw: RawRows) -> NDArray[np.float32]:
    """Weights in float32, (rows, columns)."""
    if encoding is Encoding.BF16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):  # broken scales give NaN here; the caller finds and names them
        # one long row: the package works through 16 rows at a time
        flat = gguf.quants.dequantize(raw.reshape(1, -1), encoding._gguf_type)
    weights: NDArray[np.float32] = flat.reshape(len(raw), -1)
    return weights


def split_q4_0(raw: RawRows) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Values -8 .. 7 (rows, columns) and scales (rows, groups) of Q4_0, untouched."""
    blocks = raw.reshape(len(raw), -1, _Q4_0_BYTES)
    nibbles = blocks[..., 2:]
    values = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).astype(np.int8) - np.int8(8)
    return values.reshape(len(raw), -1), _scales(blocks)


def split_q8_0(raw: RawRows) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Values (rows, columns) and scales (rows, groups) of Q8_0, untouched."""
    blocks = raw.reshape(len(raw), -1, _Q8_0_BYTES)
    values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    return values.reshape(len(raw), -1), _scales(blocks)


def _scales(blocks: NDArray[np.uint8]) -> NDArray[np.float16]:
    return np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
