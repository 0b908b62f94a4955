"""What `specdec doctor` advises, on machines made of plain values and on this one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from specdec.cli import main
from specdec.config import Config, with_overrides
from specdec.diagnosis import Diagnosis, Finding, diagnose
from specdec.gemma3.named import NAMED_SHAPES
from specdec.load.host import amd_memory, display_controllers
from specdec.load.probes import model_need
from specdec.machine import AmdMemory, DisplayController, Gpu, Host, Machine, ModelNeed

GIB = 1 << 30
NO_LOADER = "no Vulkan loader on this machine (libvulkan.so.1 not found): install it"
HOST = Host("Ryzen 7 7840HS x 16", 16, 32 * GIB, 28 * GIB, None, "6.14", "3.13")
NVIDIA = Gpu(
    0, "NVIDIA H100", "discrete", "NVIDIA 580", (), True, True, (32, 32, 32), (80 * GIB,), 4 * GIB,
    "hopper", 78 * GIB,
)  # fmt: skip
RADEON = replace(
    NVIDIA, name="AMD Radeon 780M (RADV PHOENIX)", kind="integrated", driver="radv", tuning="rdna3",
    free_bytes=12 * GIB,
)  # fmt: skip
LAVAPIPE = replace(
    NVIDIA, name="llvmpipe (LLVM 15)", kind="software", driver="llvmpipe", free_bytes=20 * GIB
)
BARE = Machine(HOST, (), (), (), "", (), ("NPU: no node: load the driver",), "")
SMALL = ModelNeed("embedded", 30 << 20, 10 << 20, 1 << 10, 1 << 20, 2048, "fp16")
LARGE = ModelNeed("gemma-3-27b", 15 * GIB, 2 * GIB, 80 << 10, GIB, 16384, "fp16")


def judge(machine: Machine, need: ModelNeed = SMALL, *overrides: str) -> Diagnosis:
    return diagnose(machine, need, with_overrides(Config(), overrides))


def find(diagnosis: Diagnosis, subject: str) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.subject == subject)


def test_without_a_loader_the_package_is_named_and_numpy_runs() -> None:
    diagnosis = judge(replace(BARE, vulkan_error=NO_LOADER))
    found = find(diagnosis, "Vulkan")
    assert "libvulkan1 mesa-vulkan-drivers" in found.remedy and "apt-get install" in found.remedy
    assert diagnosis.can_run and diagnosis.target.startswith("numpy")


def test_without_a_loader_a_named_gpu_is_a_problem() -> None:
    diagnosis = judge(replace(BARE, vulkan_error=NO_LOADER), SMALL, "target.device=780M")
    assert find(diagnosis, "Vulkan").level == "problem" and not diagnosis.can_run


def test_a_loader_without_a_driver_needs_the_driver_only() -> None:
    error = "the Vulkan loader found no working driver: install one"
    remedy = find(judge(replace(BARE, vulkan_error=error)), "Vulkan").remedy
    assert remedy.endswith("install mesa-vulkan-drivers")


@pytest.mark.parametrize(
    ("vendor", "remedy"), [("NVIDIA", "nvidia-vulkan-icd"), ("AMD", "mesa-vulkan-drivers")]
)
def test_a_gpu_on_the_bus_that_vulkan_does_not_list_gets_its_driver_named(
    vendor: str, remedy: str
) -> None:
    bus = (DisplayController("0000:01:00.0", vendor, ""),)
    found = find(judge(replace(BARE, controllers=bus, gpus=(LAVAPIPE,))), f"{vendor} GPU")
    assert remedy in found.remedy and "0000:01:00.0" in found.text


@pytest.mark.parametrize(("vendor", "gpu"), [("NVIDIA", NVIDIA), ("AMD", RADEON)])
def test_a_gpu_that_vulkan_lists_needs_no_advice(vendor: str, gpu: Gpu) -> None:
    bus = (DisplayController("0000:01:00.0", vendor, vendor.lower()),)
    subjects = [f.subject for f in judge(replace(BARE, controllers=bus, gpus=(gpu,))).findings]
    assert f"{vendor} GPU" not in subjects


def test_lavapipe_runs_and_is_called_slow_and_a_real_gpu_is_preferred() -> None:
    assert "slow" in judge(replace(BARE, gpus=(LAVAPIPE,))).target
    both = judge(replace(BARE, gpus=(LAVAPIPE, replace(NVIDIA, index=1))))
    assert both.target.startswith("NVIDIA H100 (the best device by kind: discrete")
    assert "cooperative matrices" in find(both, "NVIDIA H100").text and both.can_run


def test_a_small_gtt_is_raised_by_kernel_parameters_that_fit_the_model() -> None:
    machine = replace(BARE, gpus=(RADEON,), amd_memory=(AmdMemory("card0", GIB // 2, 12 * GIB),))
    found = find(judge(machine, LARGE), "memory")
    pages = int(found.remedy.split("ttm.pages_limit=")[1].split()[0])
    assert LARGE.total_bytes < pages * 4096 < HOST.memory_bytes
    assert found.level == "problem" and "update-grub" in found.remedy
    assert "gemma-3-27b needs 18.00 GiB" in found.text and "12.00 GiB free" in found.text


def test_too_little_main_memory_is_not_cured_by_a_kernel_parameter() -> None:
    host = replace(HOST, memory_bytes=16 * GIB)
    machine = replace(BARE, host=host, gpus=(RADEON,), amd_memory=(AmdMemory("card0", 0, GIB),))
    remedy = find(judge(machine, LARGE), "memory").remedy
    assert "ttm." not in remedy and "more main memory" in remedy


def test_a_context_that_fits_is_offered_where_only_the_cache_is_too_large() -> None:
    need = replace(LARGE, kv_bytes=6 * GIB, kv_bytes_per_token=80 << 10, context_length=65536)
    machine = replace(BARE, gpus=(replace(RADEON, free_bytes=20 * GIB),))
    remedy = find(judge(machine, need), "memory").remedy
    length = int(remedy.split("run.context_length=")[1].split(";")[0])
    cut = (need.context_length - length) * need.kv_bytes_per_token
    assert need.total_bytes - cut <= 20 * GIB < need.total_bytes - cut + (257 * 80 << 10)
    assert "run.kv=int8" in remedy


def test_a_missing_npu_matters_only_to_who_wants_it() -> None:
    assert find(judge(BARE), "NPU").level == "note"
    wanted = judge(BARE, SMALL, "draft.device=npu")
    assert find(wanted, "NPU") == Finding("problem", "NPU", "no node", "load the driver")
    assert find(judge(replace(BARE, npu_problems=())), "NPU").level == "ok"


def test_a_closed_render_node_and_a_lacking_feature_are_named() -> None:
    old = replace(RADEON, missing=("shaderInt8",), free_bytes=None)
    diagnosis = judge(replace(BARE, gpus=(old,), closed_nodes=("/dev/dri/renderD128",)))
    assert "usermod -aG render" in find(diagnosis, "GPU access").remedy
    assert "shaderInt8" in find(diagnosis, old.name).text
    assert diagnosis.target.startswith("numpy")


def test_a_device_that_is_not_here_is_a_problem() -> None:
    diagnosis = judge(replace(BARE, gpus=(LAVAPIPE,)), SMALL, "target.device=Radeon")
    assert find(diagnosis, "target.device").level == "problem" and not diagnosis.can_run


def test_the_bus_and_amds_memory_are_read_from_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "pci" / "0000:c4:00.0"
    driver = tmp_path / "drivers" / "amdgpu"
    for folder in (device, driver, tmp_path / "drm" / "card1" / "device"):
        folder.mkdir(parents=True)
    (device / "class").write_text("0x030000\n")
    (device / "vendor").write_text("0x1002\n")
    (device / "driver").symlink_to(driver)
    (tmp_path / "drm" / "card1" / "device" / "mem_info_vram_total").write_text("536870912\n")
    (tmp_path / "drm" / "card1" / "device" / "mem_info_gtt_total").write_text("12884901888\n")
    assert display_controllers(tmp_path / "pci") == (
        DisplayController("0000:c4:00.0", "AMD", "amdgpu"),
    )
    assert amd_memory(tmp_path / "drm") == (AmdMemory("card1", GIB // 2, 12 * GIB),)
    assert display_controllers(tmp_path / "none") == () == amd_memory(tmp_path / "none")


def test_a_published_models_need_is_known_without_its_files() -> None:
    config = with_overrides(Config(), ["target.model=gemma-3-27b", "run.context_length=4096"])
    need = model_need(config)
    assert need.weights_bytes == pytest.approx(15.9e9, rel=0.01)  # 27.0 G weights, INT8 head
    # 52 rings of 1024 + 63 positions and 10 layers of 4096, 8 KiB a position
    assert need.kv_bytes == (52 * 1087 + 10 * 4096) * 8192


def test_the_computed_need_is_close_to_what_a_device_is_asked_for() -> None:
    from vulkan_harness import open_device

    from target.memory_needs import memory_needs
    from target.packing import WeightMap
    from target.sizes import RunSizes

    shape, config = NAMED_SHAPES["gemma-3-27b"], Config()
    config = with_overrides(config, ["target.model=gemma-3-27b", "run.context_length=8192"])
    with open_device() as device:
        sizes = RunSizes(shape, 8, 8192, 1, 64, 256, 4)
        exact = memory_needs(device, WeightMap(sizes, device))
    need = model_need(config)
    assert need.weights_bytes == pytest.approx(exact.weights_bytes, rel=0.01)
    assert need.kv_bytes == pytest.approx(exact.kv_bytes, rel=0.05)
    assert need.scratch_bytes == pytest.approx(exact.scratch_bytes, rel=0.5)


def test_a_device_that_feeds_longer_parts_of_prompts_needs_room_for_them() -> None:
    from target.sizes import RunSizes

    shape, config = NAMED_SHAPES["gemma-3-27b"], Config()
    config = with_overrides(config, ["target.model=gemma-3-27b", "run.context_length=8192"])
    need, sizes = model_need(config, 512), RunSizes(shape, 8, 8192, 1, 512, 256, 4)
    kv_bytes = sum(2 * sizes.kv_region_bytes(layer) for layer in range(shape.num_layers))
    assert need.kv_bytes == pytest.approx(kv_bytes, rel=0.01)
    assert need.scratch_bytes == pytest.approx(sum(sizes.scratch_bytes().values()), rel=0.2)


@pytest.mark.slow
def test_the_command_describes_this_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_run"] and report["machine"]["host"]["num_cpus"] >= 1
    assert report["machine"]["host"]["copy_gb_s"] > 0.1
    assert {"findings", "target", "draft", "need"} <= report.keys()


def test_the_command_fails_where_the_configured_device_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--quick", "--set", "target.device=Voodoo"]) == 1
    captured = capsys.readouterr()
    assert "PROBLEM" in captured.out and "cannot start" in captured.err


def test_a_machine_without_drivers_is_told_what_to_install() -> None:
    command = [sys.executable, "-m", "specdec", "doctor", "--quick"]
    environment = {"VK_DRIVER_FILES": "/nonexistent.json", "PATH": "/usr/bin", "HOME": "/tmp"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "install mesa-vulkan-drivers" in done.stdout and "target: numpy" in done.stdout
