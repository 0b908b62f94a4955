"""Our target on Vulkan with random weights, as a Subject; it knows no peer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench_target import SHAPES, RandomWeights

from specdec.types import SamplingParams, Segment
from target.model import open_verifier
from target.vulkan import Device

_SLOT = 0
_MOST_TOKENS = 32  # of a pass


class OurTarget:
    """One sequence on one device; the head is INT4, like a Q4_0 file's."""

    def __init__(self, shape_name: str, device: str, context_length: int) -> None:
        shape, opened = SHAPES[shape_name], Device.open(device)
        info = opened.info
        self._verifier = open_verifier(
            RandomWeights(shape, 4),
            shape,
            4,
            opened,
            context_length=context_length,
            max_pass_tokens=_MOST_TOKENS,
        )
        self._verifier.open(_SLOT, SamplingParams())
        self._name = f"specdec, {info.name} ({info.driver}), {self._verifier.numerics_id}"

    @property
    def name(self) -> str:
        """Device, driver and what fixes the bits."""
        return self._name

    def cut(self, length: int) -> None:
        """Forget everything beyond `length` tokens."""
        if length == 0:
            self._verifier.open(_SLOT, SamplingParams())
        else:
            self._verifier.truncate(_SLOT, length)

    def feed(self, token_ids: Sequence[int]) -> float:
        """Prefill."""
        segment = Segment(_SLOT, self._verifier.length(_SLOT), tuple(token_ids))
        start = time.perf_counter()
        self._verifier.prefill(segment)
        return time.perf_counter() - start

    def choose(self, token_ids: Sequence[int]) -> float:
        """One verify pass, or as many as its most tokens need."""
        most, position = self._verifier.max_pass_tokens, self._verifier.length(_SLOT)
        ids = tuple(token_ids)
        start = time.perf_counter()
        for first in range(0, len(ids), most):
            self._verifier.verify([Segment(_SLOT, position + first, ids[first : first + most])])
        return time.perf_counter() - start
