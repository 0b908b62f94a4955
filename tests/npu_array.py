"""Drives the emulated array by messages, for tests: bytes in on a channel, bytes out of another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from draft.npu import host_kernels, layout, manifest
from draft.npu.layout import Bytes, Operation, Target, tag
from specdec.assets import asset_dir
from specdec.types import FloatArray

LOG2_E = 1.4426950408889634


def read_manifest() -> manifest.Manifest:
    return manifest.parse((asset_dir("kernels") / "draft_array.json").read_text())


class Driver:
    """An array and the shim transfers of one test, run as they are given."""

    def __init__(self, kernels: host_kernels.HostKernels) -> None:
        self.array = kernels.array(read_manifest())

    def send(self, column: int, channel: int, data: Iterable[Bytes]) -> None:
        """Stream elements into a channel."""
        joined = np.ascontiguousarray(np.concatenate([part.reshape(-1) for part in data]))
        self._run([self._step(host_kernels.READ, column, channel, joined)])

    def receive(self, column: int, channel: int, num_bytes: int) -> Bytes:
        """What the array sends on a channel; fails if it is less."""
        data = np.zeros(num_bytes, np.uint8)
        wait = np.zeros(1, host_kernels.STEP_DTYPE)[0]
        wait["kind"], wait["column"], wait["channel"] = host_kernels.WAIT, column, channel
        self._run([self._step(host_kernels.WRITE, column, channel, data), wait])
        return data

    def _step(self, kind: int, column: int, channel: int, data: Bytes) -> np.void:
        step = np.zeros(1, host_kernels.STEP_DTYPE)[0]
        step["kind"], step["column"], step["channel"] = kind, column, channel
        step["address"], step["length"], step["token"] = data.ctypes.data, data.size // 4, 1
        return step

    def _run(self, steps: list[np.void]) -> None:
        self.array.execute(np.array(steps, host_kernels.STEP_DTYPE))

    def vector(
        self,
        column: int,
        operation: Operation,
        parameters: tuple[int | float, ...],
        payloads: Iterable[bytes] = (b"",),
    ) -> None:
        """A message for a column's vector core, one payload per element."""
        parts = list(payloads)
        words = tag(operation, Target.SECOND, len(parts), parameters)
        rest = [layout.element(np.zeros(16, np.int32), part) for part in parts[1:]]
        self.send(column, 1, [layout.element(words, parts[0]), *rest])

    def row(self, column: int) -> Bytes:
        """The next element a vector core sends."""
        return self.receive(column, 1, layout.ELEMENT_BYTES)

    def load_hidden(self, column: int, hidden: FloatArray) -> None:
        self.vector(column, Operation.LOAD_HIDDEN, (len(hidden),), [hidden.tobytes()])

    def hidden(self, column: int, size: int) -> FloatArray:
        self.vector(column, Operation.STORE_HIDDEN, (size,))
        return self.row(column)[layout.TAG_BYTES :].view(np.float32)[:size]

    def multiply(self, weights: Bytes, rows: Iterable[Bytes], num_rows: int) -> FloatArray:
        """Products of activation rows with packed weights: (4, num_rows)."""
        elements = list(rows)
        for column in range(layout.NUM_COLUMNS):
            for channel in range(2):
                self.send(column, channel, [*elements, weights[column, channel]])
        num_tiles = layout.tiles_per_core(num_rows)
        columns = [
            self.receive(column, 0, num_tiles * 4 * layout.TILE_BYTES)
            for column in range(layout.NUM_COLUMNS)
        ]
        tiles = np.stack(columns).view(np.float32).reshape(-1, 4, layout.TILE_ROWS)
        return tiles.swapaxes(0, 1).reshape(4, -1)[:, :num_rows]


def normal(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def row_payloads(row: FloatArray) -> list[bytes]:
    """A float row cut into payloads."""
    starts = range(0, len(row), layout.ROW_FLOATS)
    return [row[start : start + layout.ROW_FLOATS].tobytes() for start in starts]
