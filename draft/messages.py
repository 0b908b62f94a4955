"""What a draft worker and its owner tell each other; it knows no process and no memory.

    owner -> worker   Open, Confirm, Take, Close: pickled, the worker trusts its owner
    worker -> owner   Ready, Run, Failed: plain structs, checked when read

A worker answers every Take with one Run of the same `request_id`, in order. Between messages it may
draft on by itself. A message of a new class (a verdict while a pass runs, a cancellation) needs a
branch in the worker's `_handle` and nothing else.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from draft.shared_memory import ChannelError
from specdec.types import Drafter, DraftRun, SamplingParams, StoppingRule

DrafterFactory = Callable[[], Drafter]  # picklable; called in the worker

_READY, _RUN, _FAILED = 1, 2, 3
_KIND = struct.Struct("=I")
_RUN_HEADER = struct.Struct("=IIqq")  # kind, count, request id, position
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


@dataclass(frozen=True, slots=True)
class Close:
    """The sequence has ended."""

    slot: int


Command = Open | Confirm | Take | Close


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
    run = reply.run
    header = _RUN_HEADER.pack(_RUN, len(run.token_ids), reply.request_id, run.position)
    token_ids = np.array(run.token_ids, np.int32).tobytes()
    return header + token_ids + np.array(run.confidences, np.float64).tobytes()


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
    _, count, request_id, position = _RUN_HEADER.unpack_from(message)
    ids_end = _RUN_HEADER.size + 4 * count
    if len(message) != ids_end + 8 * count:
        raise ChannelError(f"a run of {count} tokens came in {len(message)} bytes")
    token_ids = np.frombuffer(message[_RUN_HEADER.size : ids_end], np.int32)
    confidences = np.frombuffer(message[ids_end:], np.float64)
    return Run(
        request_id, DraftRun(position, tuple(token_ids.tolist()), tuple(confidences.tolist()))
    )


def _text(text: str) -> bytes:
    """The first line, not too long."""
    return text.strip().partition("\n")[0][:_MAX_TEXT].encode(errors="replace")
