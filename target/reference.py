"""The target in numpy, in this process: what every device target is checked against."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.gemma3.reference import Gemma3Reference
from specdec.sampling import choose, log_probabilities
from specdec.types import SamplingParams, Segment
from target.pass_sizes import BLOCK_ROWS


class ReferenceVerifier:
    """A Verifier over the numpy model; chooses with specdec.sampling."""

    def __init__(self, model: Gemma3Reference, max_pass_tokens: int = BLOCK_ROWS) -> None:
        self._model = model
        self._max_pass_tokens = max_pass_tokens
        self._sampling: dict[int, SamplingParams] = {}
        self._log_probs: dict[int, tuple[float, ...]] = {}  # of the last pass, by slot

    @property
    def device(self) -> str:
        """Name of the device."""
        return "reference"

    @property
    def numerics_id(self) -> str:
        """W4A8, one slice of K, attention tiles of 64 keys."""
        return "reference-w4a8-s1-t64"

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""
        return self._model.context_length

    @property
    def max_pass_tokens(self) -> int:
        """Most tokens that one pass takes."""
        return self._max_pass_tokens

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Every number of tokens costs its own."""
        return ()

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Start an empty sequence in `slot`."""
        self._model.truncate(slot, 0)
        self._sampling[slot] = sampling

    def prefill(self, *segments: Segment) -> None:
        """Feed prompt tokens of one or several slots without choosing; any number of them."""
        for segment in segments:
            assert segment.position == self._model.length(segment.slot)
            if segment.token_ids:
                self._model.feed(segment.slot, segment.token_ids, num_logits=0)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """Feed every segment; for each, the target's token after each fed token."""
        return [self._verify_one(segment) for segment in segments]

    def log_probs(self, slot: int) -> tuple[float, ...]:
        """Log-probability of each token that the last pass chose for `slot`, if asked for."""
        return self._log_probs.get(slot, ())

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        """Let the empty `slot` hold `source`'s first `length` tokens, as though fed with them."""
        self._model.copy_prefix(source, slot, length)

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
        self._model.truncate(slot, length)

    def close(self, slot: int) -> None:
        """Free the slot."""
        self._model.truncate(slot, 0)
        self._sampling.pop(slot, None)
        self._log_probs.pop(slot, None)

    def release(self) -> None:
        """The model is garbage collected with this verifier."""

    def _verify_one(self, segment: Segment) -> tuple[int, ...]:
        assert segment.position == self._model.length(segment.slot)
        count = len(segment.token_ids)
        logits = self._model.feed(segment.slot, segment.token_ids, num_logits=count)
        positions = range(segment.position + 1, segment.position + 1 + count)
        sampling = self._sampling[segment.slot]
        chosen = choose(logits, positions, sampling)
        if sampling.log_probs:
            self._log_probs[segment.slot] = log_probabilities(logits, chosen)
        return chosen
