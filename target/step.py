"""What the host writes before a pass: rows, positions, slots, attention work; it submits nothing.

    uint32 words[8]            number of rows, 7 reserved
    uint32 words[max_rows][4]  token id, slot, position, first row of the row's segment

and, for local and for global layers alike, the work of attention: the grid {entries, kv heads, 1},
and entries {first row | number of rows << 16, chunk}: rows of one segment, and a chunk they see.
For a pass that samples, also

    words[pass rows][8]        float32 temperature, ln min_p, top_p; uint32 top_k; uint64 seed, 0
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.types import SamplingParams, Segment
from target.sizes import RunSizes
from target.vulkan import Device, MemoryKind, Region
from target.vulkan.arena import lay_out

_HEADER_WORDS = 8
_ROW_WORDS = 4
_SEED = 2**64 - 1
_INACTIVE = 0xFFFFFFFF  # position of a row that is padding
RowGroup = tuple[int, int, int]  # first row, number of rows, first position
SAMPLING_ROW = np.dtype([("floats", "<f4", 3), ("top_k", "<u4"), ("seed", "<u8", 2)])


class AttentionWork:
    """The work list of the layers with one window, and the indirect grid over it."""

    def __init__(self, sizes: RunSizes, window: int, grid: Region, entries: Region) -> None:
        self._sizes = sizes
        self._window = window
        self.grid = grid
        self.entries = entries
        self._grid_words = grid.view.view(np.uint32)
        self._grid_words[:] = (0, sizes.shape.num_kv_heads, 1)
        self._entry_words = entries.view.view(np.uint32)
        self._written: list[tuple[int, int, int]] | None = None  # rows, first chunk, end

    def write(self, groups: Sequence[RowGroup]) -> None:
        """List the chunks that each group sees."""
        chunk, window = self._sizes.attention_chunk, self._window
        seen = [
            (
                first_row | num_rows << 16,
                max(0, position - window + 1) // chunk if window else 0,
                (position + num_rows - 1) // chunk + 1,
            )
            for first_row, num_rows, position in groups
        ]
        if seen == self._written:
            return
        entries = [
            word for rows, start, end in seen for c in range(start, end) for word in (rows, c)
        ]
        self._entry_words[: len(entries)] = array("I", entries)
        self._grid_words[0] = len(entries) // 2
        self._written = seen


class StepBuffer:
    """The mapped buffer of a pass's inputs, and those its choices come back in."""

    def __init__(self, device: Device, sizes: RunSizes) -> None:
        self._sizes = sizes
        self._memory = device.memory
        windows = (sizes.shape.sliding_window, 0)
        regions = [4 * (_HEADER_WORDS + _ROW_WORDS * sizes.max_rows)]
        for window in windows:
            regions += [12, 8 * sizes.max_rows * (sizes.max_chunks(window) + 1)]
        regions += [SAMPLING_ROW.itemsize * sizes.pass_rows]
        layout = lay_out(regions, device.memory.alignment, device.memory.block_limit_bytes)
        self._buffer = device.memory.allocate(layout.total_bytes, MemoryKind.UPLOAD, "step")
        parts = [
            self._buffer.region(offset, size)
            for (_, offset), size in zip(layout.places, regions, strict=True)
        ]
        self.rows = parts[0]
        self.local = AttentionWork(sizes, windows[0], parts[1], parts[2])
        self.everything = AttentionWork(sizes, windows[1], parts[3], parts[4])
        self.sampling = parts[5]
        self._sampling_rows = parts[5].view.view(SAMPLING_ROW)
        self._ids = device.memory.allocate(4 * sizes.pass_rows, MemoryKind.READBACK, "step")
        self.ids = self._ids.whole
        self._id_words = self.ids.view.view(np.uint32)
        self._scores = device.memory.allocate(4 * sizes.pass_rows, MemoryKind.READBACK, "step")
        self.log_probs = self._scores.whole
        self._log_prob_floats = self.log_probs.view.view(np.float32)
        self._row_words = self.rows.view.view(np.uint32)
        self._counts: list[int] = []  # of the pass before
        self._group_rows = 0

    def write(self, segments: Sequence[Segment], num_rows: int) -> int:
        """Lay segments out in rows 0, 1, ... and fill up to `num_rows` with padding rows.

        Returns how many rows at most share one read of the cache in attention.
        """
        words = [0] * _HEADER_WORDS
        row = 0
        for segment in segments:
            for index, token_id in enumerate(segment.token_ids):
                words += (token_id, segment.slot, segment.position + index, row)
            row += len(segment.token_ids)
        words[0] = row
        for padding in range(row, num_rows):
            words += (0, 0, _INACTIVE, padding)
        self._row_words[: len(words)] = array("I", words)
        counts = [len(segment.token_ids) for segment in segments]
        if counts != self._counts:
            self._counts, self._group_rows = counts, self._sizes.group_rows(counts)
        groups = list(_row_groups(segments, self._group_rows))
        self.local.write(groups)
        self.everything.write(groups)
        return self._group_rows

    def write_sampling(
        self, segments: Sequence[Segment], sampling: Mapping[int, SamplingParams]
    ) -> None:
        """Give every row of the segments the parameters of its slot."""
        row = 0
        for segment in segments:
            count = len(segment.token_ids)
            self._sampling_rows[row : row + count] = sampling_row(sampling[segment.slot])
            row += count

    def chosen_ids(self, num_rows: int) -> tuple[int, ...]:
        """The token chosen after each of the first rows."""
        return tuple(self._id_words[:num_rows].tolist())

    def chosen_log_probs(self, first_row: int, num_rows: int) -> tuple[float, ...]:
        """Log-probabilities of some rows' tokens, after a pass that computes them."""
        return tuple(self._log_prob_floats[first_row : first_row + num_rows].tolist())

    def release(self) -> None:
        """Free the buffers."""
        self._memory.free(self._buffer)
        self._memory.free(self._ids)
        self._memory.free(self._scores)


def sampling_row(params: SamplingParams) -> NDArray[np.void]:
    """Parameters as the device reads them: one SAMPLING_ROW, shape ()."""
    log_min_p = math.log(params.min_p) if params.min_p > 0.0 else -math.inf
    floats = (params.temperature, log_min_p, params.top_p)
    return np.array((floats, params.top_k, (params.seed & _SEED, 0)), SAMPLING_ROW)


def cut_into_passes(segments: Iterable[Segment], counts: Iterable[int]) -> Iterator[list[Segment]]:
    """The same tokens in lists of `counts` tokens each, which are as many in all."""
    part: list[Segment] = []
    rooms = iter(counts)
    room = next(rooms, 0)
    for segment in segments:
        ids, position = segment.token_ids, segment.position
        while ids:
            part.append(Segment(segment.slot, position, ids[:room]))
            position, ids, room = position + room, ids[room:], room - len(ids[:room])
            if room == 0:
                yield part
                part, room = [], next(rooms, 0)


def _row_groups(segments: Iterable[Segment], group_rows: int) -> Iterator[RowGroup]:
    """Up to `group_rows` rows of a segment each."""
    row = 0
    for segment in segments:
        count = len(segment.token_ids)
        for offset in range(0, count, group_rows):
            num_rows = min(group_rows, count - offset)
            yield row + offset, num_rows, segment.position + offset
        row += count
