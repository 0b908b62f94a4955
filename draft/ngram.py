"""Prompt lookup: drafts what followed the last tokens the previous time they occurred.

Source: Saxena 2023, "Prompt Lookup Decoding". No model; free where text repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.types import DraftRun, SamplingParams, StoppingRule


class NgramDrafter:
    """Drafts copies of earlier text of the same sequence.

    The longest ending of up to `max_ngram` tokens that occurred before wins; among its occurrences
    the latest. A copy that reaches the end of the text goes on into itself, so a loop is drafted at
    any length.
    """

    def __init__(self, max_ngram: int = 4, min_ngram: int = 2) -> None:
        self._max_ngram = max_ngram
        self._min_ngram = min_ngram
        self._tokens: dict[int, list[int]] = {}
        # per slot: n-gram -> position after its latest occurrence that some token follows
        self._follower: dict[int, dict[tuple[int, ...], int]] = {}

    @property
    def device(self) -> str:
        """This drafter's name."""
        return "ngram"

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Index the prompt; how the target samples makes no difference to a copy."""
        self._tokens[slot] = []
        self._follower[slot] = {}
        self.confirm(slot, prompt_ids)

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """Index newly confirmed tokens."""
        tokens, follower = self._tokens[slot], self._follower[slot]
        for token_id in token_ids:
            end = len(tokens)
            for n in range(self._min_ngram, min(self._max_ngram, end) + 1):
                follower[tuple(tokens[end - n :])] = end
            tokens.append(token_id)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """What followed the longest known ending; K = 0 if it never occurred.

        A copy costs nothing, so `stopping` is not asked.
        """
        tokens, follower = self._tokens[slot], self._follower[slot]
        assert position == len(tokens), "runs continue the confirmed tokens"
        for n in range(min(self._max_ngram, len(tokens)), self._min_ngram - 1, -1):
            source = follower.get(tuple(tokens[-n:]))
            if source is not None:
                period = len(tokens) - source
                copied = tuple(tokens[source + i % period] for i in range(max_length))
                return DraftRun(position, copied, (0.0,) * max_length)
        return DraftRun(position)

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """Copies are made when they are taken."""

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """Copies cost nothing: none are made ahead."""

    def close(self, slot: int) -> None:
        """Forget the sequence."""
        self._tokens.pop(slot, None)
        self._follower.pop(slot, None)

    def release(self) -> None:
        """Nothing is held outside Python."""
