"""From GLSL to a specialised pipeline: caches, shipped SPIR-V, errors."""

from pathlib import Path

import pytest
from vulkan_harness import DOUBLE

from specdec.errors import DeviceError
from target import programs
from target.vulkan import Device


def test_an_unknown_constant_names_the_known_ones(device: Device, shaders: Path) -> None:
    with pytest.raises(AssertionError, match="it has BIAS, FACTOR"):
        programs.Program(device, "double", constants={"FACTR": 1.0}, source_dir=shaders)


def test_a_shader_with_an_error_is_a_device_error(device: Device, shaders: Path) -> None:
    (shaders / "bad.comp").write_text("// none\n#version 460\nvoid main() { nonsense; }")
    with pytest.raises(DeviceError, match=r"bad.comp does not compile: .*nonsense"):
        programs.Program(device, "bad", source_dir=shaders)


def test_spirv_is_cached_until_a_source_or_define_changes(
    shaders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Path] = []

    def compile_shader(source: Path, defines: programs.Defines) -> bytes:
        compiled.append(source)
        return original(source, defines)

    original = programs.compile_shader
    monkeypatch.setattr(programs, "compile_shader", compile_shader)
    (shaders / "include").mkdir()
    (shaders / "include" / "four.glsl").write_text("#define FOUR 4.0\n")
    extension = "#extension GL_GOOGLE_include_directive : require\n"
    source = DOUBLE.replace("460\n", f'460\n{extension}#include "include/four.glsl"\n', 1)
    (shaders / "double.comp").write_text(source)
    for expected in (1, 1):
        programs.load_shader("double", {}, shaders)
        assert len(compiled) == expected
    programs.load_shader("double", {"M": 2}, shaders)
    assert len(compiled) == 2
    (shaders / "include" / "four.glsl").write_text("#define FOUR 4.5\n")
    programs.load_shader("double", {}, shaders)
    assert len(compiled) == 3
    for file in (shaders / "cache" / "specdec" / "spirv").iterdir():
        file.write_bytes(b"half a fi")
    programs.load_shader("double", {}, shaders)
    assert len(compiled) == 4


def test_shipped_spirv_needs_no_compiler(shaders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shaders / "double.comp"
    (shaders / "spirv").mkdir()
    shipped = shaders / "spirv" / f"{programs.source_key(source, {})}.spv"
    shipped.write_bytes(programs.compile_shader(source, {}))
    monkeypatch.setattr(programs, "compiler_path", None)
    shader = programs.load_shader("double", {}, shaders)
    assert shader.num_bindings == 2 and dict(shader.constant_ids) == {"FACTOR": 3, "BIAS": 4}
