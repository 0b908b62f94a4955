"""What goes wrong on an NPU reaches the user as one line that says what to do."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from npu_rig import BUFFER_BYTES, echo_stream, make_machine, make_session, make_xrt
from small_models import RandomModel, with_shape

from draft.npu import build, probing
from draft.npu.build import ArrayBuild, emulated_build, find_build
from draft.npu.emulated.buffers import EmulatedBo, SyncDirection
from draft.npu.emulated.machine import MAX_CONTEXTS, Fault, Faults
from draft.npu.emulated.runs import EmulatedKernel, EmulatedRun, EmulatedXclbin
from draft.npu.model import NpuModel, NpuSettings
from draft.npu.session import Buffer, Session
from draft.npu.surface import Xrt
from specdec.errors import DeviceError

SHAPE = with_shape(num_kv_heads=1, head_dim=64, num_heads=2)


def open_model(session: Session | None = None) -> NpuModel:
    source = RandomModel(SHAPE, head_bits=4)
    return NpuModel(session or make_session(), SHAPE, source, NpuSettings(64))


def faulty_session(*runs: tuple[int, Fault]) -> Session:
    return make_session(make_xrt(make_machine(faults=Faults(runs))))


def buffers_of(session: Session) -> list[Buffer]:
    return [session.buffer(index, BUFFER_BYTES) for index in range(3)]


def assert_one_line(error: pytest.ExceptionInfo[DeviceError]) -> None:
    assert str(error.value).startswith("NPU: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (Fault.TIMEOUT, "the array hangs: remove and rescan the PCI device, or reboot"),
        (Fault.CONTEXT_LOST, r"the hardware context was lost.*start again.*err=2"),
        (Fault.ERROR, "ERT_CMD_STATE_ERROR"),
    ],
)
def test_a_run_that_fails_is_a_device_error(fault: Fault, remedy: str) -> None:
    model = open_model(faulty_session((2, fault)))
    model.feed(0, [1, 2], 1)
    with pytest.raises(DeviceError, match=remedy) as error:
        model.feed(0, [3], 1)
    assert_one_line(error)
    assert model.length(0) == 2


def test_a_seventh_context_names_the_limit() -> None:
    xrt = make_xrt()
    held = [make_session(xrt) for _ in range(MAX_CONTEXTS)]
    with pytest.raises(DeviceError, match=r"all hardware contexts .* taken .*end the other") as e:
        make_session(xrt)
    assert_one_line(e)
    assert len(held) == 6


def test_little_lockable_memory_names_the_setting() -> None:
    machine = make_machine(faults=Faults(is_memlock_low=True))
    with pytest.raises(DeviceError, match="memlock unlimited") as error:
        make_session(make_xrt(machine))
    assert_one_line(error)


def wrong_group(monkeypatch: pytest.MonkeyPatch, argument: int) -> None:
    """Memory for one argument is made in another's group."""
    right = EmulatedKernel.group_id

    def group_id(kernel: EmulatedKernel, index: int) -> int:
        is_allocating = kernel.context.machine.num_runs == 0 and index == argument
        return right(kernel, index) + is_allocating

    monkeypatch.setattr(EmulatedKernel, "group_id", group_id)


def no_sync(monkeypatch: pytest.MonkeyPatch, lost: SyncDirection) -> None:
    """Syncs in one direction do nothing."""
    right = EmulatedBo.sync

    def sync(bo: EmulatedBo, direction: SyncDirection, size: int, offset: int) -> None:
        if direction is not lost or bo.flags is EmulatedBo.cacheable:
            right(bo, direction, size, offset)

    monkeypatch.setattr(EmulatedBo, "sync", sync)


NOT_MOVED = "completed without moving the .* buffer's bytes"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda patch: wrong_group(patch, 1), NOT_MOVED),
        (lambda patch: wrong_group(patch, 3), NOT_MOVED),
        (lambda patch: wrong_group(patch, 5), NOT_MOVED),
        # the cores see no messages, so nothing comes out of them
        (lambda patch: no_sync(patch, SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE), "the array hangs"),
        (lambda patch: no_sync(patch, SyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE), NOT_MOVED),
    ],
)
def test_bytes_that_do_not_move_are_noticed_before_the_first_token(
    harm: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(monkeypatch)
    with pytest.raises(DeviceError, match=reason) as error:
        open_model()
    assert_one_line(error)


def test_an_argument_left_unset_is_noticed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    right = EmulatedRun.set_arg
    monkeypatch.setattr(
        EmulatedRun, "set_arg", lambda run, i, value: None if i == 2 else right(run, i, value)
    )
    with pytest.raises(DeviceError, match="completed without moving"):
        open_model()


def test_too_many_buffers_are_refused_before_they_crash_the_library() -> None:
    session = make_session()
    buffers = buffers_of(session)
    with pytest.raises(DeviceError, match="4 buffers for a configuration of 3") as error:
        session.program(echo_stream(), [*buffers, buffers[0]])
    assert_one_line(error)


def test_parts_of_parts_are_refused() -> None:
    part = buffers_of(make_session())[0].part(0, 4096)
    with pytest.raises(AssertionError, match="parts are made of whole buffers"):
        part.part(0, 64)


def test_no_wait_is_without_a_timeout() -> None:
    session = make_session()
    program = session.program(echo_stream(), buffers_of(session))
    with pytest.raises(AssertionError, match="wait for ever"):
        session.run(program, 0)


def test_an_xclbin_of_other_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedXclbin, "get_num_args", lambda xclbin: 5)
    with pytest.raises(DeviceError, match=r"offers \{'MLIR_AIE': 5\}, needed .* 6 arguments"):
        make_session()


def test_kernels_that_the_manifest_does_not_know_are_refused(tmp_path: Path) -> None:
    found = json.loads(emulated_build().path.read_text())
    name = next(iter(found["source_hashes"]))
    found["source_hashes"][name] = "0" * 64
    path = tmp_path / "array.json"
    path.write_text(json.dumps(found))
    with pytest.raises(DeviceError, match=f"{name} is not the source"):
        Session(cast(Xrt, make_xrt()), ArrayBuild(emulated_build().manifest, path))


@pytest.fixture
def kernels_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "asset_dir", lambda name: tmp_path)
    (tmp_path / "build").mkdir()
    return tmp_path / "build"


def test_a_missing_or_damaged_xclbin_names_the_build_script(kernels_dir: Path) -> None:
    manifest = json.loads(
        (Path(build.__file__).parents[2] / "kernels/draft_array.json").read_text()
    )
    with pytest.raises(DeviceError, match=r"does not exist: build it with kernels/build\.sh"):
        find_build()
    (kernels_dir / "draft_array.xclbin").write_bytes(b"binary")
    with pytest.raises(DeviceError, match="cannot read"):
        find_build()
    (kernels_dir / "draft_array.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="not the file its manifest describes"):
        find_build()
    manifest["xclbin_sha256"] = "9a3a45d01531a20e89ac6ae10b0b0beb0492acd7216a368aa062d1a5fecaf9cd"
    (kernels_dir / "draft_array.json").write_text(json.dumps(manifest))
    assert find_build().path.name == "draft_array.xclbin"
    manifest["device"] = "npu2"
    (kernels_dir / "draft_array.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="device npu2, this program needs npu1"):
        find_build()


def test_probing_names_the_missing_driver_and_permissions(tmp_path: Path) -> None:
    nodes, driver = tmp_path / "accel", tmp_path / "amdxdna"
    with pytest.raises(DeviceError, match=r"driver is not loaded.*modprobe amdxdna"):
        probing.check_system(nodes, driver)
    driver.mkdir()
    with pytest.raises(DeviceError, match="no device of its own"):
        probing.check_system(nodes, driver)
    nodes.mkdir()
    (nodes / "accel0").touch()
    probing.check_system(nodes, driver)


def test_probing_names_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "accel0").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(DeviceError, match="usermod -aG render"):
        probing.check_system(tmp_path, tmp_path)


def test_probing_names_the_memory_limit() -> None:
    probing.check_locked_memory(-1)
    probing.check_locked_memory(1 << 30)
    with pytest.raises(DeviceError, match=r"lock 8192 KiB .* memlock unlimited"):
        probing.check_locked_memory(8 << 20)


def test_probing_names_the_missing_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    with pytest.raises(DeviceError, match=r"cannot import pyxrt .* X-ray tracing"):
        probing.import_pyxrt()
    old = types.ModuleType("pyxrt")
    monkeypatch.setitem(sys.modules, "pyxrt", old)
    with pytest.raises(DeviceError, match="too old"):
        probing.import_pyxrt()


def test_probing_takes_npu1_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    xrt = make_xrt()
    probing.check_device(cast(Xrt, xrt))
    for name in ("RyzenAI-npu1", "NPU Phoenix", "RyzenAI-npu4"):
        device = types.SimpleNamespace(get_info=lambda key, name=name: name)
        monkeypatch.setattr(xrt, "device", lambda index, device=device: device)
        if name.endswith("4"):
            with pytest.raises(DeviceError, match="'RyzenAI-npu4'; the kernels are for"):
                probing.check_device(cast(Xrt, xrt))
        else:
            probing.check_device(cast(Xrt, xrt))
