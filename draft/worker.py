"""Runs a drafter in a process of its own; it knows no model, and it trusts nothing it hears.

Whatever happens to the worker (it raises, hangs, is stopped or killed, answers nonsense), its owner
gets runs of K = 0 meanwhile: a fault costs speed, never the run. A faulty worker is killed and
started again after a pause, a few times; the first fault is a warning, what follows information.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from draft.messages import (
    Close,
    Command,
    Confirm,
    DrafterFactory,
    Failed,
    InFlight,
    Open,
    Prepare,
    Ready,
    Reply,
    Run,
    Take,
    Wish,
    decode_reply,
    encode_command,
)
from draft.process import WorkerProcess
from draft.shared_memory import ChannelError
from specdec.errors import DeviceError
from specdec.types import DraftRun, SamplingParams, StoppingRule

_log = logging.getLogger("specdec")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """When to lose patience.

    A fault is forgotten after `num_good_runs` runs; `max_restarts` is the number of restarts for
    faults that are not. The n-th of them waits `pause_s` x 4^(n - 1) first.
    """

    start_timeout_s: float = 120.0  # to build the drafter
    hang_timeout_s: float = 60.0  # to answer: feeding a long prompt may take its time
    max_restarts: int = 3
    pause_s: float = 0.25
    num_good_runs: int = 64


@dataclass(slots=True)
class _Sequence:
    """What a new worker must be told about a slot."""

    token_ids: list[int]  # confirmed
    sampling: SamplingParams
    is_ahead_wanted: bool = False  # during the next pass
    num_unasked: int = 0  # rounds since a run was wanted
    untold: list[int] = field(default_factory=list)  # confirmed tokens kept back till one is


@dataclass(slots=True)
class _Wait:
    """An answer that is due."""

    request_id: int  # 0: the first word of a new worker
    give_up_at: float


@dataclass(slots=True)
class _Faults:
    """Faults so far; the first of all is worth a warning."""

    is_warned: bool = False
    num_recent: int = 0
    num_good_runs: int = 0
    restart_at: float = field(default=0.0)


class WorkerDrafter:
    """A Drafter whose work is done elsewhere; use from one thread."""

    def __init__(self, factory: DrafterFactory, settings: WorkerSettings | None = None) -> None:
        """Start the worker and wait until its drafter is built; DeviceError if it cannot be."""
        self._factory = pickle.dumps(factory)
        self._settings = settings or WorkerSettings()
        self._sequences: dict[int, _Sequence] = {}
        self._faults = _Faults()
        self._last_request_id = 0
        self._process: WorkerProcess | None = None
        self._wait: _Wait | None = None
        self._device = self._first_start()

    @property
    def device(self) -> str:
        """Name of what drafts in the worker."""
        return self._device

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Start a sequence; the worker feeds the prompt while the caller goes on."""
        self._sequences[slot] = _Sequence(list(prompt_ids), sampling)
        self._tell(Open(slot, tuple(prompt_ids), sampling))

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """Append confirmed tokens; the worker begins the next run, if it is wanted of late."""
        sequence = self._sequences[slot]
        sequence.token_ids.extend(token_ids)
        sequence.untold.extend(token_ids)
        if sequence.num_unasked < 2:  # then it has dropped what it drafted, and need not be woken
            self._tell_rest(slot, sequence.num_unasked + 1)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """The worker's run; K = 0 if it is late, in trouble or not there.

        A late worker is not waited for again until it has spoken.
        """
        self._restart_if_due()
        deadline = time.monotonic() + timeout_s
        if self._wait is not None:
            self._hear(time.monotonic())
        if self._wait is not None or self._process is None:
            return DraftRun(position)
        self._last_request_id += 1
        request_id = self._last_request_id
        self._sequences[slot].is_ahead_wanted = stopping is not None and stopping.num_endings > 0
        self._tell_rest(slot, 0)
        self._wait = _Wait(request_id, time.monotonic() + self._settings.hang_timeout_s)
        self._tell(Take(slot, request_id, position, max_length, stopping))
        run = self._hear(deadline)
        if run is None or run.position != position or len(run.token_ids) > max_length:
            return DraftRun(position)
        return run

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """Tell the worker what will be taken."""
        self._restart_if_due()
        self._tell_rest(slot, 0)
        self._tell(Prepare(position, Wish(slot, max_length, stopping)))

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """Tell the worker what is checked, if its last rule wants it to work meanwhile."""
        is_wanted, self._sequences[slot].is_ahead_wanted = (
            self._sequences[slot].is_ahead_wanted,
            False,
        )
        if is_wanted and self._wait is None:
            self._tell(InFlight(slot, run.position, run.token_ids))

    def close(self, slot: int) -> None:
        """Forget the sequence."""
        if self._sequences.pop(slot, None) is not None:
            self._tell(Close(slot))

    def release(self) -> None:
        """End the worker."""
        self._faults.num_recent = self._settings.max_restarts + 1
        if self._process is not None:
            self._process.end()
            self._process = None

    def _first_start(self) -> str:
        """Start and wait for the drafter's name; here the user may still mend what is wrong."""
        self._start()
        assert self._process is not None
        deadline = time.monotonic() + self._settings.start_timeout_s
        try:
            reply = self._next_reply(self._process, deadline)
            if isinstance(reply, Ready):
                self._wait = None
                return reply.device
            what = "is silent" if reply is None else "spoke out of turn"
            if reply is None and self._process.channel.is_cut:
                what = self._process.exit_text()
            reason = reply.reason if isinstance(reply, Failed) else f"the worker {what}"
        except ChannelError as error:
            reason = str(error)
        self.release()
        raise DeviceError(f"the draft worker cannot start: {reason}")

    def _start(self) -> None:
        """Start a process and tell it all it must know."""
        self._process = WorkerProcess()
        self._wait = _Wait(0, time.monotonic() + self._settings.start_timeout_s)
        self._process.channel.send(self._factory)
        for slot, sequence in self._sequences.items():
            sequence.untold.clear()
            self._tell(Open(slot, tuple(sequence.token_ids), sequence.sampling))

    def _restart_if_due(self) -> None:
        """Start a new process when the pause after a fault is over."""
        faults = self._faults
        is_due = self._process is None and faults.num_recent <= self._settings.max_restarts
        if is_due and time.monotonic() >= faults.restart_at:
            try:
                self._start()
            except OSError as error:
                self._fail(f"cannot be started ({error.strerror or error})")

    def _tell_rest(self, slot: int, num_unasked: int) -> None:
        """Tell the worker what was kept back of a sequence, after so many rounds unasked."""
        sequence = self._sequences[slot]
        sequence.num_unasked = num_unasked
        if sequence.untold:
            self._tell(Confirm(slot, tuple(sequence.untold)))
            sequence.untold.clear()

    def _tell(self, command: Command) -> None:
        """Send a command, if there is a worker."""
        if self._process is not None and not self._process.channel.send(encode_command(command)):
            self._fail(_last_words(self._process))

    def _hear(self, deadline: float) -> DraftRun | None:
        """Listen until what is waited for has come; the run, if it is one and came in time."""
        if self._process is None or self._wait is None:
            return None
        try:
            reply = self._next_reply(self._process, deadline)
        except ChannelError as error:
            self._fail(f"cannot be understood: {error}")
            return None
        if reply is None:
            self._lose_patience(self._process, self._wait)
        elif isinstance(reply, Failed):
            self._fail(f"failed: {reply.reason}")
        elif isinstance(reply, Run) and reply.request_id == self._wait.request_id:
            self._wait = None
            self._forgive()
            return reply.run
        elif isinstance(reply, Ready) and self._wait.request_id == 0:
            self._wait = None
        else:
            self._fail("answers what was not asked")
        return None

    def _next_reply(self, process: WorkerProcess, deadline: float) -> Reply | None:
        """The next reply; None if the worker has gone or says nothing until the deadline."""
        message = process.channel.receive()
        while message is None and process.channel.wait(deadline - time.monotonic()):
            message = process.channel.receive()  # the bell may be that of an earlier message
        return None if message is None else decode_reply(message)

    def _lose_patience(self, process: WorkerProcess, wait: _Wait) -> None:
        """Silence is a fault if the worker has gone or hangs."""
        if process.channel.is_cut:
            self._fail(_last_words(process))
        elif time.monotonic() >= wait.give_up_at:
            self._fail("does not answer")

    def _forgive(self) -> None:
        """A run came: after enough of them earlier faults are forgotten."""
        faults = self._faults
        faults.num_good_runs += 1
        if faults.num_good_runs >= self._settings.num_good_runs:
            faults.num_recent = 0

    def _fail(self, what: str) -> None:
        """Kill the worker and plan its restart, or do without."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        self._wait = None
        faults, settings = self._faults, self._settings
        faults.num_recent += 1
        faults.num_good_runs = 0
        pause_s = settings.pause_s * 4.0 ** (faults.num_recent - 1)
        faults.restart_at = time.monotonic() + pause_s
        if faults.num_recent > settings.max_restarts:
            plan = "no drafting from now on"
        else:
            plan = f"no drafting until restart {faults.num_recent} of {settings.max_restarts}"
        level = logging.INFO if faults.is_warned else logging.WARNING
        _log.log(level, "the draft worker (%s) %s; %s, output unchanged", self._device, what, plan)
        faults.is_warned = True


def _last_words(process: WorkerProcess) -> str:
    """Why a worker has gone: the reason it gave, if it gave one, else how it ended."""
    try:
        while (message := process.channel.receive()) is not None:
            reply = decode_reply(message)
            if isinstance(reply, Failed):
                return f"failed: {reply.reason}"
    except ChannelError:
        pass  # how it ended says more than what it garbled
    return process.exit_text()
