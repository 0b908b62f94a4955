"""One running request: its tokens, its text, and when it ends; it knows no model and no device."""

from __future__ import annotations

from collections.abc import Sequence as TokenIds
from dataclasses import dataclass
from typing import Literal, Protocol

from specdec.types import SamplingParams

FinishReason = Literal["eos", "stop", "length", "cancelled", "error"]


class TextDecoder(Protocol):
    """Turns tokens into text as they come; never half a character."""

    def feed(self, token_id: int) -> str:
        """Characters completed by this token."""

    def finish(self) -> str:
        """What is left at the end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a generation."""

    max_new_tokens: int
    eos_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


class Sequence:
    """A request in one KV slot. Its tokens are prompt and emitted ids; its text is only emitted."""

    def __init__(
        self,
        request_id: str,
        slot: int,
        prompt_ids: tuple[int, ...],
        sampling: SamplingParams,
        limits: Limits,
        decoder: TextDecoder,
    ) -> None:
        self.request_id = request_id
        self.slot = slot
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.emitted_ids: list[int] = []
        self.log_probs: list[float] = []  # of each emitted token, where sampling asks for it
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._limits = limits
        self._decoder = decoder
        self._num_shown = 0  # characters of text already handed out
        self._longest_stop = max(map(len, limits.stop_strings), default=0)

    @property
    def length(self) -> int:
        """Number of confirmed tokens, prompt included."""
        return len(self.prompt_ids) + len(self.emitted_ids)

    @property
    def last_token_id(self) -> int:
        """The last confirmed token: the next to be fed."""
        return self.emitted_ids[-1] if self.emitted_ids else self.prompt_ids[-1]

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self._limits.max_new_tokens - len(self.emitted_ids)

    def extend(self, token_ids: TokenIds[int], log_probs: TokenIds[float] = ()) -> tuple[int, ...]:
        """Append emitted tokens up to and including one that ends the sequence; return those.

        `log_probs` holds one number a token, or more, or none where nobody asked.
        """
        for count, token_id in enumerate(token_ids, start=1):
            self._append(token_id)
            if self.finish_reason is not None:
                token_ids = token_ids[:count]
                break
        self.log_probs += log_probs[: len(token_ids)]
        return tuple(token_ids)

    def finish(self, reason: FinishReason) -> None:
        """End the sequence for a reason that lies outside its tokens."""
        self.finish_reason = reason
        self.text += self._decoder.finish()

    def take_text(self) -> str:
        """Text not handed out yet, less an ending that may turn out to be a stop string."""
        end = len(self.text)
        if self.finish_reason is None:
            end -= self._num_held_back()
        shown, self._num_shown = self._num_shown, max(end, self._num_shown)
        return self.text[shown:end]

    def _append(self, token_id: int) -> None:
        self.emitted_ids.append(token_id)
        if token_id in self._limits.eos_ids:
            self.finish("eos")
            return
        if token_id in self._limits.stop_token_ids:
            self.finish("stop")
            return
        searched = max(0, len(self.text) - self._longest_stop + 1)
        self.text += self._decoder.feed(token_id)
        if self._cut_at_stop_string(searched):
            self.finish_reason = "stop"
        elif self.num_remaining <= 0:
            self.finish("length")
            self._cut_at_stop_string(searched)

    def _cut_at_stop_string(self, start: int) -> bool:
        """Cut the text before the first stop string that begins at `start` or later."""
        found = [self.text.find(stop, start) for stop in self._limits.stop_strings]
        first = min((index for index in found if index >= 0), default=-1)
        if first < 0:
            return False
        self.text = self.text[:first]
        return True

    def _num_held_back(self) -> int:
        """Length of the longest ending of the text that begins some stop string."""
        for size in range(min(self._longest_stop - 1, len(self.text)), 0, -1):
            ending = self.text[-size:]
            if any(stop.startswith(ending) for stop in self._limits.stop_strings):
                return size
        return 0
