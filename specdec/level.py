"""A quantity followed through noise; it does not know what it measures."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 5  # samples a median is taken of
LASTING = 3  # as many suspect samples in a row are a change, not outliers
_GAIN = 0.25  # of the moving average of medians
_TOLERANCE = 0.25  # a sample this far off (as a factor) is suspect, however quiet the window
_MAD_TOLERANCE = 6.0  # or this many median absolute deviations, if that is more
_MAX_DEVIATION = 0.1  # relative; a window wilder than that is none to judge by


class Level:
    """A quantity, 0 or more, under noise: the moving average of medians of a few samples."""

    def __init__(self, value: float = 0.0, num_samples: int = 0) -> None:
        self.value = value
        self.num_samples = num_samples
        self._recent: deque[float] = deque([value] * min(num_samples, 2), maxlen=WINDOW)
        self._suspects: list[float] = []

    def observe(self, sample: float) -> bool:
        """Move towards a sample; False if it is suspect and, for now, left out."""
        if self._is_suspect(sample):
            self._suspect(sample)
            return False
        self._suspects.clear()
        self._recent.append(sample)
        self.num_samples += 1
        centre = min(self._recent) if self.num_samples < LASTING else median(self._recent)
        gain = 1.0 if self.num_samples <= WINDOW else _GAIN
        self.value += gain * (centre - self.value)
        return True

    def scale(self, factor: float) -> None:
        """Take note that the quantity, and what was seen of it, has changed by a factor."""
        self.value *= factor
        self._recent = deque((x * factor for x in self._recent), maxlen=WINDOW)
        self._suspects.clear()

    def _is_suspect(self, sample: float) -> bool:
        """Whether a sample lies further off than those of late do."""
        if self.num_samples < 2 or self.value <= 0.0:
            return False
        deviation = median(abs(x / self.value - 1.0) for x in self._recent)
        tolerance = max(_TOLERANCE, _MAD_TOLERANCE * min(deviation, _MAX_DEVIATION))
        return max(sample / self.value, self.value / max(sample, 1e-9)) > 1.0 + tolerance

    def _suspect(self, sample: float) -> None:
        """Leave a sample out, unless it is the last of several that lie on the same side."""
        if self._suspects and (sample > self.value) != (self._suspects[-1] > self.value):
            self._suspects.clear()
        self._suspects.append(sample)
        if len(self._suspects) >= LASTING:
            self.scale(median(self._suspects) / self.value)
