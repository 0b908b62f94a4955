"""Held-out text: bits per byte of a model on it, and prompts for its continuation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from draft.distil.model import Gemma3
from draft.distil.texts import HeldoutText

_ROWS = 8  # windows computed at a time


@torch.no_grad()
def bits_per_byte(
    model: Gemma3,
    texts: Sequence[HeldoutText],
    bos_id: int,
    length: int,
    is_rounded: bool,
) -> dict[str, float]:
    """Bits per byte of each kind, over windows of `length` tokens that each start with bos."""
    windows: dict[str, list[list[int]]] = defaultdict(list)
    num_bytes: dict[str, int] = defaultdict(int)
    for text in texts:
        num_bytes[text.kind] += text.num_bytes
        starts = range(0, len(text.ids), length)
        windows[text.kind] += [[bos_id, *text.ids[at : at + length]] for at in starts]
    return {
        kind: round(_bits(model, windows[kind], length, is_rounded) / num_bytes[kind], 4)
        for kind in windows
    }


def _bits(model: Gemma3, windows: list[list[int]], length: int, is_rounded: bool) -> float:
    total = 0.0
    for at in range(0, len(windows), _ROWS):
        part = windows[at : at + _ROWS]
        ids = torch.tensor([row + [0] * (length + 1 - len(row)) for row in part])
        is_padding = torch.tensor(
            [[place >= len(row) for place in range(1, length + 1)] for row in part]
        )
        goal = ids[:, 1:].masked_fill(is_padding, -100).to(model.device)
        hidden, table = model(ids[:, :-1].to(model.device), is_rounded)
        for states, wanted in zip(hidden, goal, strict=True):
            logits = (states @ table.T).float()
            total += functional.cross_entropy(
                logits, wanted, reduction="sum", ignore_index=-100
            ).item()
    return total / math.log(2)


def prompts(
    texts: Sequence[HeldoutText],
    bos_id: int,
    length: int,
    continuation: int,
    count: int,
) -> dict[str, Tensor]:
    """Up to `count` prompts (B, length) a kind: the starts of some texts, the middles of others."""
    rows: dict[str, list[list[int]]] = defaultdict(list)
    for text in texts:
        room, found = len(text.ids) - length - continuation, rows[text.kind]
        if room >= 0 and len(found) < count:
            start = 0 if len(found) % 2 == 0 else room // 2
            found.append([bos_id, *text.ids[start : start + length - 1]])
    return {kind: torch.tensor(found) for kind, found in rows.items() if found}
