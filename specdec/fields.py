"""Typed reading of one JSON object or metadata table; it knows no model.

Every complaint is a ModelError of one line: the file, the field, the value found, what is legal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from specdec.errors import ModelError

_MAX_JSON_BYTES = 64 << 20  # a model's index of tensors is about 0.1 MB
_SHOWN_CHARACTERS = 60


class Fields:
    """The named values of one object; `where` names its file in messages."""

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self.where = where
        self._values = values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        """Every field present, in the file's order."""
        return list(self._values)

    def error(self, name: str, legal: str) -> ModelError:
        """The error for a field whose value is not legal."""
        shown = repr(self._values.get(name))
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[:_SHOWN_CHARACTERS] + "..."
        return ModelError(f"{self.where}: {name} is {shown}: it must be {legal}")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within low .. high."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number above 0")
        # an integer may be too long for a float: compare before converting
        if not 0 < value < 1e300 or not math.isfinite(value):
            raise self.error(name, "a finite number above 0")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def raw(self, name: str) -> object:
        """The value as it is, None where there is none."""
        return self._values.get(name)

    def text_if_any(self, name: str) -> str | None:
        """A string, or None where the field is missing or of another type."""
        value = self.raw(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def items(self, name: str) -> list[object]:
        """A list; its items are not checked."""
        value = self._value(name, None)
        if not isinstance(value, list):
            raise self.error(name, "a list")
        return value

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """An integer or a list of integers, each within low .. high."""
        value = self._value(name, None)
        values = value if isinstance(value, list) else [value]
        for item in values:
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                raise self.error(name, f"integers from {low} to {high}")
        return tuple(values)

    def section(self, name: str) -> Fields:
        """An object inside this one."""
        value = self._value(name, None)
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(f"{self.where}: {name}", value)

    def _value(self, name: str, default: object) -> object:
        value = self._values.get(name)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.where}: {name} is missing")
        return value


def read_json_object(path: Path) -> Fields:
    """The object that fills a JSON file."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelError(f"{path}: {path.stat().st_size} bytes of JSON: the most is 64 MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: is not valid JSON ({reason})") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds a JSON {type(values).__name__}: it must be an object")
    return Fields(str(path), values)
