"""Models made of a rule, so that the loop is tested without weights: all tokens -> the next one.

A rule's verifier keeps a cache of what it was fed and refuses what the real ones would refuse.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from draft.messages import Wish
from specdec.types import DraftRun, SamplingParams, Segment, StoppingRule

Rule = Callable[[Sequence[int]], int]  # all tokens so far -> the next one
VOCAB = 97


def rule(tokens: Sequence[int]) -> int:
    """A target that depends on its last three tokens and on the position."""
    recent = sum(3**i * token for i, token in enumerate(tokens[-3:]))
    return 2 + (recent * 7 + len(tokens) * 5) % (VOCAB - 2)


class RuleVerifier:
    device = "fake"
    numerics_id = "fake"

    def __init__(self, next_token: Rule = rule, context_length: int = 512) -> None:
        self.context_length = context_length
        self.max_pass_tokens = 16
        self.pass_sizes = ()
        self.next_token = next_token
        self.cache: dict[int, list[int]] = {}
        self.sampling: dict[int, SamplingParams] = {}
        self.chosen: dict[int, tuple[int, ...]] = {}
        self.num_passes = 0
        self.is_released = False

    def open(self, slot: int, sampling: SamplingParams) -> None:
        self.cache[slot] = []
        self.sampling[slot] = sampling

    def prefill(self, *segments: Segment) -> None:
        for segment in segments:
            self._feed(segment)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        assert sum(len(segment.token_ids) for segment in segments) <= self.max_pass_tokens
        self.num_passes += 1
        self.chosen = {segment.slot: self._feed(segment) for segment in segments}
        return [self.chosen[segment.slot] for segment in segments]

    def log_probs(self, slot: int) -> tuple[float, ...]:
        if not self.sampling[slot].log_probs:
            return ()
        return tuple(-1.0 / (1 + token) for token in self.chosen[slot])

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        assert not self.cache[slot] and length <= len(self.cache[source])
        self.cache[slot] = self.cache[source][:length]

    def truncate(self, slot: int, length: int) -> None:
        assert length <= len(self.cache[slot]), "a cache cannot be cut to more than it holds"
        del self.cache[slot][length:]

    def close(self, slot: int) -> None:
        self.cache.pop(slot, None)

    def release(self) -> None:
        self.is_released = True

    def _feed(self, segment: Segment) -> tuple[int, ...]:
        cache = self.cache[segment.slot]
        assert segment.position == len(cache), "a segment continues what the slot holds"
        chosen = []
        for token_id in segment.token_ids:
            cache.append(token_id)
            assert len(cache) <= self.context_length, "context overrun"
            chosen.append(self.next_token(cache))
        return tuple(chosen)


class RuleDrafter:
    """Right with the given probability, at random otherwise; deterministic for a seed."""

    device = "fake-draft"

    def __init__(self, accuracy: float, seed: int = 0, next_token: Rule = rule) -> None:
        self.accuracy = accuracy
        self.next_token = next_token
        self.random = random.Random(seed)
        self.tokens: dict[int, list[int]] = {}
        self.longest_asked = 0

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        self.tokens[slot] = list(prompt_ids)

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        self.tokens[slot] += token_ids

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        self.longest_asked = max(self.longest_asked, max_length)
        tokens = list(self.tokens[slot])
        assert position == len(tokens)
        for _ in range(max_length):
            is_right = self.random.random() < self.accuracy
            tokens.append(self.next_token(tokens) if is_right else self.random.randrange(VOCAB))
        drafted = tuple(tokens[position:])
        return DraftRun(position, drafted, (1.0,) * len(drafted))

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        pass

    def in_flight(self, slot: int, run: DraftRun) -> None:
        pass

    def work_ahead(self, wish: Wish, goes_on: Callable[[], bool]) -> None:
        pass

    def draft_each(self, wishes: Sequence[Wish], goes_on: Callable[[], bool]) -> None:
        pass

    def close(self, slot: int) -> None:
        self.tokens.pop(slot, None)

    def release(self) -> None:
        pass


class ByteTokenizer:
    """One token per byte, shifted past eos (0) and bos (1)."""

    vocab_size = VOCAB
    bos_id = 1

    def encode(self, text: str, *, add_bos: bool, parse_control: bool = False) -> tuple[int, ...]:
        ids = tuple(2 + (byte - 32) % 95 for byte in text.encode())
        return (self.bos_id, *ids) if add_bos else ids

    def piece_bytes(self, token_id: int) -> bytes:
        return bytes([token_id - 2 + 32]) if token_id >= 2 else b""


class ScriptedDrafter:
    """Knows the plain continuation of each prompt and is right, wrong or random by turns."""

    device = "scripted"

    def __init__(self, continuations: dict[tuple[int, ...], tuple[int, ...]], vocab: int) -> None:
        self.continuations = continuations
        self.vocab = vocab
        self.random = random.Random(0)
        self.num_runs = 0

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        self.whole = [*prompt_ids, *self.continuations[tuple(prompt_ids)]]

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        pass

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        right = self.whole[position : position + max_length]
        self.num_runs += 1
        kind = self.num_runs % 4
        if kind == 1:  # wrong from some token on
            wrong_at = self.random.randrange(max_length)
            right[wrong_at:] = [(token + 1) % self.vocab for token in right[wrong_at:]]
        elif kind == 2:  # wrong once, right again after it
            wrong_at = self.random.randrange(len(right))
            right[wrong_at] = (right[wrong_at] + 7) % self.vocab
        elif kind == 3:
            right = [self.random.randrange(self.vocab) for _ in right]
        return DraftRun(position, tuple(right), (0.0,) * len(right))

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        pass

    def in_flight(self, slot: int, run: DraftRun) -> None:
        pass

    def close(self, slot: int) -> None:
        pass

    def release(self) -> None:
        pass
