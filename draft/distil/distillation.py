"""A whole distillation: target and texts in, a Hugging Face draft out; it parses no arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from draft.distil.acceleration import accelerate, slow_down
from draft.distil.acceptance import AcceptanceRow, Continuations, measure, target_continuations
from draft.distil.corpus import Windows
from draft.distil.curve import Line, draw
from draft.distil.generation import continue_texts
from draft.distil.heldout import bits_per_byte, prompts
from draft.distil.model import EMBEDDING_STD, Gemma3
from draft.distil.objectives import draft_objective
from draft.distil.recipe import Recipe, layer_kinds, shape_of_sizes
from draft.distil.session import (
    Listener,
    Outcome,
    device_and_type,
    head_bits,
    heard,
    in_millions,
    num_parameters,
    training_of,
)
from draft.distil.texts import Texts, prepare_texts
from draft.distil.training import Point
from draft.distil.vocabulary import narrowed, projected_embedding, widened
from draft.distil.weights import deepened, load_checkpoint, save_huggingface
from specdec.checkpoint import open_checkpoint
from specdec.errors import UsageError

_TEMPERATURES = (0.0, 0.7)
_OWN_TEMPERATURES = (0.0, 0.7, 1.0)
_OWN_ROWS = {"cpu": 16, "cuda": 2048}
_RATES = (6e-3, 2e-3)  # of matrices, of the rest


def distil(target_dir: Path, recipe: Recipe, listener: Listener) -> Outcome:
    """Train a draft towards the target; a Hugging Face directory in the working directory."""
    device, dtype = device_and_type()
    torch.manual_seed(recipe.seed)
    checkpoint = open_checkpoint(target_dir)
    info = checkpoint.info
    tokenizer = (target_dir / "tokenizer.model").read_bytes()
    texts = prepare_texts(recipe, tokenizer, info.shape.vocab_size, info.bos_id, info.eos_ids[0])
    whole = load_checkpoint(checkpoint, dtype).requires_grad_(False)
    target = narrowed(whole, texts.vocabulary).to(device).requires_grad_(False)
    draft = _first_draft(recipe, target, texts).to(device)
    listener.note(
        f"draft of {in_millions(draft)} for a target of {in_millions(whole)}; "
        f"{len(texts.ids) / 1e6:.2f} M tokens of text"
    )
    continuations = _continuations(target, recipe, texts, info.bos_id, info.eos_ids)
    own = _own_text(target, recipe, texts, listener)
    before = measure(draft, continuations, True)
    session = _DraftSession(draft, target, recipe, continuations, listener)
    after = session.run(texts.ids, own)
    bits = bits_per_byte(draft, texts.heldout, info.bos_id, recipe.window_length, True)
    full = widened(draft, whole.embed_tokens.weight, texts.vocabulary)
    out = recipe.work / "draft_hf"
    save_huggingface(full, out, info.bos_id, info.eos_ids)
    history = tuple(session.training.history)
    return Outcome(out, num_parameters(draft), history, tuple(before), tuple(after), bits)


class _DraftSession:
    """A draft's training with acceptance measured as it goes, and its picture."""

    def __init__(
        self,
        draft: Gemma3,
        target: Gemma3,
        recipe: Recipe,
        continuations: list[Continuations],
        listener: Listener,
    ) -> None:
        self._draft, self._target, self._recipe = draft, target, recipe
        self._continuations, self._listener = continuations, listener
        self._measured: list[tuple[int, list[AcceptanceRow]]] = []
        self.training = training_of(draft, recipe, _RATES, "draft.state")

    def run(self, corpus: NDArray[np.int32], own: NDArray[np.int32]) -> list[AcceptanceRow]:
        """Train on both texts in equal parts; the acceptance at the end."""
        recipe, device = self._recipe, self._draft.device
        accelerate(self._draft)
        accelerate(self._target)
        sources = tuple(
            Windows(ids, recipe.window_length, recipe.seed + 2, device)
            for ids in (corpus, own)
            if len(ids)
        )
        objective = draft_objective(self._draft, self._target, sources, recipe.num_rows)
        hear = heard(self.training, self._listener)

        def on_point(point: Point) -> None:
            hear(point)
            last = self._measured[-1][0] if self._measured else 0
            if point.step - last >= recipe.measure_every:
                self._measure(point.step)

        self.training.run(objective, on_point)
        slow_down(self._target)
        last = self.training.step
        if not self._measured or self._measured[-1][0] < last:
            self._measure(last)
        slow_down(self._draft)
        return self._measured[-1][1]

    def _measure(self, step: int) -> None:
        slow_down(self._draft)
        rows = measure(self._draft, self._continuations, True)
        accelerate(self._draft)
        self._measured.append((step, rows))
        self._listener.note(f"step {step}: {acceptance_line(rows)}")
        picture = draw("Loss and tokens per pass at K = 7, by step", self._lines())
        (self._recipe.work / "curve.svg").write_text(picture, encoding="utf-8")

    def _lines(self) -> list[Line]:
        loss = tuple((float(p.step), p.loss) for p in self.training.history)
        lines = [Line("loss", loss)]
        for index, row in enumerate(self._measured[-1][1]):
            points = tuple((float(s), rows[index].tokens_per_pass[6]) for s, rows in self._measured)
            lines.append(Line(f"{row.kind}, temperature {row.temperature}", points))
        return lines


def acceptance_line(rows: Sequence[AcceptanceRow]) -> str:
    """Tokens per pass at K = 7 of every kind and temperature, in one line."""
    return "tokens per pass at K = 7: " + ", ".join(
        f"{row.kind} {row.tokens_per_pass[6]:.2f} (T {row.temperature})" for row in rows
    )


def _first_draft(recipe: Recipe, target: Gemma3, texts: Texts) -> Gemma3:
    """The draft as training finds it: the recipe's start, or new with the target's embedding."""
    if recipe.start is not None:
        checkpoint = open_checkpoint(recipe.start)
        if checkpoint.info.shape.vocab_size != len(texts.vocabulary.kept):
            raise UsageError(
                f"{recipe.start} has {checkpoint.info.shape.vocab_size} tokens, the target trains "
                f"{len(texts.vocabulary.kept)}: start from a draft of the same vocabulary"
            )
        start = load_checkpoint(checkpoint, target.dtype)
        num_layers = int(recipe.sizes.partition("x")[2] or 0)
        if num_layers <= start.shape.num_layers:
            return start
        return deepened(start, layer_kinds(num_layers))
    shape = shape_of_sizes(recipe.sizes, target.shape.vocab_size, target.shape.context_length)
    draft = Gemma3(shape, head_bits(recipe), target.dtype)
    if shape.hidden_size <= target.shape.hidden_size:
        table = target.embed_tokens.weight
        embedding = projected_embedding(table, shape.hidden_size, EMBEDDING_STD)
        draft.load_state_dict(draft.state_dict() | {"embed_tokens.weight": embedding})
    return draft


def _continuations(
    target: Gemma3, recipe: Recipe, texts: Texts, bos_id: int, eos_ids: tuple[int, ...]
) -> list[Continuations]:
    length, count = recipe.prompt_length, recipe.continuation
    found = prompts(texts.heldout, bos_id, length, count, recipe.num_prompts)
    if not found:
        raise UsageError(f"no held-out text has {length + count} tokens: name longer texts")
    on_device = {kind: rows.to(target.device) for kind, rows in found.items()}
    return target_continuations(target, on_device, count, _TEMPERATURES, eos_ids, False)


def _own_text(
    target: Gemma3, recipe: Recipe, texts: Texts, listener: Listener
) -> NDArray[np.int32]:
    """Text that the target writes after beginnings from the corpus, in one row of ids."""
    path = recipe.work / "own.npy"
    if path.exists():
        kept: NDArray[np.int32] = np.load(path)
        return kept
    size, length, count = _OWN_ROWS[target.device.type], recipe.prompt_length, recipe.continuation
    starts = Windows(texts.ids, length - 1, recipe.seed + 3, target.device)
    temperatures = torch.tensor(_OWN_TEMPERATURES, device=target.device).repeat(size)[:size]
    parts: list[NDArray[np.int32]] = []
    while sum(map(len, parts)) < recipe.own_tokens:
        rows = starts.rows(len(parts) * size, size)
        written = continue_texts(target, rows, count, temperatures, len(parts), False)
        parts.append(written.flatten().cpu().numpy().astype(np.int32))
        listener.note(f"the target wrote {sum(map(len, parts))} of {recipe.own_tokens} tokens")
    own = np.concatenate(parts) if parts else np.empty(0, np.int32)
    np.save(path, own)
    return own
