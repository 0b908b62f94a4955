"""Two parties that take turns on a clock of their own, so that schedules are random and repeat.

Each party is a thread; only the one whose time has come runs. Every `pause` may take no time, a
little, or very much; messages arrive when the other party gets to read them. A run of a thousand
seconds takes milliseconds, and the same seed gives the same schedule.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from draft.shared_memory import ChannelError

OWNER, WORKER = 0, 1


class KilledError(BaseException):
    """Ends the worker's thread wherever it is."""


class World:
    """The clock, and whose turn it is."""

    def __init__(self, seed: int, scale_s: float = 0.001) -> None:
        self.dice = random.Random(seed)
        self.scale_s = scale_s
        self.now_s = 1000.0
        self.slowness = [1.0, 1.0]  # of each party
        self.killed = False
        self._turns = [threading.Semaphore(0), threading.Semaphore(0)]
        self._wakes: list[float | None] = [None, None]  # None: does not run, or has ended
        self.me = OWNER
        self._thread: threading.Thread | None = None

    def clock(self) -> float:
        """Seconds."""
        return self.now_s

    def start_worker(self, serve: Callable[[], None]) -> None:
        """Let the worker's party begin at its next turn."""

        def run() -> None:
            self._turns[WORKER].acquire()
            self.me = WORKER
            try:
                if not self.killed:
                    serve()
            except KilledError:
                pass
            self._wakes[WORKER] = None
            self._hand_over(OWNER)

        self.killed = False
        self._wakes[WORKER] = self.now_s
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def kill_worker(self) -> None:
        """End it, and wait for its end; to be called by the owner."""
        if self._thread is not None and self._thread.is_alive():
            self.killed = True
            self._wakes[OWNER], self._wakes[WORKER] = self.now_s, self.now_s
            self._hand_over(WORKER)
            self._turns[OWNER].acquire()
            self.me = OWNER
            self._thread.join()

    def pause(self) -> None:
        """Take a random time: mostly little, seldom a hundred times as much."""
        kind = self.dice.random()
        factor = 0.0 if kind < 0.4 else 1.0 if kind < 0.9 else 10.0 if kind < 0.98 else 100.0
        self.sleep(self.dice.random() * factor * self.scale_s * self.slowness[self.me])

    def sleep(self, seconds: float) -> None:
        """Be away for so long, or until the other party wakes this one."""
        me = self.me
        self._wakes[me] = self.now_s + seconds
        other = self._wakes[1 - me]
        mine = self._wakes[me]
        assert mine is not None
        if other is None or (mine, self.dice.random()) <= (other, 0.5):
            self.now_s = max(self.now_s, mine)
        else:
            self._hand_over(1 - me)
            self._turns[me].acquire()
            self.me = me
            self.now_s = max(self.now_s, self._wakes[me] or 0.0)
        if self.killed and me == WORKER:
            raise KilledError

    def wake(self, party: int) -> None:
        """Something has come for a party: it need not sleep on."""
        at = self._wakes[party]
        if at is not None:
            self._wakes[party] = min(at, self.now_s)

    def _hand_over(self, party: int) -> None:
        at = self._wakes[party]
        if at is not None:
            self.now_s = max(self.now_s, at)
        self._turns[party].release()


class VirtualChannel:
    """One end of a channel between the parties."""

    def __init__(self, world: World, party: int, capacity: int = 10_000) -> None:
        self.world, self.party, self.capacity = world, party, capacity
        self.inbox: deque[bytes] = deque()
        self.is_rung = False
        self.peer: VirtualChannel = self
        self.is_cut = False

    def send(self, message: bytes) -> bool:
        self.world.pause()
        if self.is_cut or len(self.peer.inbox) >= self.capacity:
            return False
        self.peer.inbox.append(message)
        self.peer.is_rung = True
        self.world.wake(1 - self.party)
        self.world.pause()
        return True

    def receive(self) -> bytes | None:
        self.world.pause()
        return self.inbox.popleft() if self.inbox else None

    def wait(self, timeout_s: float | None) -> bool:
        end_s = self.world.now_s + min(max(timeout_s or 0.0, 0.0), 1e7)
        if timeout_s is None:
            end_s = self.world.now_s + 1e7
        while not self.is_rung and not self.is_cut and self.world.now_s < end_s:
            self.world.sleep(end_s - self.world.now_s)
        is_rung, self.is_rung = self.is_rung, False
        return is_rung and not self.is_cut

    def close(self) -> None:
        self.is_cut = self.peer.is_cut = True
        self.peer.is_rung = True
        self.world.wake(1 - self.party)


def channel_pair(world: World) -> tuple[VirtualChannel, VirtualChannel]:
    """The owner's end and the worker's."""
    ours, theirs = VirtualChannel(world, OWNER), VirtualChannel(world, WORKER)
    ours.peer, theirs.peer = theirs, ours
    return ours, theirs


class VirtualProcess:
    """Stands in for draft.process.WorkerProcess: the worker is a party of the world."""

    world: World
    serve: Callable[[VirtualChannel], None]

    def __init__(self) -> None:
        self.channel, theirs = channel_pair(self.world)
        serve = type(self).serve

        def run() -> None:
            with suppress(ChannelError):
                serve(theirs)
            theirs.close()

        self.world.start_worker(run)

    def exit_text(self) -> str:
        return "has gone"

    def kill(self) -> None:
        self.end()

    def end(self) -> None:
        self.channel.close()
        self.world.kill_worker()
