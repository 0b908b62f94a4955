"""A recipe's corpus and held-out texts as ids, kept in its working directory; it knows no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from draft.distil.corpus import encode_documents, read_documents
from draft.distil.recipe import Recipe
from draft.distil.vocabulary import Vocabulary, choose_vocabulary
from specdec.errors import UsageError

_HELDOUT_PARTS = 20  # without held-out files, one part in so many of the corpus, its last
_HELDOUT_BYTES = 1_000_000  # of a kind


@dataclass(frozen=True, slots=True)
class HeldoutText:
    """One text never trained on, renumbered for the vocabulary."""

    kind: str
    ids: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Texts:
    """What is trained on and what is measured on."""

    vocabulary: Vocabulary
    ids: NDArray[np.int32]  # (N,), renumbered
    heldout: tuple[HeldoutText, ...]


def prepare_texts(
    recipe: Recipe, tokenizer: bytes, vocab_size: int, bos_id: int, eos_id: int
) -> Texts:
    """Encode the recipe's files, or read what an earlier run of it left."""
    path = recipe.work / "corpus.npy"
    if path.exists():
        ids: NDArray[np.int32] = np.load(path)
    else:
        documents = read_documents(recipe.corpus)
        num_processes = max(1, len(os.sched_getaffinity(0)) - 1)
        ids = encode_documents(documents, tokenizer, bos_id, eos_id, num_processes)
        _save(path, ids)
    vocabulary = choose_vocabulary(ids, vocab_size)
    ids = vocabulary.places(ids)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    if recipe.heldout:
        return Texts(vocabulary, ids, _heldout_files(recipe.heldout, processor, vocabulary))
    length = recipe.prompt_length + recipe.continuation
    num_heldout = len(ids) // _HELDOUT_PARTS
    if num_heldout < length:
        raise UsageError(
            f"the corpus has {len(ids)} tokens: {_HELDOUT_PARTS * length} are needed to hold some "
            "out, or name a --heldout file"
        )
    heldout = _heldout_end(ids[-num_heldout:], length, processor, vocabulary)
    return Texts(vocabulary, ids[:-num_heldout], heldout)


def _heldout_files(
    paths: Sequence[Path],
    processor: sentencepiece.SentencePieceProcessor,
    vocabulary: Vocabulary,
) -> tuple[HeldoutText, ...]:
    sizes: dict[str, int] = {}
    texts = []
    for document in read_documents(paths):
        size = len(document.text.encode())
        sizes[document.kind] = sizes.get(document.kind, 0) + size
        if size and sizes[document.kind] - size < _HELDOUT_BYTES:
            ids = vocabulary.places(np.array(processor.encode(document.text), np.int32))
            texts.append(HeldoutText(document.kind, tuple(ids.tolist()), size))
    return tuple(texts)


def _heldout_end(
    ids: NDArray[np.int32],
    length: int,
    processor: sentencepiece.SentencePieceProcessor,
    vocabulary: Vocabulary,
) -> tuple[HeldoutText, ...]:
    texts = []
    for start in range(0, len(ids) - length + 1, length):
        part = ids[start : start + length]
        size = len(processor.decode(vocabulary.kept[part].tolist()).encode())
        texts.append(HeldoutText("text", tuple(part.tolist()), max(1, size)))
    return tuple(texts)


def _save(path: Path, ids: NDArray[np.int32]) -> None:
    partial = path.with_suffix(".partial.npy")
    np.save(partial, ids)
    partial.replace(path)
