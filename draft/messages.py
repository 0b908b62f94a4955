"""What a draft worker and its owner tell each other; it knows no process and no memory.

    owner -> worker   Open, Prepare, Take, InFlight, Confirm, Close: pickled, the worker trusts it
    worker -> owner   Ready, Run, Failed: plain structs, checked when read

A worker answers every Take with one Run of the same `request_id`, in order. Between messages it may
draft on by itself: InFlight tells what is being checked, Confirm is the verdict, and cancels all
that was begun for other endings.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from draft.shared_memory import ChannelError
from specdec.types import (
    Drafter,
    DraftRun,
    DraftStep,
    DraftWork,
    SamplingParams,
    StoppingRule,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """How long a run of a slot is wanted."""

    slot: int
    max_length: int
    stopping: StoppingRule | None

    def goes_on(self, confidences: Sequence[float]) -> bool:
        """Whether one more token is wanted after those with these confidences."""
        if len(confidences) >= self.max_length:
            return False
        return self.stopping is None or self.stopping.should_continue(confidences)

    def goes_on_ahead(self, confidences: Sequence[float]) -> bool:
        """The same while nobody waits: as long as everything drafted is worth checking."""
        count = len(confidences)
        if count >= self.max_length or self.stopping is None:
            return count < self.max_length
        run = DraftRun(0, (0,) * count, tuple(confidences))
        is_worth_it = self.stopping.num_to_check(run) == count
        return is_worth_it or self.stopping.should_continue(confidences)


class WorkingDrafter(Drafter, Protocol):
    """A drafter that a worker runs: it can be given work between the calls.

    It returns soon after `goes_on` says no, which it asks before every step, and is then called
    again; it returns by itself when nothing is left to do.
    """

    def work_ahead(self, wish: Wish, goes_on: Callable[[], bool]) -> None:
        """Draft for the likely endings of a slot's pass in flight, each run as long as wished."""

    def draft_each(self, wishes: Sequence[Wish], goes_on: Callable[[], bool]) -> None:
        """Draft the runs of several sequences together, to be taken later."""


DrafterFactory = Callable[[], WorkingDrafter]  # picklable; called in the worker

_READY, _RUN, _FAILED = 1, 2, 3
_KIND = struct.Struct("=I")
# kind, tokens, steps, request id, position; endings, ready tokens, hit, seconds these took
_RUN_HEADER = struct.Struct("=IIIqqII?d")
_STEP = struct.Struct("=ddI?")
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Open:
    """A sequence starts."""

    slot: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Confirm:
    """The target emitted these tokens."""

    slot: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Take:
    """A run is wanted."""

    slot: int
    request_id: int
    position: int
    max_length: int
    stopping: StoppingRule | None

    @property
    def wish(self) -> Wish:
        """How long it is wanted."""
        return Wish(self.slot, self.max_length, self.stopping)


@dataclass(frozen=True, slots=True)
class Prepare:
    """A run for `position` will be wanted."""

    position: int
    wish: Wish

    @property
    def slot(self) -> int:
        """Whose run."""
        return self.wish.slot


@dataclass(frozen=True, slots=True)
class InFlight:
    """The target has begun to check these tokens."""

    slot: int
    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """The sequence has ended."""

    slot: int


Command = Open | Confirm | Take | Prepare | InFlight | Close


@dataclass(frozen=True, slots=True)
class Ready:
    """The drafter is built."""

    device: str


@dataclass(frozen=True, slots=True)
class Run:
    """The answer to the Take of this id."""

    request_id: int
    run: DraftRun


@dataclass(frozen=True, slots=True)
class Failed:
    """The drafter raised; the worker ends."""

    reason: str


Reply = Ready | Run | Failed


def encode_command(command: Command) -> bytes:
    """A command as bytes."""
    return pickle.dumps(command, protocol=pickle.HIGHEST_PROTOCOL)


def decode_command(message: bytes) -> Command:
    """The command that the owner sent."""
    command: Command = pickle.loads(message)
    return command


def encode_reply(reply: Reply) -> bytes:
    """A reply as bytes; raises where a drafter's run holds no numbers."""
    if isinstance(reply, Ready):
        return _KIND.pack(_READY) + _text(reply.device)
    if isinstance(reply, Failed):
        return _KIND.pack(_FAILED) + _text(reply.reason)
    run, work = reply.run, reply.run.work
    header = _RUN_HEADER.pack(
        *(_RUN, len(run.token_ids), len(work.steps), reply.request_id, run.position),
        *(work.num_endings, work.num_ready, work.is_hit, work.ready_s),
    )
    token_ids = np.array(run.token_ids, np.int32).tobytes()
    steps = (_STEP.pack(s.start_s, s.end_s, s.num_rows, s.is_ahead) for s in work.steps)
    confidences = np.array(run.confidences, np.float64).tobytes()
    return b"".join((header, token_ids, confidences, *steps))


def decode_reply(message: bytes) -> Reply:
    """The reply that a worker sent; ChannelError if it is none."""
    if len(message) >= _KIND.size:
        (kind,) = _KIND.unpack_from(message)
        if kind == _READY:
            return Ready(message[_KIND.size :].decode(errors="replace"))
        if kind == _FAILED:
            return Failed(message[_KIND.size :].decode(errors="replace"))
        if kind == _RUN and len(message) >= _RUN_HEADER.size:
            return _decode_run(message)
    raise ChannelError(f"a reply of {len(message)} bytes has no known form")


def _decode_run(message: bytes) -> Run:
    _, count, num_steps, request_id, position, *facts = _RUN_HEADER.unpack_from(message)
    ids_end = _RUN_HEADER.size + 4 * count
    run_end = ids_end + 8 * count
    if len(message) != run_end + num_steps * _STEP.size:
        raise ChannelError(f"{count} tokens, {num_steps} steps came in {len(message)} bytes")
    token_ids = np.frombuffer(message[_RUN_HEADER.size : ids_end], np.int32)
    confidences = np.frombuffer(message[ids_end:run_end], np.float64)
    num_endings, num_ready, is_hit, ready_s = facts
    steps = tuple(DraftStep(*step) for step in _STEP.iter_unpack(message[run_end:]))
    work = DraftWork(num_endings, is_hit, min(num_ready, count), ready_s, steps)
    run = DraftRun(position, tuple(token_ids.tolist()), tuple(confidences.tolist()), work)
    return Run(request_id, run)


def _text(text: str) -> bytes:
    """The first line, not too long."""
    return text.strip().partition("\n")[0][:_MAX_TEXT].encode(errors="replace")
