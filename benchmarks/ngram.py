"""A byte n-gram model (Witten-Bell, order 6), the yardstick of a language model of its size."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from draft.distil.corpus import Document

ORDER = 6  # bytes of context
WHOLE_ORDER = 3  # n-grams with a longer context are kept only if seen twice
ENTRY_BYTES = 5  # of a stored n-gram: a hash and a count

Keys = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


def context_keys(data: Bytes, length: int) -> Keys:
    """The last `length` bytes at every place as one number; bytes before the start are 0."""
    keys = np.zeros(len(data), np.uint64)
    for back in range(1, length + 1):
        earlier = np.concatenate((np.zeros(back, np.uint8), data[:-back]))
        keys |= earlier.astype(np.uint64) << np.uint64(8 * (back - 1))
    return keys


def bits_per_byte(
    corpus: Iterable[Document], corpus_bytes: int, documents: Sequence[Document]
) -> dict[str, float]:
    """Bits per byte of each kind, the model trained on the first `corpus_bytes` of the corpus."""
    train = first_bytes(corpus, corpus_bytes)
    tests = {
        kind: np.frombuffer(
            b"\0".join(d.text.encode() for d in documents if d.kind == kind), np.uint8
        )
        for kind in {d.kind for d in documents}
    }
    odds = {kind: np.full(len(data), 1 / 256) for kind, data in tests.items()}
    num_entries = 0
    for length in range(ORDER + 1):
        grams, counts = counted(train, length)
        num_entries += len(grams)
        for kind, data in tests.items():
            odds[kind] = refined(odds[kind], data, length, grams, counts)
    print(f"n-gram model: {num_entries * ENTRY_BYTES / 1e6:.1f} MB", file=sys.stderr)
    return {kind: round(float(-np.log2(value).mean()), 4) for kind, value in odds.items()}


def first_bytes(corpus: Iterable[Document], num_bytes: int) -> Bytes:
    """The beginning of the corpus, documents whole."""
    size, parts = 0, []
    for document in corpus:
        parts.append(document.text.encode())
        size += len(parts[-1])
        if size > num_bytes:
            break
    return np.frombuffer(b"\0".join(parts), np.uint8)


def counted(train: Bytes, length: int) -> tuple[Keys, NDArray[np.int64]]:
    """Every n-gram with `length` bytes of context, ascending, and how often it occurs."""
    grams, counts = np.unique(joined(context_keys(train, length), train), return_counts=True)
    if length > WHOLE_ORDER:
        return grams[counts > 1], counts[counts > 1]
    return grams, counts


def refined(
    odds: NDArray[np.float64], data: Bytes, length: int, grams: Keys, counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The odds of every byte of `data`, those of shorter contexts mixed with this one's."""
    known, first = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(counts, first)
    num_kinds = np.diff(np.append(first, len(grams)))
    here = context_keys(data, length)
    place = np.minimum(np.searchsorted(known, here), len(known) - 1)
    wanted = joined(here, data)
    at = np.minimum(np.searchsorted(grams, wanted), len(grams) - 1)
    seen = np.where(grams[at] == wanted, counts[at], 0)
    mixed = (seen + num_kinds[place] * odds) / (totals[place] + num_kinds[place])
    return np.where(known[place] == here, mixed, odds)


def joined(contexts: Keys, following: Bytes) -> Keys:
    """Contexts and the byte after them as one number."""
    return contexts << np.uint64(8) | following.astype(np.uint64)
