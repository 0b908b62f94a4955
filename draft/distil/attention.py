"""Rotary tables, masks and attention kernels in PyTorch; it knows no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from specdec.gemma3.shape import Gemma3Shape

Mask: TypeAlias = Tensor | BlockMask | None  # None: plain causal attention


@dataclass(slots=True)
class LayerCache:
    """Keys and values (B, kv heads, capacity, H) of one layer, the first `length` of them valid."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, kv heads, T, H) behind what there is; returns all that is stored."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def rope_tables(
    shape: Gemma3Shape, is_global: bool, count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (count, H/2), for the positions from 0 on."""
    theta = shape.rope_theta_global if is_global else shape.rope_theta_local
    factor = shape.rope_scaling_factor if is_global else 1.0
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.outer(torch.arange(count, dtype=torch.float64), theta**-exponents / factor)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs (i, i + H/2) of heads (B, N, T, H)."""
    first, second = x.float().chunk(2, -1)
    rotated = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(rotated, -1).type_as(x)


def window_mask(window: int, start: int, count: int, device: torch.device) -> Tensor:
    """Which keys 0 .. start + count - 1 each of `count` tokens sees: bool (count, keys)."""
    queries = torch.arange(start, start + count, device=device)
    distance = queries[:, None] - torch.arange(start + count, device=device)
    return (distance >= 0) & (distance < window)


def window_mask_from_start(window: int, count: int, device: torch.device) -> Mask:
    """The mask of tokens from position 0 on; None where it is plain causal."""
    return None if count <= window else window_mask(window, 0, count, device)


def block_mask(window: int, count: int, device: torch.device) -> Mask:
    """The same for flex attention, as blocks that can be skipped."""
    if count <= window:
        return None

    def is_near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    return create_block_mask(is_near, None, None, count, count, device=device)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, scale: float) -> Tensor:
    """Attention of (B, N, T, H) over (B, kv heads, S, H): (B, N, T, H)."""
    repeat = queries.shape[1] // keys.shape[1]
    if isinstance(mask, BlockMask):
        mixed = flex_attention(
            queries, keys, values, block_mask=mask, scale=scale, enable_gqa=repeat > 1
        )
        assert isinstance(mixed, Tensor)
        return mixed
    if queries.shape[2] == 1:
        return _attend_one(queries, keys, values, mask, scale)
    if repeat > 1:
        keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
    return functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _attend_one(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """One new token of each sequence, heads of a group as rows of one product."""
    batch, num_heads, _, head_dim = queries.shape
    grouped = queries.reshape(batch, keys.shape[1], -1, head_dim)
    scores = (grouped @ keys.mT).float() * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed = scores.softmax(-1).type_as(values) @ values
    return mixed.reshape(batch, num_heads, 1, head_dim)
