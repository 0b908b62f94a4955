"""Ratios of runs that took turns, and the turns themselves."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from ratios import mean_ratio, ratio_of_totals
from switched import turn_order


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], list("abcdef")])
def test_in_an_even_number_of_ways_each_takes_each_place_and_follows_each_other_once(
    names: list[str],
) -> None:
    orders = [turn_order(names, turn) for turn in range(len(names))]
    for place in range(len(names)):
        assert {order[place] for order in orders} == set(names)
    after = Counter(pair for order in orders for pair in pairwise(order))
    assert len(after) == len(names) * (len(names) - 1)
    assert set(after.values()) == {1}


def test_three_ways_take_each_place_and_follow_each_other_equally_often() -> None:
    orders = [turn_order("abc", turn) for turn in range(6)]
    for place in range(3):
        assert Counter(order[place] for order in orders) == Counter("aabbcc")
    after = Counter(pair for order in orders for pair in pairwise(order))
    assert set(after.values()) == {2}


def test_the_interval_of_a_ratio_covers_the_truth_and_ignores_what_neighbours_share() -> None:
    dice, num_covered, widths = np.random.default_rng(3), 0, []
    for seed in range(100):
        busy = dice.uniform(1.0, 4.0, 30)  # the machine, for a whole block
        first, second = dice.normal(0.96, 0.05, 30), dice.normal(1.0, 0.05, 30)
        found = ratio_of_totals(np.stack([busy * first, busy * second], 1).tolist(), seed=seed)
        num_covered += found.low <= 0.96 <= found.high
        widths.append(found.high - found.low)
    assert num_covered >= 88
    assert np.mean(widths) < 0.08


def test_the_mean_ratio_of_a_ratio_and_its_inverse_is_1() -> None:
    found = mean_ratio([2.0, 0.5, 2.0, 0.5])
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(2.0)
