"""The rows of a draft model's cache: what each holds, fed together where possible; no drafting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from specdec.types import FloatArray, LanguageModel


class RowModel(LanguageModel, Protocol):
    """A LanguageModel that feeds several slots in one step and copies one onto another."""

    @property
    def max_rows(self) -> int:
        """Most adjacent slots of one step."""

    def feed_each(self, first_slot: int, token_ids: Sequence[int]) -> FloatArray:
        """Append one token to each of len(token_ids) adjacent slots: logits (B, V)."""

    def copy_slot(self, source: int, slot: int, position: int = 0) -> None:
        """Make `slot` hold what `source` holds; they agree already before `position`."""


class Rows:
    """Token ids in every row of the cache; all changes go through here."""

    def __init__(self, model: RowModel, num_rows: int) -> None:
        self._model = model
        self.held: list[list[int]] = [[] for _ in range(num_rows)]

    def cut(self, row: int, length: int) -> None:
        """Forget what a row holds beyond its first `length` tokens."""
        if length < len(self.held[row]):
            del self.held[row][length:]
            self._model.truncate(row, length)

    def fork(self, source: int, row: int, length: int) -> None:
        """Make a row hold the first `length` tokens of another."""
        agreeing = common_length(self.held[source][:length], self.held[row])
        self._model.copy_slot(source, row, agreeing)
        self._model.truncate(row, length)
        self.held[row] = self.held[source][:length]

    def feed(self, wanted: Mapping[int, Sequence[int]]) -> list[FloatArray]:
        """Append tokens to some rows: logits (V,) after the last of each, in order of `wanted`.

        Several rows get their last tokens in one step, and in another those before them: after a
        run that was accepted whole a row is two tokens behind.
        """
        first, last = min(wanted), max(wanted)
        idle = [row for row in range(first, last + 1) if row not in wanted]
        is_full = any(len(self.held[row]) >= self._model.context_length for row in idle)
        if len(wanted) == 1 or last - first >= self._model.max_rows or is_full:
            return [self._feed_one(row, token_ids) for row, token_ids in wanted.items()]
        behind = [row for row, token_ids in wanted.items() if len(token_ids) == 2]
        for row, token_ids in wanted.items():
            if len(token_ids) > 2 or behind == [row]:
                self._model.feed(row, token_ids[:-1], num_logits=0)
                self.held[row].extend(token_ids[:-1])
        if len(behind) > 1:
            self._step({row: wanted[row][0] for row in behind})
        return self._step({row: token_ids[-1] for row, token_ids in wanted.items()})

    def _step(self, token_ids: Mapping[int, int]) -> list[FloatArray]:
        """One token to each of some rows; rows that lie between take part in it and forget it."""
        first, last = min(token_ids), max(token_ids)
        logits = self._model.feed_each(first, [token_ids.get(r, 0) for r in range(first, last + 1)])
        for row in range(first, last + 1):
            if row in token_ids:
                self.held[row].append(token_ids[row])
            else:
                self._model.truncate(row, len(self.held[row]))
        return [logits[row - first] for row in token_ids]

    def _feed_one(self, row: int, token_ids: Sequence[int]) -> FloatArray:
        logits: FloatArray = self._model.feed(row, token_ids, num_logits=1)[0]
        self.held[row].extend(token_ids)
        return logits


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    agreed, most = 0, min(len(first), len(second))
    while agreed < most:  # halves are compared whole, which is fast for lists
        middle = (agreed + most + 1) // 2
        if first[agreed:middle] == second[agreed:middle]:
            agreed = middle
        else:
            most = middle - 1
    return agreed
