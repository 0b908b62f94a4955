"""The loop: draft, verify, accept, emit. It knows the protocols of specdec.types, no device.

The caches of target and draft never hold a token past the last accepted one when a round ends, and
the last confirmed token is always the next to be fed. So full acceptance needs no special case.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile

from specdec.accept import accept
from specdec.chat import encode_chat
from specdec.errors import PromptError
from specdec.generation import Event, Generation
from specdec.prompts import Prompt
from specdec.sampling import request_seed
from specdec.sequence import FinishReason, Limits, Sequence
from specdec.stats import SpecStats
from specdec.tokenizer import Detokenizer, Tokenizer
from specdec.types import (
    Controller,
    Drafter,
    DraftRun,
    RoundRecorder,
    RoundReport,
    SamplingParams,
    Segment,
    StoppingRule,
    Verifier,
)

_DRAFT_TIMEOUT_S = 5.0  # a drafter that takes longer costs one plain pass, never the run
_SLOT = 0  # one sequence at a time


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a prompt that names nothing itself gets."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_new_tokens: int = 256
    eos_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    has_chat_template: bool = True  # the model was made for chat


class Engine:
    """Generates with one target and, if there is one, a drafter. Use as a context manager."""

    def __init__(
        self,
        verifier: Verifier,
        drafter: Drafter | None,
        controller: Controller,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        recorders: Iterable[RoundRecorder] = (),
    ) -> None:
        self._verifier = verifier
        self._drafter = drafter
        self._controller = controller
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._recorders = tuple(recorders)
        self._cancelled = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def target_device(self) -> str:
        """Name of the device that verifies."""
        return self._verifier.device

    @property
    def draft_device(self) -> str:
        """Name of what drafts; `off` when nothing does."""
        return self._drafter.device if self._drafter else "off"

    def generate(
        self, prompts: Iterable[Prompt | str], sampling: SamplingParams | None = None
    ) -> Iterator[Event]:
        """Run prompts in order, yielding text as it is confirmed and a result for each.

        Args:
            prompts: texts, or Prompts with their own limits; a bare text's id is its index.
            sampling: what a prompt without settings of its own gets; default: the config's. Its
                seed is the run's: a request's own follows from it and the request's id.

        A prompt that cannot run (empty, longer than the context) ends with finish_reason `error`
        and the others go on.
        """
        for index, item in enumerate(prompts):
            prompt = Prompt(id=str(index), text=item) if isinstance(item, str) else item
            params = self._sampling_of(prompt, sampling or self._defaults.sampling)
            try:
                prompt_ids = self._encode(prompt)
            except PromptError as error:
                yield self._failed(prompt, params, error)
                continue
            yield from self._run(prompt, prompt_ids, params)

    def cancel(self) -> None:
        """End the running generation after its current pass, and all that follow; signal-safe."""
        self._cancelled = True

    def close(self) -> None:
        """Give back devices and files; the engine is unusable afterwards."""
        for recorder in self._recorders:
            recorder.release()
        if self._drafter:
            self._drafter.release()
        self._verifier.release()

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
        context_length = self._verifier.context_length
        if len(prompt_ids) >= context_length:
            raise PromptError(
                f"prompt {prompt.id!r} has {len(prompt_ids)} tokens; the context holds "
                f"{context_length}, one of them generated: shorten it or raise run.context_length"
            )
        return prompt_ids

    def _sampling_of(self, prompt: Prompt, base: SamplingParams) -> SamplingParams:
        """The prompt's sampling: its own settings over the defaults, and its own seed."""
        seed = request_seed(base.seed, prompt.id) if prompt.seed is None else prompt.seed
        own = {
            name: value
            for name in ("temperature", "top_k", "top_p", "min_p", "log_probs")
            if (value := getattr(prompt, name)) is not None
        }
        return replace(base, seed=seed, **own)

    def _limits_of(self, prompt: Prompt, prompt_length: int) -> Limits:
        defaults = self._defaults
        wanted = defaults.max_new_tokens if prompt.max_new_tokens is None else prompt.max_new_tokens
        return Limits(
            max_new_tokens=min(wanted, self._verifier.context_length - prompt_length),
            eos_ids=defaults.eos_ids,
            stop_token_ids=defaults.stop_token_ids,
            stop_strings=defaults.stop_strings if prompt.stop is None else prompt.stop,
        )

    def _run(
        self, prompt: Prompt, prompt_ids: tuple[int, ...], sampling: SamplingParams
    ) -> Iterator[Event]:
        """Generate for one prompt; the slot is freed however the caller stops."""
        limits = self._limits_of(prompt, len(prompt_ids))
        decoder = Detokenizer(self._tokenizer)
        sequence = Sequence(prompt.id, _SLOT, prompt_ids, sampling, limits, decoder)
        stats = SpecStats()
        try:
            self._open(sequence, stats)
            while sequence.finish_reason is None:
                if self._cancelled:
                    sequence.finish("cancelled")
                    emitted: tuple[int, ...] = ()
                    num_accepted = 0
                else:
                    emitted, num_accepted = self._round(sequence, stats)
                result = self._result(prompt, sequence, stats)
                text = sequence.take_text()
                yield Event(prompt.id, text, emitted, min(num_accepted, len(emitted)), result)
        finally:
            self._verifier.close(sequence.slot)
            self._controller.close(sequence.slot)
            if self._drafter:
                self._drafter.close(sequence.slot)
            for recorder in self._recorders:
                recorder.close(sequence.slot)

    def _open(self, sequence: Sequence, stats: SpecStats) -> None:
        """Prefill all of the prompt but its last token, which the first round feeds."""
        start = time.perf_counter()
        self._verifier.open(sequence.slot, sequence.sampling)
        self._verifier.prefill(Segment(sequence.slot, 0, sequence.prompt_ids[:-1]))
        if self._drafter:
            self._drafter.open(sequence.slot, sequence.prompt_ids, sequence.sampling)
        stats.prefill_s = time.perf_counter() - start
        self._controller.open(sequence.slot, sequence.sampling)
        for recorder in self._recorders:
            ids = sequence.prompt_ids
            recorder.open(sequence.slot, sequence.request_id, ids, sequence.sampling)

    def _round(self, sequence: Sequence, stats: SpecStats) -> tuple[tuple[int, ...], int]:
        """Draft, verify, accept: the tokens emitted, and how many of them were drafted."""
        start = time.perf_counter()
        slot, position = sequence.slot, sequence.length
        rule = self._plan(sequence)
        planned = time.perf_counter()
        drafted = self._draft(sequence, rule)
        num_checked = rule.num_to_check(drafted)
        run = DraftRun(position, drafted.token_ids[:num_checked], drafted.confidences[:num_checked])
        fed = Segment(slot, position - 1, (sequence.last_token_id, *run.token_ids))
        if self._drafter:
            self._drafter.in_flight(slot, run)
        draft_end = time.perf_counter()
        target_ids = self._verifier.verify([fed])[0]
        verify_end = time.perf_counter()
        acceptance = accept(run, target_ids)
        self._verifier.truncate(slot, position + len(acceptance.accepted))
        emitted = sequence.extend(acceptance.emitted, self._verifier.log_probs(slot))
        if self._drafter:
            self._drafter.confirm(slot, emitted)
        draft_s, verify_s = draft_end - planned, verify_end - draft_end
        other_s = time.perf_counter() - start - draft_s - verify_s
        self._learn(
            slot,
            RoundReport(
                drafted, num_checked, acceptance, emitted, draft_s, verify_s, other_s, draft_end
            ),
            stats,
        )
        stats.decode_s += time.perf_counter() - start
        return emitted, len(acceptance.accepted)

    def _learn(self, slot: int, report: RoundReport, stats: SpecStats) -> None:
        """Tell everybody who counts what a round did."""
        self._controller.observe(slot, report)
        stats.observe(report)
        for recorder in self._recorders:
            recorder.observe(slot, report)

    def _plan(self, sequence: Sequence) -> StoppingRule:
        """The controller's rule for a run that is no longer than could be fed and emitted."""
        longest = min(self._verifier.max_pass_tokens, sequence.num_remaining) - 1
        longest = longest if self._drafter else 0
        return self._controller.plan(sequence.slot, sequence.length, longest)

    def _draft(self, sequence: Sequence, rule: StoppingRule) -> DraftRun:
        """The next run; K = 0 where drafting is off or failed."""
        position, longest = sequence.length, rule.max_length
        if self._drafter is None or longest <= 0:
            return DraftRun(position)
        patience_s = min(rule.patience_s, _DRAFT_TIMEOUT_S)
        run = self._drafter.take(sequence.slot, position, longest, patience_s, rule)
        if run.position != position:  # drafted for an ending that did not come true
            return DraftRun(position)
        return self._legal_part(run, longest)

    def _legal_part(self, run: DraftRun, longest: int) -> DraftRun:
        """The run's prefix of at most `longest` ids of the vocabulary: a drafter is not trusted."""
        vocab_size = self._tokenizer.vocab_size
        legal = tuple(takewhile(lambda token: 0 <= token < vocab_size, run.token_ids[:longest]))
        return replace(run, token_ids=legal, confidences=run.confidences[: len(legal)])

    def _result(self, prompt: Prompt, sequence: Sequence, stats: SpecStats) -> Generation | None:
        """The finished generation, or None while it runs."""
        if sequence.finish_reason is None:
            return None
        return replace(
            self._empty(prompt, sequence.sampling, sequence.finish_reason),
            text=sequence.text,
            token_ids=tuple(sequence.emitted_ids),
            log_probs=tuple(sequence.log_probs) if sequence.sampling.log_probs else None,
            stats=stats,
        )

    def _failed(self, prompt: Prompt, sampling: SamplingParams, error: PromptError) -> Event:
        """The result of a prompt that could not run."""
        result = replace(self._empty(prompt, sampling, "error"), error=str(error))
        return Event(prompt.id, "", (), 0, result)

    def _empty(
        self, prompt: Prompt, sampling: SamplingParams, finish_reason: FinishReason
    ) -> Generation:
        """A result without text: what any result of this engine says of prompt and devices."""
        return Generation(
            id=prompt.id,
            prompt=prompt.shown_text,
            text="",
            token_ids=(),
            finish_reason=finish_reason,
            mode=self._controller.mode,
            target_device=self.target_device,
            draft_device=self.draft_device,
            numerics_id=self._verifier.numerics_id,
            seed=sampling.seed,
            stats=SpecStats(),
        )
