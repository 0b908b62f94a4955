"""A source's own weights in float32, to measure what importing loses; it computes no model."""

from __future__ import annotations

import numpy as np

from specdec.convert.encodings import decode
from specdec.convert.source import SourceModel, SourceTensor
from specdec.gemma3.loading import fused
from specdec.types import FloatArray

_ROWS = 4096  # decoded at a time


class DequantizedSource:
    """Matrices and vectors of a source model by the names of specdec.weights."""

    def __init__(self, model: SourceModel) -> None:
        self._model = model

    def matrix(self, name: str) -> FloatArray:
        """A float32 matrix (N, K), rows joined and ordered as in specdec.weights."""
        return fused(name, lambda role: _decode_rows(self._model.tensors[role]))

    def vector(self, name: str) -> FloatArray:
        """A float32 norm factor."""
        return self._model.tensors[name].read_vector() + np.float32(self._model.norm_offset)


def _decode_rows(tensor: SourceTensor) -> FloatArray:
    weights = np.empty(tensor.shape, np.float32)
    for start in range(0, len(weights), _ROWS):
        stop = min(start + _ROWS, len(weights))
        weights[start:stop] = decode(tensor.encoding, tensor.read_rows(start, stop))
    return weights
