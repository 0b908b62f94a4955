"""Acceptance data of real runs: written down as they go, read back for replay; it runs nothing.

A record is JSON lines: one per request, one per round. A *trace* is what replays need: for every
position of the target's own text the whole draft chain from there, as margins and as the number
of its tokens the target agrees with. Since the text never depends on the draft, a run that drafts
a full chain at every position and checks none of it (`FullChain`) yields every chain that any
other policy could meet: replays are exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from specdec.errors import UsageError
from specdec.planning import Turn
from specdec.stopping import FixedStopping
from specdec.types import DraftRun, FloatArray, RoundReport, SamplingParams

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Trace:
    """The draft chains along one text of T tokens, each up to K tokens long."""

    request_id: str  # "kind/name"
    temperature: float
    prompt_length: int
    margins: FloatArray  # (T, K); row t is the chain that starts at the text's token t
    num_drafted: NDArray[np.uint8]  # (T,) valid margins of each row
    num_matching: NDArray[np.uint8]  # (T,) chain tokens equal to the text's, up to the first other
    ranks: NDArray[np.uint8] | None = None  # (T,) of the text's tokens among the draft's choices

    @property
    def kind(self) -> str:
        """The kind of text, e.g. `code`."""
        return self.request_id.partition("/")[0]


@dataclass(frozen=True, slots=True)
class CheckNothing:
    """Sequences draft as far as their rules say, and nothing of it is checked."""

    rules: tuple[FixedStopping, ...]

    def share(self, runs: Sequence[DraftRun]) -> tuple[int, ...]:
        """Nothing: the pass emits a token, and the next run starts one position further."""
        return (0,) * len(runs)


class FullChain:
    """A controller for recording: every position gets the longest run, and text stays plain."""

    def __init__(self, max_draft_length: int) -> None:
        self._max_draft_length = max_draft_length

    @property
    def mode(self) -> str:
        """The name of this mode in results."""
        return "record"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Every sequence is treated alike."""

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> CheckNothing:
        """As long as the text allows."""
        lengths = (min(self._max_draft_length, turn.longest) for turn in turns)
        return CheckNothing(tuple(map(FixedStopping, lengths)))

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Nothing to learn."""

    def close(self, slot: int) -> None:
        """Nothing is kept."""


class JsonlRecorder:
    """Writes requests and rounds to a file, a JSON object a line, flushed as each ends."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write record {str(path)!r}: {error.strerror}") from error
        self._request_ids: dict[int, str] = {}

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """Write the request's line."""
        self._request_ids[slot] = request_id
        self._write(
            {
                "event": "request",
                "id": request_id,
                "prompt_length": len(prompt_ids),
                "temperature": sampling.temperature,
                "seed": sampling.seed,
            }
        )

    def observe(self, slot: int, report: RoundReport) -> None:
        """Write the round's line."""
        self._write(
            {
                "event": "round",
                "id": self._request_ids[slot],
                "position": report.run.position,
                "draft_ids": list(report.run.token_ids),
                "confidences": [round(value, 4) for value in report.run.confidences],
                "num_checked": report.num_checked,
                "num_accepted": len(report.acceptance.accepted),
                "token_ids": list(report.emitted),
                "draft_s": round(report.draft_s, 7),
                "verify_s": round(report.verify_s, 7),
                "other_s": round(report.other_s, 7),
            }
        )

    def close(self, slot: int) -> None:
        """Forget the request."""
        self._request_ids.pop(slot, None)

    def release(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_record(path: Path) -> list[Trace]:
    """Traces from a record made with `FullChain`; UsageError where a position has no chain."""
    requests: dict[str, dict[str, object]] = {}
    rounds: dict[str, list[dict[str, object]]] = {}
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            line = _parsed(text, f"{path.name}:{number}")
            if line["event"] == "request":
                requests[str(line["id"])] = line
                rounds[str(line["id"])] = []
            else:
                rounds[str(line["id"])].append(line)
    return [_trace(requests[name], rounds[name]) for name in requests]


def save_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write traces compactly (compressed npz, margins in half precision)."""
    longest = max(trace.margins.shape[1] for trace in traces)
    margins = [
        np.pad(trace.margins, ((0, 0), (0, longest - trace.margins.shape[1]))) for trace in traces
    ]
    np.savez_compressed(
        path,
        request_ids=np.array([trace.request_id for trace in traces]),
        temperatures=np.array([trace.temperature for trace in traces]),
        prompt_lengths=np.array([trace.prompt_length for trace in traces]),
        lengths=np.array([len(trace.margins) for trace in traces]),
        margins=np.minimum(np.concatenate(margins), _LARGEST).astype(np.float16),
        num_drafted=np.concatenate([trace.num_drafted for trace in traces]),
        num_matching=np.concatenate([trace.num_matching for trace in traces]),
    )


def load_traces(path: Path) -> list[Trace]:
    """Read what `save_traces` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ends = np.cumsum(arrays["lengths"])
    return [
        Trace(
            request_id=str(arrays["request_ids"][i]),
            temperature=float(arrays["temperatures"][i]),
            prompt_length=int(arrays["prompt_lengths"][i]),
            margins=arrays["margins"][end - length : end].astype(np.float32),
            num_drafted=arrays["num_drafted"][end - length : end],
            num_matching=arrays["num_matching"][end - length : end],
        )
        for i, (end, length) in enumerate(zip(ends, arrays["lengths"], strict=True))
    ]


def _parsed(text: str, where: str) -> dict[str, object]:
    """One line of a record."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not a JSON object ({error}); record it again") from error
    if not isinstance(line, dict) or line.get("event") not in ("request", "round"):
        raise UsageError(f"{where}: not a line of a record; it needs event = request or round")
    return line


def _trace(request: Mapping[str, object], rounds: Iterable[Mapping[str, object]]) -> Trace:
    """The trace of one request from its lines."""
    request_id, prompt_length = str(request["id"]), _int(request["prompt_length"])
    text: list[int] = []
    chains: list[tuple[list[int], list[float]]] = []
    for line in rounds:
        if _int(line["position"]) != prompt_length + len(text) or line["num_checked"] != 0:
            raise UsageError(
                f"request {request_id!r} was not recorded with a full chain at every position"
            )
        chains.append((_list(line["draft_ids"]), _list(line["confidences"])))
        text += _list(line["token_ids"])
    longest = max((len(ids) for ids, _ in chains), default=0)
    margins = np.zeros((len(chains), longest), np.float32)
    for row, (_, confidences) in zip(margins, chains, strict=True):
        row[: len(confidences)] = confidences
    return Trace(
        request_id,
        float(str(request["temperature"])),
        prompt_length,
        margins,
        np.array([len(ids) for ids, _ in chains], np.uint8),
        np.array([_num_matching(ids, text[t:]) for t, (ids, _) in enumerate(chains)], np.uint8),
    )


def _num_matching(draft_ids: Sequence[int], text: Sequence[int]) -> int:
    """Length of the common prefix."""
    count = 0
    while count < min(len(draft_ids), len(text)) and draft_ids[count] == text[count]:
        count += 1
    return count


def _int(value: object) -> int:
    assert isinstance(value, int), "the recorder writes whole numbers here"
    return value


def _list(value: object) -> list:  # type: ignore[type-arg]
    assert isinstance(value, list), "the recorder writes lists here"
    return value
