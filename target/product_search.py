"""Searches settings of the matrix products on a device by trying neighbours, checking bits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from specdec.errors import DeviceError
from target.product_bench import ProductBench, TimedProduct, speedup
from target.product_space import Product, forms_of, neighbours, other_forms
from target.tuning import MATRICES, GemmTuning, Tuning
from target.vulkan import DeviceInfo

ROWS = (1, 2, 4, 8, 16)

_PAIRS = 5
_CONFIRMING_PAIRS = 15
_GAIN = 1.03  # a change that brings less is noise
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for one product."""

    product: Product
    shipped: GemmTuning
    best: GemmTuning
    speedup: float  # over the shipped settings; 1.0 where they stay
    shipped_s: float  # seconds of one product; 0.0 where there was no time to look
    num_tried: int
    num_wrong: int  # gave other bits, which no legal setting may

    @property
    def changes(self) -> dict[str, str | int]:
        """Settings that differ from the shipped ones."""
        usual = asdict(self.shipped)
        return {name: value for name, value in asdict(self.best).items() if value != usual[name]}


def search(
    bench: ProductBench,
    info: DeviceInfo,
    shipped: Tuning,
    budget_s: float,
    show: Callable[[Found], None],
) -> list[Found]:
    """Every product for every size of pass, each with its part of the time while there is any."""
    products = [Product(matrix, rows) for rows in ROWS for matrix in MATRICES]
    forms = forms_of(shipped, info)
    end_s = time.perf_counter() + budget_s
    found = []
    for index, product in enumerate(products):
        settings = shipped.gemm(product.matrix, product.rows)
        left_s = end_s - time.perf_counter()
        if left_s > 0.0:
            climb = _Climb(bench, info, product, forms, left_s / (len(products) - index))
            result = climb.run(settings)
        else:
            result = Found(product, settings, settings, 1.0, 0.0, 0, 0)
        found.append(result)
        show(result)
    return found


class _Climb:
    """The search for one product: from the shipped settings to the best neighbour, again."""

    def __init__(
        self,
        bench: ProductBench,
        info: DeviceInfo,
        product: Product,
        forms: Collection[str],
        budget_s: float,
    ) -> None:
        self._bench = bench
        self._info = info
        self._product = product
        self._forms = forms
        self._until_s = time.perf_counter() + budget_s
        self._seen: set[GemmTuning] = set()
        self._num_wrong = 0

    def run(self, shipped: GemmTuning) -> Found:
        """Climb until no neighbour is faster or the time is over."""
        start = self._bench.prepare(self._product, shipped)
        self._seen.add(shipped)
        current, best = start, shipped
        try:
            while (step := self._better(current, best, start.result)) is not None:
                if current is not start:
                    current.release()
                current, best = step
            gain = speedup(start, current, _CONFIRMING_PAIRS) if best != shipped else 1.0
            if gain < _GAIN:
                gain, best = 1.0, shipped
            shipped_s = min(start.run_s() for _ in range(3))
        finally:
            if current is not start:
                current.release()
            start.release()
        tried = len(self._seen)
        return Found(self._product, shipped, best, gain, shipped_s, tried, self._num_wrong)

    def _better(
        self, current: TimedProduct, settings: GemmTuning, expected: np.ndarray
    ) -> tuple[TimedProduct, GemmTuning] | None:
        """The first neighbour that is faster, prepared; None if there is none, or no time."""
        for other in self._untried(settings):
            if time.perf_counter() > self._until_s:
                return None
            self._seen.add(other)
            try:
                trial = self._bench.prepare(self._product, other)
            except DeviceError as error:
                _log.info("%s with %s: %s", self._product, other, error)
                continue
            is_equal = np.array_equal(trial.result, expected)
            if is_equal and speedup(current, trial, _PAIRS) > _GAIN:
                return trial, other
            if not is_equal:
                self._num_wrong += 1
                _log.warning("%s gave other bits with %s: not used", self._product, other)
            trial.release()
        return None

    def _untried(self, settings: GemmTuning) -> Sequence[GemmTuning]:
        near = [*neighbours(settings, self._product, self._info)]
        far = [*other_forms(settings, self._product, self._info, self._forms)]
        return [other for other in (*near, *far) if other not in self._seen]
