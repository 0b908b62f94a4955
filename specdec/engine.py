"""The engine: prompts in, text out; it knows the protocols of specdec.types, no device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from specdec.batch import EngineParts
from specdec.cohorts import CohortChoice
from specdec.generation import Event
from specdec.late_opening import LateOpening
from specdec.planning import Controller, RoundRecorder
from specdec.prefixes import SharedPrefixes
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults, Order, RequestMaker, Waiting
from specdec.scheduler import Scheduler, StopFlags
from specdec.tokenizer import Tokenizer
from specdec.types import Drafter, SamplingParams, Verifier

_log = logging.getLogger("specdec")


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How many prompts run at once, which of those that wait goes first, what they share."""

    batch_size: int = 1
    order: Order = "arrival"
    shared_prefixes: int = 0  # beginnings of prompts that are kept, in slots beyond the batch's


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
        batch: BatchSettings | None = None,
    ) -> None:
        self._defaults = defaults
        self._maker = RequestMaker(tokenizer, defaults, verifier.context_length)
        self._batch = batch or BatchSettings()
        self._num_slots = min(self._batch.batch_size, verifier.max_pass_tokens)
        if self._num_slots < self._batch.batch_size:
            _log.warning(
                "run.batch_size is %d; a pass on %s takes %d tokens, so %d prompts run at once",
                self._batch.batch_size,
                verifier.device,
                verifier.max_pass_tokens,
                self._num_slots,
            )
        if drafter and self._num_slots > 1:
            drafter = LateOpening(drafter)
        self._parts = EngineParts(verifier, drafter, controller, tokenizer, tuple(recorders))
        first = self._batch.batch_size
        kept_slots = range(first, first + self._batch.shared_prefixes)
        self._prefixes = SharedPrefixes(verifier, kept_slots)
        self._choice = CohortChoice()
        self._flags = StopFlags()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def target_device(self) -> str:
        """Name of the device that verifies."""
        return self._parts.verifier.device

    @property
    def draft_device(self) -> str:
        """Name of what drafts; `off` when nothing does."""
        return self._parts.drafter.device if self._parts.drafter else "off"

    @property
    def numerics_id(self) -> str:
        """Names everything that fixes the order of the target's float operations."""
        return self._parts.verifier.numerics_id

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its text together."""
        return self._parts.verifier.context_length

    def generate(
        self, prompts: Iterable[Prompt | str], sampling: SamplingParams | None = None
    ) -> Iterator[Event]:
        """Run prompts, yielding text as it is confirmed and a result for each.

        Args:
            prompts: texts, or Prompts with their own limits; a bare text's id is its index. Read
                only as far ahead as needed.
            sampling: what a prompt without settings of its own gets; default: the config's. Its
                seed is the run's: a request's own follows from it and the request's id.

        Several prompts run at once where the batch size allows: their events mix, and results come
        as each is finished. A prompt that cannot run (empty, longer than the context) ends with
        finish_reason `error` and the others go on.
        """
        asked = (
            Prompt(id=str(index), text=item) if isinstance(item, str) else item
            for index, item in enumerate(prompts)
        )
        base = sampling or self._defaults.sampling
        scheduler = Scheduler(
            self._parts, self._num_slots, self._prefixes, self._choice, self._flags
        )
        yield from scheduler.run(Waiting(asked, self._maker, base, self._batch.order))

    def cancel(self) -> None:
        """End what runs after the current pass, and all that follow; signal-safe."""
        self._flags.is_cancelled = True

    def drain(self) -> None:
        """Start no further prompts, finish those that run; signal-safe."""
        self._flags.is_draining = True

    def close(self) -> None:
        """Give back devices and files; the engine is unusable afterwards."""
        for recorder in self._parts.recorders:
            recorder.release()
        if self._parts.drafter:
            self._parts.drafter.release()
        self._parts.verifier.release()
