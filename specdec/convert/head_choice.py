"""Chooses the tokens of a draft's cut head by how often they occur; it knows no weights.

For Gemma 3's vocabulary a list is shipped, counted over the text that the embedded pair was trained
on (code, package documentation, English technical prose). Other text gives a better list for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdec.head_tokens import DEFAULT_SIZE, most_frequent, read_head_tokens
from specdec.tokenizer import Tokenizer

GEMMA3_LIST = Path(__file__).resolve().parent.parent / "models" / "gemma3"

_TEXT_PIECES = range(494, 255_000)  # of Gemma 3's: neither control tokens nor single bytes
_GEMMA3_SHA256 = "ef42921e0bfa23adc4e86e8c3b417a9a2eeb7ff63b2346025d3eda4243656d68"
_TURN_ENDS = ("<eos>", "<start_of_turn>", "<end_of_turn>")  # no text holds them, every chat does


def choose_head_tokens(
    tokenizer: Tokenizer, texts: Iterable[str] = (), size: int = DEFAULT_SIZE
) -> NDArray[np.int32] | None:
    """The `size` most frequent ids of the texts, or, without any, of the shipped list.

    None, a whole head, where the vocabulary is no larger than `size`, and where there is neither
    text nor a list.
    """
    if tokenizer.vocab_size <= size:
        return None
    always = [tokenizer.control_id(name) for name in _TURN_ENDS]
    always_ids = np.array([token for token in always if token is not None], np.int32)
    counts = _counts(tokenizer, texts)
    if counts.any():
        return most_frequent(counts, always_ids, size)
    if not is_gemma3(tokenizer) or size != DEFAULT_SIZE:
        return None
    return read_head_tokens(GEMMA3_LIST, tokenizer.vocab_size)


def is_gemma3(tokenizer: Tokenizer) -> bool:
    """Whether the ids mean what they mean in Gemma 3."""
    if tokenizer.num_pieces < _TEXT_PIECES.stop:
        return False
    digest = hashlib.sha256()
    for token_id in _TEXT_PIECES:
        digest.update(tokenizer.piece_bytes(token_id) + b"\0")
    return digest.hexdigest() == _GEMMA3_SHA256


def _counts(tokenizer: Tokenizer, texts: Iterable[str]) -> NDArray[np.int64]:
    """How often each id occurs in the texts: (V,)."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for text in texts:
        ids = np.array(tokenizer.encode(text, add_bos=False), np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts
