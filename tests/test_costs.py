"""Learned costs: monotone, deaf to outliers, quick to believe a lasting change, kept for later."""

import random
from pathlib import Path

import pytest

from specdec.cost_cache import CostKey, load_costs, save_costs
from specdec.costs import Costs, DraftCosts
from specdec.pass_costs import PassCosts

STEPS = {1: 0.1, 2: 0.101, 4: 0.102, 8: 0.104, 16: 0.15}
KEY = CostKey("a device", "n1", "abcd", "cpu", "a processor")


def pad(num_tokens: int) -> int:
    return min(size for size in STEPS if size >= num_tokens)


def feed(passes: PassCosts, sizes: list[int], seed: int = 0, factor: float = 1.0) -> None:
    """Passes with three per cent of jitter and one outlier in twenty."""
    rng = random.Random(seed)
    for size in sizes:
        outlier = 8.0 if rng.random() < 0.05 else 1.0
        passes.observe(size, 100, factor * STEPS[pad(size)] * rng.lognormvariate(0, 0.03) * outlier)


def many_sizes(count: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [1, 1] + [rng.randint(1, 16) for _ in range(count)]


def test_learns_every_size_despite_jitter_and_outliers() -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(300))
    table = passes.table(100)
    assert len(table) == 17
    for size in range(1, 17):
        assert table[size] == pytest.approx(STEPS[pad(size)], rel=0.06)


@pytest.mark.parametrize("count", [2, 5, 20, 100])
@pytest.mark.parametrize("seed", range(5))
def test_more_tokens_never_cost_less(count: int, seed: int) -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(count, seed), seed)
    table = passes.table(100)
    assert table[0] == 0.0
    assert list(table) == sorted(table)


def test_sizes_that_are_padded_share_their_samples() -> None:
    passes = PassCosts(16, steps=(1, 2, 4, 8, 16))
    for size in (1, 1, 3, 3, 12, 11):
        passes.observe(size, 0, STEPS[pad(size)])
    table = passes.table(0)
    assert table[4] == table[3] == pytest.approx(0.102)
    assert table[16] == table[9] == pytest.approx(0.15)
    assert table[8] == table[4]  # hoped for until it is measured


def test_what_was_never_measured_is_hoped_to_lie_on_a_plateau_up_to_a_power_of_two() -> None:
    passes = PassCosts(16)
    for size, elapsed_s in ((1, 0.1), (3, 0.2), (12, 0.6)):
        passes.observe(size, 0, elapsed_s)
        passes.observe(size, 0, elapsed_s)
    table = passes.table(0)
    assert table[2] == pytest.approx(0.1)
    assert table[4] == table[8] == pytest.approx(0.2)
    assert table[10] == pytest.approx(0.4)
    assert table[16] == table[12] == pytest.approx(0.6)


def test_nothing_is_known_before_plain_passes_and_reach_grows_by_doubling() -> None:
    passes = PassCosts(16)
    assert passes.table(0) == ()
    passes.observe(4, 0, 0.1)
    passes.observe(1, 0, 0.1)
    assert passes.table(0) == ()
    passes.observe(1, 0, 0.1)
    assert len(passes.table(0)) == 1 + 2
    passes.observe(2, 0, 0.1)
    passes.observe(2, 0, 0.1)
    assert len(passes.table(0)) == 1 + 4


def test_one_slow_pass_of_a_new_size_does_not_forbid_it() -> None:
    passes = PassCosts(16)
    feed(passes, [1, 1, 2, 2, 4, 4])
    passes.observe(8, 100, 5.0)
    assert passes.table(100)[8] < 0.12
    for _ in range(4):
        passes.observe(8, 100, STEPS[8])
    assert passes.table(100)[8] == pytest.approx(STEPS[8], rel=0.1)


def test_a_size_that_was_slow_while_the_machine_was_busy_is_tried_again() -> None:
    passes = PassCosts(16)
    for size in (1, 1, 2, 2, 4, 4, 8, 8):
        passes.observe(size, 100, STEPS[size] * (20.0 if size > 2 else 1.0))
    assert passes.table(100)[4] == pytest.approx(4 * STEPS[1])  # as plain passes would cost
    for _ in range(70):
        passes.observe(2, 100, STEPS[2])
    assert passes.table(100)[4] < 0.12  # unknown again, so hoped for
    for _ in range(5):
        passes.observe(4, 100, STEPS[4])
    assert passes.table(100)[4] == pytest.approx(STEPS[4], rel=0.1)


def test_plain_passes_fall_due() -> None:
    passes = PassCosts(16)
    assert passes.is_plain_due()
    feed(passes, [1] * 10)
    assert not passes.is_plain_due()
    for _ in range(300):
        passes.observe(4, 100, STEPS[4])
    assert passes.is_plain_due()


@pytest.mark.parametrize("factor", [1.4, 3.0, 0.6])
def test_a_new_clock_is_believed_after_a_few_passes(factor: float) -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(200))
    feed(passes, [16, 8, 4, 16, 8, 4, 16, 8, 4, 16], seed=9, factor=factor)
    for size in (4, 8, 16):
        assert passes.table(100)[size] == pytest.approx(factor * STEPS[size], rel=0.08)


def test_a_new_clock_shows_in_passes_of_different_sizes_and_holds_for_those_not_seen() -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(200))
    for size in (3, 6, 13):
        passes.observe(size, 100, 1.4 * STEPS[pad(size)])
    table = passes.table(100)
    for size in (4, 8, 16):
        assert table[size] == pytest.approx(1.4 * STEPS[size], rel=0.08)


def test_a_size_used_alone_tells_of_a_new_clock() -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(200))
    for _ in range(3):
        passes.observe(8, 100, 0.6 * STEPS[8])
    for size in (1, 8, 16):
        assert passes.table(100)[size] == pytest.approx(0.6 * STEPS[size], rel=0.08)


def test_a_size_new_and_wrongly_known_moves_no_other() -> None:
    passes = PassCosts(16)
    feed(passes, [1, 1, 8, 8] * 20)
    before = passes.table(100)
    for elapsed_s in (0.02, 0.02, 0.11, 0.11, 0.11, 0.11):  # two lucky samples, then the truth
        passes.observe(4, 100, elapsed_s)
        passes.observe(8, 100, STEPS[8])
    assert passes.table(100)[1] == pytest.approx(before[1], rel=0.02)
    assert passes.table(100)[8] == pytest.approx(before[8], rel=0.05)


def test_a_change_of_one_size_alone_leaves_those_seen_since_as_they_are() -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(200))
    for _ in range(3):
        passes.observe(4, 100, 0.5 * STEPS[4])
        passes.observe(16, 100, STEPS[16])
    assert passes.table(100)[4] == pytest.approx(0.5 * STEPS[4], rel=0.08)
    assert passes.table(100)[16] == pytest.approx(STEPS[16], rel=0.08)


@pytest.mark.parametrize("seed", range(20))
def test_clocks_that_keep_changing_never_break_the_estimate(seed: int) -> None:
    rng, passes, factor = random.Random(seed), PassCosts(16, tuple(STEPS)), 1.0
    for size in many_sizes(400, seed):
        factor = rng.choice((0.5, 1.0, 2.0, 4.0)) if rng.random() < 0.1 else factor
        passes.observe(size, 100, factor * STEPS[pad(size)] * rng.lognormvariate(0, 0.02))
        assert all(value >= 0.0 for value in passes.table(100))


def test_outliers_alone_change_nothing() -> None:
    passes = PassCosts(16)
    feed(passes, many_sizes(200))
    before = passes.table(100)
    for _ in range(20):
        passes.observe(8, 100, 2.0)
        passes.observe(8, 100, STEPS[8])
        passes.observe(8, 100, STEPS[8])
    assert passes.table(100) == pytest.approx(before, rel=0.03)


def test_a_longer_context_costs_more_once_texts_have_shown_it() -> None:
    passes, slope_s = PassCosts(16), 2e-5
    for _ in range(60):  # sixty texts that grow from 100 to 2000 tokens
        for context in range(100, 2000, 20):
            passes.observe(4, context, 0.1 + slope_s * context)
            passes.observe(1, context, 0.09 + slope_s * context)
    passes.observe(4, 2000, 0.1 + slope_s * 2000)
    assert passes.slope_s == pytest.approx(slope_s, rel=0.35)
    assert passes.table(500)[4] < passes.table(2000)[4]


def test_draft_costs_split_into_a_fixed_part_and_steps() -> None:
    draft, rng = DraftCosts(), random.Random(2)
    for _ in range(200):
        steps = rng.randint(1, 15)
        outlier = 6.0 if rng.random() < 0.03 else 1.0
        draft.observe(steps, (0.004 + 0.006 * steps) * rng.lognormvariate(0, 0.02) * outlier)
    for steps in (1, 5, 15):
        expected_s = 0.004 + 0.006 * steps
        assert draft.fixed_s + steps * draft.step_s == pytest.approx(expected_s, rel=0.15)


def test_one_draft_length_is_enough_for_an_estimate() -> None:
    draft = DraftCosts()
    for _ in range(10):
        draft.observe(4, 0.02)
    assert draft.fixed_s + 4 * draft.step_s == pytest.approx(0.02)
    assert draft.step_s == pytest.approx(0.005)


def learned() -> Costs:
    costs = Costs(16)
    feed(costs.passes, many_sizes(300))
    for steps in (1, 4, 8, 2, 6):
        costs.observe_draft([steps], 0.001 + 0.002 * steps)
        costs.observe_other(0.0005)
    return costs


def test_costs_come_back_from_the_cache(tmp_path: Path) -> None:
    before = learned()
    save_costs(tmp_path, KEY, before)
    after = Costs(16)
    assert load_costs(tmp_path, KEY, after) == ""
    old, new = before.table(100), after.table(100)
    assert old is not None and new is not None
    assert new.pass_s == pytest.approx(old.pass_s, rel=0.03)
    assert new.draft_step_s == pytest.approx(old.draft_step_s)
    assert new.round_s(3, 2) == pytest.approx(old.round_s(3, 2), rel=0.03)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_guess_about_shared_steps_is_not_kept_as_if_measured() -> None:
    alone, together = Costs(16), Costs(16)
    alone.observe_draft([4], 0.008)
    together.observe_draft([4, 4], 0.012)
    assert alone.to_json()["draft_row_s"] is None
    assert together.to_json()["draft_row_s"] is not None


def test_what_rests_on_few_samples_is_not_taken_over(tmp_path: Path) -> None:
    before, after = Costs(16), Costs(16)
    feed(before.passes, [1] * 10 + [2] * 10 + [8] * 3)
    save_costs(tmp_path, KEY, before)
    load_costs(tmp_path, KEY, after)
    assert len(after.passes.table(100)) == 1 + 4


def test_a_missing_file_is_no_news(tmp_path: Path) -> None:
    assert load_costs(tmp_path / "none", KEY, Costs(16)) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"key": {}}',
        b"\xff\xfe",
        b'{"key": KEY, "passes": {"sizes": {"1": "x"}}}',
        b'{"key": KEY, "passes": {"sizes": {"1": [-1.0, 0, 3]}, "slope_s": 0}}',
        b'{"key": KEY, "passes": {"sizes": {"1": [NaN, 0, 3]}, "slope_s": 0}}',
    ],
)
def test_a_corrupt_file_is_left_aside_with_one_note(tmp_path: Path, content: bytes) -> None:
    save_costs(tmp_path, KEY, learned())
    (path,) = tmp_path.iterdir()
    path.write_bytes(content.replace(b"KEY", KEY.to_json_text().encode()))
    costs = Costs(16)
    note = load_costs(tmp_path, KEY, costs)
    assert path.name in note and "\n" not in note
    assert costs.table(0) is None


def test_costs_of_another_machine_are_not_taken(tmp_path: Path) -> None:
    other = CostKey("another device", "n1", "abcd", "cpu", "a processor")
    save_costs(tmp_path, other, learned())
    costs = Costs(16)
    assert load_costs(tmp_path, KEY, costs) == "" and costs.table(0) is None
    (path,) = tmp_path.iterdir()
    save_costs(tmp_path, KEY, learned())
    (mine,) = set(tmp_path.iterdir()) - {path}
    mine.write_bytes(path.read_bytes())
    assert "another" in load_costs(tmp_path, KEY, costs)
    assert costs.table(0) is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert not save_costs(file / "below", KEY, learned())
