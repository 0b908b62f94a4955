"""Builds the numpy model: from a converted checkpoint, or from float32 tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.arithmetic import W4A8, Float32, Linear
from specdec.gemma3.reference import Gemma3Reference, LayerWeights, ModelWeights
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray
from specdec.weights import TILE_ROWS, QuantizedMatrix


class MatrixSource(Protocol):
    """What is read from a checkpoint (specdec.checkpoint.Checkpoint has it)."""

    def matrix(self, name: str) -> QuantizedMatrix:
        """A packed matrix by name, e.g. `layers.0.qkv`."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """A float32 vector by name, e.g. `final_norm`."""


def from_checkpoint(
    source: MatrixSource, shape: Gemma3Shape, num_slices: int = 1
) -> Gemma3Reference:
    """The model in W4A8 arithmetic, keys and values in float16."""

    def linear(name: str) -> Linear:
        return W4A8(source.matrix(name), num_slices)

    return Gemma3Reference(build(shape, linear, source.vector, np.float16))


def from_tensors(shape: Gemma3Shape, tensors: Mapping[str, FloatArray]) -> Gemma3Reference:
    """The model in float32, from tensors under their Hugging Face names (`model.layers...`)."""
    source = TensorSource(tensors)
    return Gemma3Reference(
        build(shape, lambda name: Float32(source.matrix(name)), source.vector, np.float32)
    )


def build(
    shape: Gemma3Shape,
    linear: Callable[[str], Linear],
    vector: Callable[[str], FloatArray],
    cache_dtype: type[np.floating],
) -> ModelWeights:
    """Weights of every layer, asked for by the names of specdec.weights."""
    layers = tuple(
        LayerWeights(
            qkv=linear(f"layers.{i}.qkv"),
            o=linear(f"layers.{i}.o"),
            gate_up=linear(f"layers.{i}.gate_up"),
            down=linear(f"layers.{i}.down"),
            input_norm=vector(f"layers.{i}.input_norm"),
            post_attention_norm=vector(f"layers.{i}.post_attention_norm"),
            pre_feedforward_norm=vector(f"layers.{i}.pre_feedforward_norm"),
            post_feedforward_norm=vector(f"layers.{i}.post_feedforward_norm"),
            q_norm=vector(f"layers.{i}.q_norm"),
            k_norm=vector(f"layers.{i}.k_norm"),
        )
        for i in range(shape.num_layers)
    )
    return ModelWeights(shape, linear("embed"), layers, vector("final_norm"), cache_dtype)


def fused(name: str, tensor: Callable[[str], FloatArray]) -> FloatArray:
    """Matrix `name` of specdec.weights (N, K), from `tensor` by role: `layers.0.q`, `embed`, ..."""
    layer, _, part = name.rpartition(".")
    if part == "qkv":
        return np.concatenate([tensor(f"{layer}.{role}") for role in "qkv"])
    if part == "gate_up":
        gate, up = tensor(f"{layer}.gate"), tensor(f"{layer}.up")
        tiles = tuple(x.reshape(-1, TILE_ROWS, x.shape[1]) for x in (gate, up))
        return np.stack(tiles, axis=1).reshape(-1, gate.shape[1])
    return tensor(name)


_MODULES = {
    "embed": "embed_tokens",
    "final_norm": "norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_feedforward_norm": "pre_feedforward_layernorm",
    "post_feedforward_norm": "post_feedforward_layernorm",
}


class TensorSource:
    """Float32 matrices and vectors by the names of specdec.weights, from Hugging Face's."""

    def __init__(self, tensors: Mapping[str, FloatArray]) -> None:
        self._tensors = tensors

    def matrix(self, name: str) -> FloatArray:
        """A float32 matrix (N, K), rows joined and ordered as in specdec.weights."""
        return fused(name, self._tensor)

    def vector(self, name: str) -> FloatArray:
        """A float32 norm factor: 1 + the stored weight."""
        return self._tensor(name) + np.float32(1)

    def _tensor(self, role: str) -> FloatArray:
        layer, dot, part = role.rpartition(".")
        return self._tensors[f"model.{layer}{dot}{_MODULES[part]}.weight"]
