"""What the engine hands out: progress of a request and its result; it knows no device."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.sequence import FinishReason
from specdec.stats import SpecStats


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished request."""

    id: str
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    mode: str
    target_device: str
    draft_device: str
    numerics_id: str
    seed: int
    stats: SpecStats
    error: str = ""
    log_probs: tuple[float, ...] | None = None  # of each token; None where not asked for

    def to_json(self) -> dict[str, object]:
        """The object `specdec generate --json` prints."""
        result: dict[str, object] = {
            name: getattr(self, name)
            for name in ("id", "prompt", "text", "finish_reason", "mode", "target_device")
        }
        result |= {
            "draft_device": self.draft_device,
            "numerics_id": self.numerics_id,
            "seed": self.seed,
            "token_ids": list(self.token_ids),
            "stats": self.stats.to_json(),
        }
        if self.log_probs is not None:
            result["log_probs"] = list(self.log_probs)
        return result | ({"error": self.error} if self.error else {})


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of one request: new text and tokens, and the result with the last of them."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    num_accepted: int  # how many of token_ids were draft tokens
    result: Generation | None = None
