"""How sequences share the tokens of one pass; it knows odds and costs, no model and no device.

Tokens enter a pass by their survival, the best of all sequences first, so a sequence's own enter in
order. Of all these stages the most valuable wins, which no step of T can hide.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from specdec.costs import CostTable


@dataclass(frozen=True, slots=True)
class Stakes:
    """What a run has to win: S_1, S_2, ..., never rising; `least` tokens are checked anyway."""

    survival: tuple[float, ...] = ()
    least: int = 0


def share_budget(
    stakes: Sequence[Stakes], costs: CostTable, rate: float, max_tokens: int
) -> tuple[int, ...]:
    """How many draft tokens of each sequence one common pass should check.

    Args:
        stakes: of each sequence.
        costs: of passes up to `max_tokens`.
        rate: of all sequences together, tokens per second.
        max_tokens: most tokens in the pass; each sequence's last confirmed token is one of them.
    """
    assert max_tokens < len(costs.pass_s), "passes that nobody knows"
    values = (
        (total - rate * costs.pass_s[len(stakes) + sum(lengths)], lengths)
        for total, lengths in _stages(stakes, max_tokens)
    )
    return max(values, key=lambda found: found[0])[1]


def draft_lengths(
    stakes: Sequence[Stakes], costs: CostTable, rate: float, most_lost_s: float
) -> tuple[float, tuple[int, ...]]:
    """How far to draft each sequence for one common pass, by what is expected of its tokens.

    As in `share_budget`, but here drafting has its price, too: the sequences go ahead together,
    step by step. What could cost more than `most_lost_s` beyond a plain pass is left out.

    Returns the best lengths other than none at all, and what they are worth beyond a plain pass,
    in tokens; below 0 they are the least loss. No lengths and 0.0 where there are none.
    """
    best_value, best = -inf, (0,) * len(stakes)
    for total, lengths in _stages(stakes, len(costs.pass_s) - 1):
        extra_s = costs.shared_extra_s(lengths, lengths)
        if extra_s > most_lost_s:
            break  # and what comes is dearer
        value = total - rate * extra_s
        if value > best_value and any(lengths):
            best_value, best = value, lengths
    return (best_value, best) if any(best) else (0.0, best)


def token_costs(lengths: Sequence[int], costs: CostTable) -> CostTable:
    """What a token costs a sequence in a pass planned for such draft lengths: an equal share.

    So each goes on where its own tokens are worth what the average one takes, and together they
    take what was planned.
    """
    num_sequences, num_tokens = len(lengths), max(sum(lengths), 1)
    plain_s = costs.pass_s[num_sequences]
    pass_s = costs.pass_s[num_sequences + sum(lengths)] - plain_s
    draft_s = costs.shared_extra_s(lengths, lengths) - pass_s
    return replace(
        costs,
        pass_s=(0.0, *(plain_s + k * pass_s / num_tokens for k in range(max(lengths) + 2))),
        draft_step_s=draft_s / num_tokens,
        draft_fixed_s=0.0,
    )


def even_share(wanted: Sequence[int], room: int) -> list[int]:
    """As much of each number as fits into `room` together, token by token in turn."""
    shares = [0] * len(wanted)
    while room > 0 and any(share < want for share, want in zip(shares, wanted, strict=True)):
        for i, want in enumerate(wanted):
            if shares[i] < want and room > 0:
                shares[i] += 1
                room -= 1
    return shares


def _stages(stakes: Sequence[Stakes], max_tokens: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Survival in all, and the lengths: the least of each, then one token more at a time."""
    lengths = even_share([stake.least for stake in stakes], max_tokens - len(stakes))
    room = max_tokens - len(stakes) - sum(lengths)
    assert room >= 0, "every sequence feeds one token at least"
    waiting = [
        (-stake.survival[length], i)
        for i, (stake, length) in enumerate(zip(stakes, lengths, strict=True))
        if length < len(stake.survival)
    ]
    heapq.heapify(waiting)
    total = 0.0
    yield total, tuple(lengths)
    while waiting and room > 0:
        loss, i = heapq.heappop(waiting)
        total -= loss
        room -= 1
        lengths[i] += 1
        if lengths[i] < len(stakes[i].survival):
            heapq.heappush(waiting, (-stakes[i].survival[lengths[i]], i))
        yield total, tuple(lengths)
