"""A model on a Vulkan device as drafters use one: tokens in, logits out; it chooses nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.types import FloatArray, SamplingParams, Segment
from target.kvcache import CutTooDeepError
from target.model import VulkanVerifier

_UNUSED = SamplingParams()  # a drafter chooses by itself


class VulkanModel:
    """A LanguageModel (specdec.types) on top of a verifier's passes, which it owns.

    A cut that the rings of local layers no longer reach empties the slot and feeds it again.
    """

    def __init__(self, verifier: VulkanVerifier, vocab_size: int) -> None:
        self._verifier = verifier
        self._vocab_size = vocab_size
        self._tokens: dict[int, list[int]] = {}  # what each slot holds

    @property
    def vocab_size(self) -> int:
        """V: number of logits per token."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""
        return self._verifier.context_length

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a slot never fed."""
        return len(self._tokens.get(slot, ()))

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Append tokens; float32 logits (num_logits, V) after each of the last `num_logits`."""
        if slot not in self._tokens:
            self._verifier.open(slot, _UNUSED)
            self._tokens[slot] = []
        held, ids = self._tokens[slot], tuple(token_ids)
        first_wanted = len(ids) - num_logits
        self._verifier.prefill(Segment(slot, len(held), ids[:first_wanted]))
        held.extend(ids[:first_wanted])
        logits = [np.empty((0, self._vocab_size), np.float32)]
        most = self._verifier.max_pass_tokens
        for start in range(first_wanted, len(ids), most):
            part = ids[start : start + most]
            logits.append(self._verifier.logits([Segment(slot, len(held), part)]))
            held.extend(part)
        return np.concatenate(logits)

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
        held = self._tokens.get(slot)
        if held is None:
            assert length == 0, "a slot never fed holds nothing"
            return
        if length == 0:
            del self._tokens[slot]
            self._verifier.close(slot)
            return
        kept = held[:length]
        try:
            self._verifier.truncate(slot, length)
        except CutTooDeepError:
            self._verifier.open(slot, _UNUSED)
            self._verifier.prefill(Segment(slot, 0, tuple(kept)))
        self._tokens[slot] = kept

    def release(self) -> None:
        """Give back the device and all memory."""
        self._verifier.release()
