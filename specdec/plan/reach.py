"""Whether a rate can be reached, and what stands in the way, in words; it knows forecasts only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.plan.forecast import BatchForecast, StreamForecast


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim about one goal."""

    claim: str
    is_reachable: bool
    reason: str


def verdicts(
    goal: float,
    bus_gb_s: float | None,
    moved_bytes: int,
    streams: Sequence[StreamForecast],
    batches: Sequence[BatchForecast],
) -> list[Verdict]:
    """Plain decoding, one stream, and batches against `goal` tokens per second."""
    return [
        _plain(goal, bus_gb_s, moved_bytes, streams[0].plain),
        _stream(goal, streams),
        _batch(goal, batches),
    ]


def _plain(goal: float, bus_gb_s: float | None, moved_bytes: int, rate: float) -> Verdict:
    claim = f"{goal:g} tokens/s plain"
    if rate >= goal:
        return Verdict(claim, True, f"{rate:.1f} expected")
    needed = goal * moved_bytes / 1e9
    reason = f"{rate:.1f} expected; a token reads {moved_bytes / 1e9:.2f} GB, so {needed:.0f} GB/s"
    if bus_gb_s is not None:
        most = bus_gb_s / (moved_bytes / 1e9)
        reason += f"; the bus has {bus_gb_s:g} GB/s, enough for {most:.1f} at the very most"
    return Verdict(claim, False, reason)


def _stream(goal: float, streams: Sequence[StreamForecast]) -> Verdict:
    claim = f"{goal:g} tokens/s in one stream"
    best = max(streams, key=lambda stream: stream.best)
    if best.best >= goal:
        return Verdict(claim, True, f"{best.best:.1f} expected for {best.kind}")
    plain = best.plain
    needed = goal / plain
    reason = (
        f"{best.best:.1f} expected at best ({best.kind}); it takes {needed:.1f} tokens a pass, an "
        f"acceptance of {max(0.0, 1 - plain / goal):.3f} with free drafts of any length and passes "
        f"that cost no more for it; these drafts, for nothing, would reach {best.free:.1f}"
    )
    return Verdict(claim, False, reason)


def _batch(goal: float, batches: Sequence[BatchForecast]) -> Verdict:
    claim = f"{goal:g} tokens/s in all with a batch"
    for batch in batches:
        if batch.best >= goal:
            is_plain = batch.plain >= goal
            rate, how = (batch.plain, "plain") if is_plain else (batch.best, "speculative")
            return Verdict(claim, True, f"{rate:.1f} expected with {batch.num_sequences}, {how}")
    best = max(batches, key=lambda batch: batch.best)
    reason = f"{best.best:.1f} expected at best, with {best.num_sequences} sequences"
    if not all(batch.fits for batch in batches):
        reason += "; more do not fit in memory"
    return Verdict(claim, False, reason)
