"""Writes a Gemma 3 decoder as a graph for ONNX Runtime, over our own integers; it runs nothing.

    embed -> [norm, qkv, q/k norm, attention (RoPE, cache), o, norm, + residual,
              norm, gate + up, GeGLU, down, norm, + residual] x layers -> norm -> head

Inputs: `token_ids` (B, T), `last_index` (B,) = tokens held after the step, less one,
`total_length` = the most of them, `wanted` (n,) = which of the T rows get logits, and the caches
`key_I`, `value_I` (B, heads, capacity, H). Outputs: `logits` (B, n, N) and `new_key_I`,
`new_value_I`, to be bound to the memory of `key_I` and `value_I`. B > 1 needs T = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from draft.onnx_writer import CONTRIB, Dimension, Graph, OnnxWriter, Quantized
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.rope import Rope
from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import TILE_ROWS

HeadTokens = NDArray[np.int32]


def build_graph(
    shape: Gemma3Shape,
    source: MatrixSource,
    context_length: int,
    head_tokens: HeadTokens | None,
) -> Graph:
    """The decoder for sequences of up to `context_length` tokens.

    `head_tokens` are the vocabulary ids that get logits, in this order; None: all of them.
    """
    return _Decoder(shape, source).graph(context_length, head_tokens)


class _Decoder:
    """One Gemma 3 decoder being written."""

    def __init__(self, shape: Gemma3Shape, source: MatrixSource) -> None:
        self._shape = shape
        self._source = source
        self._writer = OnnxWriter()

    def graph(self, context_length: int, head_tokens: HeadTokens | None) -> Graph:
        """The whole model."""
        shape, writer = self._shape, self._writer
        self._add_rope_tables(context_length)
        embed = self._matrix("embed")
        rows = writer.gather_rows("token_ids", "embed", embed)
        factor = np.sqrt(np.full(1, shape.hidden_size, np.float32))
        hidden = writer.op("Mul", [rows, writer.weight("embed.factor", factor)], {})
        normed = self._norm(hidden, "layers.0.input_norm")
        for layer in range(shape.num_layers):
            is_last = layer + 1 == shape.num_layers
            next_norm = "final_norm" if is_last else f"layers.{layer + 1}.input_norm"
            hidden, normed = self._layer(layer, hidden, normed, next_norm)
        wanted = writer.op("Gather", [normed, "wanted"], {"axis": 1})
        head = embed
        if head_tokens is not None:
            head = Quantized(embed.bits, embed.values[head_tokens], embed.scales[head_tokens])
        writer.matmul(wanted, "head", head, output="logits")
        return self._finished(len(head.values))

    def _finished(self, num_logits: int) -> Graph:
        """The graph with its inputs and outputs declared."""
        shape = self._shape
        cache: list[Dimension] = ["B", shape.num_kv_heads, "capacity", shape.head_dim]
        inputs: dict[str, tuple[int, list[Dimension]]] = {
            "token_ids": (TensorProto.INT64, ["B", "T"]),
            "last_index": (TensorProto.INT32, ["B"]),
            "total_length": (TensorProto.INT32, []),
            "wanted": (TensorProto.INT64, ["n"]),
        }
        outputs: dict[str, list[Dimension]] = {"logits": ["B", "n", num_logits]}
        for layer in range(shape.num_layers):
            for part in ("key", "value"):
                inputs[f"{part}_{layer}"] = (TensorProto.FLOAT, cache)
                outputs[f"new_{part}_{layer}"] = cache
        return self._writer.graph(inputs, outputs)

    def _add_rope_tables(self, context_length: int) -> None:
        shape = self._shape
        local = Rope(shape.head_dim, shape.rope_theta_local, 1.0)
        everywhere = Rope(shape.head_dim, shape.rope_theta_global, shape.rope_scaling_factor)
        for name, rope in (("local", local), ("global", everywhere)):
            cosines, sines = rope.tables(0, context_length)
            self._writer.weight(f"cosines_{name}", cosines)
            self._writer.weight(f"sines_{name}", sines)

    def _layer(self, layer: int, hidden: str, normed: str, next_norm: str) -> tuple[str, str]:
        """Residual stream after the layer, and the same through the norm that comes next."""
        name, writer = f"layers.{layer}", self._writer
        attended = self._attention(layer, normed)
        mixed = writer.matmul(attended, f"{name}.o", self._matrix(f"{name}.o"))
        mixed = self._norm(mixed, f"{name}.post_attention_norm")
        hidden, normed = self._add_norm(hidden, mixed, f"{name}.pre_feedforward_norm")
        gated = self._gated(name, normed)
        mixed = writer.matmul(gated, f"{name}.down", self._matrix(f"{name}.down"))
        mixed = self._norm(mixed, f"{name}.post_feedforward_norm")
        return self._add_norm(hidden, mixed, next_norm)

    def _attention(self, layer: int, normed: str) -> str:
        """Attention of the layer over its cache, which it extends: (B, T, N H)."""
        shape, writer, name = self._shape, self._writer, f"layers.{layer}"
        packed = writer.matmul(normed, f"{name}.qkv", self._matrix(f"{name}.qkv"))
        sizes = writer.sizes(shape.query_size, shape.kv_size, shape.kv_size)
        query, key, value = (f"{name}.{part}" for part in ("query", "key", "value"))
        writer.op("Split", [packed, sizes], {"axis": -1}, (query, key, value))
        is_global = shape.is_global_layer[layer]
        rope = "global" if is_global else "local"
        inputs = [
            self._head_norm(query, shape.num_heads, f"{name}.q_norm"),
            self._head_norm(key, shape.num_kv_heads, f"{name}.k_norm"),
            value,
            *(f"key_{layer}", f"value_{layer}", "last_index", "total_length"),
            *(f"cosines_{rope}", f"sines_{rope}"),
        ]
        attributes = {
            "num_heads": shape.num_heads,
            "kv_num_heads": shape.num_kv_heads,
            "scale": shape.query_pre_attn_scalar**-0.5,
            "do_rotary": 1,
            "local_window_size": -1 if is_global else shape.sliding_window,
        }
        outputs = (f"{name}.attended", f"new_key_{layer}", f"new_value_{layer}")
        return writer.op("GroupQueryAttention", inputs, attributes, outputs, CONTRIB)

    def _gated(self, name: str, normed: str) -> str:
        """gelu_tanh(gate) x up: (B, T, F)."""
        both, writer = self._matrix(f"{name}.gate_up"), self._writer
        gate = writer.matmul(normed, f"{name}.gate", _every_other_tile(both, 0))
        up = writer.matmul(normed, f"{name}.up", _every_other_tile(both, 1))
        return writer.op("Mul", [writer.op("FastGelu", [gate], {}, domain=CONTRIB), up], {})

    def _head_norm(self, x: str, num_heads: int, name: str) -> str:
        """RMS norm within each head."""
        writer = self._writer
        split = writer.sizes(0, 0, num_heads, self._shape.head_dim)  # 0: the size stays
        normed = self._norm(writer.op("Reshape", [x, split], {}), name)
        return writer.op("Reshape", [normed, writer.sizes(0, 0, -1)], {})

    def _norm(self, x: str, name: str) -> str:
        """RMS norm over the last axis."""
        factor = self._writer.weight(name, self._source.vector(name))
        attributes = {"axis": -1, "epsilon": self._shape.rms_norm_eps}
        return self._writer.op("SimplifiedLayerNormalization", [x, factor], attributes)

    def _add_norm(self, x: str, addend: str, name: str) -> tuple[str, str]:
        """The sum, and the sum through a norm."""
        factor = self._writer.weight(name, self._source.vector(name))
        normed, total = f"{addend}.normed", f"{addend}.sum"
        self._writer.op(
            "SkipSimplifiedLayerNormalization",
            [x, addend, factor],
            {"epsilon": self._shape.rms_norm_eps},
            (normed, "", "", total),
            CONTRIB,
        )
        return total, normed

    def _matrix(self, name: str) -> Quantized:
        """A stored matrix, its scales widened to float32 (exact)."""
        matrix = self._source.matrix(name)
        return Quantized(matrix.bits, matrix.values(), matrix.row_scales().astype(np.float32))


def _every_other_tile(matrix: Quantized, first: int) -> Quantized:
    """Tiles first, first + 2, ... of 32 rows: gate and up are stored in turn."""
    values = matrix.values.reshape(-1, 2, TILE_ROWS, matrix.values.shape[1])[:, first]
    scales = matrix.scales.reshape(-1, 2, TILE_ROWS, matrix.scales.shape[1])[:, first]
    return Quantized(
        matrix.bits,
        values.reshape(-1, values.shape[-1]),
        scales.reshape(-1, scales.shape[-1]),
    )
