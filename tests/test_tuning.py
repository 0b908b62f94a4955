"""Settings of devices: every file is legal, and only [numerics] names what changes bits."""

import tomllib
from pathlib import Path

import pytest

pytest.importorskip("target.vulkan", exc_type=Exception)

from target import tuning
from target.pass_sizes import PREFILL_ROWS, prefill_passes, prefill_rows_for
from target.tuning import parse_tuning

FILES = sorted((Path(tuning.__file__).parent / "tunings").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_legal(path: Path) -> None:
    parsed = parse_tuning(path.stem, tomllib.loads(path.read_text()))
    assert parsed.attention_chunk % 32 == 0 and parsed.prefill_rows % 16 == 0
    for product in parsed.products.values():
        assert 16 % product.tiles == 0, "parts of a matrix start at multiples of 16 tiles"
    for rows in PREFILL_ROWS:
        assert parsed.gemm("gate_up", rows).tiles % 2 == 0, "a gate tile goes with its up tile"


def test_sections_apply_from_the_general_to_the_special() -> None:
    parsed = parse_tuning(
        "test",
        {
            "numerics": {"attention_chunk": 128, "product": {"slices": 4}, "head": {"slices": 2}},
            "speed": {
                "attention_rows": 2,
                "product": {"tiles": 2, "unroll": 8},
                "down": {"tiles": 4},
                "rows16": {"product": {"unroll": 1}, "o": {"width": 64}},
            },
        },
    )
    assert parsed.gemm("down", 1).tiles == 4 and parsed.gemm("o", 1).tiles == 2
    assert parsed.gemm("o", 16).width == 64 and parsed.gemm("o", 64).unroll == 1
    assert parsed.gemm("o", 8).unroll == 8
    assert parsed.numerics_id == "w4a8-1 slices=4,4,4,4,2 chunk=128 norm=256"


def test_slices_under_speed_are_refused() -> None:
    content = {"numerics": {}, "speed": {"rows8": {"product": {"slices": 2}}}}
    with pytest.raises(AssertionError):
        parse_tuning("test", content)


@pytest.mark.parametrize(
    ("context_length", "most", "rows"),
    [
        (40, 64, 48),
        (40, 512, 48),
        (100, 64, 64),
        (100, 512, 128),
        (300, 512, 512),
        (9000, 512, 512),
    ],
)
def test_a_chunk_of_prefill_is_no_larger_than_the_context_needs(
    context_length: int, most: int, rows: int
) -> None:
    assert prefill_rows_for(context_length, most) == rows


@pytest.mark.parametrize(
    ("num_tokens", "most", "passes"),
    [
        (0, 512, []),
        (48, 48, [48]),
        (50, 48, [48, 2]),
        (150, 64, [64, 64, 22]),
        (33, 512, [33]),
        (96, 512, [64, 32]),
        (97, 512, [97]),
        (257, 512, [256, 1]),
        (385, 512, [385]),
        (1200, 512, [512, 512, 128, 48]),
    ],
)
def test_a_prompt_is_fed_in_passes_with_little_padding(
    num_tokens: int, most: int, passes: list[int]
) -> None:
    assert list(prefill_passes(num_tokens, most)) == passes
