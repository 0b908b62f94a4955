"""Traces of an imaginary draft: what it gets right is drawn, its margins are honest but noisy."""

import numpy as np

from specdec.costs import CostTable
from specdec.traces import Trace

MAX_DRAFT = 15
# kind -> mean logit of acceptance, by how much the draft is overconfident there
TASKS = {"code": (2.2, 0.3), "chat": (0.4, 0.6), "creative": (-0.3, 0.9), "json": (3.2, 0.0)}


def trace(kind: str, num_tokens: int, seed: int, temperature: float = 0.0) -> Trace:
    """Acceptance is correlated from token to token, around the kind's mean."""
    rng = np.random.default_rng(seed)
    mean, bias = TASKS[kind]
    z = np.zeros(num_tokens + MAX_DRAFT + 1)
    z[0] = rng.normal()
    for t in range(1, len(z)):
        z[t] = 0.35 * z[t - 1] + np.sqrt(1 - 0.35**2) * rng.normal()
    logits = mean + 1.8 * z
    hits = rng.random(len(z)) < 1 / (1 + np.exp(-logits))
    margins = np.maximum(1.15 * logits + bias + 0.9 * rng.normal(size=len(z)), 0.0)
    return from_hits(f"{kind}/{seed}", hits, margins, num_tokens, temperature)


def hopeless(num_tokens: int, seed: int, acceptance: float = 0.1) -> Trace:
    """A draft that is seldom right and whose margins tell nothing."""
    rng = np.random.default_rng(seed)
    hits = rng.random(num_tokens + MAX_DRAFT) < acceptance
    margins = rng.exponential(1.5, num_tokens + MAX_DRAFT)
    return from_hits(f"hopeless/{seed}", hits, margins, num_tokens, 0.0)


def from_hits(
    name: str, hits: np.ndarray, margins: np.ndarray, num_tokens: int, temperature: float
) -> Trace:
    """The trace of a text at whose token t every chain is right iff hits[t]."""
    windows = np.lib.stride_tricks.sliding_window_view(hits, MAX_DRAFT)[:num_tokens]
    chains = np.lib.stride_tricks.sliding_window_view(margins, MAX_DRAFT)[:num_tokens]
    return Trace(
        name,
        temperature,
        prompt_length=20,
        margins=chains.astype(np.float32) / (temperature or 1.0),
        num_drafted=np.full(num_tokens, MAX_DRAFT, np.uint8),
        num_matching=np.cumprod(windows, axis=1).sum(axis=1).astype(np.uint8),
    )


def flat_costs(pass_s: float = 0.2, draft_s: float = 0.017) -> CostTable:
    """A pass of up to 16 tokens costs the same."""
    return CostTable((0.0,) + (pass_s,) * 16, draft_s)


def stepped_costs(draft_s: float = 0.006) -> CostTable:
    """Flat to 8 tokens, then a step and a slope."""
    sizes = range(1, 17)
    passes = [0.16 * (1 + 0.008 * (m - 1)) if m <= 8 else 0.215 + 0.004 * (m - 9) for m in sizes]
    return CostTable((0.0, *passes), draft_s)


def steep_costs() -> CostTable:
    """Every further token costs half a plain pass, as on a processor without slack."""
    return CostTable((0.0, *(0.06 * (1 + 0.5 * (m - 1)) for m in range(1, 17))), 0.006)


def cliff_costs() -> CostTable:
    """Two tokens cost twice as much as one, but no less than eight: other kernels serve them."""
    return CostTable((0.0, 0.05, *[0.1] * 7, *[0.2] * 8), 0.003)
