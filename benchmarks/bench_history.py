"""Rows of results/history.jsonl: figures of one machine over time, and what got worse.

A figure is worse when its 95 % interval lies wholly on the wrong side of the one before and its
median is more than 5 % off. What is compared with is the last row of the same machine that was
measured on an idle machine and was not itself worse than its predecessor (or was accepted).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LEAST_CHANGE = 0.05


@dataclass(frozen=True)
class Figure:
    """A median with its 95 % interval; a figure without noise has an empty interval."""

    value: float
    low: float
    high: float
    unit: str
    is_higher_better: bool


@dataclass(frozen=True)
class Row:
    """The standard set, measured once."""

    finished_at: str
    commit: str
    machine: Mapping[str, str]  # what the figures depend on
    driver: str
    load_before: float  # processes that wanted to run, one-minute mean
    is_busy: bool
    is_accepted: bool  # a row that is worse, taken as what to compare with from now on
    figures: Mapping[str, Figure]
    worse: Sequence[str]

    @property
    def fingerprint(self) -> str:
        """A short name of the machine."""
        return fingerprint(self.machine)

    def to_json(self) -> dict[str, object]:
        """One line of the history."""
        return {"benchmark": "standard", "label": "measured", "fingerprint": self.fingerprint} | {
            **asdict(self)
        }


def fingerprint(machine: Mapping[str, str]) -> str:
    """A short name of a machine."""
    text = json.dumps(dict(machine), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def read_rows(path: Path) -> list[Row]:
    """All rows, oldest first; none where there is no file yet."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            kept = json.loads(line)
            for name in ("benchmark", "label", "fingerprint"):
                del kept[name]
            kept["figures"] = {name: Figure(**value) for name, value in kept["figures"].items()}
            rows.append(Row(**kept))
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"{path}:{number}: not a row of history ({error}); repair it"
            ) from None
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row at the end."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row.to_json()) + "\n")


def reference(rows: Sequence[Row], machine: Mapping[str, str]) -> Row | None:
    """What a new row of `machine` is compared with."""
    fit = [
        row
        for row in rows
        if row.machine == machine and not row.is_busy and (row.is_accepted or not row.worse)
    ]
    return fit[-1] if fit else None


def is_worse(now: Figure, before: Figure) -> bool:
    """Whether the figure got worse beyond noise."""
    if now.is_higher_better:
        return now.high < before.low and now.value < before.value * (1.0 - LEAST_CHANGE)
    return now.low > before.high and now.value > before.value * (1.0 + LEAST_CHANGE)


def table(now: Mapping[str, Figure], before: Row | None) -> str:
    """A line per figure: its value, its interval, the one before, the change."""
    width = max(map(len, now))
    lines = [f"{'figure':{width}} {'now':>9}  {'95 %':17} {'before':>9}  change"]
    for name, figure in now.items():
        interval = f"{figure.low:.2f} - {figure.high:.2f}" if figure.high > figure.low else ""
        line = f"{name:{width}} {figure.value:9.2f}  {interval:17}"
        old = before.figures.get(name) if before else None
        if old:
            change = figure.value / old.value - 1.0
            mark = "  WORSE" if is_worse(figure, old) else ""
            line += f" {old.value:9.2f}  {change:+.1%}{mark}"
        lines.append(line.rstrip())
    return "\n".join(lines)
