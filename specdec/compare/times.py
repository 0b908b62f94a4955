"""Where decoding time goes, per emitted token; it knows statistics, no clock."""

from __future__ import annotations

from specdec.stats import SpecStats


def ms_per_token(stats: SpecStats) -> dict[str, float]:
    """Milliseconds per token: verify + draft + wait + host is all of decoding.

    `draft` is drafting while the target had nothing to do, `wait` the rest of the time it stood
    waiting for a run (messages, other processes). A drafter that reports no steps works in the
    engine's process, where all waiting is drafting. `hidden_draft` went on behind passes.
    """
    overlap = stats.overlap
    exposed_s = min(max(overlap.busy_s - overlap.hidden_s, 0.0), stats.draft_s)
    draft_s = exposed_s if overlap.busy_s > 0.0 else stats.draft_s
    seconds = {
        "verify": stats.verify_s,
        "draft": draft_s,
        "wait": stats.draft_s - draft_s,
        "host": max(stats.decode_s - stats.verify_s - stats.draft_s, 0.0),
        "hidden_draft": overlap.hidden_s,
    }
    return {name: 1e3 * value / max(stats.num_tokens, 1) for name, value in seconds.items()}
