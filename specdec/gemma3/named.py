"""The published sizes of Gemma 3 models, for planning without their files; it holds no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from specdec.gemma3.shape import Gemma3Shape


def gemma3_layers(count: int) -> tuple[bool, ...]:
    """Which layers are global: every sixth."""
    return tuple(index % 6 == 5 for index in range(count))


# the last two numbers: context length and sliding window; from the models' config.json
_270M = Gemma3Shape(262144, 640, 2048, 4, 1, 256, 32768, 512, gemma3_layers(18), 256.0)
_4B = Gemma3Shape(
    262208, 2560, 10240, 8, 4, 256, 131072, 1024, gemma3_layers(34), 256.0, rope_scaling_factor=8.0
)

NAMED_SHAPES: Mapping[str, Gemma3Shape] = {
    "gemma-3-270m": _270M,
    "gemma-3-1b": replace(
        _270M, hidden_size=1152, intermediate_size=6912, is_global_layer=gemma3_layers(26)
    ),
    "gemma-3-4b": _4B,
    "gemma-3-12b": replace(
        _4B,
        hidden_size=3840,
        intermediate_size=15360,
        num_heads=16,
        num_kv_heads=8,
        is_global_layer=gemma3_layers(48),
    ),
    "gemma-3-27b": replace(
        _4B,
        hidden_size=5376,
        intermediate_size=21504,
        num_heads=32,
        num_kv_heads=16,
        head_dim=128,
        is_global_layer=gemma3_layers(62),
        query_pre_attn_scalar=168.0,
    ),
}
