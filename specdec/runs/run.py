"""One run: prompts of a file through an engine into a file; it shows nothing and stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from specdec.engine import Engine
from specdec.errors import UsageError
from specdec.generation import Event, Generation
from specdec.prompts import Prompt
from specdec.runs.header import Header, check_begun, check_header
from specdec.runs.jsonl import JsonlFile
from specdec.runs.prompt_stream import PromptStream
from specdec.stats import SpecStats


@dataclass(slots=True)
class RunTotals:
    """What has come of a run so far."""

    num_finished: int = 0
    num_finished_before: int = 0
    num_rejected: int = 0
    num_tokens: int = 0  # as they come, of prompts that still run too
    elapsed_s: float = 0.0
    stats: SpecStats = field(default_factory=SpecStats)  # of finished prompts
    last: Generation | None = None  # finished

    @property
    def tokens_per_s(self) -> float:
        """Tokens of this run per second, prefill and everything else included."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s > 0.0 else 0.0

    def to_json(self) -> dict[str, object]:
        """The object that `specdec generate --output --json` prints."""
        return {
            "num_finished": self.num_finished,
            "num_finished_before": self.num_finished_before,
            "num_rejected": self.num_rejected,
            "num_tokens": self.num_tokens,
            "target_device": self.last.target_device if self.last else "",
            "draft_device": self.last.draft_device if self.last else "",
            "elapsed_s": round(self.elapsed_s, 3),
            "tokens_per_s": round(self.tokens_per_s, 3),
            "stats": self.stats.to_json(),
        }


class Run:
    """Files of a run: results in `output`, what could not run in `output`.rejects.jsonl.

    A result is written when it is there, whole or not at all, so a run that ended in any way goes
    on where it stopped: prompts whose ids are in the output are not run again. Rejects are found
    anew each time.
    """

    def __init__(self, prompts: Path, output: Path) -> None:
        """Open the files; UsageError where that cannot be."""
        if prompts.exists() and output.exists() and prompts.samefile(output):
            raise UsageError(f"{str(output)!r} is the file of prompts; choose another output")
        self.totals = RunTotals()
        self.output = output
        self.rejects = output.with_name(output.name + ".rejects.jsonl")
        self._prompts = prompts
        self._output = JsonlFile(output)
        self._rejects_file: JsonlFile | None = None

    def generate(self, engine: Engine, header: Header) -> Generator[Event, None, None]:
        """Run what is not finished, yielding events after their results are written.

        UsageError where the output is another run's, SpecdecError where it cannot be written.
        """
        check_header(self._output, header)
        stream = self._left()
        start = time.perf_counter()
        for event in engine.generate(stream):
            self.totals.num_tokens += len(event.token_ids)
            self.totals.elapsed_s = time.perf_counter() - start
            if event.result:
                self._settle(event.result, stream.take_line_number(event.request_id))
            yield event

    def generate_elsewhere(
        self,
        elsewhere: Callable[[Iterable[tuple[int, Prompt]]], Iterator[tuple[int, Generation]]],
        header_of: Callable[[str], Header],
    ) -> Generator[Generation, None, None]:
        """The same with prompts that run elsewhere, and come back as results with line numbers.

        `header_of` makes the header from the numerics id of the first result; UsageError where
        another result has another, for then a text would depend on where its prompt ran.
        """
        check_begun(self._output)
        stream = self._left()
        asked = ((stream.take_line_number(prompt.id), prompt) for prompt in stream)
        start, numerics_id, settled = time.perf_counter(), "", set[str]()
        for line_number, result in elsewhere(asked):
            if not numerics_id:
                numerics_id = result.numerics_id
                check_header(self._output, header_of(numerics_id))
            if result.numerics_id != numerics_id:
                raise UsageError(
                    f"{result.target_device} computes as {result.numerics_id!r}, another worker as "
                    f"{numerics_id!r}: texts would depend on where they are made; use devices of "
                    "one kind"
                )
            if result.id in settled:  # a worker died after it was done
                continue
            settled.add(result.id)
            self.totals.num_tokens += len(result.token_ids)
            self.totals.elapsed_s = time.perf_counter() - start
            self._settle(result, line_number)
            yield result

    def _left(self) -> PromptStream:
        """What is not finished, after mending the output."""
        finished: set[str] = set()
        self._output.mend(lambda line: finished.add(_id_of(line, self.output)))
        self.totals.num_finished_before = len(finished)
        self.rejects.unlink(missing_ok=True)
        return PromptStream(self._prompts, finished, self._reject)

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._rejects_file:
            self._rejects_file.close()
        self._output.close()

    def _settle(self, result: Generation, line_number: int) -> None:
        """Put a result where it belongs; one that was cancelled runs again another time."""
        if result.finish_reason == "error":
            self._reject(line_number, result.id, result.error)
        elif result.finish_reason != "cancelled":
            self._output.append(result.to_json())
            self.totals.num_finished += 1
            self.totals.last = result
            self.totals.stats.add(result.stats)

    def _reject(self, line_number: int, prompt_id: str | None, reason: str) -> None:
        """Write down a line that cannot run."""
        self.totals.num_rejected += 1
        if self._rejects_file is None:
            self._rejects_file = JsonlFile(self.rejects)
        line = {"line": line_number, "id": prompt_id, "reason": reason}
        self._rejects_file.append(line)


def _id_of(line: Mapping[str, object], path: Path) -> str:
    found = line.get("id")
    if not isinstance(found, str):
        raise UsageError(f"{str(path)!r} has a line without id; choose another output")
    return found
