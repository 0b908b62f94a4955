"""Statistics as text for people; it knows no device and prints nothing itself."""

from __future__ import annotations

from specdec.generation import Generation
from specdec.stats import SpecStats


def summary(result: Generation, stats: SpecStats) -> str:
    """A few lines about a run: devices, speed, and how the drafts fared.

    `result` names devices and mode; `stats` are the totals of all its prompts.
    """
    lines = [
        f"target {result.target_device}, draft {result.draft_device}, mode {result.mode}, "
        f"numerics {result.numerics_id}",
        f"{stats.num_tokens} tokens in {stats.decode_s:.2f} s: {stats.tokens_per_s:.1f} tokens/s "
        f"(prefill {stats.prefill_s:.2f} s)",
        f"{stats.num_passes} passes, {stats.tokens_per_pass:.2f} tokens per pass",
    ]
    if stats.num_draft_tokens:
        lines[-1] += (
            f"; accepted {stats.num_accepted_tokens} of {stats.num_draft_tokens} draft tokens "
            f"({stats.acceptance_rate:.0%})"
        )
        rates = zip(stats.accepted_per_position, stats.drafted_per_position, strict=True)
        by_position = " ".join(f"{reached / max(drafted, 1):.0%}" for reached, drafted in rates)
        lines.append(f"accepted as far as position 1, 2, ...: {by_position}")
    overlap = stats.overlap
    if overlap.num_rounds:
        idle = 1.0 - overlap.busy_s / max(stats.decode_s, 1e-9)
        lines.append(
            f"drafted ahead in {overlap.num_rounds} rounds: {overlap.hit_rate:.0%} hits, "
            f"{overlap.hidden_share:.0%} of their draft time hidden, {overlap.miss_wait_s:.2f} s "
            f"lost to misses; draft idle {max(idle, 0.0):.0%}, "
            f"target idle {1.0 - stats.verify_s / max(stats.decode_s, 1e-9):.0%}"
        )
    return "\n".join(lines)
