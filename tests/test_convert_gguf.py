"""GGUF files: every encoding, Q4_0 and Q8_0 bit for bit, and what the metadata leaves out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest

from specdec.checkpoint import open_checkpoint
from specdec.convert import convert
from specdec.convert.encodings import Encoding, decode
from specdec.convert.gguf_header import read_header
from specdec.convert.gguf_model import read_gguf
from specdec.convert.quantize import quantize_int4, quantize_int8
from tests.convert_fixtures import (
    SHAPE,
    Type,
    converted_weights,
    encode_gguf,
    random_weights,
    relative_error,
    write_gguf,
)

TYPES = [Type[encoding.value] for encoding in Encoding]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_decoding_agrees_with_the_gguf_package(kind: Type) -> None:
    weights = random_weights()["layers.0.gate"]
    raw = encode_gguf(weights, kind)
    expected = gguf.quants.dequantize(raw, kind)
    rows = np.ascontiguousarray(raw).view(np.uint8).reshape(len(weights), -1)
    encoding = Encoding[kind.name]
    assert rows.shape[1] == encoding.row_bytes(weights.shape[1])
    assert np.array_equal(decode(encoding, rows), expected)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_model_in_any_encoding_converts(tmp_path: Path, kind: Type) -> None:
    held = write_gguf(tmp_path / "model.gguf", kinds=lambda role: kind)
    report = convert(tmp_path / "model.gguf", tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    converted = dict(converted_weights(checkpoint))
    assert converted.keys() == held.keys()
    is_exact = kind is Type.Q4_0
    for role, ours in converted.items():
        if role.endswith("norm") or is_exact or (role == "embed" and kind is Type.Q8_0):
            assert np.array_equal(ours, held[role]), role
        elif role == "embed":
            assert relative_error(ours, held[role]) < 0.01
        else:
            assert np.array_equal(ours, dequantized(quantize_int4(held[role]))), role
    expected = {Type.Q4_0: 1 + 7 * SHAPE.num_layers, Type.Q8_0: 1}
    assert report.num_exact_tensors == expected.get(kind, 0)


def dequantized(quantized: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    values, scales = quantized
    return values.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, axis=1)


@pytest.mark.parametrize("head_bits", [4, 8])
def test_q4_0_keeps_every_nibble_and_every_scale(tmp_path: Path, head_bits: int) -> None:
    weights = random_weights()
    write_gguf(tmp_path / "model.gguf", weights, kinds=lambda role: Type.Q4_0)
    convert(tmp_path / "model.gguf", tmp_path / "out", head_bits=head_bits)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(tmp_path / "out")
    for name in ("embed", "layers.1.down"):
        matrix = checkpoint.matrix(name)
        blocks = np.asarray(gguf.quants.quantize(weights[name], Type.Q4_0))
        blocks = blocks.reshape(len(weights[name]), -1, 18)
        values, scales = matrix.values(), matrix.row_scales().view(np.uint16)
        for row, group in ((0, 0), (37, 5), (255, 7)):
            block = blocks[row, group]
            assert scales[row, group] == int(block[0]) | int(block[1]) << 8
            for b in range(16):
                assert values[row, 32 * group + b] == (int(block[2 + b]) & 15) - 8
                assert values[row, 32 * group + 16 + b] == (int(block[2 + b]) >> 4) - 8
        assert np.array_equal(scales, blocks[..., :2].copy().view(np.uint16)[..., 0])
        assert matrix.bits == (head_bits if name == "embed" else 4)


def test_q8_0_keeps_every_byte_of_an_8_bit_head_and_is_searched_for_4_bits(tmp_path: Path) -> None:
    held = write_gguf(tmp_path / "model.gguf", kinds=lambda role: Type.Q8_0)
    convert(tmp_path / "model.gguf", tmp_path / "out8")
    convert(tmp_path / "model.gguf", tmp_path / "out4", head_bits=4)
    raw = np.asarray(gguf.quants.quantize(random_weights()["embed"], Type.Q8_0))
    blocks = raw.reshape(SHAPE.vocab_size, -1, 34)
    eight = open_checkpoint(tmp_path / "out8").matrix("embed")
    assert np.array_equal(eight.values(), blocks[..., 2:].copy().view(np.int8).reshape(300, -1))
    four = open_checkpoint(tmp_path / "out4").matrix("embed")
    assert np.array_equal(four.values(), quantize_int4(held["embed"])[0])


def test_a_float_head_is_rounded_to_8_bits(tmp_path: Path) -> None:
    held = write_gguf(tmp_path / "model.gguf", kinds=lambda role: Type.BF16)
    convert(tmp_path / "model.gguf", tmp_path / "out")
    values, scales = quantize_int8(held["embed"])
    head = open_checkpoint(tmp_path / "out").matrix("embed")
    assert np.array_equal(head.values(), values)
    assert np.array_equal(head.row_scales(), scales)


def test_parts_of_one_matrix_may_have_different_encodings(tmp_path: Path) -> None:
    mixed = {"q": Type.Q5_0, "k": Type.Q4_0, "v": Type.Q8_0}
    held = write_gguf(tmp_path / "model.gguf", kinds=lambda role: mixed.get(role[-1], Type.Q6_K))
    convert(tmp_path / "model.gguf", tmp_path / "out")
    converted = dict(converted_weights(open_checkpoint(tmp_path / "out")))
    assert np.array_equal(converted["layers.0.k"], held["layers.0.k"])
    for role in ("layers.0.q", "layers.1.v"):
        assert np.array_equal(converted[role], dequantized(quantize_int4(held[role])))


def test_norms_are_not_raised_by_one_again(tmp_path: Path) -> None:
    held = write_gguf(tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert np.array_equal(checkpoint.vector("layers.1.k_norm"), held["layers.1.k_norm"])


def test_the_header_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", kinds=lambda role: Type.Q4_K)
    ours, theirs = read_header(tmp_path / "model.gguf"), gguf.GGUFReader(tmp_path / "model.gguf")
    for name, field in ours.fields.items():
        assert field.contents() == theirs.fields[name].contents(), name
    assert len(ours.fields) == len(theirs.fields) - 3  # theirs count the file's own three numbers
    for tensor, expected in zip(ours.tensors, theirs.tensors, strict=True):
        assert (tensor.name, tensor.offset) == (expected.name, expected.data_offset)
        assert tensor.shape == tuple(reversed(expected.shape.tolist()))
        assert tensor.type_name == expected.tensor_type.name


def test_what_the_metadata_leaves_out_is_gemma_3s(tmp_path: Path) -> None:
    shape = dataclasses.replace(SHAPE, is_global_layer=(False,) * 12)
    write_gguf(tmp_path / "model.gguf", shape=shape)
    read = read_gguf(tmp_path / "model.gguf").shape
    assert [i for i, is_global in enumerate(read.is_global_layer) if is_global] == [5, 11]
    assert (read.rope_theta_local, read.rope_scaling_factor) == (10_000, 1)
    assert read.query_pre_attn_scalar == read.head_dim
    assert read.rms_norm_eps == 1e-6  # stored as a float32, read as what was meant


def test_the_62_layers_of_the_27b_scale_queries_by_hidden_size_and_heads(tmp_path: Path) -> None:
    shape = dataclasses.replace(
        SHAPE, hidden_size=128, intermediate_size=32, head_dim=32, is_global_layer=(False,) * 62
    )

    def add_scaling(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)

    write_gguf(tmp_path / "model.gguf", shape=shape, edit=add_scaling)
    read = read_gguf(tmp_path / "model.gguf").shape
    assert read.query_pre_attn_scalar == 128 / 2 != read.head_dim
    assert read.rope_scaling_factor == 8


def test_a_stored_layer_pattern_and_end_of_turn_are_used(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_array("gemma3.attention.sliding_window_pattern", [False, True])
        writer.add_eot_token_id(7)
        writer.add_chat_template("{{ bos }}")

    write_gguf(tmp_path / "model.gguf", edit=add)
    model = read_gguf(tmp_path / "model.gguf")
    assert model.shape.is_global_layer == (True, False)
    assert model.eos_ids == (1, 7)
    assert model.chat_template == "{{ bos }}"
