"""Which beginnings of prompts are kept for the prompts to come; it runs no pass.

A beginning that several of the last prompts shared is copied, when a prompt has been fed that far,
into a slot that no sequence uses. Prompts that begin with it start from a copy of that slot.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.types import SamplingParams, Verifier

_LEAST_TOKENS = 32  # worth keeping
_NUM_RECENT = 16  # prompts that a new one is compared with
_NUM_SHARERS = 2  # of them that must begin alike: two equal prompts are no pattern

_NO_SAMPLING = SamplingParams()  # nothing is ever chosen after a kept prefix


@dataclass(frozen=True, slots=True)
class PromptStart:
    """How far a prompt is when it begins, and where to stop and keep what it holds then."""

    num_held: int
    keep_at: int  # a length; 0: keep nothing


class SharedPrefixes:
    """Prefixes kept in slots of their own, the one longest unused making room for the next."""

    def __init__(self, verifier: Verifier, slots: Sequence[int]) -> None:
        """Without `slots` nothing is ever kept."""
        self._verifier = verifier
        self._free = list(slots)
        self._kept: OrderedDict[tuple[int, ...], int] = OrderedDict()  # tokens -> slot
        self._recent: deque[NDArray[np.int64]] = deque(maxlen=_NUM_RECENT if slots else 0)

    def begin(self, slot: int, prompt_ids: Sequence[int]) -> PromptStart:
        """Let the open, empty `slot` start from the longest prefix kept, if there is one.

        The prompt's last token is never part of it: it is fed by the first pass.
        """
        ids = tuple(prompt_ids[:-1])
        fitting = [prefix for prefix in self._kept if ids[: len(prefix)] == prefix]
        prefix = max(fitting, key=len, default=())
        if prefix:
            self._kept.move_to_end(prefix)
            self._verifier.copy_prefix(self._kept[prefix], slot, len(prefix))
        shared = self._shared_length(np.array(ids, np.int64))
        keep_at = shared if shared - len(prefix) >= _LEAST_TOKENS else 0
        return PromptStart(len(prefix), keep_at)

    def keep(self, slot: int, prefix_ids: Sequence[int]) -> None:
        """Keep what `slot` holds, which is `prefix_ids` and no more."""
        ids = tuple(prefix_ids)
        if ids in self._kept:  # another sequence was faster
            return
        kept_in = self._free.pop() if self._free else self._kept.popitem(last=False)[1]
        self._verifier.open(kept_in, _NO_SAMPLING)
        self._verifier.copy_prefix(slot, kept_in, len(ids))
        self._kept[ids] = kept_in

    def _shared_length(self, ids: NDArray[np.int64]) -> int:
        """How many first tokens some of the last prompts have as well; remembers this prompt."""
        lengths = sorted((_common_length(ids, other) for other in self._recent), reverse=True)
        self._recent.append(ids)
        return lengths[_NUM_SHARERS - 1] if len(lengths) >= _NUM_SHARERS else 0


def _common_length(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    shorter = min(len(first), len(second))
    differs = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differs[0]) if len(differs) else shorter
