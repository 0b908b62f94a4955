"""The progress bar of weights on their way onto a device; it loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """What shows (bytes done, bytes in all) on stderr, if that is a terminal and it takes long."""
    with tqdm(unit="B", unit_scale=True, desc="loading", disable=None, delay=1.0) as bar:

        def show(done_bytes: int, total_bytes: int) -> None:
            bar.total = total_bytes
            bar.update(done_bytes - bar.n)

        yield show
