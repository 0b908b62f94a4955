"""The values and protocols of one speculative step; it knows no device, no model and no clock.

    tokens -> Drafter -> DraftRun -> Segment -> Verifier (a pass) -> target ids -> accept -> tokens

Words: a *position* is an index into a sequence's tokens (prompt first, from 0), a *length* a count.
A *slot* names the KV cache rows of one running sequence. K is the draft length, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; temperature 0 is greedy and ignores the other filters.

    top_k 0, top_p 1 and min_p 0 switch the respective filter off. `seed` is a 64-bit integer.
    `log_probs` asks for the target's log-probability of every token it chooses.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    log_probs: bool = False


@dataclass(frozen=True, slots=True)
class DraftStep:
    """One step of a draft model; times in seconds on the clock of `time.perf_counter`."""

    start_s: float
    end_s: float
    num_rows: int  # tokens fed: of one sequence, or one for each of several endings
    is_ahead: bool  # nobody was waiting for it: the target was checking a run


@dataclass(frozen=True, slots=True)
class DraftWork:
    """What a drafter did from the taking of the run before to that of this one."""

    num_endings: int = 0  # of the last pass that were worked on while it ran
    is_hit: bool = False  # it ended in one of them
    num_ready: int = 0  # tokens of this run that were drafted before the pass ended
    ready_s: float = 0.0  # that drafting these took
    steps: tuple[DraftStep, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftRun:
    """K draft tokens for positions `position` .. `position` + K - 1; K = 0 is legal.

    `confidences` holds one number per token: the margin between the two best perturbed logits
    of the draft (greater is surer), or 0.0 where a drafter has none.
    """

    position: int
    token_ids: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    work: DraftWork = DraftWork()


@dataclass(frozen=True, slots=True)
class Segment:
    """What one sequence feeds into a pass: its last confirmed token, then its draft run.

    `position` is that of the first fed token and equals the slot's cached length.
    """

    slot: int
    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The prefix of a run the target agrees with, and the token it adds itself."""

    accepted: tuple[int, ...]
    next_token: int
    is_bonus: bool  # every draft token was accepted; False: next_token replaces a rejected one

    @property
    def emitted(self) -> tuple[int, ...]:
        """Accepted tokens and the target's own, 1 .. K + 1 of them."""
        return (*self.accepted, self.next_token)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One finished round of a sequence, as controllers and recorders see it; times in seconds.

    The pass took `num_checked` + 1 tokens of it: the last confirmed one and a prefix of `run`.
    Sequences that share a pass share its times.
    """

    run: DraftRun  # all that was drafted, also what was not checked
    num_checked: int
    acceptance: Acceptance  # of the checked prefix
    emitted: tuple[int, ...]  # the accepted tokens and the target's own, cut at a stop
    draft_s: float  # waiting for the drafter; 0.0 when it was not asked
    verify_s: float
    other_s: float  # the rest of the round
    verify_start_s: float = 0.0  # when the pass began, on the clock of `time.perf_counter`


class StoppingRule(Protocol):
    """When to stop drafting one run: pure, cheap, and picklable, for it may run elsewhere."""

    @property
    def max_length(self) -> int:
        """Most tokens to draft; 0 is a plain round, the drafter is not asked."""

    @property
    def patience_s(self) -> float:
        """How long the run is worth waiting for, in seconds."""

    @property
    def num_endings(self) -> int:
        """On how many endings to work ahead while this run is checked; 0: none, 1: the likeliest.

        A run that is ready when it is asked for costs nothing: it is handed over whole.
        """

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Whether to draft one more token after those with these confidences."""

    def num_to_check(self, run: DraftRun) -> int:
        """How long a prefix of the run is worth checking, whatever others in the pass have."""


class Verifier(Protocol):
    """The target model: feeds segments and returns its own token after every fed token."""

    @property
    def device(self) -> str:
        """Name of the device that computes, e.g. `reference` or a Vulkan device's name."""

    @property
    def numerics_id(self) -> str:
        """Names everything that fixes the order of float operations on this device."""

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""

    @property
    def max_pass_tokens(self) -> int:
        """Most tokens that one pass can take, all segments together."""

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Sizes that passes are padded up to, ascending; empty where every size costs its own."""

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Start an empty sequence in `slot`."""

    def prefill(self, *segments: Segment) -> None:
        """Feed prompt tokens of one or several slots without choosing; any number of them."""

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """Feed every segment in one pass; for each, the target's token after each fed token."""

    def log_probs(self, slot: int) -> tuple[float, ...]:
        """Natural log-probability of each token that the last pass chose for `slot`.

        Under the softmax of the raw logits: temperature 1, no filters. Empty where the slot's
        sampling does not ask for it.
        """

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        """Let the open, empty `slot` hold `source`'s first `length` tokens, as if fed with them.

        An error where `source` was fed much further: local layers have lost what they saw there.
        """

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""

    def close(self, slot: int) -> None:
        """Free the slot."""

    def release(self) -> None:
        """Give back the device and all memory; the verifier is unusable afterwards."""


class Drafter(Protocol):
    """Proposes draft runs. Missing, slow or wrong it costs speed, never output."""

    @property
    def device(self) -> str:
        """Name of what drafts, e.g. `reference` or `ngram`."""

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Start drafting for a sequence whose confirmed tokens are `prompt_ids`."""

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """Append tokens the target has emitted; whatever was drafted beyond them is dropped."""

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """The run for `position` (the confirmed length), at most `max_length` tokens long.

        Before each token `stopping` is asked, if there is one, whether to go on. A drafter that
        gets its tokens for nothing may ignore it.
        """

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """Begin the run for `position`: a `take` with the same arguments waits for the rest alone.

        Never blocks. Where several sequences are prepared before the first of them is taken, their
        runs may be drafted together.
        """

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """The target begins to check `run` (K = 0: a plain pass); `confirm` will be its verdict.

        Never blocks. A drafter may work ahead for the endings that it holds likely.
        """

    def close(self, slot: int) -> None:
        """Forget the sequence."""

    def release(self) -> None:
        """Give back all resources; the drafter is unusable afterwards."""


class LanguageModel(Protocol):
    """A model with a KV cache per slot, as drafters use it."""

    @property
    def vocab_size(self) -> int:
        """V: number of logits per token."""

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a slot never fed."""

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Append tokens; float32 logits (num_logits, V) after each of the last `num_logits`."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
