"""What a draft worker does: answers its owner, and between the messages works on; no process here.

When the only sequence opens and when its run was judged, the next run is drafted at once, as long
as the rule of the last Take says, and then waits for the Take that tells how long it is wanted.
Several sequences are drafted together, once that is asked for. While a run is being checked, the
drafter works for the likely endings; any message interrupts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from draft.messages import (
    Close,
    Command,
    Confirm,
    InFlight,
    Open,
    Prepare,
    Reply,
    Run,
    Take,
    Wish,
    WorkingDrafter,
    decode_command,
    encode_reply,
)
from draft.shared_memory import Channel
from specdec.types import DraftRun

_LONGEST_AHEAD = 64  # tokens drafted before anybody asked for them
_GATHERING_S = 0.0003  # what is prepared for several comes in several messages
_NO_LIMIT_S = 1e9  # the owner watches the clock


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
            self._receive()
            if not is_rung:
                break
        return self._commands[0] if self._commands else None

    def _receive(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._commands.append(decode_command(message))

    def concerns(self, slot: int) -> bool:
        """Whether something has come in that concerns a slot; does not wait."""
        self.look(0.0)
        self._receive()
        return any(command.slot == slot for command in self._commands)

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
    is_flying: bool = False  # the target checks a run, and there may be work to do meanwhile
    last_wish: Wish | None = None
    prepared: Wish | None = None

    def advance(self, num_tokens: int) -> None:
        """Tokens were confirmed. After a round without drafting, none is drafted unasked."""
        self.position += num_tokens
        self.ahead, self.prepared, self.is_flying = None, None, False
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
        self._last = state.last_wish
        self.take: Take | None = None

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Whether to draft one more token."""
        if self.take is None:
            is_worth_it = self._last.goes_on(confidences) if self._last else not confidences
            command = self._inbox.look(0.0 if is_worth_it else None)
            if command is None:
                return True
            if not (isinstance(command, Take) and self._is_mine(command)):
                return False
            self.take = command
            self._inbox.pop()
        return self.take.wish.goes_on(confidences) and not self._inbox.concerns(self._slot)

    def num_to_check(self, run: DraftRun) -> int:
        """Not asked by drafters."""
        return len(run.token_ids)

    def _is_mine(self, take: Take) -> bool:
        return (take.slot, take.position) == (self._slot, self._position)


@dataclass(frozen=True, slots=True)
class _UrgentRule:
    """The rule of a Take, until its owner says more of that slot: then it waits no longer."""

    wish: Wish
    inbox: _Inbox
    patience_s: float = _NO_LIMIT_S
    num_endings: int = 0

    @property
    def max_length(self) -> int:
        """As wished."""
        return self.wish.max_length

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Whether to draft one more token."""
        return self.wish.goes_on(confidences) and not self.inbox.concerns(self.wish.slot)

    def num_to_check(self, run: DraftRun) -> int:
        """Not asked by drafters."""
        return len(run.token_ids)


class DraftServer:
    """Serves commands until the owner goes."""

    def __init__(self, drafter: WorkingDrafter, channel: Channel) -> None:
        self._drafter = drafter
        self._channel = channel
        self._inbox = _Inbox(channel)
        self._slots: dict[int, _Slot] = {}

    def serve(self) -> None:
        """Handle commands; between them do what will be wanted, the surest first."""
        while True:
            work = self._work()
            is_gathering = any(state.prepared for state in self._slots.values())
            self._inbox.look((_GATHERING_S if is_gathering else 0.0) if work else None)
            command = self._inbox.pop()
            if command is not None:
                self._handle(command)
            elif work:
                work()

    def _work(self) -> Callable[[], None] | None:
        """What to do while nothing is asked."""
        slots = self._slots.items()
        wishes = [state.prepared for _, state in slots if state.prepared is not None]
        if wishes:
            return lambda: self._draft_each(wishes)
        for slot, state in slots:
            if state.is_due and len(slots) == 1:  # several are drafted together, once prepared
                return lambda: self._draft_ahead(slot)
            if state.is_flying and state.last_wish is not None:
                wish = state.last_wish
                return lambda: self._work_ahead(wish)
        return None

    def _handle(self, command: Command) -> None:
        slot = command.slot
        match command:
            case Open():
                self._drafter.open(slot, command.prompt_ids, command.sampling)
                self._slots[slot] = _Slot(len(command.prompt_ids))
            case Confirm():
                self._drafter.confirm(slot, command.token_ids)
                self._slots[slot].advance(len(command.token_ids))
            case Take():
                self._answer(command, self._run(command))
            case Prepare():
                self._prepare(command)
            case InFlight():
                self._drafter.in_flight(slot, DraftRun(command.position, command.token_ids))
                self._slots[slot].is_flying = True
            case Close():
                self._drafter.close(slot)
                self._slots.pop(slot, None)

    def _prepare(self, command: Prepare) -> None:
        state = self._slots[command.slot]
        if command.position == state.position:
            state.is_due, state.prepared = False, command.wish

    def _draft_beside(self, take: Take) -> None:
        """Draft what was prepared together with what is waited for: it will be waited for next."""
        wishes = [state.prepared for state in self._slots.values() if state.prepared is not None]
        if not wishes:
            return
        for wish in wishes:
            self._slots[wish.slot].is_drafted = True
        self._drafter.draft_each([take.wish, *wishes], lambda: not self._inbox.concerns(take.slot))

    def _draft_each(self, wishes: Sequence[Wish]) -> None:
        """Draft what was prepared, until it is done or something comes in."""
        for wish in wishes:
            self._slots[wish.slot].is_drafted = True
        self._drafter.draft_each(wishes, self._is_idle)
        if self._is_idle():
            for wish in wishes:
                self._slots[wish.slot].prepared = None

    def _work_ahead(self, wish: Wish) -> None:
        """Draft for the endings of a pass, until that is done or something comes in."""
        self._drafter.work_ahead(wish, self._is_idle)
        if self._is_idle():
            self._slots[wish.slot].is_flying = False

    def _is_idle(self) -> bool:
        return self._inbox.look(0.0) is None

    def _draft_ahead(self, slot: int) -> None:
        """Draft a run; it is sent at once if its Take comes meanwhile."""
        state = self._slots[slot]
        state.is_due, state.is_drafted = False, True
        rule = _AheadRule(self._inbox, slot, state)
        run = self._drafter.take(slot, state.position, _LONGEST_AHEAD, _NO_LIMIT_S, rule)
        if rule.take is None:
            state.ahead = run
        else:
            self._answer(rule.take, _cut(run, rule.take.max_length))

    def _run(self, take: Take) -> DraftRun:
        """The run for a Take that came while nothing was being drafted for it."""
        state = self._slots[take.slot]
        if take.position != state.position:
            return DraftRun(take.position)
        ahead = state.ahead
        if ahead is not None and not take.wish.goes_on(ahead.confidences[: take.max_length]):
            return _cut(ahead, take.max_length)
        if state.is_drafted:
            self._drafter.confirm(take.slot, ())  # a drafter without memory starts again
        state.is_due, state.is_drafted, state.prepared = False, True, None
        self._draft_beside(take)
        rule = _UrgentRule(take.wish, self._inbox)
        run = self._drafter.take(take.slot, take.position, take.max_length, _NO_LIMIT_S, rule)
        if ahead is not None:  # in two parts: what happened before belongs to the first
            steps = ahead.work.steps + run.work.steps
            run = replace(run, work=replace(ahead.work, steps=steps))
        return _cut(run, take.max_length)

    def _answer(self, take: Take, run: DraftRun) -> None:
        state = self._slots[take.slot]
        state.last_wish, state.is_asked, state.ahead = take.wish, True, None
        reply_to(self._channel, Run(take.request_id, run))


def _cut(run: DraftRun, length: int) -> DraftRun:
    """The run's first `length` tokens: what is drafted already is handed over whole."""
    return replace(run, token_ids=run.token_ids[:length], confidences=run.confidences[:length])


def reply_to(channel: Channel, reply: Reply) -> None:
    """Send a reply; OwnerGoneError if nobody takes it."""
    if not channel.send(encode_reply(reply)):
        raise OwnerGoneError
