"""Broken, hostile or foreign GGUF files: one line each, nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.convert_fixtures import (
    Type,
    assert_damage_is_refused,
    conversion_error,
    write_gguf,
)


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("faults") / "model.gguf"
    write_gguf(path, kinds=lambda role: Type.Q8_0)
    return path.read_bytes()


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.Q5_0, Type.Q4_K, Type.Q6_K])
def test_a_nan_scale_in_a_gguf_is_named(tmp_path: Path, kind: Type) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, kinds=lambda role: kind)
    data = bytearray(path.read_bytes())
    reader = gguf.GGUFReader(path)
    (tensor,) = [tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight"]
    first = tensor.data_offset + (208 if kind is Type.Q6_K else 0)
    data[first : first + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(data)
    assert "blk.1.ffn_down.weight holds NaN" in conversion_error(path)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda w: w.add_uint16("split.count", 2), "one of 2 parts"),
        (lambda w: w.add_final_logit_softcapping(30.0), "final_logit_softcapping"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "'yarn'"),
        (lambda w: w.add_tensor("output.weight", np.ones((300, 256), np.float32)), "embedding"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "rope_freqs"),
        (lambda w: w.add_tensor("blk.2.attn_q.weight", np.ones(8, np.float32)), "of 2 layers"),
        (lambda w: w.add_array("gemma3.attention.sliding_window_pattern", [True]), "pattern"),
    ],
)
def test_a_gguf_that_is_not_gemma_3s_is_refused(
    tmp_path: Path, edit: Callable[[gguf.GGUFWriter], None], expected: str
) -> None:
    write_gguf(tmp_path / "model.gguf", edit=edit)
    assert expected in conversion_error(tmp_path / "model.gguf")


def test_a_foreign_gguf_architecture_and_encoding_are_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "llama.gguf", architecture="llama")
    assert "'llama'" in conversion_error(tmp_path / "llama.gguf")
    write_gguf(tmp_path / "model.gguf", kinds=lambda role: Type.Q4_1)
    assert "Q4_1" in conversion_error(tmp_path / "model.gguf")


def test_a_gguf_cut_anywhere_is_refused(tmp_path: Path, good_gguf: bytes) -> None:
    path = tmp_path / "model.gguf"
    rng = np.random.default_rng(0)
    ends = [0, 3, 4, 8, 23, *rng.integers(24, 14_000, 25).tolist()]
    for end in [*ends, *rng.integers(14_000, len(good_gguf) - 40, 10).tolist()]:
        path.write_bytes(good_gguf[:end])
        conversion_error(path)


HEADER = b"GGUF\x03\x00\x00\x00"


@pytest.mark.parametrize(
    "data",
    [
        HEADER + np.uint64([1 << 60, 0]).tobytes(),
        HEADER + np.uint64([0, 1 << 60]).tobytes(),
        HEADER + np.uint64([0, 1, 1 << 63]).tobytes(),
        # one field "a" that is an array of 2^40 bytes, then one of arrays
        HEADER + np.uint64([0, 1, 1]).tobytes() + b"a\x09\0\0\0\0\0\0\0" + bytes([0] * 5 + [1] * 3),
        HEADER + np.uint64([0, 1, 1]).tobytes() + b"a\x09\0\0\0\x09\0\0\0" + bytes([1] + [0] * 60),
        HEADER[:4] + b"\0\0\0\x03" + bytes(16),
        HEADER[:4] + b"\x01\0\0\0" + bytes(16),
    ],
)
def test_hostile_gguf_headers_end_at_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(data + bytes(100))
    start_s = time.monotonic()
    conversion_error(tmp_path / "model.gguf")
    assert time.monotonic() - start_s < 2


def test_random_damage_to_a_header_never_ends_in_a_traceback(
    tmp_path: Path, good_gguf: bytes
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(good_gguf)
    assert_damage_is_refused(path, 15_000, path)
