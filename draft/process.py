"""A worker process and the channel to it: started, watched, ended; it knows no drafting.

A thread of its own starts each process and waits for its end. So a dead worker is never left a
zombie, and the kernel's "kill me when my parent dies", which means the thread that started it,
holds for the life of this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref

from draft.shared_memory import Channel, Descriptors, open_channel

_STDERR = 2
_START_S = 10.0  # for the operating system to start an interpreter's process
_LEAVE_S = 1.0  # for a worker to give back its device before it is killed


class WorkerProcess:
    """One started worker; `end` is safe to call at any time and runs by itself at exit."""

    def __init__(self) -> None:
        self.channel, theirs = open_channel()
        self._life = _Life(theirs)
        try:
            self._life.start()
        finally:
            os.close(theirs.memory)
            os.close(theirs.bell)
        self._finalizer = weakref.finalize(self, _end, self.channel, self._life)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._life.pid

    def exit_text(self) -> str:
        """How the process ended, for people."""
        code = self._life.wait(_LEAVE_S)
        if code is None:
            return "hung up"
        return f"died of signal {-code}" if code < 0 else f"ended with exit code {code}"

    def kill(self) -> None:
        """End it without asking."""
        self._life.kill()
        self.end()

    def end(self) -> None:
        """Hang up and wait; a worker that does not leave is killed."""
        self._finalizer()


class _Life:
    """The thread that starts the process and collects its exit code."""

    def __init__(self, theirs: Descriptors) -> None:
        self._theirs = theirs
        self._is_started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="draft-worker", daemon=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process; OSError if the system refuses."""
        self._thread.start()
        if not self._is_started.wait(_START_S):
            raise OSError("the system did not start the process in time")
        if self._error is not None:
            raise self._error

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, None while the process lives."""
        self._thread.join(timeout_s)
        return None if self._process is None else self._process.returncode

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process."""
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        try:
            self._process = _start(self._theirs)
        except OSError as error:
            self._error = error
            return
        finally:
            self._is_started.set()
        self._process.wait()


def _start(theirs: Descriptors) -> subprocess.Popen[bytes]:
    """The interpreter again, in a session of its own, so that Ctrl-C is not sent to it."""
    descriptors = theirs.memory, theirs.bell
    arguments = map(str, (*descriptors, os.getpid()))
    folders = [folder or os.getcwd() for folder in sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "draft.worker_process", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,  # stdout is for results alone
        pass_fds=descriptors,
        env=environment,
        start_new_session=True,
    )


def _end(channel: Channel, life: _Life) -> None:
    channel.close()
    if life.wait(_LEAVE_S) is None:
        life.kill()
        life.wait(_START_S)
