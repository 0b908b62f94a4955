"""Decide how much of a draft run survives. Pure: no device, no cache, no clock.

p is the target and q the draft. Because both choose with the same noise (specdec.sampling), the
target's choice after every fed token is already known and one rule serves greedy and sampled runs:
keep draft tokens while each equals the token the target chose at its position.
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.types import Acceptance, DraftRun


def accept(run: DraftRun, target_ids: Sequence[int]) -> Acceptance:
    """Longest agreeing prefix of `run`, plus the target's next token.

    `target_ids` has K + 1 entries: entry 0 is chosen before any draft token was seen, entry i after
    draft token i - 1.
    """
    assert len(target_ids) == len(run.token_ids) + 1, "one target id per fed token"
    n = 0
    while n < len(run.token_ids) and run.token_ids[n] == target_ids[n]:
        n += 1
    return Acceptance(run.token_ids[:n], target_ids[n], is_bonus=n == len(run.token_ids))
