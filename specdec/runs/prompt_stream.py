"""Prompts of a file of any size, one by one, bad lines set aside; it knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from specdec.errors import UsageError
from specdec.prompts import Prompt, parse_line

_BLOCK_BYTES = 1 << 20

Reject = Callable[[int, str | None, str], None]  # line number, id if known, reason


class PromptStream:
    """The prompts of a JSONL file whose ids are not finished yet.

    Nothing is kept but ids: of lines read, and the line numbers of prompts that run.
    """

    def __init__(self, path: Path, finished: set[str], reject: Reject) -> None:
        self._path = path
        self._finished = finished
        self._reject = reject
        self._seen: set[str] = set()
        self._line_numbers: dict[str, int] = {}

    def __iter__(self) -> Iterator[Prompt]:
        """Prompts as their turn comes; UsageError where the file cannot be read."""
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield from self._checked(line, number)
        except OSError as error:
            raise UsageError(
                f"cannot read prompts {str(self._path)!r}: {error.strerror}"
            ) from error

    def take_line_number(self, prompt_id: str) -> int:
        """The line of a prompt that has ended."""
        return self._line_numbers.pop(prompt_id)

    def _checked(self, line: bytes, number: int) -> Iterator[Prompt]:
        """The line's prompt, if it is a good one that is still to run."""
        try:
            prompt = parse_line(line, self._path, number)
        except UsageError as error:
            self._reject(number, None, str(error))
            return
        if prompt.id in self._seen:
            reason = f"{self._path}:{number}: id {prompt.id!r} occurs twice; ids must differ"
            self._reject(number, prompt.id, reason)
            return
        self._seen.add(prompt.id)
        if prompt.id not in self._finished:
            self._line_numbers[prompt.id] = number
            yield prompt


def count_lines(path: Path) -> int | None:
    """Lines of a file; None of what cannot be read twice, such as a pipe.

    UsageError where it cannot be read, or nothing is in it.
    """
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            return None
        with path.open("rb") as file:
            count, last = 0, b"\n"
            while block := file.read(_BLOCK_BYTES):
                count, last = count + block.count(b"\n"), block
    except OSError as error:
        raise UsageError(f"cannot read prompts {str(path)!r}: {error.strerror}") from error
    count += not last.endswith(b"\n")
    if not count:
        raise UsageError(f'{path}: no prompts in it; give one {{"prompt": "..."}} per line')
    return count
