"""How often a draft agrees with a target's own text, by draft length; it knows no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from draft.distil.generation import choose, continue_texts
from draft.distil.model import Gemma3

MAX_DRAFT_LENGTH = 8
_MAX_PERIOD = 64
_MIN_ROUNDS = 3
_MIN_LOOP = 24  # tokens
_SEED = 77
_ROWS = 16  # sequences drafted at a time


@dataclass(frozen=True, slots=True)
class Continuations:
    """What the target writes after held-out prompts of one kind at one temperature."""

    kind: str
    temperature: float
    prompt_length: int
    ids: Tensor  # (B, P + N)
    num_free: tuple[int, ...]  # tokens of each continuation before it loops or ends


@dataclass(frozen=True, slots=True)
class AcceptanceRow:
    """Agreement on one kind of text at one temperature, in text free of loops."""

    kind: str
    temperature: float
    num_tokens: int
    loop_share: float  # continuations that end in a loop
    acceptance: float  # of draft tokens whose predecessors were all the target's
    tokens_per_pass: tuple[float, ...]  # at K = 1 .. MAX_DRAFT_LENGTH
    by_position: tuple[float, ...]  # odds of draft position j, those before it accepted


def loop_start(ids: Sequence[int]) -> int:
    """Where text starts to go round and never stops; len(ids) if it does not.

    A loop has a period of at most 64 tokens and fills 3 rounds and 24 tokens at the end; its first
    round counts as text.
    """
    best = len(ids)
    for period in range(1, _MAX_PERIOD + 1):
        start = len(ids) - period
        while start > 0 and ids[start - 1] == ids[start - 1 + period]:
            start -= 1
        if len(ids) - start >= max(_MIN_ROUNDS * period, _MIN_LOOP):
            best = min(best, start + period)
    return best


@torch.no_grad()
def target_continuations(
    target: Gemma3,
    prompts: Mapping[str, Tensor],
    count: int,
    temperatures: Sequence[float],
    eos_ids: Sequence[int],
    is_rounded: bool,
) -> list[Continuations]:
    """Let the target continue prompts (B, P) of each kind at each temperature."""
    found = []
    for kind, rows in prompts.items():
        for temperature in temperatures:
            each = torch.full((len(rows),), temperature, device=rows.device)
            ids = continue_texts(target, rows, count, each, _SEED, is_rounded)
            texts = ids[:, rows.shape[1] :].tolist()
            free = tuple(min(loop_start(text), _end(text, eos_ids)) for text in texts)
            found.append(Continuations(kind, temperature, rows.shape[1], ids, free))
    return found


def _end(text: Sequence[int], eos_ids: Sequence[int]) -> int:
    return next((place + 1 for place, token in enumerate(text) if token in eos_ids), len(text))


@torch.no_grad()
def measure(
    draft: Gemma3, continuations: Sequence[Continuations], is_rounded: bool
) -> list[AcceptanceRow]:
    """Let the draft choose along the target's texts, with the target's noise."""
    return [_row(texts, _matches(draft, texts, is_rounded)) for texts in continuations]


def _matches(draft: Gemma3, texts: Continuations, is_rounded: bool) -> list[list[bool]]:
    """Whether the draft's token is the target's, for each token of each continuation."""
    hidden, table = [], None
    for part in texts.ids.split(_ROWS):
        states, table = draft(part[:, :-1], is_rounded)
        hidden.append(states[:, texts.prompt_length - 1 :])
    assert table is not None
    states = torch.cat(hidden)
    each = torch.full((len(states),), texts.temperature, device=states.device)
    chosen = [
        choose(states[:, place] @ table.T, each, _SEED, place) for place in range(states.shape[1])
    ]
    found: list[list[bool]] = (
        torch.stack(chosen, 1) == texts.ids[:, texts.prompt_length :]
    ).tolist()
    return found


def _row(texts: Continuations, matches: list[list[bool]]) -> AcceptanceRow:
    free = [row[:count] for row, count in zip(matches, texts.num_free, strict=True)]
    num_tokens = sum(map(len, free))
    per_pass = [
        num_tokens / max(1, sum(num_passes(row, length) for row in free))
        for length in range(1, MAX_DRAFT_LENGTH + 1)
    ]
    total = len(matches[0])
    loops = sum(loop_start(row) < total for row in texts.ids[:, texts.prompt_length :].tolist())
    return AcceptanceRow(
        kind=texts.kind,
        temperature=texts.temperature,
        num_tokens=num_tokens,
        loop_share=loops / len(matches),
        acceptance=sum(map(sum, free)) / max(1, num_tokens),
        tokens_per_pass=tuple(round(value, 4) for value in per_pass),
        by_position=_by_position(free),
    )


def num_passes(matches: Sequence[bool], draft_length: int) -> int:
    """Verify passes that a continuation takes when every run has `draft_length` tokens."""
    place = passes = 0
    while place < len(matches):
        run = matches[place : place + draft_length]
        place += (run.index(False) if False in run else len(run)) + 1
        passes += 1
    return passes


def _by_position(rows: Sequence[Sequence[bool]]) -> tuple[float, ...]:
    """Share of matches at each distance behind a place where all between matched."""
    reached, matched = [0] * MAX_DRAFT_LENGTH, [0] * MAX_DRAFT_LENGTH
    for row in rows:
        for start in range(len(row)):
            for offset, is_match in enumerate(row[start : start + MAX_DRAFT_LENGTH]):
                reached[offset] += 1
                matched[offset] += is_match
                if not is_match:
                    break
    return tuple(round(m / r, 4) if r else 0.0 for m, r in zip(matched, reached, strict=True))
