"""From GLSL to a specialised pipeline: caches, shipped SPIR-V, errors."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vulkan_harness import DOUBLE, run

from specdec.assets import asset_dir
from specdec.errors import DeviceError
from target import spirv
from target.programs import Program
from target.vulkan import Device


def test_an_unknown_constant_names_the_known_ones(device: Device, shaders: Path) -> None:
    with pytest.raises(AssertionError, match="it has BIAS, FACTOR"):
        Program(device, "double", constants={"FACTR": 1.0}, source_dir=shaders)


def test_a_shader_with_an_error_is_a_device_error(device: Device, shaders: Path) -> None:
    (shaders / "bad.comp").write_text("// none\n#version 460\nvoid main() { nonsense; }")
    with pytest.raises(DeviceError, match=r"bad.comp does not compile: .*nonsense"):
        Program(device, "bad", source_dir=shaders)


def test_a_subgroup_size_can_be_required(device: Device, shaders: Path) -> None:
    _, smallest, largest = device.info.subgroup_sizes
    for size in (smallest, largest):
        out = run(
            device,
            "double",
            [np.arange(64, dtype=np.float32), np.zeros(64, np.float32)],
            groups=1,
            push=[64, 0.0],
            constants={"FACTOR": 2.0},
            subgroup_size=size,
            source_dir=shaders,
        )
        assert out[1].tolist() == [2.0 * i for i in range(64)]


def test_spirv_is_cached_until_a_source_or_define_changes(
    shaders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Path] = []

    def compile_shader(source: Path, defines: spirv.Defines) -> bytes:
        compiled.append(source)
        return original(source, defines)

    original = spirv.compile_shader
    monkeypatch.setattr(spirv, "compile_shader", compile_shader)
    (shaders / "include").mkdir()
    (shaders / "include" / "four.glsl").write_text("#define FOUR 4.0\n")
    extension = "#extension GL_GOOGLE_include_directive : require\n"
    source = DOUBLE.replace("460\n", f'460\n{extension}#include "include/four.glsl"\n', 1)
    (shaders / "double.comp").write_text(source)
    for expected in (1, 1):
        spirv.load_shader("double", {}, shaders)
        assert len(compiled) == expected
    spirv.load_shader("double", {"M": 2}, shaders)
    assert len(compiled) == 2
    (shaders / "include" / "four.glsl").write_text("#define FOUR 4.5\n")
    spirv.load_shader("double", {}, shaders)
    assert len(compiled) == 3
    for file in (shaders / "cache" / "specdec" / "spirv").iterdir():
        file.write_bytes(b"half a fi")
    spirv.load_shader("double", {}, shaders)
    assert len(compiled) == 4


def test_shipped_spirv_needs_no_compiler(shaders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shaders / "double.comp"
    (shaders / "spirv").mkdir()
    shipped = shaders / "spirv" / f"{spirv.source_key(source, {})}.spv"
    shipped.write_bytes(spirv.compile_shader(source, {}))
    monkeypatch.setattr(spirv, "compiler_path", None)
    shader = spirv.load_shader("double", {}, shaders)
    assert shader.num_bindings == 2 and dict(shader.constant_ids) == {"FACTOR": 3, "BIAS": 4}


def test_every_shader_is_shipped() -> None:
    sources = {path.stem for path in asset_dir("shaders").glob("*.comp")}
    assert set(spirv.VARIANTS) == sources


@pytest.mark.slow
def test_the_wheel_holds_spirv_for_its_own_sources_and_what_reports_need(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(root)], check=True)
    (wheel,) = tmp_path.glob("specdec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    needed = ("benchmarks/prompts/code.jsonl", "compare/assets/vendor/d3-7.9.2.min.js")
    assert all((tmp_path / "specdec" / name).is_file() for name in needed)
    shaders = tmp_path / "specdec" / "shaders"
    for name, variants in spirv.VARIANTS.items():
        for defines in variants:
            key = spirv.source_key(shaders / f"{name}.comp", defines)
            assert (shaders / "spirv" / f"{key}.spv").stat().st_size > 20
