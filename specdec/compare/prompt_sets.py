"""Prompts by kind of text: the shipped ones or a user's; it knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specdec.assets import asset_dir
from specdec.config import nearest
from specdec.errors import UsageError
from specdec.prompts import Prompt, read_prompts

PromptSets = dict[str, tuple[Prompt, ...]]  # by kind, in the order of their file


def shipped_prompts() -> PromptSets:
    """24 prompts of each of five kinds."""
    return {
        path.stem: tuple(replace(prompt, kind=path.stem) for prompt in read_prompts(path))
        for path in sorted(asset_dir("benchmarks/prompts").glob("*.jsonl"))
    }


def prompts_of_file(path: Path) -> PromptSets:
    """A JSONL file's prompts by their `kind`; those without one are of kind `text`."""
    sets: PromptSets = {}
    for prompt in read_prompts(path):
        kind = prompt.kind or "text"
        sets[kind] = (*sets.get(kind, ()), replace(prompt, kind=kind))
    return sets


def chosen(sets: PromptSets, kinds: Sequence[str], per_kind: int) -> PromptSets:
    """The first prompts of the named kinds; no name means all."""
    for kind in kinds:
        if kind not in sets:
            raise UsageError(
                f"--kinds: there are no prompts of kind {kind!r}{nearest(kind, [*sets])}"
            )
    return {kind: sets[kind][:per_kind] for kind in kinds or sets}


def layers(sets: PromptSets, num_repeats: int) -> list[tuple[Prompt, ...]]:
    """The order of a comparison: one prompt of every kind, the next of every kind, ...; again.

    So a comparison may end after any layer and has treated all kinds alike.
    """
    longest = max(map(len, sets.values()))
    once = [
        tuple(prompts[i] for prompts in sets.values() if i < len(prompts)) for i in range(longest)
    ]
    return once * num_repeats
