"""Which way of overlapping is taken: the one that measured waits and passes speak for."""

import random
from collections import Counter

import pytest

from specdec.overlap import BRANCH, CHAIN, OFF, OverlapChoice
from specdec.types import Acceptance, DraftRun, DraftWork, RoundReport

PASS_S, DRAFT_S = 0.1, 0.03
HIT_RATES = {OFF: 0.0, CHAIN: 0.3, BRANCH: 0.7}


def rounds_of(
    choice: OverlapChoice,
    num_rounds: int,
    slower: float = 0.0,
    hit_rates: dict[int, float] = HIT_RATES,
    noise: float = 0.05,
    holdups: float = 0.02,
    seed: int = 0,
    draft_s: float = DRAFT_S,
) -> Counter[int]:
    """Rounds whose passes take longer by a part beside a busy drafter; how often each way ran."""
    dice = random.Random(seed)
    ways: Counter[int] = Counter()
    last = OFF
    for _ in range(num_rounds):
        way = choice.num_endings
        ways[way] += 1
        is_hit = dice.random() < hit_rates[last]
        work = DraftWork(last, is_hit)
        pass_s = PASS_S * (1.0 + slower * (way != OFF)) * dice.lognormvariate(0.0, noise)
        wait_s = 0.001 if is_hit else draft_s
        if dice.random() < holdups:
            pass_s, wait_s = 5 * pass_s, 10 * wait_s  # another program
        run = DraftRun(9, (1,) * 7, (1.0,) * 7, work)
        acceptance = Acceptance((1, 1), 2, is_bonus=False)
        choice.observe(RoundReport(run, 7, acceptance, (1, 1, 2), wait_s, pass_s, 0.001))
        last = way
    return ways


@pytest.mark.parametrize("seed", range(5))
def test_the_way_that_waits_least_is_settled_on(seed: int) -> None:
    ways = rounds_of(OverlapChoice("auto"), 600, seed=seed)
    assert ways[BRANCH] > 450


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_full_of_noise_does_not_mislead_it(seed: int) -> None:
    ways = rounds_of(OverlapChoice("auto"), 800, noise=0.3, seed=seed)
    assert ways[BRANCH] > 450


@pytest.mark.parametrize("seed", range(5))
def test_where_drafting_slows_the_passes_it_is_switched_off(seed: int) -> None:
    ways = rounds_of(OverlapChoice("auto"), 600, slower=0.3, seed=seed)
    assert ways[OFF] > 450


def test_a_gain_too_small_to_see_is_not_gone_for() -> None:
    rates = {OFF: 0.0, CHAIN: 0.01, BRANCH: 0.02}
    ways = rounds_of(OverlapChoice("auto"), 600, hit_rates=rates, holdups=0.0)
    assert ways[OFF] > 450


def test_waits_too_short_to_matter_are_left_alone() -> None:
    assert rounds_of(OverlapChoice("auto"), 200, draft_s=0.01) == {OFF: 200}


def test_it_changes_its_mind_when_the_text_does() -> None:
    choice = OverlapChoice("auto")
    rounds_of(choice, 300)
    ways = rounds_of(choice, 900, slower=0.4, seed=1)
    assert ways[OFF] > 600


@pytest.mark.parametrize(("mode", "way"), [("off", OFF), ("chain", CHAIN), ("branch", BRANCH)])
def test_a_chosen_way_is_kept(mode: str, way: int) -> None:
    assert rounds_of(OverlapChoice(mode), 200, slower=0.5) == {way: 200}


def test_the_part_of_runs_that_is_waited_for_follows_the_hits() -> None:
    choice = OverlapChoice("branch")
    assert choice.waited_share == 1.0
    rounds_of(choice, 300)
    assert 0.1 < choice.waited_share < 0.6
    assert OverlapChoice("off").waited_share == 1.0
