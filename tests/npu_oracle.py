"""The whole draft model in numpy, in the array's own arithmetic (draft.npu.arithmetic).

Written from the formulas, not from streams or layouts: rows are fed four at a time as the array
feeds them, attention takes a row's own position first, then the rows before it, then the cache in
the order of its ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from draft.npu import arithmetic as array
from draft.npu.memory_map import RING_SLACK, round_up
from draft.npu.packing import head, query_scale
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.rope import Rope
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray
from specdec.weights import TILE_ROWS

_ROWS = 4
_TILE = 16


class NpuOracle:
    """One sequence; logits of all the head's tokens."""

    def __init__(
        self,
        shape: Gemma3Shape,
        source: MatrixSource,
        context_length: int,
        head_tokens: NDArray[np.int32] | None = None,
    ) -> None:
        self.shape, self.source = shape, source
        self.embedding = source.matrix("embed")
        self.matrices = {
            name: (source.matrix(name).values(), source.matrix(name).row_scales())
            for layer in range(shape.num_layers)
            for name in (f"layers.{layer}.{part}" for part in ("qkv", "o", "gate_up", "down"))
        }
        self.matrices["head"] = head(self.embedding, head_tokens)
        everything = round_up(context_length, _TILE)
        ring = min(round_up(shape.sliding_window + RING_SLACK, _TILE), everything)
        self.rings = [everything if is_global else ring for is_global in shape.is_global_layer]
        self.windows = [
            shape.context_length if is_global else shape.sliding_window
            for is_global in shape.is_global_layer
        ]
        local = Rope(shape.head_dim, shape.rope_theta_local, 1.0)
        everywhere = Rope(shape.head_dim, shape.rope_theta_global, shape.rope_scaling_factor)
        self.ropes = [everywhere if is_global else local for is_global in shape.is_global_layer]
        self.truncate(0)

    def truncate(self, length: int) -> None:
        """Cut to a length; only cuts that the ring's slack allows leave the rest as it was."""
        if length == 0:
            size = self.shape.head_dim
            self.keys = [np.zeros((slots, size), np.float32) for slots in self.rings]
            self.values = [np.zeros((slots, size), np.float32) for slots in self.rings]
        self.length = length

    def feed(self, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Logits (num_logits, N) of the head's rows."""
        found = []
        for start in range(0, len(token_ids), _ROWS):
            part = token_ids[start : start + _ROWS]
            wanted = min(len(part), max(0, start + len(part) - len(token_ids) + num_logits))
            hidden = self.forward(part)
            if wanted:
                normed = self.norm(hidden[len(part) - wanted :], "final_norm")
                found.append(self.product(normed, "head"))
        return np.concatenate(found)

    def norm(self, x: FloatArray, name: str) -> FloatArray:
        return array.rms_norm(x, self.source.vector(name), self.shape.rms_norm_eps)

    def product(self, x: FloatArray, name: str) -> FloatArray:
        values, scales = self.matrices[name]
        total = np.zeros((len(x), len(values)), np.float32)
        for first in range(0, x.shape[1], 2048):
            part, groups = slice(first, first + 2048), slice(first // 32, first // 32 + 64)
            quantized, x_scales = array.quantize_by_parts(np.ascontiguousarray(x[:, part]))
            made = array.gemv_by_parts(quantized, x_scales, values[:, part], scales[:, groups])
            total = made if first == 0 else total + made
        return total

    def forward(self, token_ids: Sequence[int]) -> FloatArray:
        """Residual stream (B, D) after the last layer; keys and values are stored."""
        hidden = self.embedding.rows(np.array(token_ids))
        hidden = hidden * np.sqrt(np.float32(self.shape.hidden_size))
        made = []
        for layer in range(self.shape.num_layers):
            name = f"layers.{layer}"
            qkv = self.product(self.norm(hidden, f"{name}.input_norm"), f"{name}.qkv")
            mixed, keys, values = self.attention(layer, qkv)
            made.append((keys, values))
            out = self.product(mixed, f"{name}.o")
            hidden = hidden + self.norm(out, f"{name}.post_attention_norm")
            gate_up = self.product(
                self.norm(hidden, f"{name}.pre_feedforward_norm"), f"{name}.gate_up"
            )
            tiles = gate_up.reshape(len(hidden), -1, 2, TILE_ROWS)
            gated = array.geglu(tiles[:, :, 0], tiles[:, :, 1]).reshape(len(hidden), -1)
            out = self.product(gated, f"{name}.down")
            hidden = hidden + self.norm(out, f"{name}.post_feedforward_norm")
        for layer, (keys, values) in enumerate(made):
            places = np.arange(self.length, self.length + len(token_ids)) % self.rings[layer]
            self.keys[layer][places], self.values[layer][places] = keys, values
        self.length += len(token_ids)
        return hidden

    def attention(self, layer: int, qkv: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Attention's output (B, N H), and this step's keys and values (B, H) in bf16."""
        shape, size = self.shape, self.shape.head_dim
        heads = qkv.reshape(len(qkv), -1, size)
        cosines, sines = self.ropes[layer].tables(self.length, len(qkv))
        cosines, sines = cosines[:, None], sines[:, None]
        name = f"layers.{layer}"
        queries = self.norm(heads[:, : shape.num_heads], f"{name}.q_norm")
        keys = self.norm(heads[:, shape.num_heads : -1], f"{name}.k_norm")
        queries = array.rope(queries, cosines, sines)
        keys = _bfloat16(array.rope(keys, cosines, sines)[:, 0])
        values = _bfloat16(heads[:, -1])
        mixed = []
        for row in range(len(qkv)):
            state = array.Attention(queries[row], query_scale(shape))
            for other in (row, *range(row)):
                state.row(keys[other], values[other])
            self.attend_cache(state, layer, self.length + row)
            mixed.append(state.finish().reshape(-1))
        return np.stack(mixed), keys, values

    def attend_cache(self, state: array.Attention, layer: int, position: int) -> None:
        ring = self.rings[layer]
        positions = np.arange(max(0, position - self.windows[layer] + 1), self.length)
        visible = np.zeros(ring, bool)
        visible[positions % ring] = True
        for start in range(0, ring, _TILE):
            part = slice(start, start + _TILE)
            if visible[part].any():
                state.tile(self.keys[layer][part], self.values[layer][part], visible[part])


def _bfloat16(x: FloatArray) -> FloatArray:
    return array.from_bfloat16(array.to_bfloat16(x))
