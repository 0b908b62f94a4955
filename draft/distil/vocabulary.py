"""Training with the frequent tokens of a large vocabulary alone, and going back to all of it.

A draft proposes only a vocabulary's most frequent tokens (specdec.head_tokens), so the rest need no
training: their embeddings come from the target's, by the map that fits the trained ones best.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from draft.distil.model import Gemma3
from specdec.gemma3.shape import GROUP

WHOLE_UP_TO = 65536  # a vocabulary of this size or less is trained whole
_KEPT = 36864  # of a larger one
_FIRST_IDS = 4  # pad, eos, bos and the unknown token keep their ids
_UNKNOWN_ID = 3


class Vocabulary:
    """The kept ids of a vocabulary, ascending, and ids renumbered by their place among them."""

    def __init__(self, kept: NDArray[np.int32], vocab_size: int) -> None:
        self.kept = kept
        self._places = np.full(vocab_size, _UNKNOWN_ID, np.int32)
        self._places[kept] = np.arange(len(kept), dtype=np.int32)

    def places(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Kept ids renumbered, others as the unknown token."""
        return self._places[ids]


def choose_vocabulary(ids: NDArray[np.int32], vocab_size: int) -> Vocabulary:
    """All of a vocabulary of usual size; of a large one the tokens most frequent in `ids`."""
    if vocab_size <= WHOLE_UP_TO:
        return Vocabulary(np.arange(vocab_size, dtype=np.int32), vocab_size)
    counts = np.bincount(ids, minlength=vocab_size)
    counts[:_FIRST_IDS] = counts.max() + 1
    kept = np.sort(np.argsort(-counts, kind="stable")[:_KEPT]).astype(np.int32)
    return Vocabulary(kept, vocab_size)


def narrowed(model: Gemma3, vocabulary: Vocabulary) -> Gemma3:
    """The model with embeddings of the kept tokens alone."""
    kept = torch.from_numpy(vocabulary.kept.astype(np.int64)).to(model.device)
    return _with_embedding(model, model.embed_tokens.weight.detach()[kept])


def widened(draft: Gemma3, target_embedding: Tensor, vocabulary: Vocabulary) -> Gemma3:
    """The draft with an embedding of every token of the target (V, D of the target)."""
    kept = torch.from_numpy(vocabulary.kept.astype(np.int64))
    wide = target_embedding.detach().float().cpu()
    trained = draft.embed_tokens.weight.detach().float().cpu()
    fitted = torch.linalg.lstsq(wide[kept], trained).solution
    embedding = wide @ fitted
    embedding[kept] = trained
    return _with_embedding(draft, embedding.to(draft.device))


def projected_embedding(target_embedding: Tensor, hidden_size: int, std: float) -> Tensor:
    """Embeddings (V, hidden) to start from: the target's along their widest directions."""
    wide = target_embedding.detach().float()
    wide = wide - wide.mean(0)
    _, directions = torch.linalg.eigh((wide.T @ wide).cpu())
    narrow = wide @ directions[:, -hidden_size:].to(wide.device)
    return narrow * (std / narrow.std())


def _with_embedding(model: Gemma3, embedding: Tensor) -> Gemma3:
    assert embedding.shape[0] % GROUP == 0
    shape = dataclasses.replace(model.shape, vocab_size=embedding.shape[0])
    changed = Gemma3(shape, model.head_bits, model.dtype).to(model.device)
    state = model.state_dict() | {"embed_tokens.weight": embedding}
    changed.load_state_dict(state)
    return changed
