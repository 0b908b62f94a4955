"""What is minimised: agreement with a target, the next token, and loops; it knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_OVERLAP_TEMPERATURE = 0.7  # users sample below 1; towards 0 it would be greedy agreement
_REPEAT_FACTOR = 0.5
_LOOP_PERIODS = (6, 48)
_MIN_REMAINDER = 1e-4
_LOOP_WEIGHT = 0.2


def distillation_loss(
    hidden: Tensor, table: Tensor, wanted: Tensor, wanted_table: Tensor, overlap_weight: Tensor
) -> Tensor:
    """KL(p || q) + weight x total variation of p (target) and q (draft) at temperature 0.7.

    `hidden` (B, T, D) and `table` (V, D) are the draft's, `wanted` and `wanted_table` the target's.
    1 - total variation is the odds that p and q, drawn with the best coupling, give the same token
    (Leviathan et al. 2023): what speculation gains by; KL also pulls where nothing is to gain.
    Both are means over tokens.
    """
    ours = functional.log_softmax((hidden.flatten(0, 1) @ table.T).float(), -1)
    with torch.no_grad():
        theirs = functional.log_softmax((wanted.flatten(0, 1) @ wanted_table.T).float(), -1)
        target = theirs.exp()
    divergence = (target * (theirs - ours)).sum(-1).mean()
    sharp = [functional.softmax(each / _OVERLAP_TEMPERATURE, -1) for each in (theirs, ours)]
    variation = 0.5 * (sharp[0] - sharp[1]).abs().sum(-1).mean()
    return divergence + overlap_weight * variation


@dataclass(frozen=True, slots=True)
class Repeats:
    """Where windows (B, T + 1) were overwritten with loops, for their T predictions."""

    ids: Tensor  # (B, T + 1)
    is_text: Tensor  # (B, T) the next token is the corpus's own
    is_loop: Tensor  # (B, T) the next token continues a loop already gone round twice
    periods: Tensor  # (B, T)


def with_repeats(rows: Tensor, num_rows: int, seed: int) -> Repeats:
    """Let windows (B, T + 1) end in loops, the first `num_rows` of them, in either half.

    The text of a half is kept up to a random place; from there its last 6 .. 48 tokens repeat.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, half = rows.shape[0], rows.shape[1] // 2
    places = torch.arange(rows.shape[1])
    parts = (places // half).clamp(max=1)
    offsets = places - parts * half
    low, high = min(_LOOP_PERIODS[1], half // 4), half // 2 + 1
    starts = torch.randint(low, high, (batch, 2), generator=generator)[:, parts]
    longest = min(_LOOP_PERIODS[1], low) + 1
    periods = torch.randint(_LOOP_PERIODS[0], longest, (batch, 2), generator=generator)[:, parts]
    starts[num_rows:] = rows.shape[1]
    turns = (offsets - starts).clamp(min=0) // periods + 1
    is_repeat = offsets >= starts
    sources = torch.where(is_repeat, places - turns * periods, places).to(rows.device)
    is_loop = offsets >= starts + periods
    device = rows.device
    return Repeats(
        ids=rows.gather(1, sources),
        is_text=~is_repeat[:, 1:].to(device),
        is_loop=is_loop[:, 1:].to(device),
        periods=periods[:, 1:].contiguous().to(device),
    )


def next_token_loss(
    hidden: Tensor, table: Tensor, goal: Tensor, is_text: Tensor, is_loop: Tensor, periods: Tensor
) -> Tensor:
    """Cross-entropy on text; on loops -log(1 - |p - p'/2|), p' the token's odds a round before.

    The second term teaches that going round again gets less likely (Xu et al. 2022, DITTO): greedy
    text of small models loops because it gets more likely.
    """
    logits = (hidden.flatten(0, 1) @ table.T).float()
    chosen = -functional.cross_entropy(logits, goal.flatten(), reduction="none").view(goal.shape)
    text_loss = -(chosen * is_text).sum() / is_text.sum().clamp(min=1)
    odds = chosen.exp()
    before = torch.arange(goal.shape[1], device=goal.device) - periods
    earlier = odds.detach().gather(1, before.clamp(min=0))
    excess = (odds - _REPEAT_FACTOR * earlier).abs()
    loop = -torch.log((1 - excess).clamp(min=_MIN_REMAINDER))
    return text_loss + _LOOP_WEIGHT * (loop * is_loop).sum() / is_loop.sum().clamp(min=1)
