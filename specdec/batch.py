"""Sequences in their slots: opened and closed everywhere, prefilled by and by; it runs no pass."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from specdec.planning import Controller, RoundRecorder
from specdec.prefixes import SharedPrefixes
from specdec.requests import Request
from specdec.sequence import Sequence
from specdec.stats import SpecStats
from specdec.tokenizer import Detokenizer, Tokenizer
from specdec.types import Drafter, Segment, Verifier


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What an engine is made of."""

    verifier: Verifier
    drafter: Drafter | None
    controller: Controller
    tokenizer: Tokenizer
    recorders: Several[RoundRecorder] = ()


@dataclass(slots=True, eq=False)
class Running:
    """A request in its slot."""

    request: Request
    sequence: Sequence
    stats: SpecStats = field(default_factory=SpecStats)
    num_prefilled: int = 0
    has_begun: bool = False  # some of the prompt may be in the slot
    keep_at: int = 0  # how much of the prompt to keep for others once it is in the slot, 0: nothing


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens of a prompt to be fed."""

    running: Running
    segment: Segment


class Batch:
    """The sequences that run now, at most `num_slots` of them."""

    def __init__(self, parts: EngineParts, num_slots: int, prefixes: SharedPrefixes) -> None:
        self._parts = parts
        self._prefixes = prefixes
        self._free = list(range(num_slots))
        self._running: dict[int, Running] = {}  # by slot
        self._prefilling: deque[Running] = deque()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether one more may join."""
        return bool(self._free)

    @property
    def running(self) -> list[Running]:
        """All sequences, in order of joining."""
        return list(self._running.values())

    def join(self, request: Request) -> None:
        """Give a request a slot; the lowest that is free."""
        start = time.perf_counter()
        slot = min(self._free)
        self._free.remove(slot)
        decoder = Detokenizer(self._parts.tokenizer)
        ids, sampling = request.prompt_ids, request.sampling
        sequence = Sequence(request.prompt.id, slot, ids, sampling, request.limits, decoder)
        running = Running(request, sequence)
        self._running[slot] = running
        self._prefilling.append(running)
        self._parts.verifier.open(slot, sampling)
        if self._parts.drafter:
            self._parts.drafter.open(slot, ids, sampling)
        self._parts.controller.open(slot, sampling)
        for recorder in self._parts.recorders:
            recorder.open(slot, request.prompt.id, ids, sampling)
        running.stats.prefill_s += time.perf_counter() - start

    def prefill(self, max_tokens: int) -> list[Running]:
        """Feed up to `max_tokens` prompt tokens, first come first served; those now complete.

        A prompt's last token is left to the first round.
        """
        complete, parts = [], list[_Part]()
        while self._prefilling and max_tokens > 0:
            running = self._prefilling[0]
            parts.append(self._next_part(running, max_tokens))
            max_tokens -= len(parts[-1].segment.token_ids)
            if running.keep_at and running.num_prefilled == running.keep_at:
                self._feed(parts)
                parts = []  # the next prompt may start from what is kept
                slot, prefix_ids = running.sequence.slot, running.request.prompt_ids
                self._prefixes.keep(slot, prefix_ids[: running.keep_at])
                running.keep_at = 0
            if running.num_prefilled == len(running.request.prompt_ids) - 1:
                complete.append(self._prefilling.popleft())
        self._feed(parts)
        return complete

    def leave(self, running: Running) -> None:
        """Free the slot of a sequence that has ended."""
        slot = running.sequence.slot
        del self._running[slot]
        self._free.append(slot)
        self._close(slot)

    def close(self) -> None:
        """Free all slots, whatever runs in them."""
        for slot in list(self._running):
            self._close(slot)
        self._running.clear()

    def _next_part(self, running: Running, max_tokens: int) -> _Part:
        """What to feed of a prompt next; counted as fed."""
        start, prompt_ids = time.perf_counter(), running.request.prompt_ids
        slot = running.sequence.slot
        if not running.has_begun:
            begun = self._prefixes.begin(slot, prompt_ids)
            running.num_prefilled, running.keep_at = begun.num_held, begun.keep_at
            running.has_begun = True
        position = running.num_prefilled
        stop = running.keep_at or len(prompt_ids) - 1
        ids = prompt_ids[position:stop][:max_tokens]
        running.num_prefilled += len(ids)
        running.stats.prefill_s += time.perf_counter() - start
        return _Part(running, Segment(slot, position, ids))

    def _feed(self, parts: Several[_Part]) -> None:
        """Feed parts of prompts, each sequence charged for its tokens."""
        start = time.perf_counter()
        segments = [part.segment for part in parts if part.segment.token_ids]
        if not segments:
            return
        self._parts.verifier.prefill(*segments)
        elapsed_s = time.perf_counter() - start
        num_tokens = sum(len(segment.token_ids) for segment in segments)
        for part in parts:
            share = len(part.segment.token_ids) / num_tokens
            part.running.stats.prefill_s += share * elapsed_s

    def _close(self, slot: int) -> None:
        self._parts.verifier.close(slot)
        self._parts.controller.close(slot)
        if self._parts.drafter:
            self._parts.drafter.close(slot)
        for recorder in self._parts.recorders:
            recorder.close(slot)
