"""A timeline of passes, draft steps and waits in Chrome's trace format; it runs nothing.

Perfetto (ui.perfetto.dev) and chrome://tracing open it. Times are microseconds since the first
event: the target, the drafter in its own process and the loop that waits for both read one clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from specdec.errors import UsageError
from specdec.types import RoundReport, SamplingParams

_TARGET, _DRAFT, _LOOP = 1, 2, 3
_NAMES = {_TARGET: "target", _DRAFT: "draft", _LOOP: "waits and verdicts"}


class TimelineRecorder:
    """A RoundRecorder that writes one event a line; the file is whole when it is released."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write trace {str(path)!r}: {error.strerror}") from error
        self._start_s: float | None = None
        self._requests: dict[int, str] = {}
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        names = (
            {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
            for pid, name in _NAMES.items()
        )
        self._file.write(",\n".join(map(json.dumps, names)))

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """A request starts in `slot`."""
        self._requests[slot] = request_id

    def observe(self, slot: int, report: RoundReport) -> None:
        """Write the round's events."""
        run, pass_s = report.run, report.verify_start_s
        end_s = pass_s + report.verify_s
        if self._start_s is None:
            first = (step.start_s for step in run.work.steps)
            self._start_s = min([*first, pass_s - report.draft_s])
        for step in run.work.steps:
            name = "ahead" if step.is_ahead else "draft"
            self._span(_DRAFT, slot, name, step.start_s, step.end_s, {"rows": step.num_rows})
        if report.draft_s > 0.0:
            self._span(_LOOP, slot, "wait for draft", pass_s - report.draft_s, pass_s, {})
        if run.work.num_endings:
            facts = {"endings": run.work.num_endings, "ready": run.work.num_ready}
            verdict = "hit" if run.work.is_hit else "miss: branches cancelled"
            self._instant(slot, verdict, pass_s - report.draft_s, facts)
        accepted = len(report.acceptance.accepted)
        checked: dict[str, object] = {"checked": report.num_checked, "accepted": accepted}
        checked |= {"request": self._requests[slot], "position": run.position}
        self._span(_TARGET, slot, f"pass of {report.num_checked + 1}", pass_s, end_s, checked)

    def close(self, slot: int) -> None:
        """The slot's request has ended."""
        self._requests.pop(slot, None)

    def release(self) -> None:
        """Close the file."""
        self._file.write("\n]}\n")
        self._file.close()

    def _span(
        self,
        pid: int,
        slot: int,
        name: str,
        start_s: float,
        end_s: float,
        facts: Mapping[str, object],
    ) -> None:
        place = {"ph": "X", "pid": pid, "tid": slot, "ts": self._us(start_s)}
        self._write(
            {"name": name, **place, "dur": round(1e6 * (end_s - start_s), 1), "args": facts}
        )

    def _instant(self, slot: int, name: str, at_s: float, facts: Mapping[str, object]) -> None:
        place = {"ph": "i", "s": "t", "pid": _LOOP, "tid": slot, "ts": self._us(at_s)}
        self._write({"name": name, **place, "args": facts})

    def _us(self, at_s: float) -> float:
        assert self._start_s is not None
        return round(1e6 * (at_s - self._start_s), 1)

    def _write(self, event: Mapping[str, object]) -> None:
        self._file.write(",\n" + json.dumps(event))
