"""The user's cache directory and files in it, written whole or not at all; it knows no content."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/specdec`, by default `~/.cache/specdec`; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "specdec"


def read_cached(path: Path) -> bytes | None:
    """The file's content, None where it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_cached(path: Path, content: bytes) -> bool:
    """Write a file so that no other process ever sees half of it; False where that is impossible.

    A cache that cannot be written costs time at the next start, nothing else.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True
