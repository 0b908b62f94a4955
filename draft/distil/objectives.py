"""A step's loss: of a target on text, of a draft on a target; it knows no budget and no files."""

from __future__ import annotations

import torch
from torch import Tensor

from draft.distil.acceleration import compiled_for
from draft.distil.corpus import Windows
from draft.distil.losses import distillation_loss, next_token_loss, with_repeats
from draft.distil.model import Gemma3
from draft.distil.training import Objective

_OVERLAP_FROM = 0.4  # share of the budget after which the overlap of p and q counts too
_OVERLAP_WEIGHT = 1.0


def target_objective(
    model: Gemma3, windows: Windows, num_rows: int, num_loop_rows: int
) -> Objective:
    """The next token of `num_rows` windows, `num_loop_rows` of them turned into loops to leave."""
    loss = compiled_for(model.device, next_token_loss)

    def objective(index: int, is_rounded: bool, share: float) -> Tensor:
        rows = windows.rows(index * num_rows, num_rows)
        repeats = with_repeats(rows, num_loop_rows, index)
        inputs, goal = repeats.ids[:, :-1].contiguous(), repeats.ids[:, 1:].contiguous()
        hidden, table = model(inputs, is_rounded)
        return loss(hidden, table, goal, repeats.is_text, repeats.is_loop, repeats.periods)

    return objective


def draft_objective(
    draft: Gemma3, target: Gemma3, sources: tuple[Windows, ...], num_rows: int
) -> Objective:
    """Agreement with the target on `num_rows` windows, taken in equal parts from the sources."""
    loss = compiled_for(draft.device, distillation_loss)
    each = num_rows // len(sources)

    def objective(index: int, is_rounded: bool, share: float) -> Tensor:
        parts = [windows.rows(index * each, each) for windows in sources]
        inputs = torch.cat(parts)[:, :-1].contiguous()
        with torch.no_grad():
            wanted, wanted_table = target(inputs, False)
        weight = _OVERLAP_WEIGHT if share >= _OVERLAP_FROM else 0.0
        hidden, table = draft(inputs, is_rounded)
        overlap_weight = torch.tensor(weight, device=hidden.device)
        return loss(hidden, table, wanted, wanted_table, overlap_weight)

    return objective
