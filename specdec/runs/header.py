"""What a run's texts follow from, kept beside its output; it knows no engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from specdec.errors import UsageError
from specdec.runs.jsonl import JsonlFile, write_whole

_FORMAT = 1

Header = Mapping[str, object]  # JSON values by name


def check_header(output: JsonlFile, header: Header) -> None:
    """Begin an empty output with this header, or make sure that the one it has is the same.

    Drafts, batch sizes and orders are no part of a header: no text depends on them. UsageError
    names what differs, for the lines that are there would not go with those to come.
    """
    path = _path(output)
    wanted = {"format_version": _FORMAT, **header}
    if not output.size_bytes:
        write_whole(path, wanted)
        return
    found = _read(path, output.path)
    differing = [
        f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise UsageError(
            f"{str(output.path)!r} was begun with other settings: {'; '.join(differing)}; "
            "use those again or choose another output"
        )


def check_begun(output: JsonlFile) -> None:
    """UsageError where the output holds something that no run has begun."""
    if output.size_bytes:
        _read(_path(output), output.path)


def _path(output: JsonlFile) -> Path:
    return output.path.with_name(output.path.name + ".run.json")


def _read(path: Path, output: Path) -> Mapping[str, object]:
    try:
        value: object = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{str(output)!r} holds something already, and {path.name!r}, which would say what, "
            f"cannot be read ({error.strerror}); choose another output"
        ) from error
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is not JSON: {error}; choose another output") from error
    if not isinstance(value, dict):
        raise UsageError(f"{str(path)!r} is not a run's header; choose another output")
    return value
