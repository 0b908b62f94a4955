"""Gemma 3 as a PyTorch module, tensor names as Hugging Face's; it knows no files and no training.

`is_rounded` computes with weights and activations on the devices' grids (draft.distil.rounding).
The residual stream has the compute type, parameters are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from draft.distil.attention import (
    LayerCache,
    Mask,
    attend,
    block_mask,
    rope_tables,
    rotate,
    window_mask,
    window_mask_from_start,
)
from draft.distil.rounding import rounded_activations, rounded_weights
from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import Bits

EMBEDDING_STD = 0.02


class Place(NamedTuple):
    """Where tokens stand: cosines and sines (T, H/2), what they see, the cache they continue."""

    cosines: Tensor
    sines: Tensor
    mask: Mask
    cache: LayerCache | None


class Linear(nn.Module):
    """A matrix (N, K) in float32 that multiplies in the type of its input."""

    def __init__(self, num_columns: int, num_rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(num_rows, num_columns) * 0.5 / math.sqrt(num_columns)
        )

    def forward(self, x: Tensor, is_rounded: bool) -> Tensor:
        """W x for x (..., K), whose rounding is the caller's."""
        weight = rounded_weights(self.weight) if is_rounded else self.weight
        return functional.linear(x, weight.to(x.dtype))


class Norm(nn.Module):
    """RMS norm whose factor is 1 + weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension, in float32."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * (1.0 + self.weight)).type_as(x)


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys."""

    def __init__(self, shape: Gemma3Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.scale = shape.query_pre_attn_scalar**-0.5
        self.q_proj = Linear(shape.hidden_size, shape.query_size)
        self.k_proj = Linear(shape.hidden_size, shape.kv_size)
        self.v_proj = Linear(shape.hidden_size, shape.kv_size)
        self.o_proj = Linear(shape.query_size, shape.hidden_size)
        self.q_norm = Norm(shape.head_dim, shape.rms_norm_eps)
        self.k_norm = Norm(shape.head_dim, shape.rms_norm_eps)

    def forward(self, x: Tensor, place: Place, is_rounded: bool) -> Tensor:
        """Mix tokens (B, T, D), with what the cache holds before them if there is one."""
        heads = (*x.shape[:2], -1, self.head_dim)
        queries = self.q_norm(self.q_proj(x, is_rounded).view(heads)).transpose(1, 2)
        keys = self.k_norm(self.k_proj(x, is_rounded).view(heads)).transpose(1, 2)
        values = self.v_proj(x, is_rounded).view(heads).transpose(1, 2)
        cosines, sines, mask, cache = place
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        if cache is not None:
            keys, values = cache.append(keys, values)
        mixed = attend(queries, keys, values, mask, self.scale)
        mixed = mixed.transpose(1, 2).reshape(*x.shape[:2], -1)
        if is_rounded:
            mixed = rounded_activations(mixed)
        projected: Tensor = self.o_proj(mixed, is_rounded)
        return projected


class FeedForward(nn.Module):
    """gelu_tanh(gate) x up, then down."""

    def __init__(self, shape: Gemma3Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor, is_rounded: bool) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate = functional.gelu(self.gate_proj(x, is_rounded), approximate="tanh")
        product = gate * self.up_proj(x, is_rounded)
        if is_rounded:
            product = rounded_activations(product)
        projected: Tensor = self.down_proj(product, is_rounded)
        return projected


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Gemma3Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.input_layernorm = Norm(hidden, eps)
        self.post_attention_layernorm = Norm(hidden, eps)
        self.pre_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm = Norm(hidden, eps)

    def forward(self, x: Tensor, place: Place, is_rounded: bool) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed = self.input_layernorm(x)
        if is_rounded:
            normed = rounded_activations(normed)
        mixed = self.self_attn(normed, place, is_rounded)
        x = x + self.post_attention_layernorm(mixed)
        normed = self.pre_feedforward_layernorm(x)
        if is_rounded:
            normed = rounded_activations(normed)
        summed: Tensor = x + self.post_feedforward_layernorm(self.mlp(normed, is_rounded))
        return summed


def run_block(
    block: nn.Module,
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    mask: Mask,
    cache: LayerCache | None,
    is_rounded: bool,
) -> Tensor:
    """A layer as a function of plain arguments, so that one compilation serves all layers."""
    out: Tensor = block(x, Place(cosines, sines, mask, cache), is_rounded)
    return out


class Gemma3(nn.Module):
    """Token ids in, normed hidden states out; the head is the tied embedding."""

    def __init__(self, shape: Gemma3Shape, head_bits: Bits, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.head_bits, self.dtype = shape, head_bits, dtype
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.run_block = run_block
        self.has_block_masks = False
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, bool, bool], Mask] = {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embed_tokens.weight.device

    def forward(
        self, token_ids: Tensor, is_rounded: bool, caches: Sequence[LayerCache] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D) after ids (B, T), and the head's matrix (V, D), to multiply."""
        table = self.embed_tokens.weight
        if is_rounded and self.head_bits == 4:  # 8 bits change next to nothing
            table = rounded_weights(table)
        x = functional.embedding(token_ids, table).float() * self.shape.hidden_size**0.5
        x = x.to(self.dtype)
        start, count = (caches[0].length if caches else 0), token_ids.shape[1]
        around = {is_global: self._around(is_global, start, count) for is_global in (False, True)}
        for index, block in enumerate(self.layers):
            cosines, sines, mask = around[self.shape.is_global_layer[index]]
            cache = caches[index] if caches else None
            x = self.run_block(block, x, cosines, sines, mask, cache, is_rounded)
        normed = self.norm(x)
        return rounded_activations(normed) if is_rounded else normed, table.to(self.dtype)

    def _around(self, is_global: bool, start: int, count: int) -> tuple[Tensor, Tensor, Mask]:
        """Tables and mask of the local or the global layers."""
        if is_global not in self._tables:
            length = self.shape.context_length
            self._tables[is_global] = rope_tables(self.shape, is_global, length, self.device)
        cosines, sines = self._tables[is_global]
        places = slice(start, start + count)
        return cosines[places], sines[places], self._mask(is_global, start, count)

    def _mask(self, is_global: bool, start: int, count: int) -> Mask:
        """The mask of `count` tokens; those of whole windows are kept."""
        window = self.shape.context_length if is_global else self.shape.sliding_window
        if start:
            is_short = count == 1 and start < window
            return None if is_short else window_mask(window, start, count, self.device)
        key = (count, is_global, self.has_block_masks)
        if key not in self._masks:
            make = block_mask if self.has_block_masks else window_mask_from_start
            self._masks[key] = make(window, count, self.device)
        return self._masks[key]


def is_matrix(name: str) -> bool:
    """Whether a parameter of this name is stored as INT4 or INT8."""
    return name.endswith(("_proj.weight", "embed_tokens.weight"))
