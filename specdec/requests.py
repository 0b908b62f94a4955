"""Turns prompts into requests that a model can run; it knows a tokenizer and no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Literal

from specdec.chat import encode_chat
from specdec.errors import PromptError
from specdec.prompts import Prompt
from specdec.sampling import request_seed
from specdec.sequence import Limits
from specdec.tokenizer import Tokenizer
from specdec.types import SamplingParams

Order = Literal["arrival", "longest"]

_WINDOW = 256  # requests read ahead to find the longest among


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a prompt that names nothing itself gets."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_new_tokens: int = 256
    eos_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    has_chat_template: bool = True  # the model was made for chat


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt ready to run: its tokens, how to sample, when to end."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    limits: Limits

    @property
    def longest(self) -> int:
        """Most tokens that it can come to, prompt included."""
        return len(self.prompt_ids) + self.limits.max_new_tokens


@dataclass(frozen=True, slots=True)
class Refusal:
    """A prompt that cannot run, and why."""

    prompt: Prompt
    sampling: SamplingParams
    error: PromptError


class RequestMaker:
    """Makes requests for one target."""

    def __init__(
        self, tokenizer: Tokenizer, defaults: GenerationDefaults, context_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._context_length = context_length

    def make(self, prompt: Prompt, base: SamplingParams) -> Request | Refusal:
        """The request for a prompt; `base` holds the run's settings, its seed among them."""
        sampling = sampling_of(prompt, base)
        try:
            prompt_ids = self._encode(prompt)
        except PromptError as error:
            return Refusal(prompt, sampling, error)
        return Request(prompt, prompt_ids, sampling, self._limits_of(prompt, len(prompt_ids)))

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, checked against the context."""
        if prompt.messages is not None:
            if not self._defaults.has_chat_template:
                raise PromptError(
                    f"prompt {prompt.id!r} is a chat, but the target has no chat template: it was "
                    "not trained for chat; give a plain prompt"
                )
            prompt_ids = encode_chat(self._tokenizer, prompt.messages)
        elif prompt.text:
            prompt_ids = self._tokenizer.encode(prompt.text, add_bos=True)
        else:
            raise PromptError(f"prompt {prompt.id!r} is empty; give at least one character")
        if len(prompt_ids) >= self._context_length:
            raise PromptError(
                f"prompt {prompt.id!r} has {len(prompt_ids)} tokens; the context holds "
                f"{self._context_length}, one of them generated: shorten it or raise "
                "run.context_length"
            )
        return prompt_ids

    def _limits_of(self, prompt: Prompt, prompt_length: int) -> Limits:
        defaults = self._defaults
        wanted = defaults.max_new_tokens if prompt.max_new_tokens is None else prompt.max_new_tokens
        return Limits(
            max_new_tokens=min(wanted, self._context_length - prompt_length),
            eos_ids=defaults.eos_ids,
            stop_token_ids=defaults.stop_token_ids,
            stop_strings=defaults.stop_strings if prompt.stop is None else prompt.stop,
        )


class Waiting:
    """Requests to come, read from an iterator of prompts no further ahead than needed."""

    def __init__(
        self, prompts: Iterator[Prompt], maker: RequestMaker, base: SamplingParams, order: Order
    ) -> None:
        self._prompts = prompts
        self._maker = maker
        self._base = base
        self._num_ahead = _WINDOW if order == "longest" else 1
        self._window: list[tuple[int, int, Request]] = []  # a heap, the longest first
        self._num_read = 0

    def next(self) -> Request | Refusal | None:
        """The next to run, or one that cannot; None at the end."""
        while len(self._window) < self._num_ahead:
            prompt = next(self._prompts, None)
            if prompt is None:
                break
            self._num_read += 1
            made = self._maker.make(prompt, self._base)
            if isinstance(made, Refusal):
                return made
            heappush(self._window, (-made.longest, self._num_read, made))
        return heappop(self._window)[2] if self._window else None

    def left(self) -> Iterator[tuple[Prompt, SamplingParams]]:
        """All that has not been handed out, in order of arrival, not checked."""
        for _, _, request in sorted(self._window, key=lambda entry: entry[1]):
            yield request.prompt, request.sampling
        self._window.clear()
        for prompt in self._prompts:
            yield prompt, sampling_of(prompt, self._base)


def sampling_of(prompt: Prompt, base: SamplingParams) -> SamplingParams:
    """The prompt's sampling: its own settings over the run's, and its own seed."""
    seed = request_seed(base.seed, prompt.id) if prompt.seed is None else prompt.seed
    own = {
        name: value
        for name in ("temperature", "top_k", "top_p", "min_p", "log_probs")
        if (value := getattr(prompt, name)) is not None
    }
    return replace(base, seed=seed, **own)
