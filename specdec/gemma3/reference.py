"""Gemma 3 in numpy, with a key/value cache per slot; it knows no file format and no sampling.

Which arithmetic runs is decided by the matrices it is given (specdec.gemma3.arithmetic); models
are built by specdec.gemma3.loading. With W4A8 matrices a token's logits are the same bits however
many tokens share a call and however a prompt was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from specdec.gemma3.arithmetic import Linear
from specdec.gemma3.attention import KeyValueCache, attend
from specdec.gemma3.rope import Rope, rotate
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray
from specdec.weights import TILE_ROWS

_MAX_TOKENS = 32  # tokens computed at a time during prefill


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; norms hold the factor itself (1 + w), rows as in specdec.weights."""

    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear
    input_norm: FloatArray
    post_attention_norm: FloatArray
    pre_feedforward_norm: FloatArray
    post_feedforward_norm: FloatArray
    q_norm: FloatArray
    k_norm: FloatArray


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Everything a model computes with; the embedding is also the head."""

    shape: Gemma3Shape
    embed: Linear
    layers: tuple[LayerWeights, ...]
    final_norm: FloatArray
    cache_dtype: DTypeLike  # keys and values are rounded to it when they are stored


@dataclass(slots=True)
class _Slot:
    cache: KeyValueCache
    length: int = 0


class Gemma3Reference:
    """The numpy model: feeds tokens into slots and returns logits (a LanguageModel)."""

    def __init__(self, weights: ModelWeights) -> None:
        shape = weights.shape
        self._weights = weights
        self._slots: dict[int, _Slot] = {}
        self._local_rope = Rope(shape.head_dim, shape.rope_theta_local, 1.0)
        self._global_rope = Rope(shape.head_dim, shape.rope_theta_global, shape.rope_scaling_factor)

    @property
    def vocab_size(self) -> int:
        """V: number of logits per token."""
        return self._weights.shape.vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""
        return self._weights.shape.context_length

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a slot never fed."""
        return self._slots[slot].length if slot in self._slots else 0

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Append tokens; float32 logits (num_logits, V) after each of the last `num_logits`."""
        assert 0 <= num_logits <= len(token_ids)
        assert self.length(slot) + len(token_ids) <= self.context_length, "slot overflows"
        logits = np.empty((num_logits, self.vocab_size), np.float32)
        first_wanted = len(token_ids) - num_logits
        for start in range(0, len(token_ids), _MAX_TOKENS):
            part = token_ids[start : start + _MAX_TOKENS]
            hidden = self._forward(slot, part)
            wanted = hidden[max(0, first_wanted - start) :]
            if len(wanted):
                done = start + len(part) - len(wanted) - first_wanted
                logits[done : done + len(wanted)] = self._logits(wanted)
        return logits

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
        assert 0 <= length <= self.length(slot), "a slot is cut to a length it has"
        if length == 0:
            self._slots.pop(slot, None)  # gives the memory back
        else:
            self._slots[slot].length = length

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        """Let the empty `slot` hold the first `length` tokens that `source` holds."""
        assert slot not in self._slots and length <= self.length(source)
        if length:
            self._slots[slot] = _Slot(self._slots[source].cache.copy(), length)

    def _forward(self, slot: int, token_ids: Sequence[int]) -> FloatArray:
        """Append up to _MAX_TOKENS tokens; the residual stream (T, D) after the last layer."""
        shape = self._weights.shape
        if slot not in self._slots:
            cache = KeyValueCache(shape.num_layers, shape.num_kv_heads, shape.head_dim)
            self._slots[slot] = _Slot(cache)
        held = self._slots[slot]
        held.cache.reserve(held.length + len(token_ids))
        assert min(token_ids) >= 0 and max(token_ids) < shape.vocab_size
        embedded = self._weights.embed.rows(token_ids)
        hidden: FloatArray = embedded * np.sqrt(np.float32(shape.hidden_size))
        for index, layer in enumerate(self._weights.layers):
            normed = _rms_norm(hidden, layer.input_norm, shape.rms_norm_eps)
            mixed = layer.o(self._attention(index, held, normed))
            hidden = hidden + _rms_norm(mixed, layer.post_attention_norm, shape.rms_norm_eps)
            normed = _rms_norm(hidden, layer.pre_feedforward_norm, shape.rms_norm_eps)
            mixed = layer.down(_geglu(layer.gate_up(normed)))
            hidden = hidden + _rms_norm(mixed, layer.post_feedforward_norm, shape.rms_norm_eps)
        held.length += len(token_ids)
        return hidden

    def _attention(self, index: int, held: _Slot, normed: FloatArray) -> FloatArray:
        """Attention of layer `index` for tokens (T, D) at the slot's end: (T, N H)."""
        shape, layer = self._weights.shape, self._weights.layers[index]
        is_global = shape.is_global_layer[index]
        rope = self._global_rope if is_global else self._local_rope
        window = shape.context_length if is_global else shape.sliding_window
        cosines, sines = rope.tables(held.length, len(normed))
        heads = layer.qkv(normed).reshape(len(normed), -1, shape.head_dim)
        key_start, value_start = shape.num_heads, shape.num_heads + shape.num_kv_heads
        queries = _rms_norm(heads[:, :key_start], layer.q_norm, shape.rms_norm_eps)
        keys = _rms_norm(heads[:, key_start:value_start], layer.k_norm, shape.rms_norm_eps)
        scale = np.float32(shape.query_pre_attn_scalar**-0.5)
        queries = rotate(queries, cosines, sines) * scale
        dtype = self._weights.cache_dtype
        stored_keys = rotate(keys, cosines, sines).astype(dtype)
        held.cache.write(index, held.length, stored_keys, heads[:, value_start:].astype(dtype))
        mixed = attend(queries, held.cache, index, held.length, window)
        return mixed.reshape(len(normed), -1)

    def _logits(self, hidden: FloatArray) -> FloatArray:
        """Final norm and tied head: (T, D) -> (T, V)."""
        weights = self._weights
        normed = _rms_norm(hidden, weights.final_norm, weights.shape.rms_norm_eps)
        return weights.embed(normed)


def _rms_norm(x: FloatArray, factor: FloatArray, eps: float) -> FloatArray:
    mean_square = np.square(x).sum(axis=-1, keepdims=True) / np.float32(x.shape[-1])
    normed: FloatArray = x * (np.float32(1) / np.sqrt(mean_square + np.float32(eps))) * factor
    return normed


def _geglu(gate_up: FloatArray) -> FloatArray:
    """gelu_tanh(gate) x up, of tiles of gate and up in turn: (T, 2 F) -> (T, F)."""
    tiles = gate_up.reshape(len(gate_up), -1, 2, TILE_ROWS)
    gate, up = tiles[:, :, 0], tiles[:, :, 1]
    inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate * gate * gate)
    product: FloatArray = np.float32(0.5) * gate * (1 + np.tanh(inner)) * up
    return product.reshape(len(gate_up), -1)
