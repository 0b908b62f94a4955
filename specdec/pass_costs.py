"""What a pass of m tokens costs, learned from passes; it knows seconds, no device and no model.

Samples are noisy, now and then absurd (a page fault, another program), and the machine may change
its clock for good. So a sample far from what was expected is left out, three in a row are a lasting
change, and what is kept are moving averages of medians. Passes of more tokens never cost less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import median

from specdec.level import LASTING, WINDOW, Level

_SETTLED = 50  # passes after which a level that moved by itself follows the others again
_MEMORY = 0.98  # of a level's weight beside its neighbours', per pass without a sample
_CONFIRMED = 2  # samples before a size counts
_CONTEXT_SCALE = 256.0  # tokens; differences of context below it say little about the slope
_SLOPE_GAIN = 0.2
_DOUBLING_CONTEXT = 1000.0  # tokens: no slope doubles a pass sooner
_CONTEXT_GAIN = 0.25  # of the context that a level counts as learned at


class PassCosts:
    """T(m): seconds of a pass of m tokens, and what a longer context adds to it.

    `steps` are the sizes that passes are padded to, if they are; without them sizes never measured
    lie on the line between their measured neighbours.
    """

    def __init__(self, max_tokens: int, steps: Sequence[int] = ()) -> None:
        self.slope_s = 0.0  # per token of context
        self._max_tokens = max_tokens
        self._steps = tuple(steps)
        self._levels: dict[int, Level] = {}
        self._context: dict[int, float] = {}  # that a level was learned at
        self._num_passes = 0
        self._seen: dict[int, int] = {}  # number of the last pass that a level believed
        self._moved: dict[int, int] = {}  # number of the pass that last moved a level by a jump
        self._suspects: dict[int, float] = {}  # relative, by size, since the last good sample

    def observe(self, num_tokens: int, context_length: int, elapsed_s: float) -> None:
        """Learn from one pass."""
        size = self._padded(num_tokens)
        self._num_passes += 1
        level = self._levels.get(size)
        if level is None:
            self._levels[size] = Level(elapsed_s, 1)
            self._context[size], self._seen[size] = context_length, self._num_passes
            return
        distance = context_length - self._context[size]
        sample_s = max(elapsed_s - self.slope_s * distance, 0.1 * elapsed_s)
        expected_s = level.value
        is_good = level.observe(sample_s)
        if is_good:
            self._suspects.clear()
            if level.num_samples > WINDOW:
                self._learn_slope(distance, sample_s - expected_s, expected_s)
            moved = _CONTEXT_GAIN * distance
            self._context[size] += moved
            level.scale(max(1.0 + self.slope_s * moved / level.value, 0.5))
            self._seen[size] = self._num_passes
        elif level.value != expected_s:  # the last of several that said the same
            self._seen[size] = self._moved[size] = self._num_passes
        else:
            self._suspect(size, sample_s / expected_s)

    def pass_s(self, num_tokens: int, context_length: int) -> float:
        """Seconds of a pass of any size; 0.0 while nothing is known."""
        sizes, values = self._monotone(context_length)
        return self._on_line(num_tokens, sizes, values) if sizes else 0.0

    def table(self, context_length: int) -> tuple[float, ...]:
        """Seconds for m = 0, 1, ...: at most to twice the largest size measured yet.

        Empty until passes of one token are known, which all others are compared with.
        """
        if 1 not in self._levels or self._levels[1].num_samples < _CONFIRMED:
            return ()
        sizes, values = self._monotone(context_length)
        reach = min(self._max_tokens, 2 * max(sizes, default=0))
        return (0.0, *(self._on_line(size, sizes, values) for size in range(1, reach + 1)))

    def to_json(self) -> dict[str, object]:
        """Levels by size, and the slope."""
        sizes = {
            str(size): [level.value, self._context[size], level.num_samples]
            for size, level in sorted(self._levels.items())
        }
        return {"sizes": sizes, "slope_s": self.slope_s}

    def restore(self, sizes: Mapping[int, tuple[float, float]], slope_s: float) -> None:
        """Start from seconds and context by size, as learned in another run."""
        self._levels = {size: Level(value, 2) for size, (value, _) in sizes.items()}
        self._context = {size: context for size, (_, context) in sizes.items()}
        self._seen = dict.fromkeys(sizes, 0)
        self.slope_s = slope_s

    def _on_line(self, num_tokens: int, sizes: Sequence[int], values: Sequence[float]) -> float:
        """Seconds of any size, from those of measured sizes."""
        size = self._padded(num_tokens)
        index = bisect_left(sizes, size)
        if index == len(sizes):  # beyond: growing as from the smallest to here, steps and all
            slope_s = (values[-1] - values[0]) / max(sizes[-1] - sizes[0], 1)
            return values[-1] + (size - sizes[-1]) * slope_s
        if index == 0 or sizes[index] == size:
            return values[index]
        share = (size - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return values[index - 1] + share * (values[index] - values[index - 1])

    def _padded(self, num_tokens: int) -> int:
        index = bisect_left(self._steps, num_tokens)
        return self._steps[index] if index < len(self._steps) else num_tokens

    def _suspect(self, size: int, ratio: float) -> None:
        """Different sizes that are all slow, or all fast, in turn: a new clock, common to all.

        Sizes that have moved by themselves of late are left alone. One taken for too cheap is soon
        put right, while one taken for too dear is never tried again.
        """
        if any((ratio > 1) != (other > 1) for other in self._suspects.values()):
            self._suspects.clear()
        self._suspects[size] = ratio
        if len(self._suspects) >= LASTING:
            factor = median(self._suspects.values())
            for other, level in self._levels.items():
                if self._num_passes - self._moved.get(other, -_SETTLED) >= _SETTLED:
                    level.scale(factor)
            self._moved.update(dict.fromkeys(self._suspects, self._num_passes))
            self.slope_s *= factor
            self._suspects.clear()

    def _learn_slope(self, distance: float, error_s: float, expected_s: float) -> None:
        """Blame part of an error on the distance from the context the level was learned at."""
        error_s = min(max(error_s, -0.1 * expected_s), 0.1 * expected_s)
        step_s = _SLOPE_GAIN * error_s * distance / (distance**2 + _CONTEXT_SCALE**2)
        self.slope_s = min(max(self.slope_s + step_s, 0.0), expected_s / _DOUBLING_CONTEXT)

    def _monotone(self, context_length: int) -> tuple[list[int], list[float]]:
        """Measured sizes and their seconds at a context, never falling (pooled neighbours)."""
        # one sample may be an accident that keeps a size from ever being tried again: ask for two
        confirmed = (s for s, level in self._levels.items() if level.num_samples >= _CONFIRMED)
        sizes = sorted(confirmed)
        pools: list[tuple[float, float, int]] = []  # seconds, weight, number of sizes
        for size in sizes:
            level, distance = self._levels[size], context_length - self._context[size]
            value = max(level.value + self.slope_s * distance, 0.5 * level.value)
            age = self._num_passes - self._seen[size]
            pools.append((value, min(level.num_samples, 20) * max(_MEMORY**age, 1e-6), 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (a, weight_a, count_a), (b, weight_b, count_b) = pools[-2:]
                weight = weight_a + weight_b
                pools[-2:] = [((a * weight_a + b * weight_b) / weight, weight, count_a + count_b)]
        return sizes, [value for value, _, count in pools for _ in range(count)]
