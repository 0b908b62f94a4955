"""The Vulkan layer without a model: choice, errors, memory, replay, caches, validation."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from vulkan_harness import Bench, open_device, run

from specdec.errors import DeviceError

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target import programs
from target.vulkan import (
    DescriptorPool,
    Device,
    DeviceInfo,
    Memory,
    MemoryKind,
    Transfer,
    list_devices,
    recording,
)
from target.vulkan.device import choose


@pytest.fixture(scope="module")
def some_info() -> DeviceInfo:
    infos = list_devices()
    if not infos:
        pytest.skip("no Vulkan device")
    return replace(infos[0], index=0, name="Fake One", kind="discrete", missing=())


def record_too_many_groups(device: Device, shaders: Path) -> None:
    with Bench(device) as bench:
        program = bench.program("double", source_dir=shaders)
        pool, recorder = DescriptorPool(device), recording.Recorder(device, "too many")
        descriptors = pool.bind(program, [bench.zeros(64), bench.zeros(64)])
        groups = device.info.limits.workgroup_count_x + 1
        recorder.dispatch(program, descriptors, (groups, 1, 1), bytes(8))
        recorder.finish().release()
        pool.release()


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_auto_prefers_discrete_then_integrated_then_virtual_then_software(
    some_info: DeviceInfo, order: tuple[int, ...]
) -> None:
    kinds = ("discrete", "integrated", "virtual", "software")
    devices = [replace(some_info, index=i, kind=kinds[k]) for i, k in enumerate(order)]
    while devices:
        chosen = choose(devices, "auto")
        assert chosen.kind == min((info.kind for info in devices), key=kinds.index)
        devices.remove(chosen)


def test_auto_passes_over_a_device_that_lacks_a_feature(some_info: DeviceInfo) -> None:
    lacking = replace(some_info, missing=("shaderInt8",))
    software = replace(some_info, index=1, kind="software")
    assert choose([lacking, software], "auto") is software


def test_no_usable_device_names_what_each_lacks(some_info: DeviceInfo) -> None:
    lacking = replace(some_info, missing=("shaderInt8", "maintenance4"))
    with pytest.raises(DeviceError, match=r"Fake One.*lacks shaderInt8, maintenance4"):
        choose([lacking], "auto")
    with pytest.raises(DeviceError, match=r"Fake One lacks shaderInt8, maintenance4"):
        choose([lacking], "fake")


def test_a_device_is_chosen_by_index_or_part_of_its_name(some_info: DeviceInfo) -> None:
    other = replace(some_info, index=1, name="Fake Two")
    assert choose([some_info, other], "1") is other
    assert choose([some_info, other], "two") is other


@pytest.mark.parametrize("selector", ["7", "radeon", "fake"])
def test_an_unclear_selector_lists_the_devices(some_info: DeviceInfo, selector: str) -> None:
    other = replace(some_info, index=1, name="Fake Two")
    with pytest.raises(DeviceError, match=r"0: Fake One .*1: Fake Two"):
        choose([some_info, other], selector)


def test_no_device_at_all_says_what_to_install() -> None:
    with pytest.raises(DeviceError, match=r"no Vulkan device .*install a driver"):
        choose([], "auto")


def test_no_driver_is_a_device_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(variable, str(tmp_path / "none.json"))
    with pytest.raises(DeviceError, match="install"):
        Device.open()


def test_a_missing_loader_is_a_device_error(tmp_path: Path) -> None:
    (tmp_path / "vulkan.py").write_text("raise OSError('cannot load library')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from specdec.errors import DeviceError\n"
        "try:\n    import target.vulkan\n"
        "except DeviceError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no Vulkan loader" in done.stdout and "libvulkan1" in done.stdout


def test_a_missing_validation_layer_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("target.vulkan.instance._layer_names", set)
    with pytest.raises(DeviceError, match=r"run\.validation"):
        Device.open(validation=True)


def test_the_validation_layer_is_heard(shaders: Path) -> None:
    with open_device() as device:
        if not device.has_validation:
            pytest.skip("the validation layer is not installed")
        with pytest.raises(DeviceError, match="validation"):
            record_too_many_groups(device, shaders)
            device.check_messages()
        assert "VUID-vkCmdDispatch-groupCountX" in device.messages[0]


def test_a_program_computes(device: Device, shaders: Path) -> None:
    x = np.arange(200, dtype=np.float32)
    constants = {"FACTOR": 3.0, "BIAS": 2}
    out = run(
        device,
        "double",
        [x, np.zeros_like(x)],
        4,
        [200, 0.5],
        constants=constants,
        source_dir=shaders,
    )
    np.testing.assert_array_equal(out[1], 3 * x + 2.5)


def test_a_job_replays_with_new_inputs_and_tells_the_time(device: Device, shaders: Path) -> None:
    with Bench(device) as bench:
        x, y = bench.upload(np.ones(64, np.float32)), bench.zeros(256)
        program = bench.program("double", constants={"FACTOR": 2.0}, source_dir=shaders)
        bench.dispatch(program, [x, y], 1, [64, 0.0])
        assert 0 < bench.run() < 60
        x.view.view(np.float32)[:] = 21
        bench.run()
        assert (bench.download(y, np.float32) == 42).all()


def test_a_damaged_pipeline_cache_is_ignored(shaders: Path) -> None:
    for _ in range(2):
        with open_device() as device:
            programs.Program(device, "double", source_dir=shaders).release()
        for file in (shaders / "cache" / "specdec" / "pipelines").glob("*.bin"):
            file.write_bytes(file.read_bytes()[:-7] + b"damaged")


def test_memory_is_accounted_by_label(quiet_device: Device) -> None:
    memory = quiet_device.memory
    first = memory.allocate(1000, MemoryKind.DEVICE, "weights")
    second = memory.allocate(500, MemoryKind.UPLOAD, "step")
    assert memory.used_bytes["weights"] == 1000 and memory.used_bytes["step"] == 500
    memory.free(first)
    memory.free(second)
    assert memory.used_bytes.total() == 0


def test_too_large_an_allocation_says_what_for(quiet_device: Device) -> None:
    size = 1 << 44
    with pytest.raises(DeviceError, match=r"weights"):
        quiet_device.memory.allocate(size, MemoryKind.DEVICE, "weights")
    assert quiet_device.memory.used_bytes.total() == 0


@pytest.mark.parametrize("in_place", [True, False])
def test_bytes_survive_a_round_trip_in_place_and_staged(
    quiet_device: Device, in_place: bool
) -> None:
    if in_place and not quiet_device.info.is_unified:
        pytest.skip("memory is not unified")
    memory = quiet_device.memory = Memory(quiet_device, in_place=in_place)
    transfer = Transfer(quiet_device)
    values = np.arange(9 << 20, dtype=np.uint32)  # more than both halves of the ring
    buffer = memory.allocate(values.nbytes + 256, MemoryKind.DEVICE, "weights")
    assert (buffer.view is not None) == in_place
    transfer.write(buffer.region(256, values.nbytes), values)
    transfer.flush()
    read = transfer.read(buffer.region(256, values.nbytes)).view(np.uint32)
    np.testing.assert_array_equal(read, values)
    assert memory.used_bytes["staging"] == 0


def test_a_lost_device_is_a_device_error_and_release_goes_on(
    quiet_device: Device, shaders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recording.Recorder(quiet_device, "nothing")
    job = recorder.finish()
    lost, timeout = -4, 2
    for result, words in ((timeout, "did not finish nothing within 2 s"), (lost, "was lost")):
        fakes = SimpleNamespace(
            vkQueueSubmit=lambda *_: 0, vkWaitForFences=lambda *_, result=result: result
        )
        with monkeypatch.context() as patch:
            patch.setattr(recording, "lib", fakes)
            with pytest.raises(DeviceError, match=words):
                job.run(timeout_s=2)
    assert quiet_device.is_lost
    job.release()


def cycles(count: int, shaders: Path) -> list[int]:
    """Resident bytes after each of `count` device lifetimes with work in them."""
    sizes = []
    x = np.ones(1 << 16, np.float32)
    for _ in range(count):
        with open_device(validation=False) as device:
            run(device, "double", [x, x], 1024, [len(x), 0.0], source_dir=shaders)
        sizes.append(rss_bytes())
    return sizes


def test_two_hundred_dispatches_leave_no_memory_behind(quiet_device: Device, shaders: Path) -> None:
    x = np.ones(1 << 16, np.float32)
    sizes = []
    for _ in range(200):
        run(quiet_device, "double", [x, x], 1024, [len(x), 0.0], source_dir=shaders)
        sizes.append(rss_bytes())
    assert quiet_device.memory.used_bytes.total() == 0
    assert sizes[-1] - sizes[100] < 4 << 20


@pytest.mark.slow
def test_two_hundred_devices_leave_no_memory_behind(shaders: Path) -> None:
    sizes = cycles(200, shaders)
    assert sizes[-1] - sizes[100] < 8 << 20
