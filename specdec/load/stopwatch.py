"""Times passes and draft steps for a moment, before a run; it decides and keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from specdec.types import Drafter, SamplingParams, Segment, Verifier

_GREEDY = SamplingParams()
_SLOT = 0
_TIMED_SIZES = (1, 2, 4, 8, 16)  # where the target pads passes to no sizes
_TIMED_STEPS = 4
_READ_TOKENS = 16
_PATIENCE_S = 60.0
_MOST_TIMES = 8
_SLOW_S = 0.1  # what has taken so long in all is not timed again, but for
_FIRST_S = 2.0  # a first time up to this: a driver may have compiled for this size


def draft_step_s(drafter: Drafter, bos_id: int) -> float:
    """Seconds of a draft step: the least of some short runs after a first one."""
    tokens = [bos_id] * 8

    def step_s() -> float:
        drafter.open(_SLOT, tokens, _GREEDY)
        start = time.perf_counter()
        run = drafter.take(_SLOT, len(tokens), _TIMED_STEPS, _PATIENCE_S)
        elapsed_s = time.perf_counter() - start
        drafter.close(_SLOT)
        return elapsed_s / max(1, len(run.token_ids))

    step_s()
    return _least(step_s)


def draft_read_s(drafter: Drafter, bos_id: int) -> float:
    """Seconds per token that the caller waits while a drafter reads a new sequence.

    Next to none where that goes on in a process of its own; its answer is not waited for.
    """
    tokens = [bos_id] * _READ_TOKENS
    start = time.perf_counter()
    drafter.open(_SLOT, tokens, _GREEDY)
    drafter.take(_SLOT, len(tokens), 1, 0.0)
    elapsed_s = time.perf_counter() - start
    drafter.close(_SLOT)
    return elapsed_s / len(tokens)


def pass_times_s(verifier: Verifier, bos_id: int, most: int) -> dict[int, float]:
    """Seconds of a pass by size, up to the first size of at least `most` tokens.

    The least of some of each size; of slow ones two passes, of very slow ones a single one.
    """
    times: dict[int, float] = {}
    sizes = [n for n in verifier.pass_sizes or _TIMED_SIZES if n <= verifier.context_length]
    _pass_s(verifier, bos_id, 1)
    for size in sizes:
        times[size] = _least(partial(_pass_s, verifier, bos_id, size))
        if size >= most:
            break
    return times


def by_num_tokens(times_s: Mapping[int, float]) -> tuple[float, ...]:
    """[m]: seconds of a pass of m tokens, padded to the next timed size; [0] is 0.0."""
    timed = sorted(times_s)
    counts = range(1, timed[-1] + 1)
    return (0.0, *(times_s[next(size for size in timed if size >= count)] for count in counts))


def _least(time_s: Callable[[], float]) -> float:
    """The least of several times: what disturbs a machine only ever adds."""
    times = [time_s()]
    while len(times) < _MOST_TIMES and sum(times) < (_FIRST_S if len(times) == 1 else _SLOW_S):
        times.append(time_s())
    return min(times)


def _pass_s(verifier: Verifier, bos_id: int, size: int) -> float:
    verifier.open(_SLOT, _GREEDY)
    start = time.perf_counter()
    verifier.verify([Segment(_SLOT, 0, (bos_id,) * size)])
    elapsed_s = time.perf_counter() - start
    verifier.close(_SLOT)
    return elapsed_s
