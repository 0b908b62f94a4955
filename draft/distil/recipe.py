"""What a distillation is asked for: sizes, texts, budgets; it computes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from specdec.errors import UsageError
from specdec.gemma3.shape import GROUP, Gemma3Shape

_SIZES = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,2})")
_GLOBAL_EVERY = 6
_WIDE = 256  # from this hidden size on heads are 128 long, below 64


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train one model; whichever limit comes first ends it."""

    max_steps: int
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the result depends on besides the target, and where to work."""

    work: Path  # token files, training states, curve and report
    corpus: tuple[Path, ...]
    heldout: tuple[Path, ...]  # empty: the last of the corpus
    sizes: str  # of the draft, HIDDENxLAYERS; "" with a start: its own
    start: Path | None  # a converted draft to go on from
    head_bits: int
    budget: Budget
    num_rows: int = 16
    window_length: int = 512
    own_tokens: int = 1_000_000  # that the target writes itself to be trained on
    rate_scale: float = 1.0
    measure_every: int = 200  # steps
    prompt_length: int = 128
    continuation: int = 128
    num_prompts: int = 16  # a kind of text
    seed: int = 0

    def digest(self) -> str:
        """The same for recipes that may go on from each other's states: all but the budget."""
        fields = dataclasses.asdict(self)
        del fields["work"], fields["budget"]
        text = json.dumps(fields, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def shape_of_sizes(sizes: str, vocab_size: int, context_length: int) -> Gemma3Shape:
    """The shape that "HIDDENxLAYERS" stands for; UsageError if it is none."""
    match = _SIZES.fullmatch(sizes)
    if match is None or int(match[1]) % 64:
        raise UsageError(f"shape {sizes!r}: write HIDDENxLAYERS, HIDDEN a multiple of 64: 192x3")
    hidden, num_layers = int(match[1]), int(match[2])
    head_dim = 128 if hidden >= _WIDE else 64
    num_heads = hidden // head_dim
    return Gemma3Shape(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=3 * hidden // GROUP * GROUP,
        num_heads=num_heads,
        num_kv_heads=num_heads // 2 if num_heads % 2 == 0 else 1,
        head_dim=head_dim,
        context_length=context_length,
        sliding_window=min(512, context_length),
        is_global_layer=layer_kinds(num_layers),
        query_pre_attn_scalar=float(head_dim),
    )


def layer_kinds(num_layers: int) -> tuple[bool, ...]:
    """Which layers are global: every sixth, and the last."""
    return tuple(
        (layer + 1) % _GLOBAL_EVERY == 0 or layer + 1 == num_layers for layer in range(num_layers)
    )
