"""A file of JSON lines that only ever grows by whole lines; it does not know what they say."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from specdec.errors import SpecdecError, UsageError

_log = logging.getLogger("specdec")

_SYNC_EVERY_S = 1.0  # what a loss of power may cost; a killed process loses nothing


class JsonlFile:
    """Open for appending, and for nobody else meanwhile.

    A line is written at once and whole: where that fails (a full disk), what was begun is cut off
    again and SpecdecError says so.
    """

    def __init__(self, path: Path) -> None:
        """Open or create; UsageError where that cannot be, or where another run writes to it."""
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise UsageError(f"cannot write {str(path)!r}: it is not a regular file")
            self._lock()
        except UsageError:
            os.close(self._file)
            raise
        self._synced_at = time.monotonic()

    @property
    def size_bytes(self) -> int:
        """Bytes in it now."""
        return os.fstat(self._file).st_size

    def mend(self, keep: Callable[[Mapping[str, object]], None]) -> None:
        """Hand every line to `keep`, and cut off a last one that was never finished.

        UsageError where another line is no JSON object: nothing of ours would write that.
        """
        end, number, torn = 0, 0, False
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                value = _parsed(line)
                if torn:
                    raise UsageError(
                        f"{self.path}:{number - 1}: not a whole JSON object; mend or remove that "
                        "line, or choose another output"
                    )
                if value is None:
                    torn = True
                    continue
                keep(value)
                end += len(line)
        if torn:
            _log.warning("%s:%d: cut off a line that was never finished", self.path, number)
            os.ftruncate(self._file, end)

    def clear(self) -> None:
        """Drop all lines."""
        os.ftruncate(self._file, 0)

    def append(self, line: Mapping[str, object]) -> None:
        """Write one line; SpecdecError where the disk does not take it, and then none of it."""
        start = self.size_bytes
        rest = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
                self._sync()
        except OSError as error:
            os.ftruncate(self._file, start)
            raise SpecdecError(
                f"cannot write {str(self.path)!r}: {error.strerror}; all lines in it are whole: "
                "free some space and run the same command again"
            ) from error

    def close(self) -> None:
        """Bring everything to the disk; safe to call twice."""
        if self._file >= 0:
            try:
                self._sync()
            except OSError as error:
                raise SpecdecError(
                    f"cannot write {str(self.path)!r}: {error.strerror}; run the same command again"
                ) from error
            finally:
                os.close(self._file)
                self._file = -1

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced_at = time.monotonic()

    def _lock(self) -> None:
        """Keep other runs away; a file system without locks has to do without."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{str(self.path)!r} is being written by another run; wait for it or choose "
                "another output"
            ) from error
        except OSError as error:
            _log.info("%s cannot be locked (%s)", self.path, error.strerror)


def write_whole(path: Path, value: Mapping[str, object]) -> None:
    """Write a small JSON file, all of it or nothing; SpecdecError where that cannot be."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise SpecdecError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _parsed(line: bytes) -> Mapping[str, object] | None:
    """The object on a finished line; None of any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
