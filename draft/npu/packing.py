"""Fills the weights buffer from a converted model; it knows layouts, no device.

Scales go in exactly, each as a bf16 high and low part. The head is INT4: one of INT8 is rounded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from draft.npu.layout import (
    BATCH_ROWS,
    ELEMENT_BYTES,
    MAX_COLUMNS,
    ROW_FLOATS,
    Operation,
    Target,
    element,
    num_kv_pieces,
    num_row_elements,
    pack_weights,
    tag,
)
from draft.npu.memory_map import LayerMap, MemoryMap, Product
from specdec.errors import ModelError
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.types import FloatArray
from specdec.weights import QuantizedMatrix

Bytes = NDArray[np.uint8]

MAX_HEADS = 4
HEAD_DIMS = (64, 128, 256)

_log = logging.getLogger("specdec")


def check_shape(shape: Gemma3Shape) -> None:
    """ModelError if the array's cores cannot hold a model of this shape."""
    for what, found, most in (
        ("hidden_size", shape.hidden_size, ROW_FLOATS),
        ("num_heads", shape.num_heads, MAX_HEADS),
        ("num_kv_heads", shape.num_kv_heads, 1),
        ("heads x head_dim", shape.query_size, MAX_COLUMNS),
    ):
        if found > most:
            raise ModelError(
                f"NPU: the draft's {what} is {found}, the array takes at most {most}: choose a "
                "smaller draft, or another draft.device"
            )
    if shape.head_dim not in HEAD_DIMS:
        raise ModelError(f"NPU: the draft's head_dim is {shape.head_dim}: legal are {HEAD_DIMS}")


class Packer:
    """Writes the parts of the weights buffer."""

    def __init__(self, memory: MemoryMap, source: MatrixSource, buffer: Bytes) -> None:
        self._memory, self._map = memory, memory.weights
        self._shape = memory.shape
        self._source = source
        self._buffer = buffer

    def pack(self, head_rows: NDArray[np.int32] | None) -> None:
        """Everything; `head_rows` are the rows of the head that are kept."""
        self._pack_starts()
        for index, layer in enumerate(self._map.layers):
            self._pack_layer(f"layers.{index}", layer)
        self._put_norms(self._map.final_norm, "final_norm")
        values, scales = head(self._source.matrix("embed"), head_rows)
        self._put_product(self._map.head, values, scales, keep_best=True)

    def _put(self, offset: int, data: Bytes) -> None:
        flat = data.reshape(-1)
        self._buffer[offset : offset + len(flat)] = flat

    def _put_start(
        self,
        offset: int,
        operation: Operation,
        num_elements: int,
        parameters: Sequence[int | float],
        payload: FloatArray | None = None,
    ) -> None:
        """The first element of a message for a vector core."""
        words = tag(operation, Target.SECOND, num_elements, parameters)
        self._put(offset, element(words, b"" if payload is None else payload.tobytes()))

    def _pack_starts(self) -> None:
        """Starts of messages that no weights belong to."""
        shape = self._shape
        for row in range(BATCH_ROWS):
            at = row * ELEMENT_BYTES
            finish = (shape.head_dim, shape.num_heads, row)
            self._put_start(self._map.finish + at, Operation.FINISH, 1, finish)
            for part in self._map.geglu:
                count = 1 + num_row_elements(2 * part.size)
                self._put_start(part.offset + at, Operation.GEGLU, count, (part.size, row))
        for num_tiles, offset in self._map.attend.items():
            count = 1 + num_tiles * num_kv_pieces(shape.head_dim)
            self._put_start(offset, Operation.ATTEND, count, (shape.head_dim, num_tiles, 0))

    def _pack_layer(self, name: str, layer: LayerMap) -> None:
        hidden_size = self._shape.hidden_size
        self._put_norms(layer.input_norm, f"{name}.input_norm")
        self._put_norms(layer.pre_feedforward_norm, f"{name}.pre_feedforward_norm")
        self._put_rope(name, layer.rope)
        for part, offset, num_slices in (
            ("post_attention", layer.post_attention, 1),
            ("post_feedforward", layer.post_feedforward, len(layer.down)),
        ):
            factor = self._source.vector(f"{name}.{part}_norm")
            parameters = (hidden_size, self._shape.rms_norm_eps, num_slices, 1 / hidden_size)
            self._put_start(offset, Operation.RESIDUAL, 1 + num_slices, parameters, factor)
        for product in (layer.qkv, layer.o, layer.gate_up, *layer.down):
            matrix = self._source.matrix(product.name)
            last = product.first_column + product.num_columns
            values = matrix.values()[:, product.first_column : last]
            groups = slice(product.first_column // GROUP, last // GROUP)
            self._put_product(product, values, matrix.row_scales()[:, groups])

    def _put_norms(self, offset: int, name: str) -> None:
        factor, size = self._source.vector(name), self._shape.hidden_size
        for row in range(BATCH_ROWS):
            parameters = (size, row, self._shape.rms_norm_eps, 1 / size)
            at = offset + row * ELEMENT_BYTES
            self._put_start(at, Operation.NORM_QUANTIZE, 1, parameters, factor)

    def _put_rope(self, name: str, offset: int) -> None:
        shape = self._shape
        size = shape.head_dim
        parameters = (size, shape.num_heads, shape.rms_norm_eps, query_scale(shape), 1 / size)
        count = 1 + num_row_elements(shape.query_size + 2 * shape.kv_size)
        factors = [self._source.vector(f"{name}.{part}_norm") for part in "qk"]
        self._put_start(offset, Operation.ROPE, count, parameters, np.concatenate(factors))

    def _put_product(
        self,
        product: Product,
        values: NDArray[np.int8],
        scales: NDArray[np.float16],
        keep_best: bool = False,
    ) -> None:
        self._put(product.offset, pack_weights(values, scales, keep_best))


def query_scale(shape: Gemma3Shape) -> float:
    """Factor of queries: the softmax is one of powers of 2."""
    return float(shape.query_pre_attn_scalar**-0.5 * math.log2(math.e))


def head(
    matrix: QuantizedMatrix, rows: NDArray[np.int32] | None
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Values (N, K) and scales (N, K/32) of the head's rows, in 4 bits."""
    values, scales = matrix.values(), matrix.row_scales()
    if rows is not None:
        values, scales = values[rows], scales[rows]
    if matrix.bits == 4:
        return values, scales
    from specdec.convert.quantize import quantize_int4  # its package reads whole model formats

    _log.info("the array's head is INT4: the draft's INT8 head is rounded for it")
    factors = np.repeat(scales.astype(np.float32), GROUP, axis=1)
    return quantize_int4(values.astype(np.float32) * factors)
