"""Broken, hostile or foreign Hugging Face directories: one line each, nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.convert_fixtures import (
    SHAPE,
    assert_damage_is_refused,
    conversion_error,
    huggingface_config,
    huggingface_tensors,
    random_weights,
    tokenizer_model,
    write_huggingface,
    write_raw_safetensors,
    write_safetensors,
)

NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def good_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("faults") / "source")


@pytest.fixture
def directory(good_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_directory, tmp_path / "source"))


def edit_config(directory: Path, **changes: object) -> None:
    (directory / "config.json").write_text(json.dumps(huggingface_config() | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "'LlamaForCausalLM'"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "only Gemma3ForCausalLM"),
        ({"architectures": ["a\nb"]}, "a\\nb"),
        ({"architectures": []}, "empty list"),
        ({"architectures": None, "model_type": "gemma2"}, "'gemma2'"),
        ({"architectures": "Gemma3ForCausalLM"}, "a list"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"hidden_activation": "silu"}, "'silu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "chunked"]}, "layer_types"),
        ({"num_hidden_layers": 3, "layer_types": None}, "layers.2"),
        ({"num_hidden_layers": 1, "layer_types": None}, "layers of 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 2000, "layer_types": None}, "2000 layers"),
        ({"hidden_size": 320}, "shape"),
        ({"hidden_size": 250}, "multiple of 32"),
        ({"hidden_size": "256"}, "an integer"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar"),
        ({"sliding_window": None, "text_config": {"sliding_window": 1.5}}, "sliding_window"),
        ({"bos_token_id": 300}, "bos_token_id"),
        ({"eos_token_id": [1, -1]}, "eos_token_id"),
        ({"text_config": 3}, "an object"),
    ],
)
def test_a_config_that_is_not_gemma_3s_is_refused_by_name(
    directory: Path, changes: dict[str, object], expected: str
) -> None:
    edit_config(directory, **changes)
    message = conversion_error(directory)
    assert expected in message or expected == "layers of 1"
    if expected == "layers of 1":
        assert "does not belong to a model of 1 layers" in message


def test_other_things_than_models_are_told_what_to_name(directory: Path) -> None:
    assert "no such file" in conversion_error(directory.parent / "nowhere")
    assert "name its directory" in conversion_error(directory / "model.safetensors")
    assert "no GGUF file" in conversion_error(directory / "config.json")
    (directory / "config.json").unlink()
    assert "no config.json" in conversion_error(directory)


def test_pickled_weights_are_refused_by_name(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "pytorch_model.bin" in conversion_error(directory)
    assert "never loaded" in conversion_error(directory / "pytorch_model.bin")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "source", num_shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in conversion_error(source)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "x.bin", "", 3])
def test_an_index_cannot_name_foreign_files(directory: Path, name: object) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    conversion_error(directory)


def test_safetensors_cut_anywhere_are_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    for end in (0, 3, 8, 9, 500, 4000, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        assert "model.safetensors" in conversion_error(directory)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 20,
        b"{" * 2000,
        b"[" * 200_000,
        {"a": ENTRY, "b": ENTRY},
        {"a": ENTRY | {"data_offsets": [0, 1 << 60]}},
        {"a": ENTRY | {"data_offsets": [8, 0]}},
        {"a": ENTRY | {"data_offsets": [-8, 0]}},
        {"a": ENTRY | {"shape": [1 << 62, 1 << 62]}},
        {"a": ENTRY | {"shape": [-2]}},
        {"a": ENTRY | {"dtype": "object"}},
        {"a": [1, 2]},
        {"a": ENTRY},
        {"__metadata__": {"a": 3}},
        {},
    ],
)
def test_hostile_safetensors_headers_are_refused(directory: Path, header: object) -> None:
    write_raw_safetensors(directory / "model.safetensors", header, bytes(8))
    conversion_error(directory)


@pytest.mark.parametrize("length", [0, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_header_lengths_beyond_the_file_are_refused(directory: Path, length: int) -> None:
    (directory / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" * 50)
    conversion_error(directory)


def test_foreign_double_missing_and_strangely_typed_tensors_are_named(tmp_path: Path) -> None:
    tensors = huggingface_tensors(random_weights())
    bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(4, np.float32)}
    assert "q_proj.bias" in conversion_error(write_huggingface(tmp_path / "bias", tensors | bias))
    twice = {NORM.replace("model.", "language_model.model.", 1): np.ones(256, np.float32)}
    assert "twice" in conversion_error(write_huggingface(tmp_path / "twice", tensors | twice))
    missing = {name: w for name, w in tensors.items() if name != NORM}
    message = conversion_error(write_huggingface(tmp_path / "missing", missing))
    assert "layers.0.input_layernorm.weight is missing" in message
    entries = {name: ("F32", w.shape, w.tobytes()) for name, w in missing.items()}
    source = write_huggingface(tmp_path / "typed")
    write_safetensors(source / "model.safetensors", entries | {NORM: ("I32", (256,), bytes(1024))})
    assert f"{NORM!r} is of type I32" in conversion_error(source)


@pytest.mark.parametrize("role", ["embed", "layers.1.v", "layers.0.up", "layers.1.q_norm"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, role: str, bad: float) -> None:
    weights = random_weights()
    weights[role].reshape(-1)[-5] = bad
    source = write_huggingface(tmp_path / "source", huggingface_tensors(weights))
    (name,) = set(huggingface_tensors({role: weights[role]}))
    assert name in conversion_error(source)


def test_a_vocabulary_larger_than_the_model_is_refused(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(tokenizer_model(SHAPE.vocab_size + 1))
    assert "301" in conversion_error(directory)


def test_a_missing_or_broken_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(b"not a model")
    conversion_error(directory)
    damaged = tokenizer_model().replace(b"<0x41>", b"<0x\x8c1>")
    (directory / "tokenizer.model").write_bytes(damaged)
    assert "not a sentencepiece model" in conversion_error(directory)
    assert "nowhere" in conversion_error(directory, tokenizer=directory / "nowhere.model")
    (directory / "tokenizer.model").unlink()
    assert "--tokenizer" in conversion_error(directory)


def test_random_damage_to_a_header_never_ends_in_a_traceback(directory: Path) -> None:
    path = directory / "model.safetensors"
    header_bytes = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert_damage_is_refused(path, header_bytes, directory)
