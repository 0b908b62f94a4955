"""Build hook: compiles every shader variant into the wheel, so that users need no compiler run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShaderBuildHook(BuildHookInterface[Any]):
    """Ships SPIR-V as specdec/shaders/spirv; an editable install compiles at run time instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the results to the wheel."""
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root))  # target.spirv needs the standard library alone
        from target.spirv import VARIANTS, compile_shader, source_key

        output = root / "build" / "spirv"
        output.mkdir(parents=True, exist_ok=True)
        for name, variants in VARIANTS.items():
            source = root / "shaders" / f"{name}.comp"
            for defines in variants:
                path = output / f"{source_key(source, defines)}.spv"
                path.write_bytes(compile_shader(source, defines))
                build_data["force_include"][str(path)] = f"specdec/shaders/spirv/{path.name}"
