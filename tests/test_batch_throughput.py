"""Runs of many prompts on a clock of their own: drafting gains or costs next to nothing."""

import pytest
from timed_batch import Clock, TimedInProcess, TimedWorker, Times, gain, tokens_per_s

from specdec.controller import AdaptiveLength, FixedLength

SIZES = (1, 2, 4, 8, 16, 32, 64)


def passes(*milliseconds: float) -> dict[int, float]:
    return {size: 0.001 * ms for size, ms in zip(SIZES, milliseconds, strict=True)}


MACHINES = {
    "big model, big device": Times(
        passes(8.92, 9.57, 11.43, 11.41, 14.12, 22.5, 36.0), 0.001, 0.0002, 1 / 1850, 0.00005
    ),
    "small model, processor": Times(
        passes(21.0, 21.2, 26.3, 41.7, 74.0, 144.0, 288.0), 0.0006, 0.00025, 1 / 369, 0.0001
    ),
    "flat to sixteen": Times(
        passes(170, 171, 172, 175, 180, 200, 377), 0.006, 0.0005, 1 / 200, 0.002
    ),
    "steep": Times(
        passes(*(33.7 * (1 + 0.25 * (size - 1)) for size in SIZES)), 0.004, 0.004, 0.008, 0.001
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("accuracy", [0.3, 0.78])
@pytest.mark.parametrize(
    "batch_size",
    [1, 2, 4, *(pytest.param(size, marks=pytest.mark.slow) for size in (8, 16, 32))],
)
def test_a_cold_run_is_never_slower_than_plain_decoding(
    batch_size: int, accuracy: float, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gain(monkeypatch, TimedWorker, MACHINES[machine], accuracy, batch_size) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["big model, big device", "small model, processor", "steep"])
@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_nor_is_it_where_the_draft_takes_the_engines_own_time(
    batch_size: int, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for accuracy in (0.3, 0.78):
        found = gain(monkeypatch, TimedInProcess, MACHINES[machine], accuracy, batch_size)
        assert found >= 0.98


@pytest.mark.parametrize(
    ("machine", "batch_size", "least"),
    [
        ("big model, big device", 2, 1.5),
        ("big model, big device", 4, 1.35),
        ("big model, big device", 8, 1.04),
        ("small model, processor", 2, 1.25),
        ("flat to sixteen", 4, 1.8),
        ("flat to sixteen", 16, 1.1),
    ],
)
def test_drafting_gains_where_passes_have_room(
    machine: str, batch_size: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gain(monkeypatch, TimedWorker, MACHINES[machine], 0.78, batch_size) >= least


def test_lengths_are_nearly_as_good_as_the_best_fixed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    times, rates = MACHINES["big model, big device"], []
    for controller in (AdaptiveLength(times.known(), 15), *map(FixedLength, (1, 2, 3, 4))):
        drafter = TimedWorker(Clock(), times, 0.78)
        rates.append(tokens_per_s(monkeypatch, drafter, controller, 4, 16))
    assert rates[0] >= 0.95 * max(rates[1:])


def test_what_a_step_costs_for_several_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    for row_s in (0.00005, 0.0009):
        times = Times(passes(9, 9, 9, 9, 9, 9, 18), 0.001, row_s, 0.0, 0.0, round_trip_s=0.0)
        costs = times.known()
        drafter = TimedWorker(Clock(), times, 0.78)
        tokens_per_s(monkeypatch, drafter, AdaptiveLength(costs, 15), 4, 16)
        assert drafter.num_drafted > 200
        assert costs.draft.row_s == pytest.approx(row_s, rel=0.3)
