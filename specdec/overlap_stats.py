"""How well drafting and checking overlapped in one generation; it knows reports, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.types import RoundReport


@dataclass(slots=True)
class OverlapStats:
    """Counters and seconds; a round counts as overlapped where the drafter worked ahead for it."""

    num_rounds: int = 0
    num_hits: int = 0  # the pass ended in one of the endings worked on
    num_ready_tokens: int = 0  # drafted before their run was asked for
    hidden_s: float = 0.0  # draft time of these
    hit_wait_s: float = 0.0  # waiting for the drafter all the same
    miss_wait_s: float = 0.0  # waiting for the drafter after a miss: what misses cost
    busy_s: float = 0.0  # the draft model at work, wanted or not

    def observe(self, report: RoundReport) -> None:
        """Count one round."""
        work = report.run.work
        self.busy_s += sum(step.end_s - step.start_s for step in work.steps)
        if not work.num_endings:
            return
        self.num_rounds += 1
        self.num_hits += work.is_hit
        self.num_ready_tokens += work.num_ready
        self.hidden_s += work.ready_s
        if work.is_hit:
            self.hit_wait_s += report.draft_s
        else:
            self.miss_wait_s += report.draft_s

    def add(self, other: OverlapStats) -> None:
        """Add another generation's."""
        self.num_rounds += other.num_rounds
        self.num_hits += other.num_hits
        self.num_ready_tokens += other.num_ready_tokens
        self.hidden_s += other.hidden_s
        self.hit_wait_s += other.hit_wait_s
        self.miss_wait_s += other.miss_wait_s
        self.busy_s += other.busy_s

    @property
    def hit_rate(self) -> float:
        """Hits over overlapped rounds; 0 where there were none."""
        return self.num_hits / max(self.num_rounds, 1)

    @property
    def hidden_share(self) -> float:
        """The part of the draft time of runs after hits that nobody waited for."""
        total_s = self.hidden_s + self.hit_wait_s
        return self.hidden_s / total_s if total_s > 0.0 else 0.0

    def to_json(self, decode_s: float, verify_s: float) -> dict[str, object]:
        """The `overlap` object of a result's stats; idle shares are of `decode_s`."""
        span_s = max(decode_s, 1e-9)
        return {
            "num_rounds": self.num_rounds,
            "num_hits": self.num_hits,
            "hit_rate": round(self.hit_rate, 4),
            "num_ready_tokens": self.num_ready_tokens,
            "hidden_share_on_hits": round(self.hidden_share, 4),
            "hidden_s": round(self.hidden_s, 6),
            "miss_wait_s": round(self.miss_wait_s, 6),
            "draft_busy_s": round(self.busy_s, 6),
            "draft_idle_share": round(max(0.0, 1.0 - self.busy_s / span_s), 4),
            "target_idle_share": round(max(0.0, 1.0 - verify_s / span_s), 4),
        }
