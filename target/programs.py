"""A shader of shaders/ as a pipeline on a device, specialised; it runs nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from specdec.assets import asset_dir
from specdec.errors import DeviceError
from target.spirv import Defines, Shader, ShaderError, load_shader
from target.vulkan import Device, Pipeline

Constants = Mapping[str | int, int | float | bool]


class Program(Pipeline):
    """A shader on a device with its specialization constants set.

    `constants` are given by the GLSL name of a `constant_id` constant, or by the id itself (for
    local_size_x_id). An unknown name is an error; what is not given keeps the shader's default.
    """

    def __init__(
        self,
        device: Device,
        name: str,
        defines: Defines | None = None,
        constants: Constants | None = None,
        subgroup_size: int = 0,
        source_dir: Path | None = None,
    ) -> None:
        try:
            shader = load_shader(name, defines or {}, source_dir or asset_dir("shaders"))
        except ShaderError as error:
            raise DeviceError(str(error)) from error
        ids = {_constant_id(shader, key): _word(v) for key, v in (constants or {}).items()}
        settings = [*(defines or {}).items(), *(constants or {}).items()]
        label = " ".join([name, *(f"{key}={value}" for key, value in settings)])
        super().__init__(device, shader.spirv, shader.num_bindings, label, ids, subgroup_size)


def _constant_id(shader: Shader, key: str | int) -> int:
    if isinstance(key, int):
        return key
    known = ", ".join(sorted(shader.constant_ids)) or "none"
    assert key in shader.constant_ids, f"{shader.name} has no constant {key}; it has {known}"
    return shader.constant_ids[key]


def _word(value: int | float | bool) -> int:
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value)
