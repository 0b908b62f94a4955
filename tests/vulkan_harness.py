"""Helpers for tests of shaders on a real Vulkan device; they know no shader.

A conformance test is a few lines:

    def test_doubling_doubles(device: Device) -> None:       # fixture `device` of conftest/harness
        out = run(device, "double", [x, zeros(x.nbytes)], groups=4, push=[len(x)],
                  constants={"FACTOR": 2.0}, defines={"MODE": 1})
        assert_equal(out[1].view(np.float32), 2 * x)

`run` binds `buffers` to bindings 0, 1, ... (numpy arrays of any dtype: uploaded; a Region of one's
own: bound as it is), pushes `push` (ints as uint32, floats as float32, or bytes), dispatches once
and returns, per binding, the bytes after it as an array of the same dtype and shape.

`constants` are specialization constants by their GLSL name (or by constant_id, e.g. for
local_size_x_id); `defines` are -D of the preprocessor; `source_dir` replaces shaders/.

For timing, or for several dispatches over the same memory, keep a `Bench`:

    with Bench(device) as bench:
        x = bench.upload(values)                              # Region; bench.zeros(nbytes) too
        program = bench.program("gemm_int4", {"M": 4}, {"K": 640})
        bench.dispatch(program, [w, s, x, y], groups=(20, 1, 1), push=[...])   # with a barrier
        elapsed_s = bench.run()                               # submit, wait; host seconds
        elapsed_s = bench.run()                               # replays the same dispatches
        values = bench.download(y, np.float32)

For timings open a device of your own with `open_device(validation=False)`: the layer costs time.

The fixture's device is opened once per session, with validation; SPECDEC_TEST_DEVICE names
another than `auto`. After every test it checks that the validation layer said nothing.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from specdec.errors import DeviceError
from target.programs import Constants, Program
from target.spirv import Defines
from target.vulkan import Buffer, DescriptorPool, Device, Job, MemoryKind, Recorder, Region

Array = NDArray[np.generic]
Push = bytes | Sequence[int | float]
T = TypeVar("T", bound=np.generic)


def open_device(validation: bool = True) -> Device:
    """The device under test, with the validation layer where it is installed."""
    selector = os.environ.get("SPECDEC_TEST_DEVICE", "auto")
    try:
        return Device.open(selector, validation=validation)
    except DeviceError as error:
        if not (validation and "validation" in str(error)):
            raise
    return Device.open(selector)


@pytest.fixture(scope="session")
def shared_device() -> Iterator[Device]:
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    with device:
        yield device


@pytest.fixture
def device(shared_device: Device) -> Device:
    """The session's device; fails the test at its end if the validation layer complained."""
    before = len(shared_device.messages)
    yield shared_device
    assert shared_device.messages[before:] == []


DOUBLE = """// y = FACTOR x + add
#version 460
layout(local_size_x = 64) in;
layout(constant_id = 3) const float FACTOR = 1.0;
layout(constant_id = 4) const uint BIAS = 0;
layout(set = 0, binding = 0) readonly buffer X { float x[]; };
layout(set = 0, binding = 1) writeonly buffer Y { float y[]; };
layout(push_constant) uniform Push { uint n; float add; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < n) y[i] = FACTOR * x[i] + add + float(BIAS);
}
"""


@pytest.fixture
def shaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one shader, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "double.comp").write_text(DOUBLE)
    return tmp_path


@pytest.fixture
def quiet_device() -> Iterator[Device]:
    """A device of its own without validation, for calls that are wrong on purpose."""
    with open_device(validation=False) as device:
        yield device


def pack_push(push: Push) -> bytes:
    """Push constants as bytes: ints as uint32, floats as float32."""
    if isinstance(push, bytes):
        return push
    return b"".join(
        struct.pack("<f", value) if isinstance(value, float) else struct.pack("<I", value)
        for value in push
    )


def as_groups(groups: int | tuple[int, ...]) -> tuple[int, int, int]:
    counts = (groups,) if isinstance(groups, int) else groups
    x, y, z = (*counts, 1, 1)[:3]
    return x, y, z


class Bench:
    """Buffers, programs and a list of dispatches, given back together."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._pool = DescriptorPool(device)
        self._buffers: list[Buffer] = []
        self._programs: list[Program] = []
        self._dispatches: list[tuple[Program, object, tuple[int, int, int], bytes]] = []
        self._job: Job | None = None

    def zeros(self, nbytes: int) -> Region:
        buffer = self.device.memory.allocate(max(4, nbytes), MemoryKind.UPLOAD, "test")
        self._buffers.append(buffer)
        buffer.whole.view[:] = 0
        return buffer.region(0, max(4, nbytes))

    def upload(self, values: Array) -> Region:
        region = self.zeros(values.nbytes)
        region.view[: values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return region

    def download(self, region: Region, dtype: type[T]) -> NDArray[T]:
        return region.view.copy().view(dtype)

    def program(
        self,
        name: str,
        defines: Defines | None = None,
        constants: Constants | None = None,
        **options: object,
    ) -> Program:
        program = Program(self.device, name, defines, constants, **options)
        self._programs.append(program)
        return program

    def dispatch(
        self,
        program: Program,
        regions: Sequence[Region],
        groups: int | tuple[int, ...],
        push: Push = b"",
    ) -> None:
        """Append a dispatch and a barrier after it."""
        self._forget_job()
        descriptors = self._pool.bind(program, regions)
        self._dispatches.append((program, descriptors, as_groups(groups), pack_push(push)))

    def run(self, repeat: int = 1) -> float:
        """Replay all dispatches `repeat` times in one submit; host seconds from submit to end."""
        if self._job is None:
            recorder = Recorder(self.device, "test")
            for program, descriptors, groups, push in self._dispatches * repeat:
                recorder.dispatch(program, descriptors, groups, push)
                recorder.barrier()
            self._job = recorder.finish()
        start = time.perf_counter()
        self._job.run()
        return time.perf_counter() - start

    def _forget_job(self) -> None:
        if self._job is not None:
            self._job.release()
            self._job = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_job()
        self._pool.release()
        for program in self._programs:
            program.release()
        for buffer in self._buffers:
            self.device.memory.free(buffer)


def run(
    device: Device,
    name: str,
    buffers: Sequence[Array | Region],
    groups: int | tuple[int, ...],
    push: Push = b"",
    *,
    defines: Defines | None = None,
    constants: Constants | None = None,
    **options: object,
) -> list[Array]:
    """One dispatch of one shader; every binding's content afterwards."""
    with Bench(device) as bench:
        regions = [b if isinstance(b, Region) else bench.upload(b) for b in buffers]
        program = bench.program(name, defines, constants, **options)
        bench.dispatch(program, regions, groups, push)
        bench.run()
        return [
            region.view.copy()
            if isinstance(given, Region)
            else region.view[: given.nbytes].copy().view(given.dtype).reshape(given.shape)
            for region, given in zip(regions, buffers, strict=True)
        ]
