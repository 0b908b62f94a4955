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

_ESTABLISHED = 10  # samples after which a lasting change of one size is one of the clock
_DRIFT = 1.25  # a factor; a size that came this far bit by bit tells of a new clock as well
_MEMORY = 0.98  # of a level's weight beside its neighbours', per pass without a sample
_STEP_SIZES = (2, 4, 8, 16, 32, 64)
_TRUST = 32  # passes that a level is trusted without being used, per sample it rests on
_PLAIN_AGES = (64, 256)  # passes: at least and at most between two plain ones
_CONFIRMED = 2  # samples before a size counts
_CONTEXT_SCALE = 256.0  # tokens; differences of context below it say little about the slope
_SLOPE_GAIN = 0.2
_DOUBLING_CONTEXT = 1000.0  # tokens: no slope doubles a pass sooner
_CONTEXT_GAIN = 0.25  # of the context that a level counts as learned at


class PassCosts:
    """T(m): seconds of a pass of m tokens, and what a longer context adds to it.

    `steps` are the sizes that passes are padded to, if they are. A size never measured lies on the
    line between its measured neighbours. Powers of two, and what is beyond the largest measured up
    to its double, are taken for no dearer than the next smaller, so that each is tried where that
    would pay. None is believed to cost more than as many passes of one token: what a size cost on
    a busy machine must not rule it out.
    """

    def __init__(self, max_tokens: int, steps: Sequence[int] = ()) -> None:
        self.slope_s = 0.0  # per token of context
        self._max_tokens = max_tokens
        self._steps = tuple(steps)
        self._levels: dict[int, Level] = {}
        self._context: dict[int, float] = {}  # that a level was learned at
        self._num_passes = 0
        self._known_at: dict[int, int] = {}  # number of the last pass that a level rests on
        self._scaled_at: dict[int, int] = {}  # of the last pass that changed it with the clock
        self._told: dict[int, tuple[float, int]] = {}  # value that the others know of, since when
        self._suspect_since: dict[int, int] = {}  # first suspect pass since, by size
        self._series: dict[int, float] = {}  # relative suspects by size since any good sample

    def observe(self, num_tokens: int, context_length: int, elapsed_s: float) -> None:
        """Learn from one pass."""
        size = self._padded(num_tokens)
        self._num_passes += 1
        level = self._levels.get(size)
        if level is None:
            self._levels[size] = Level(elapsed_s, 1)
            self._context[size], self._known_at[size] = context_length, self._num_passes
            self._told[size] = (elapsed_s, self._num_passes)
            return
        distance = context_length - self._context[size]
        sample_s = max(elapsed_s - self.slope_s * distance, 0.1 * elapsed_s)
        expected_s = level.value
        if level.observe(sample_s):
            self._believe(size, distance, sample_s - expected_s, expected_s)
            return
        since = self._suspect_since.setdefault(size, self._num_passes)
        if level.value != expected_s:  # the last of several that said the same
            self._acquit(size)
            self._known_at[size] = self._num_passes
            self._tell(size, since)
        else:
            self._suspect(size, sample_s / expected_s)

    def is_known(self, num_tokens: int) -> bool:
        """Whether passes of this size were measured, and not too long ago."""
        size = self._padded(num_tokens)
        return size in self._levels and self._is_trusted(size)

    def pass_s(self, num_tokens: int, context_length: int) -> float:
        """Seconds of a pass of any size; 0.0 while nothing is known."""
        sizes, values = self._monotone(context_length)
        return self._on_line(num_tokens, sizes, values) if sizes else 0.0

    def is_plain_due(self, num_sequences: int = 1) -> bool:
        """Whether what is known of plain passes, which all else is compared with, is too old.

        A plain pass has one token of each sequence.
        """
        size = self._padded(num_sequences)
        level = self._levels.get(size)
        if level is None:
            return True
        trust = min(max(_TRUST * level.num_samples, _PLAIN_AGES[0]), _PLAIN_AGES[1])
        return self._num_passes - self._known_at[size] >= trust

    def table(self, context_length: int, num_sequences: int = 1) -> tuple[float, ...]:
        """Seconds for m = 0, 1, ...: at most to twice the largest size measured yet.

        Empty until plain passes are known, which all others are compared with.
        """
        plain = self._levels.get(self._padded(num_sequences))
        if plain is None or plain.num_samples < _CONFIRMED:
            return ()
        sizes, values = self._monotone(context_length)
        reach = min(self._max_tokens, 2 * max(sizes, default=0))
        if reach < num_sequences:
            return ()
        return (0.0, *(self._on_line(size, sizes, values) for size in range(1, reach + 1)))

    def to_json(self) -> dict[str, object]:
        """Levels by size, and the slope."""
        sizes = {
            str(size): [level.value, self._context[size], level.num_samples]
            for size, level in sorted(self._levels.items())
        }
        return {"sizes": sizes, "slope_s": self.slope_s}

    def restore(self, sizes: Mapping[int, tuple[float, float, int]], slope_s: float) -> None:
        """Start from seconds, context and number of samples by size, as learned in another run."""
        sizes = {size: saved for size, saved in sizes.items() if saved[2] >= WINDOW}
        self._levels = {size: Level(value, WINDOW) for size, (value, _, _) in sizes.items()}
        self._context = {size: context for size, (_, context, _) in sizes.items()}
        self._known_at = dict.fromkeys(sizes, 0)
        self._told = {size: (value, 0) for size, (value, _, _) in sizes.items()}
        self.slope_s = slope_s

    def _on_line(self, num_tokens: int, sizes: Sequence[int], values: Sequence[float]) -> float:
        """Seconds of any size, from those of measured sizes."""
        size = self._padded(num_tokens)
        index = bisect_left(sizes, size)
        if index == len(sizes):  # hope for a plateau: what is feared is never tried
            return values[-1]
        if index == 0 or sizes[index] == size:
            return values[index]
        share = (size - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return values[index - 1] + share * (values[index] - values[index - 1])

    def _padded(self, num_tokens: int) -> int:
        index = bisect_left(self._steps, num_tokens)
        return self._steps[index] if index < len(self._steps) else num_tokens

    def _believe(self, size: int, distance: float, error_s: float, expected_s: float) -> None:
        """A sample was as expected: follow the context, and learn what that costs."""
        level = self._levels[size]
        self._series.clear()
        self._acquit(size)
        self._known_at[size] = self._num_passes
        if level.num_samples > WINDOW:
            self._learn_slope(distance, error_s, expected_s)
        told, told_at = self._told[size]
        drift = level.value / told
        moved = _CONTEXT_GAIN * distance
        growth = max(1.0 + self.slope_s * moved / level.value, 0.5)
        self._context[size] += moved
        level.scale(growth)
        self._told[size] = (told * growth, told_at)
        if level.num_samples < _ESTABLISHED or not 1.0 / _DRIFT < drift < _DRIFT:
            self._tell(size, told_at + 1)

    def _tell(self, size: int, since: int) -> None:
        """A size has changed: an established one tells the others, up and down alike.

        Were only sudden changes told, loads that come at once and fade would raise for ever what
        is not measured in between.
        """
        level = self._levels[size]
        told, _ = self._told[size]
        self._told[size] = (level.value, self._num_passes)
        if level.num_samples >= _ESTABLISHED:
            self._new_clock(level.value / told, since)

    def _suspect(self, size: int, ratio: float) -> None:
        """Different sizes that are all slow, or all fast, in turn: a new clock, common to all."""
        if any((ratio > 1) != (other > 1) for other in self._series.values()):
            self._series.clear()
        self._series[size] = ratio
        if len(self._series) >= LASTING:
            since = min(self._suspect_since[other] for other in self._series)
            self._new_clock(median(self._series.values()), since)
            self._series.clear()

    def _new_clock(self, factor: float, since: int) -> None:
        """Scale every size that no pass since has shown to be otherwise.

        The others would follow by themselves only if tried, which one that has become cheaper than
        it seems never is.
        """
        for size, level in self._levels.items():
            if max(self._known_at[size], self._scaled_at.get(size, 0)) < since:
                level.scale(factor)
                self._scaled_at[size] = self._num_passes
                told, told_at = self._told[size]
                self._told[size] = (told * factor, told_at)
                self._acquit(size)
        self.slope_s *= factor

    def _acquit(self, size: int) -> None:
        """Nothing of a size is suspect any more: its level is what was last seen."""
        self._suspect_since.pop(size, None)
        self._series.pop(size, None)

    def _learn_slope(self, distance: float, error_s: float, expected_s: float) -> None:
        """Blame part of an error on the distance from the context the level was learned at."""
        error_s = min(max(error_s, -0.1 * expected_s), 0.1 * expected_s)
        step_s = _SLOPE_GAIN * error_s * distance / (distance**2 + _CONTEXT_SCALE**2)
        self.slope_s = min(max(self.slope_s + step_s, 0.0), expected_s / _DOUBLING_CONTEXT)

    def _is_trusted(self, size: int) -> bool:
        """Whether a level counts: what looks too dear to be tried again must not do so for ever.

        One sample may be an accident, and a few may be of a machine that was busy or still warming
        up; so a size not tried for long is unknown again, the sooner the less was seen of it.
        """
        num_samples = self._levels[size].num_samples
        age = self._num_passes - self._known_at[size]
        return num_samples >= _CONFIRMED and (size == 1 or age <= _TRUST * num_samples)

    def _monotone(self, context_length: int) -> tuple[list[int], list[float]]:
        """Measured sizes and their seconds at a context, never falling (pooled neighbours)."""
        sizes = sorted(size for size in self._levels if self._is_trusted(size))
        pools: list[tuple[float, float, int]] = []  # seconds, weight, number of sizes
        for size in sizes:
            level, distance = self._levels[size], context_length - self._context[size]
            value = max(level.value + self.slope_s * distance, 0.5 * level.value)
            age = self._num_passes - self._known_at[size]
            pools.append((value, min(level.num_samples, 20) * max(_MEMORY**age, 1e-6), 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (a, weight_a, count_a), (b, weight_b, count_b) = pools[-2:]
                weight = weight_a + weight_b
                pools[-2:] = [((a * weight_a + b * weight_b) / weight, weight, count_a + count_b)]
        values = [value for value, _, count in pools for _ in range(count)]
        if sizes and sizes[0] == 1:  # so many plain passes would do as well
            values = [
                min(value, size * values[0]) for size, value in zip(sizes, values, strict=True)
            ]
        for size in _STEP_SIZES:  # where kernels have their steps: hope that one ends a plateau
            index = bisect_left(sizes, size)
            if 0 < index < len(sizes) and sizes[index] != size:
                sizes.insert(index, size)
                values.insert(index, values[index - 1])
        return sizes, values
