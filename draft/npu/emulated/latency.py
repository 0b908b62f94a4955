"""How long Phoenix would take for a run, from published figures; it moves no bytes.

Every number it gives is *modelled*. Counted are the submission, each wait for a task in the
stream, and the bytes of each phase at what a channel and all of them together can carry. Not
counted: arithmetic in the cores, the firmware's work per instruction, the host's own work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from draft.npu.emulated.shim_decoder import Decoded
from draft.npu.host_kernels import READ, WAIT

_WORD = 4


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Phoenix at 1.6 GHz under Linux.

    A dispatch of ~150 us (Npu-Embeddings-XDNA1), ~8 us for a wait in the stream (xdna-emu, one
    trace), DDR read of 7.11 GB/s per channel and 47.6 for eight (ignite-xdna, at 1.8 GHz) scaled
    to the clock that Linux runs.
    """

    call_s: float = 150e-6
    wait_s: float = 8e-6
    channel_bytes_per_s: float = 6.3e9
    total_bytes_per_s: float = 42e9
    is_sleeping: bool = False  # whether a run really takes its time

    def run_s(self, decoded: Decoded) -> float:
        """Seconds of a run of a stream."""
        return self.call_s + sum(map(self._phase_s, phases(decoded)))

    def _phase_s(self, phase: Phase) -> float:
        moving_s = max(
            phase.busiest_bytes / self.channel_bytes_per_s,
            phase.read_bytes / self.total_bytes_per_s,
        )
        return moving_s + self.wait_s * phase.num_waits

    def pass_time(self, elapsed_s: float) -> None:
        """Sleep, if runs are to take their time."""
        if self.is_sleeping:
            time.sleep(elapsed_s)


@dataclass(frozen=True, slots=True)
class Phase:
    """Transfers between two groups of waits."""

    read_bytes: int  # from memory, all channels
    busiest_bytes: int  # of the channel that reads most
    num_waits: int


def phases(decoded: Decoded) -> list[Phase]:
    """What a stream moves before each group of waits."""
    steps = decoded.steps
    is_wait = steps["kind"] == WAIT
    # a phase ends where a wait is followed by something else
    ends = np.flatnonzero(is_wait & ~np.append(is_wait[1:], False)) + 1
    found = []
    for part, waits in zip(np.split(steps, ends), np.split(is_wait, ends), strict=True):
        reads = part[part["kind"] == READ]
        sizes = _WORD * reads["length"].astype(np.int64) * (reads["repeat"] + 1)
        channels = np.bincount(2 * reads["column"] + reads["channel"], sizes, 1)
        if len(part):
            found.append(Phase(int(sizes.sum()), int(channels.max()), int(waits.sum())))
    return found
