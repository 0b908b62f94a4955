"""Costs a run starts from: saved ones before timed ones, and what `auto` makes of them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import RuleDrafter, RuleVerifier

from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.config import Config
from specdec.costs import Costs
from specdec.load import drafters
from specdec.load.costs import CostBook
from specdec.load.stopwatch import by_num_tokens, pass_times_s

EMBEDDED = open_checkpoint(embedded_model_dir("target"))


class PaddedVerifier(RuleVerifier):
    def __init__(self) -> None:
        super().__init__()
        self.pass_sizes: Sequence[int] = (1, 2, 4, 8, 16)


def book(verifier: RuleVerifier, directory: Path, most: int = 16) -> CostBook:
    return CostBook(verifier, "hash", 1, most, directory)


def costs(step_s: float) -> Costs:
    known = Costs(16, PaddedVerifier().pass_sizes)
    known.restore({m: (0.1, 0.0, 9) for m in (1, 2, 4, 8, 16)}, 0.0, 0.0, step_s, 0.0)
    return known


def save(verifier: RuleVerifier, directory: Path, device: str, step_s: float) -> None:
    drafter = RuleDrafter(1.0)
    drafter.device = device
    keeper = book(verifier, directory).keeper(drafter, costs(step_s))
    keeper.observe(0, None)  # type: ignore[arg-type]
    keeper.release()


def test_unknown_costs_are_timed_once_and_known_at_the_first_round(tmp_path: Path) -> None:
    verifier, drafter = PaddedVerifier(), RuleDrafter(1.0)
    ours = book(verifier, tmp_path)
    assert ours.saved(drafter.device) is None
    table = ours.of(drafter).table(0)
    assert table is not None and len(table.pass_s) == 1 + 16 and table.draft_step_s > 0.0
    num_passes = verifier.num_passes
    assert num_passes > 5 and not verifier.cache
    assert ours.of(drafter).table(0) == table and verifier.num_passes == num_passes


def test_no_size_is_timed_that_no_run_fills() -> None:
    times = pass_times_s(PaddedVerifier(), 1, most=6)
    assert sorted(times) == [1, 2, 4, 8]
    table = by_num_tokens({1: 1.0, 2: 2.0, 4: 3.0})
    assert table == (0.0, 1.0, 2.0, 3.0, 3.0)


def test_saved_costs_come_before_timing(tmp_path: Path) -> None:
    verifier, drafter = PaddedVerifier(), RuleDrafter(1.0)
    save(verifier, tmp_path, drafter.device, 0.007)
    table = book(verifier, tmp_path).of(drafter).table(0)
    assert table is not None and table.draft_step_s == 0.007
    assert verifier.num_passes == 0


@pytest.mark.parametrize(("step_s", "is_timed"), [(0.01, False), (5.0, True)])
def test_auto_believes_saved_costs_where_they_speak_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, is_timed: bool
) -> None:
    verifier, model = PaddedVerifier(), RuleDrafter(1.0)
    model.device = "cpu"
    monkeypatch.setattr(drafters, "_model_device", lambda: "cpu")
    monkeypatch.setattr(drafters, "cheapest_model", lambda config, draft, length: model)
    save(verifier, tmp_path, "cpu", step_s)
    ours = book(verifier, tmp_path)
    drafters.open_drafter(Config(), EMBEDDED, 256, ours)
    assert (verifier.num_passes > 0) == is_timed
