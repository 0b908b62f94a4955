"""The benchmark's memory: what a new row is compared with, and when it counts as worse."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MACHINE = {"processor": "a", "target_device": "b"}


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("bench_history")


def row(history: ModuleType, value: float, **changes: object) -> object:
    figure = history.Figure(value, value * 0.98, value * 1.02, "tokens/s", True)
    usual = {
        "finished_at": f"day {value}",
        "commit": "c",
        "machine": MACHINE,
        "driver": "d",
        "load_before": 0.0,
        "is_busy": False,
        "is_accepted": False,
        "figures": {"speed": figure},
        "worse": [],
    }
    return history.Row(**(usual | changes))


def test_rows_are_read_as_they_were_written(history: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert history.read_rows(path) == []
    rows = [row(history, 10.0), row(history, 5.0, worse=["speed"])]
    for each in rows:
        history.append(path, each)
    assert history.read_rows(path) == rows
    path.write_text(path.read_text() + '{"torn')
    with pytest.raises(SystemExit, match=r"history.jsonl:3: not a row of history"):
        history.read_rows(path)


def test_a_worse_row_stays_worse_until_it_is_accepted(history: ModuleType) -> None:
    good, bad = row(history, 10.0), row(history, 5.0, worse=["speed"])
    busy = row(history, 9.0, is_busy=True)
    elsewhere = row(history, 1.0, machine={"processor": "other"})
    assert history.reference([good, bad, busy, elsewhere], MACHINE) is good
    accepted = row(history, 5.0, worse=["speed"], is_accepted=True)
    assert history.reference([good, bad, accepted], MACHINE) is accepted
    assert history.reference([elsewhere], MACHINE) is None


@pytest.mark.parametrize(
    ("now", "is_higher_better", "is_worse"),
    [
        ((9.0, 8.8, 9.2), True, True),
        ((9.0, 8.0, 10.0), True, False),  # the intervals meet
        ((9.7, 9.69, 9.71), True, False),  # sure, but too little to matter
        ((11.0, 10.8, 11.2), True, False),
        ((11.0, 10.8, 11.2), False, True),
        ((9.0, 8.8, 9.2), False, False),
    ],
)
def test_worse_means_beyond_noise_and_enough_to_matter(
    history: ModuleType,
    now: tuple[float, float, float],
    is_higher_better: bool,
    is_worse: bool,
) -> None:
    before = history.Figure(10.0, 9.8, 10.2, "x", is_higher_better)
    assert history.is_worse(history.Figure(*now, "x", is_higher_better), before) is is_worse


def test_the_table_shows_the_change_and_marks_what_is_worse(history: ModuleType) -> None:
    now = row(history, 8.0).figures  # type: ignore[attr-defined]
    shown = history.table(now, row(history, 10.0))
    assert "-20.0%  WORSE" in shown
    assert "WORSE" not in history.table(now, None)
