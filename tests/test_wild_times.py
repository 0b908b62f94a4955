"""Costs learned from times that no machine should show."""

import itertools
import random

import pytest

from specdec.pass_costs import PassCosts


@pytest.mark.parametrize("seed", range(20))
def test_no_course_of_times_however_wild_is_a_fault(seed: int) -> None:
    dice = random.Random(seed)
    costs = PassCosts(16)
    for context in range(300):
        factor = dice.choice([0.01, 0.1, 1.0, 1.0, 1.0, 2.0, 30.0])
        costs.observe(
            dice.choice([1, 2, 2, 3, 5, 9]), context, 0.01 * factor * dice.random() + 1e-6
        )
        table = costs.table(context)
        assert all(a <= b for a, b in itertools.pairwise(table))
