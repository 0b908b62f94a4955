"""Matrices of the converted model as rows of source tensors, quantised piece by piece.

A matrix may be fused from several tensors. `rows(start, stop)` gives any tile-aligned part of it,
so that no tensor is ever held whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.checkpoint import stored_bits
from specdec.convert.encodings import Encoding, RawRows, decode, split_q4_0, split_q8_0
from specdec.convert.quantize import NotFiniteError, quantize_int4, quantize_int8
from specdec.convert.source import SourceModel, SourceTensor
from specdec.errors import ModelError
from specdec.gemma3.shape import GROUP
from specdec.weights import TILE_ROWS, Bits


@dataclass(frozen=True, slots=True)
class QuantizedRows:
    """Some rows of a matrix, and what rounding them cost."""

    values: NDArray[np.int8]  # (R, K)
    scales: NDArray[np.float16]  # (R, K/32)
    squared_error: float
    squared_norm: float


class RowSource(Protocol):
    """Where a matrix's rows come from."""

    def rows(self, start: int, stop: int, bits: Bits) -> QuantizedRows:
        """Rows start .. stop - 1, quantised; `start` is a multiple of two tiles."""


@dataclass(frozen=True, slots=True)
class StackedRows:
    """The rows of several tensors, one tensor after the other."""

    parts: tuple[SourceTensor, ...]

    def rows(self, start: int, stop: int, bits: Bits) -> QuantizedRows:
        """As `RowSource.rows`."""
        pieces = []
        first = 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                pieces.append(quantize_rows(part, low, high, bits))
            first += part.shape[0]
        return QuantizedRows(
            np.concatenate([piece.values for piece in pieces]),
            np.concatenate([piece.scales for piece in pieces]),
            sum(piece.squared_error for piece in pieces),
            sum(piece.squared_norm for piece in pieces),
        )


@dataclass(frozen=True, slots=True)
class InterleavedTiles:
    """A tile of 32 rows of one tensor, then one of the other, in turn; both have the same shape."""

    even: SourceTensor
    odd: SourceTensor

    def rows(self, start: int, stop: int, bits: Bits) -> QuantizedRows:
        """As `RowSource.rows`."""
        low, high = start // 2, stop // 2
        even = quantize_rows(self.even, low, high, bits)
        odd = quantize_rows(self.odd, low, high, bits)
        tiles = (-1, TILE_ROWS, even.values.shape[1])
        values = np.stack((even.values.reshape(tiles), odd.values.reshape(tiles)), axis=1)
        tiles = (-1, TILE_ROWS, even.scales.shape[1])
        scales = np.stack((even.scales.reshape(tiles), odd.scales.reshape(tiles)), axis=1)
        return QuantizedRows(
            values.reshape(stop - start, -1),
            scales.reshape(stop - start, -1),
            even.squared_error + odd.squared_error,
            even.squared_norm + odd.squared_norm,
        )


@dataclass(frozen=True, slots=True)
class OutputMatrix:
    """One matrix to be written."""

    name: str
    tensor_class: str  # what losses are summed up by: embed, qkv, o, gate_up, down
    bits: Bits
    num_rows: int
    num_columns: int
    source: RowSource


def output_matrices(model: SourceModel, head_bits: Bits) -> Iterator[OutputMatrix]:
    """Every matrix of the converted model, in the order in which it is stored."""
    yield _stacked(model, "embed", ("embed",), head_bits)
    for layer in range(model.shape.num_layers):
        at = f"layers.{layer}."
        yield _stacked(model, f"{at}qkv", (f"{at}q", f"{at}k", f"{at}v"), head_bits)
        yield _stacked(model, f"{at}o", (f"{at}o",), head_bits)
        gate, up = model.tensors[f"{at}gate"], model.tensors[f"{at}up"]
        num_rows, num_columns = gate.shape
        name, source = f"{at}gate_up", InterleavedTiles(gate, up)
        yield OutputMatrix(name, "gate_up", 4, 2 * num_rows, num_columns, source)
        yield _stacked(model, f"{at}down", (f"{at}down",), head_bits)


def _stacked(
    model: SourceModel, name: str, roles: tuple[str, ...], head_bits: Bits
) -> OutputMatrix:
    parts = tuple(model.tensors[role] for role in roles)
    num_rows, num_columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
    tensor_class, bits = name.rpartition(".")[2], stored_bits(name, head_bits)
    return OutputMatrix(name, tensor_class, bits, num_rows, num_columns, StackedRows(parts))


def is_exact(tensor: SourceTensor, bits: Bits) -> bool:
    """Whether the tensor's own integers and scales are taken over, bit for bit."""
    return tensor.encoding is Encoding.Q4_0 or (tensor.encoding is Encoding.Q8_0 and bits == 8)


def quantize_rows(tensor: SourceTensor, start: int, stop: int, bits: Bits) -> QuantizedRows:
    """Rows start .. stop - 1 of one tensor."""
    raw = tensor.read_rows(start, stop)
    try:
        return _take_over(tensor, raw) if is_exact(tensor, bits) else _round(tensor, raw, bits)
    except NotFiniteError as error:
        raise ModelError(
            f"{tensor.path}: {tensor.name} holds NaN, infinity or a weight beyond float16 within "
            f"rows {start} to {stop - 1}: get a sound copy"
        ) from error


def _take_over(tensor: SourceTensor, raw: RawRows) -> QuantizedRows:
    split = split_q4_0 if tensor.encoding is Encoding.Q4_0 else split_q8_0
    values, scales = split(raw)
    if not np.isfinite(scales).all():
        raise NotFiniteError
    return QuantizedRows(values, scales, 0.0, _squared_norm(_dequantize(values, scales)))


def _round(tensor: SourceTensor, raw: RawRows, bits: Bits) -> QuantizedRows:
    weights = decode(tensor.encoding, raw)
    values, scales = quantize_int4(weights) if bits == 4 else quantize_int8(weights)
    error = _dequantize(values, scales)
    np.subtract(weights, error, out=error)
    return QuantizedRows(values, scales, _squared_norm(error), _squared_norm(weights))


def _dequantize(values: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    groups = values.astype(np.float32).reshape(*scales.shape, GROUP)
    groups *= scales.astype(np.float32)[..., None]
    return groups.reshape(values.shape)


def _squared_norm(weights: NDArray[np.float32]) -> float:
    flat = weights.reshape(-1)
    return float(np.dot(flat, flat))
