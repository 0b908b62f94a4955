"""Which tokens a draft's head gives logits for, stored beside its weights; it knows no model.

    head_tokens.bin    int32, little endian: vocabulary ids, ascending

A head over the most frequent tokens of a large vocabulary is several times smaller. The output of
the target is the same: a token that the draft cannot propose is one that it does not predict.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError

FILE_NAME = "head_tokens.bin"
DEFAULT_SIZE = 32768  # a vocabulary up to this size keeps its whole head

_STORED = np.dtype("<i4")


def read_head_tokens(directory: Path, vocab_size: int) -> NDArray[np.int32] | None:
    """The ids in a model directory; None if its head is whole."""
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    data = path.read_bytes()
    if not data or len(data) % _STORED.itemsize or len(data) > _STORED.itemsize * vocab_size:
        raise ModelError(f"{path}: {len(data)} bytes are no list of ids: convert the model again")
    ids = np.frombuffer(data, _STORED).astype(np.int32)
    if ids[0] < 0 or ids[-1] >= vocab_size or (np.diff(ids) <= 0).any():
        raise ModelError(
            f"{path}: ids must ascend from 0 to {vocab_size - 1}: convert the model again"
        )
    return ids


def head_tokens_bytes(token_ids: NDArray[np.int32]) -> bytes:
    """The file's contents for ids in any order."""
    return np.unique(token_ids).astype(_STORED).tobytes()


def most_frequent(
    counts: NDArray[np.int64], always: NDArray[np.int32], size: int
) -> NDArray[np.int32]:
    """The `size` ids with the greatest counts, lower ids first among equals, `always` among them.

    `counts` (V,) may come from any text; ids of control tokens, which no text holds, go into
    `always`.
    """
    ranked = np.argsort(-counts, kind="stable")
    ranked = np.concatenate((always, ranked[~np.isin(ranked, always)]))
    return np.sort(ranked[:size]).astype(np.int32)
