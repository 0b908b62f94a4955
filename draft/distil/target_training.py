"""A small target trained from scratch, or further, on text alone; no arguments parsed."""

from __future__ import annotations

from pathlib import Path

import sentencepiece
import torch

from draft.distil.acceleration import accelerate, slow_down
from draft.distil.corpus import Windows
from draft.distil.heldout import bits_per_byte
from draft.distil.model import Gemma3
from draft.distil.objectives import target_objective
from draft.distil.recipe import Recipe, shape_of_sizes
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
from draft.distil.texts import prepare_texts
from draft.distil.weights import load_checkpoint, save_huggingface
from specdec.checkpoint import open_checkpoint

_RATES = (4e-3, 1.5e-3)  # of matrices, of the rest
_LOOP_ROWS = 8  # one window in so many teaches to leave loops
_BOS_ID, _EOS_ID = 2, 1
_CONTEXT_WINDOWS = 4  # a new target's context, in windows it is trained on


def train_target(
    tokenizer: Path, sizes: str, start: Path | None, recipe: Recipe, listener: Listener
) -> Outcome:
    """Train a target; a Hugging Face directory in the recipe's working directory.

    With `start`, a converted model, its weights are trained further and `sizes` is not looked at.
    """
    device, dtype = device_and_type()
    torch.manual_seed(recipe.seed)
    pieces = tokenizer.read_bytes()
    if start is not None:
        model = load_checkpoint(open_checkpoint(start), dtype).to(device)
    else:
        processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
        context_length = _CONTEXT_WINDOWS * recipe.window_length
        shape = shape_of_sizes(sizes, processor.vocab_size(), context_length)
        model = Gemma3(shape, head_bits(recipe), dtype).to(device)
    texts = prepare_texts(recipe, pieces, model.shape.vocab_size, _BOS_ID, _EOS_ID)
    listener.note(f"target of {in_millions(model)}; {len(texts.ids) / 1e6:.2f} M tokens of text")
    accelerate(model)
    rows = recipe.num_rows
    windows = Windows(texts.ids, recipe.window_length, recipe.seed + 1, device)
    training = training_of(model, recipe, _RATES, "target.state")
    objective = target_objective(model, windows, rows, rows // _LOOP_ROWS)
    training.run(objective, heard(training, listener))
    slow_down(model)
    out = recipe.work / "target_hf"
    save_huggingface(model, out, _BOS_ID, (_EOS_ID,))
    bits = bits_per_byte(model, texts.heldout, _BOS_ID, recipe.window_length, True)
    return Outcome(out, num_parameters(model), tuple(training.history), (), (), bits)
