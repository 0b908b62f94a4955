"""What is compared, each in its own process: a crash of one leaves the other's figures.

A Subject holds one sequence; `choose` is what a verify pass does, `feed` what prefill does. Both
are timed by the subject itself, from handing tokens over to having results on the host.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from specdec.errors import SpecdecError

WARM_UP_S = 0.2  # a GPU that was idle needs some 100 ms to come back to its clocks
_STOP_PATIENCE_S = 10.0


class Subject(Protocol):
    """An engine with one sequence."""

    @property
    def name(self) -> str:
        """What is measured, with its device where it knows it."""

    def cut(self, length: int) -> None:
        """Forget everything beyond `length` tokens."""

    def feed(self, token_ids: Sequence[int]) -> float:
        """Append tokens without choosing; seconds."""

    def choose(self, token_ids: Sequence[int]) -> float:
        """Append tokens; choices or logits after each of them on the host; seconds."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to time: `kind` of `size` tokens, with `depth` tokens in the cache before."""

    kind: str  # "prefill", "decode" (token by token) or "verify"
    size: int
    depth: int = 0

    def run_once(self, subject: Subject, token_ids: Sequence[int]) -> float:
        """Seconds of the whole job; the sequence is `depth` long before and after."""
        ids = token_ids[: self.size]
        if self.kind == "decode":
            elapsed_s = sum(subject.choose([token_id]) for token_id in ids)
        else:
            elapsed_s = subject.feed(ids) if self.kind == "prefill" else subject.choose(ids)
        subject.cut(self.depth)
        return elapsed_s


@dataclass(frozen=True, slots=True)
class OurOptions:
    """How our own target is opened."""

    shape: str
    device: str
    context_length: int

    def open(self) -> Subject:
        """Our target with random weights and an INT4 head."""
        from ours import OurTarget

        return OurTarget(self.shape, self.device, self.context_length)


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How llama.cpp is opened."""

    gguf: Path
    folder: Path | None
    context_length: int

    def open(self) -> Subject:
        """llama.cpp with all layers on the device."""
        from llama_cpp import LlamaCpp

        return LlamaCpp(self.gguf, self.folder, self.context_length)


class Remote:
    """A subject in a process of its own; RuntimeError once it has failed."""

    def __init__(self, opened: Callable[[], Subject], vocab_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opened, vocab_size))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pipe.close()  # ends the process's loop
        self._process.join(_STOP_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def name(self) -> str:
        """Waits until the subject is open."""
        answer = self._receive()
        assert isinstance(answer, str)
        return answer

    def block(self, job: Job, repeat: int) -> list[float]:
        """Seconds of `repeat` runs of a job in a row, after a warm-up."""
        try:
            self._pipe.send((job, repeat))
        except OSError as error:
            raise RuntimeError("its process has ended") from error
        answer = self._receive()
        assert isinstance(answer, list)
        return answer

    def _receive(self) -> object:
        try:
            answer: object = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(_STOP_PATIENCE_S)
            raise RuntimeError(f"its process ended with {self._process.exitcode}") from error
        if isinstance(answer, Exception):
            raise RuntimeError(str(answer)) from answer
        return answer


def _serve(pipe: Connection, opened: Callable[[], Subject], vocab_size: int) -> None:
    """Answer with a name, then with the times of every block asked for."""
    try:
        subject = opened()
    except (OSError, RuntimeError, ImportError, ValueError, SpecdecError) as error:
        pipe.send(RuntimeError(str(error)))
        return
    pipe.send(subject.name)
    ids = np.random.default_rng(0).integers(300, vocab_size, 1 << 16).tolist()
    depth = 0
    while True:
        try:
            job, repeat = pipe.recv()
        except EOFError:
            return
        try:
            if job.depth != depth:
                subject.cut(0)
                subject.feed(ids[: job.depth])
                depth = job.depth
            pipe.send(_timed_block(subject, job, ids, repeat))
        except (RuntimeError, SpecdecError) as error:
            pipe.send(RuntimeError(str(error)))


def _timed_block(subject: Subject, job: Job, ids: list[int], repeat: int) -> list[float]:
    warm_s = job.run_once(subject, ids)
    while warm_s < WARM_UP_S:
        warm_s += job.run_once(subject, ids)
    return [job.run_once(subject, ids[i:]) for i in range(repeat)]
