"""Counters and times of one generation and the rates made of them.

The bonus token counts in tokens_per_pass, not in acceptance_rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from specdec.overlap_stats import OverlapStats
from specdec.types import RoundReport


@dataclass(slots=True)
class SpecStats:
    """What happened; a pass is a verify or plain pass, never prefill."""

    num_passes: int = 0
    num_draft_tokens: int = 0  # checked ones: the others cost time, and nobody judged them
    num_unchecked_tokens: int = 0  # drafted, but not worth a place in the pass
    num_accepted_tokens: int = 0
    num_tokens: int = 0  # emitted, after cutting at a stop
    drafted_per_position: list[int] = field(default_factory=list)  # runs at least i + 1 long
    accepted_per_position: list[int] = field(default_factory=list)  # runs accepted that far
    prefill_s: float = 0.0
    decode_s: float = 0.0
    draft_s: float = 0.0  # of decode_s: waiting for the drafter
    verify_s: float = 0.0  # of decode_s: in passes
    overlap: OverlapStats = field(default_factory=OverlapStats)

    def observe(self, report: RoundReport) -> None:
        """Count one round."""
        num_checked, num_accepted = report.num_checked, len(report.acceptance.accepted)
        self.num_passes += 1
        self.num_draft_tokens += num_checked
        self.num_unchecked_tokens += len(report.run.token_ids) - num_checked
        self.num_accepted_tokens += num_accepted
        self.num_tokens += len(report.emitted)
        _count_up_to(self.drafted_per_position, num_checked)
        _count_up_to(self.accepted_per_position, num_checked, num_accepted)
        self.draft_s += report.draft_s
        self.verify_s += report.verify_s
        self.overlap.observe(report)

    def add(self, other: SpecStats) -> None:
        """Add another generation's counts and times to these."""
        self.num_passes += other.num_passes
        self.num_draft_tokens += other.num_draft_tokens
        self.num_unchecked_tokens += other.num_unchecked_tokens
        self.num_accepted_tokens += other.num_accepted_tokens
        self.num_tokens += other.num_tokens
        _add_lists(self.drafted_per_position, other.drafted_per_position)
        _add_lists(self.accepted_per_position, other.accepted_per_position)
        self.prefill_s += other.prefill_s
        self.decode_s += other.decode_s
        self.draft_s += other.draft_s
        self.verify_s += other.verify_s
        self.overlap.add(other.overlap)

    @property
    def acceptance_rate(self) -> float:
        """Accepted draft tokens over draft tokens; 0 when nothing was drafted."""
        return self.num_accepted_tokens / max(self.num_draft_tokens, 1)

    @property
    def tokens_per_pass(self) -> float:
        """1 + accepted / passes: 1.0 when plain, up to K + 1."""
        return 1.0 + self.num_accepted_tokens / max(self.num_passes, 1)

    @property
    def tokens_per_s(self) -> float:
        """Emitted tokens per second of decoding; prefill is timed apart."""
        return self.num_tokens / self.decode_s if self.decode_s > 0.0 else 0.0

    def to_json(self) -> dict[str, object]:
        """The `stats` object of `specdec generate --json`."""
        return {
            "num_passes": self.num_passes,
            "num_draft_tokens": self.num_draft_tokens,
            "num_unchecked_tokens": self.num_unchecked_tokens,
            "num_accepted_tokens": self.num_accepted_tokens,
            "acceptance_rate": round(self.acceptance_rate, 4),
            "tokens_per_pass": round(self.tokens_per_pass, 4),
            "drafted_per_position": list(self.drafted_per_position),
            "accepted_per_position": list(self.accepted_per_position),
            "prefill_s": round(self.prefill_s, 6),
            "decode_s": round(self.decode_s, 6),
            "draft_s": round(self.draft_s, 6),
            "verify_s": round(self.verify_s, 6),
            "tokens_per_s": round(self.tokens_per_s, 3),
            "overlap": self.overlap.to_json(self.decode_s, self.verify_s),
        }


def _count_up_to(counts: list[int], length: int, reached: int | None = None) -> None:
    """Make `counts` at least `length` long and add 1 to its first `reached` entries."""
    counts.extend([0] * (length - len(counts)))
    for i in range(length if reached is None else reached):
        counts[i] += 1


def _add_lists(into: list[int], other: list[int]) -> None:
    into.extend([0] * (len(other) - len(into)))
    for i, count in enumerate(other):
        into[i] += count
