"""A draft model made of the target's rule and of errors that depend on nothing but its cache."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fakes import VOCAB, rule

from draft.branching import BranchingDrafter
from specdec.types import FloatArray

NUM_BRANCHES = 7


class FuzzyModel:
    """A RowModel; right with probability `accuracy`, else usually right with its second choice."""

    vocab_size = VOCAB
    max_rows = 4

    def __init__(
        self,
        accuracy: float,
        seed: int = 0,
        context_length: int = 512,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.accuracy, self.seed, self.context_length = accuracy, seed, context_length
        self.before_step = before_step
        self.cache: dict[int, list[int]] = {}
        self.num_steps = 0

    def length(self, slot: int) -> int:
        return len(self.cache.get(slot, []))

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        assert len(token_ids) >= num_logits
        self.before_step()
        self.num_steps += 1
        logits = [self._append(slot, token_id) for token_id in token_ids]
        chosen = logits[len(logits) - num_logits :]
        return np.array(chosen, np.float32).reshape(num_logits, VOCAB)

    def feed_each(self, first_slot: int, token_ids: Sequence[int]) -> FloatArray:
        assert 0 < len(token_ids) <= self.max_rows
        self.before_step()
        self.num_steps += 1
        slots = range(first_slot, first_slot + len(token_ids))
        return np.array([self._append(s, t) for s, t in zip(slots, token_ids, strict=True)])

    def truncate(self, slot: int, length: int) -> None:
        cache = self.cache.setdefault(slot, [])
        assert 0 <= length <= len(cache), "a slot is cut to a length it has"
        del cache[length:]

    def copy_slot(self, source: int, slot: int, position: int = 0) -> None:
        ours, theirs = self.cache.setdefault(slot, []), self.cache[source]
        assert len(ours) >= position, "nothing was there to agree"
        ours[position:] = theirs[position:]  # what is not copied must have agreed before

    def logits_after(self, tokens: Sequence[int]) -> FloatArray:
        """Logits (V,) for the token after these."""
        dice = random.Random(hash((self.seed, *tokens)))
        right = rule(tokens)
        logits = np.zeros(VOCAB, np.float32)
        if dice.random() < self.accuracy:
            logits[right] = 2.0 + 4.0 * dice.random()
        else:
            wrong = [dice.randrange(VOCAB) for _ in range(3)]
            logits[wrong] = 2.0, 1.0, 0.9
            logits[right] = 1.5 if dice.random() < 0.7 else 0.0
        return logits

    def _append(self, slot: int, token_id: int) -> FloatArray:
        cache = self.cache.setdefault(slot, [])
        assert len(cache) < self.context_length, "slot overflows"
        cache.append(token_id)
        return self.logits_after(cache)


@dataclass(frozen=True)
class FuzzyDraft:
    """A picklable recipe."""

    accuracy: float
    seed: int
    num_slots: int = 1
    before_step: Callable[[], None] | None = None

    def __call__(self) -> BranchingDrafter:
        model = FuzzyModel(self.accuracy, self.seed, before_step=self.before_step or (lambda: None))
        num_branches = NUM_BRANCHES if self.num_slots == 1 else 0
        return BranchingDrafter(model, "fuzzy", self.num_slots, num_branches)
