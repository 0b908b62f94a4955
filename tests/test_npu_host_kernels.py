"""How the host build is compiled, and what its array does beside computing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from npu_array import Driver

from draft.npu import arithmetic, host_kernels, layout
from draft.npu.host_kernels import HostKernels
from draft.npu.layout import Operation

pytestmark = pytest.mark.skipif(
    host_kernels.find_compiler() is None, reason="no C++ compiler (g++ or clang++) is installed"
)


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return host_kernels.load()


def test_a_core_ignores_what_is_not_addressed_to_it(kernels: HostKernels) -> None:
    driver = Driver(kernels)
    driver.load_hidden(0, np.ones(192, np.float32))
    words = layout.tag(Operation.LOAD_HIDDEN, layout.Target.FIRST, 1, (192,))
    driver.send(0, 1, [layout.element(words, np.zeros(192, np.float32).tobytes())])
    assert driver.hidden(0, 192).all()


def test_waiting_for_what_no_core_sends_is_a_stall(kernels: HostKernels) -> None:
    driver = Driver(kernels)
    with pytest.raises(host_kernels.HostStallError, match="no core will send"):
        driver.row(0)
    driver.array.reset()
    driver.load_hidden(0, np.ones(32, np.float32))
    assert driver.hidden(0, 32).all()


def test_memories_are_as_large_as_the_design_says(kernels: HostKernels) -> None:
    assert kernels.call("probe_memory_bytes", 0) == 18944
    assert kernels.call("probe_memory_bytes", 1) == 21696


def test_no_compiler_is_an_error_that_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_kernels, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(host_kernels.DeviceError, match=r"no C\+\+ compiler.*apt install g\+\+"):
        host_kernels.load()


def test_a_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(host_kernels.DeviceError, match="XDG_CACHE_HOME"):
        host_kernels.load()


def test_the_end_of_a_transfer_is_its_furthest_word() -> None:
    step = np.zeros(1, host_kernels.STEP_DTYPE)[0]
    step["length"] = 40
    assert host_kernels.extent(step) == 40
    step["d0_size"], step["d0_step"], step["d1_size"], step["d1_step"] = 8, 1, 4, 100
    step["d2_step"] = 8
    assert host_kernels.extent(step) == 308
    step["iteration_size"], step["iteration_step"], step["repeat"] = 2, 1000, 1
    assert host_kernels.extent(step) == 1308


def some_of_everything(kernels: HostKernels) -> list[bytes]:
    """Bytes that pass through every kernel once."""
    values, scales = np.arange(-8, 8, dtype=np.int8), np.full((256, 6), 0.01, np.float16)
    weights = layout.pack_weights(np.resize(values, (256, 192)), scales)
    x = np.random.default_rng(1).standard_normal((4, 192)).astype(np.float32)
    driver = Driver(kernels)
    for column in range(4):
        driver.load_hidden(column, x[column])
        ones = np.ones(192, np.float32).tobytes()
        driver.vector(column, Operation.NORM_QUANTIZE, (192, column, 1e-6, 1 / 192), [ones])
    rows = [driver.row(column) for column in range(4)]
    products = driver.multiply(weights, rows, 256)
    driver.vector(0, Operation.POSITION, (64, 0, 9, 16), [x[0, :64].tobytes()])
    rope = (64, 2, 1e-6, 0.2, 1 / 64)
    driver.vector(0, Operation.ROPE, rope, [x[1, :128].tobytes(), products[0].tobytes()])
    kv = np.resize(arithmetic.to_bfloat16(x), 1024).tobytes()
    driver.vector(0, Operation.ATTEND, (64, 1, 0), [b"", kv])
    driver.vector(0, Operation.FINISH, (64, 2, 0))
    driver.vector(1, Operation.GEGLU, (96, 1), [b"", products[1, :192].tobytes()])
    outputs = [driver.row(0), driver.row(0), driver.row(1)]
    return [part.tobytes() for part in (*rows, np.ascontiguousarray(products), *outputs)]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_every_processor_computes_the_same_bits(
    kernels: HostKernels, processor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fastest = kernels.dot_product()
    if processor == "x86-64-v3" and fastest == "portable":
        pytest.skip("this processor has no AVX2")
    flags = tuple(flag.replace("native", processor) for flag in host_kernels.FLAGS)
    monkeypatch.setattr(host_kernels, "FLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = host_kernels.load()
    assert other.dot_product() == {"x86-64": "portable", "x86-64-v3": "AVX2"}[processor]
    assert some_of_everything(other) == some_of_everything(kernels)
