"""The worker process: runs one drafter for its owner; it knows no model.

Started as `python -m draft.worker_process MEMORY BELL OWNER`: two inherited descriptors and the
owner's process id. The first message is the pickled factory of the drafter.

When a sequence opens and when a run was judged, the worker drafts the next run at once, as long as
the rule of the last Take says, and then waits for the Take that tells how long the run is wanted.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from draft.messages import (
    Close,
    Command,
    Confirm,
    DrafterFactory,
    Failed,
    Open,
    Ready,
    Reply,
    Run,
    Take,
    decode_command,
    encode_reply,
)
from draft.shared_memory import Channel, Descriptors, join_channel
from specdec.errors import SpecdecError
from specdec.types import Drafter, DraftRun

_LONGEST_AHEAD = 64  # tokens drafted before anybody asked for them
_NO_LIMIT_S = 1e9  # the owner watches the clock
_PR_SET_PDEATHSIG = 1


class OwnerGoneError(Exception):
    """The owner hung up or died."""


class _Inbox:
    """Commands in order; waiting ends with OwnerGoneError when there is nobody to wait for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._commands: deque[Command] = deque()

    def look(self, timeout_s: float | None) -> Command | None:
        """The next command, left in place; None if none came within the time."""
        while not self._commands:
            is_rung = self._channel.wait(timeout_s)
            if self._channel.is_cut:
                raise OwnerGoneError
            while (message := self._channel.receive()) is not None:
                self._commands.append(decode_command(message))
            if not is_rung:
                break
        return self._commands[0] if self._commands else None

    def pop(self) -> Command | None:
        """Take the command that `look` showed; None if it showed none."""
        return self._commands.popleft() if self._commands else None


@dataclass(slots=True)
class _Slot:
    """One sequence; `ahead` is a run for `position` that nobody has asked for yet."""

    position: int
    ahead: DraftRun | None = None
    is_due: bool = True  # the next run is to be drafted before it is asked for
    is_drafted: bool = False  # something was drafted since the last confirmation
    is_asked: bool = False  # a run was asked for since the last confirmation
    last_take: Take | None = None

    def advance(self, num_tokens: int) -> None:
        """Tokens were confirmed. After a round without drafting, none is drafted unasked."""
        self.position += num_tokens
        self.ahead = None
        self.is_due, self.is_asked, self.is_drafted = self.is_asked, False, False


class _AheadRule:
    """Lets a run grow until the Take for it comes, and then as far as that says.

    Without a Take it stops growing, and waits, where the rule of the last Take would have stopped.
    Any other command ends the run.
    """

    max_length = _LONGEST_AHEAD
    patience_s = _NO_LIMIT_S
    num_endings = 0

    def __init__(self, inbox: _Inbox, slot: int, state: _Slot) -> None:
        self._inbox = inbox
        self._slot = slot
        self._position = state.position
        self._last = state.last_take
        self.take: Take | None = None

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Whether to draft one more token."""
        if self.take is None:
            is_worth_it = _goes_on(self._last, confidences) if self._last else not confidences
            command = self._inbox.look(0.0 if is_worth_it else None)
            if command is None:
                return True
            if not (isinstance(command, Take) and self._is_mine(command)):
                return False
            self.take = command
            self._inbox.pop()
        return _goes_on(self.take, confidences)

    def num_to_check(self, run: DraftRun) -> int:
        """Not asked by drafters."""
        return len(run.token_ids)

    def _is_mine(self, take: Take) -> bool:
        return (take.slot, take.position) == (self._slot, self._position)


class DraftServer:
    """Serves commands until the owner goes."""

    def __init__(self, drafter: Drafter, channel: Channel) -> None:
        self._drafter = drafter
        self._channel = channel
        self._inbox = _Inbox(channel)
        self._slots: dict[int, _Slot] = {}

    def serve(self) -> None:
        """Handle commands; draft ahead when there are none."""
        while True:
            due = [slot for slot, state in self._slots.items() if state.is_due]
            self._inbox.look(0.0 if due else None)
            command = self._inbox.pop()
            if command is not None:
                self._handle(command)
            elif due:
                self._draft_ahead(due[0])

    def _handle(self, command: Command) -> None:
        if isinstance(command, Open):
            self._drafter.open(command.slot, command.prompt_ids, command.sampling)
            self._slots[command.slot] = _Slot(len(command.prompt_ids))
        elif isinstance(command, Confirm):
            self._drafter.confirm(command.slot, command.token_ids)
            self._slots[command.slot].advance(len(command.token_ids))
        elif isinstance(command, Take):
            self._answer(command, self._run(command))
        elif isinstance(command, Close):
            self._drafter.close(command.slot)
            self._slots.pop(command.slot, None)

    def _draft_ahead(self, slot: int) -> None:
        """Draft a run; it is sent at once if its Take comes meanwhile."""
        state = self._slots[slot]
        state.is_due, state.is_drafted = False, True
        rule = _AheadRule(self._inbox, slot, state)
        run = self._drafter.take(slot, state.position, _LONGEST_AHEAD, _NO_LIMIT_S, rule)
        if rule.take is None:
            state.ahead = run
        else:
            self._answer(rule.take, _cut(run, rule.take))

    def _run(self, take: Take) -> DraftRun:
        """The run for a Take that came while nothing was being drafted for it."""
        state = self._slots[take.slot]
        if take.position != state.position:
            return DraftRun(take.position)
        if state.ahead is not None:
            run = _cut(state.ahead, take)
            if not _goes_on(take, run.confidences):
                return run
        if state.is_drafted:
            self._drafter.confirm(take.slot, ())  # drops what was drafted: it starts again
        state.is_due, state.is_drafted = False, True
        stopping = take.stopping
        run = self._drafter.take(take.slot, take.position, take.max_length, _NO_LIMIT_S, stopping)
        return _cut(run, take)

    def _answer(self, take: Take, run: DraftRun) -> None:
        state = self._slots[take.slot]
        state.last_take, state.is_asked, state.ahead = take, True, None
        _reply(self._channel, Run(take.request_id, run))


def _goes_on(take: Take, confidences: Sequence[float]) -> bool:
    """Whether a Take wants one more token after these."""
    if len(confidences) >= take.max_length:
        return False
    return take.stopping is None or take.stopping.should_continue(confidences)


def _cut(run: DraftRun, take: Take) -> DraftRun:
    """The prefix of a run that a Take wants."""
    length = 0
    while length < len(run.token_ids) and _goes_on(take, run.confidences[:length]):
        length += 1
    return DraftRun(run.position, run.token_ids[:length], run.confidences[:length])


def _reply(channel: Channel, reply: Reply) -> None:
    if not channel.send(encode_reply(reply)):
        raise OwnerGoneError


def _die_with_owner(owner_pid: int) -> None:
    """Be killed when the owner dies, however it dies, and outlive its Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner_pid:  # it died before the call
        sys.exit(0)


def _serve(channel: Channel) -> None:
    """Build the drafter and serve."""
    channel.wait(None)
    message = channel.receive()
    if message is None:
        return
    factory: DrafterFactory = pickle.loads(message)
    drafter = factory()
    try:
        _reply(channel, Ready(drafter.device))
        DraftServer(drafter, channel).serve()
    except OwnerGoneError:
        drafter.release()


def main() -> int:
    """Run until the owner goes (0) or the drafter raises (1)."""
    memory, bell, owner_pid = map(int, sys.argv[1:])
    _die_with_owner(owner_pid)
    channel = join_channel(Descriptors(memory, bell))
    try:
        _serve(channel)
    except SpecdecError as error:
        channel.send(encode_reply(Failed(str(error))))
        return 1
    except Exception as error:  # whatever a drafter raises ends this process and is reported
        channel.send(encode_reply(Failed(f"{type(error).__name__}: {error}")))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
