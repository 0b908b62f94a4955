"""A directory that appears whole or not at all; it knows no model."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from specdec.errors import ModelError


@contextlib.contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside `out` that is renamed to it at the end, or removed on an error.

    After a kill the hidden directory is left behind; the next conversion to `out` clears it.
    """
    check_is_free(out)
    staging = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    staging.mkdir(exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        _lock(handle, staging)  # gone with the process that holds it
        try:
            _clear(staging)
            yield staging
            sync_directory(staging)
            staging.rename(out)  # an empty `out` is replaced
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # after the renaming there is none
        sync_directory(out.parent)
    finally:
        os.close(handle)


def check_is_free(out: Path) -> None:
    """ModelError unless `out` is absent or an empty directory."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ModelError(f"{out}: is not a directory: name a new one")
    if out.is_dir() and any(out.iterdir()):
        raise ModelError(f"{out}: already exists and is not empty: remove it or name a new one")


def sync_directory(path: Path) -> None:
    """Make the directory's entries last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file and make it last."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _lock(handle: int, staging: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ModelError(f"{staging}: another conversion is writing here: wait for it") from error


def _clear(staging: Path) -> None:
    for path in staging.iterdir():
        path.unlink()
