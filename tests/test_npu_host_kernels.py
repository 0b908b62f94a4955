"""How the host build is compiled, and what its array does beside computing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from npu_array import Driver

from draft.npu import host_kernels, layout
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
