"""Text that a model writes by itself, many sequences at a time; it knows no training.

The token at a place is argmax(logits + temperature x G) with Gumbel noise G that depends on seed,
place and sequence alone: whoever uses the same noise draws the same token where logits agree, as
the engine's draft and target do (specdec.sampling). Temperature 0 is greedy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from draft.distil.attention import LayerCache
from draft.distil.model import Gemma3

_MIN_EXPONENTIAL = 1e-20


def noise(seed: int, place: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Gumbel noise (B, V) of the `place`-th continued token."""
    generator = torch.Generator(device).manual_seed((seed << 20) + place)
    drawn = torch.empty(size, device=device).exponential_(generator=generator)
    return -drawn.clamp_(min=_MIN_EXPONENTIAL).log_()


def choose(logits: Tensor, temperatures: Tensor, seed: int, place: int) -> Tensor:
    """The tokens (B,) that logits (B, V) give under temperatures (B,)."""
    drawn = noise(seed, place, (logits.shape[0], logits.shape[1]), logits.device)
    return (logits.float() + temperatures[:, None] * drawn).argmax(-1)


@torch.no_grad()
def continue_texts(
    model: Gemma3, prompts: Tensor, count: int, temperatures: Tensor, seed: int, is_rounded: bool
) -> Tensor:
    """Prompts (B, P) with `count` tokens more: ids (B, P + count)."""
    caches = _caches(model, prompts.shape[0], prompts.shape[1] + count)
    ids, tokens = [prompts], prompts
    for place in range(count):
        hidden, table = model(tokens, is_rounded, caches)
        chosen = choose(hidden[:, -1] @ table.T, temperatures, seed, place)
        tokens = chosen[:, None]
        ids.append(tokens)
    return torch.cat(ids, 1)


def _caches(model: Gemma3, batch: int, capacity: int) -> list[LayerCache]:
    shape = model.shape
    size = (batch, shape.num_kv_heads, capacity, shape.head_dim)
    return [
        LayerCache(
            torch.empty(size, dtype=model.dtype, device=model.device),
            torch.empty(size, dtype=model.dtype, device=model.device),
        )
        for _ in shape.is_global_layer
    ]
