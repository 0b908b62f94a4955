"""Learned costs on a machine that others use too: what is not measured follows the clock."""

import random

import pytest
from test_costs import STEPS, feed, many_sizes

from specdec.pass_costs import PassCosts


@pytest.mark.parametrize("seed", range(5))
def test_loads_that_come_at_once_and_fade_do_not_raise_what_is_not_measured(seed: int) -> None:
    passes, rng = PassCosts(16), random.Random(seed)
    feed(passes, many_sizes(200))
    load = 1.0
    for i in range(3000):  # plain passes alone, on a machine that others use now and then
        load = rng.uniform(1.5, 4.0) if i % 120 == 0 else max(1.0, 0.97 * load)
        passes.observe(1, 100, load * STEPS[1] * rng.uniform(0.9, 1.1))
        saved = passes.to_json()["sizes"]
        assert isinstance(saved, dict)
        assert saved["16"][0] < 8.0 * STEPS[16], "twice the heaviest load at most"


def test_what_follows_the_clock_alone_is_tried_again_all_the_same() -> None:
    passes = PassCosts(16)
    feed(passes, [1, 1] * 20)
    passes.observe(8, 100, 2.0)
    passes.observe(8, 100, 2.0)
    assert passes.pass_s(8, 100) > 0.5
    for i in range(100):  # two clocks by turns: each is told to every size
        passes.observe(1, 100, STEPS[1] * (2.0 if i // 10 % 2 else 1.0))
    assert passes.pass_s(8, 100) < 0.3, "a size not tried for long is unknown again"
