"""How many rows the passes of a target have; it knows no device and no model."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ROWS = 16  # a chunk of prefill is a multiple of this many rows
PASS_ROWS = (1, 2, 4, 8, BLOCK_ROWS, 32, 64)  # sizes of a pass; less is padded up to the next
PREFILL_ROWS = (*PASS_ROWS, 128, 256, 512)  # of a pass that chooses nothing


def pass_rows_for(num_sequences: int) -> int:
    """Rows of the largest pass for so many sequences: a block for each, as far as sizes go."""
    wanted = min(BLOCK_ROWS * num_sequences, PASS_ROWS[-1])
    return min(rows for rows in PASS_ROWS if rows >= wanted)


def prefill_rows_for(context_length: int, most: int) -> int:
    """Rows of the largest chunk of prefill: `most`, or what holds the whole context."""
    blocks = -(-context_length // BLOCK_ROWS) * BLOCK_ROWS
    if blocks > PASS_ROWS[-1]:
        blocks = min((rows for rows in PREFILL_ROWS if rows >= blocks), default=most)
    return min(blocks, most)


def prefill_passes(num_tokens: int, most: int) -> Iterator[int]:
    """Tokens of each pass that feeds so many, in chunks of up to `most` rows.

    The rest takes the smallest size that holds it. But beyond PASS_ROWS a pass takes the longer the
    more rows it has, padding too: one that would be less than three quarters full is cut in two.
    """
    while num_tokens > 0:
        rows = min((size for size in PREFILL_ROWS if num_tokens <= size <= most), default=most)
        if rows > PASS_ROWS[-1] and num_tokens <= rows * 3 // 4:
            rows //= 2
        yield min(rows, num_tokens)
        num_tokens -= rows
