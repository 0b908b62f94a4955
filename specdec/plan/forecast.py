"""Tokens per second of plain, synchronous, continuous and batched decoding; it runs nothing.

All rates are modelled, from the costs and the acceptance they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from specdec.costs import CostTable
from specdec.plan.acceptance import MAX_DRAFT, AcceptanceModel, Overlapped
from specdec.simulator import OverlapCosts

_LONGEST_AFTER_MISS = 8
PassSeconds = Callable[[int, int], float]  # of a pass of so many tokens in all, and sequences


@dataclass(frozen=True, slots=True)
class DraftCosts:
    """A draft step as plans see it."""

    device: str
    step_s: float
    fixed_s: float = 0.0  # of asking the drafter at all
    bus_s: float = 0.0  # by how much each hidden step slows a pass on the same memory
    rows: int = 1  # sequences that one step serves
    row_s: float = 0.0  # what each further row adds to a step

    def overlap_costs(self, table: CostTable) -> OverlapCosts:
        """What it costs that pass and draft run at once: each slows by the other's reads."""
        share = self.bus_s / self.step_s if self.step_s else 0.0
        return OverlapCosts(table, self.row_s, share, share)


@dataclass(frozen=True, slots=True)
class StreamForecast:
    """One sequence with one kind of text, in tokens per second."""

    kind: str
    plain: float
    fixed: tuple[float, ...]  # by draft length, 0 is plain
    tokens_per_pass: tuple[float, ...]  # by draft length
    adaptive: float | None
    continuous: float  # drafting goes on during passes; the best of it and of not doing so
    hit_rate: float  # passes that ended in an ending worked for
    free: float  # the same drafts for nothing: a bound

    @property
    def best_length(self) -> int:
        """The fixed draft length with the highest rate."""
        return self.fixed.index(max(self.fixed))

    @property
    def best(self) -> float:
        """The highest rate of any way."""
        return max(*self.fixed, self.adaptive or 0.0, self.continuous)


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """Many sequences at once, tokens per second of all together."""

    num_sequences: int
    plain: float
    draft_length: int  # the best
    speculative: float  # drafts wait for the pass and the pass for them
    overlapped: float  # one half is drafted while the other is checked
    held_bytes: int  # weights and caches
    fits: bool  # in the machine's memory, as far as that is known

    @property
    def best(self) -> float:
        """The highest rate of any way; 0 where it does not fit."""
        return max(self.plain, self.speculative, self.overlapped) if self.fits else 0.0


def stream_forecasts(
    costs: CostTable, draft: DraftCosts, acceptance: AcceptanceModel, hit_rate: float
) -> list[StreamForecast]:
    """One forecast per kind of text."""
    adaptive = acceptance.adaptive(costs)
    simulated = acceptance.overlapped(draft.overlap_costs(costs))
    longest = min(MAX_DRAFT, costs.longest_run)
    forecasts = []
    for kind in acceptance.kinds:
        outcomes = [acceptance.fixed(kind, length, costs) for length in range(longest + 1)]
        per_pass = tuple(outcome.tokens_per_pass for outcome in outcomes)
        fixed = tuple(outcome.tokens_per_s for outcome in outcomes)
        own = adaptive.get(kind)
        ahead = simulated.get(kind) or Overlapped(
            _continuous(costs, draft, per_pass, hit_rate), hit_rate
        )
        forecasts.append(
            StreamForecast(
                kind,
                fixed[0],
                fixed,
                per_pass,
                own.tokens_per_s if own else None,
                max(ahead.tokens_per_s, own.tokens_per_s if own else 0.0, *fixed),
                ahead.hit_rate,
                max(
                    per_pass[k] / (costs.pass_s[k + 1] + costs.other_s) for k in range(longest + 1)
                ),
            )
        )
    return forecasts


def _continuous(
    costs: CostTable, draft: DraftCosts, per_pass: Sequence[float], hit_rate: float
) -> float:
    """Branches for likely endings are drafted while a run is checked; a hit is handed over at once.

    While a run of k is checked, k + 1 more steps are made, each of which slows the pass by its
    share of the memory. After a miss the next run is drafted before it can be checked.
    """
    best = 0.0
    for length in range(1, len(per_pass)):
        steps = length + 1
        pass_s = costs.pass_s[length + 1] + costs.other_s
        hit_s = max(pass_s + steps * draft.bus_s, steps * draft.step_s)
        for after_miss in range(min(_LONGEST_AFTER_MISS, length) + 1):
            miss_s = hit_s + draft.fixed_s + after_miss * draft.step_s
            tokens = hit_rate * per_pass[length] + (1 - hit_rate) * per_pass[after_miss]
            best = max(best, tokens / (hit_rate * hit_s + (1 - hit_rate) * miss_s))
    return best


def batch_forecasts(
    sizes: Sequence[int],
    pass_s: PassSeconds,
    draft: DraftCosts,
    tokens_per_pass: Sequence[float],
    held_bytes: Callable[[int], int],
    max_pass_tokens: int,
    memory_bytes: int | None,
) -> Iterator[BatchForecast]:
    """One forecast per batch size; a pass takes `max_pass_tokens` at most, drafts included."""
    for size in sizes:
        plain_s = pass_s(size, size)
        best = (size / plain_s, 0, size / plain_s)
        for length in range(1, len(tokens_per_pass)):
            if size * (length + 1) > max_pass_tokens:
                break
            target_s = pass_s(size * (length + 1), size)
            draft_s = draft.fixed_s + -(-size // draft.rows) * length * draft.step_s
            tokens = size * tokens_per_pass[length]
            shared_s = draft_s / draft.step_s * draft.bus_s if draft.step_s else 0.0
            rate = tokens / (target_s + draft_s)
            overlapped = tokens / max(target_s + shared_s, draft_s) if size > 1 else rate
            best = max(best, (rate, length, overlapped), key=lambda found: max(found[0], found[2]))
        rate, length, overlapped = best
        held = held_bytes(size)
        fits = memory_bytes is None or held <= memory_bytes
        yield BatchForecast(size, size / plain_s, length, rate, overlapped, held, fits)
