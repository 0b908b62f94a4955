"""What Ctrl-C does while engines generate; it knows no results."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from specdec.engine import Engine


@contextmanager
def cancelled_by_sigint(*engines: Engine) -> Iterator[None]:
    """The first Ctrl-C ends the run after the current pass, a second one at once."""

    def cancel(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        for engine in engines:
            engine.cancel()

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
