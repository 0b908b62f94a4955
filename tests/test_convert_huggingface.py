"""Hugging Face directories: every config form and layout gives the same, right model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specdec.checkpoint import open_checkpoint
from specdec.cli import main
from specdec.convert import convert
from specdec.convert.huggingface_config import parse_config
from specdec.convert.quantize import quantize_int4
from specdec.fields import Fields
from tests.convert_fixtures import (
    SHAPE,
    converted_weights,
    huggingface_config,
    huggingface_tensors,
    random_weights,
    relative_error,
    to_bfloat16,
    tokenizer_model,
    write_huggingface,
    write_safetensors,
)

CONFIG_27B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}


def shard_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("*.safetensors")))


def test_weights_are_the_sources_within_the_rounding(tmp_path: Path) -> None:
    report = convert(write_huggingface(tmp_path / "source"), tmp_path / "out")
    weights = random_weights()
    converted = dict(converted_weights(open_checkpoint(tmp_path / "out")))
    assert converted.keys() == weights.keys()
    for role, ours in converted.items():
        if role.endswith("norm"):
            assert np.array_equal(ours, weights[role] + 1)
        else:
            assert relative_error(ours, weights[role]) < (0.01 if role == "embed" else 0.09), role
    assert report.shape == SHAPE
    assert [loss.tensor_class for loss in report.losses] == ["embed", "qkv", "o", "gate_up", "down"]
    down = np.concatenate([weights[f"layers.{i}.down"] for i in range(2)])
    ours_down = np.concatenate([converted[f"layers.{i}.down"] for i in range(2)])
    assert report.losses[4].relative_error == pytest.approx(relative_error(ours_down, down), 1e-5)
    assert report.losses[4].num_weights == down.size


def test_every_matrix_gets_the_searched_scales(tmp_path: Path) -> None:
    convert(write_huggingface(tmp_path / "source"), tmp_path / "out", head_bits=4)
    checkpoint = open_checkpoint(tmp_path / "out")
    weights = random_weights()
    for name, role in (("embed", "embed"), ("layers.1.o", "layers.1.o")):
        values, scales = quantize_int4(weights[role])
        matrix = checkpoint.matrix(name)
        assert np.array_equal(matrix.values(), values)
        assert np.array_equal(matrix.row_scales(), scales)


@pytest.mark.parametrize("num_shards", [2, 5])
def test_sharded_sources_give_the_same_bytes(tmp_path: Path, num_shards: int) -> None:
    one = convert(write_huggingface(tmp_path / "one"), tmp_path / "out-one")
    many = convert(
        write_huggingface(tmp_path / "many", num_shards=num_shards), tmp_path / "out-many"
    )
    assert shard_bytes(tmp_path / "out-one") == shard_bytes(tmp_path / "out-many")
    assert one.source_sha256 != many.source_sha256


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_multimodal_model_is_taken_and_the_rest_named(
    tmp_path: Path, prefix: str
) -> None:
    convert(write_huggingface(tmp_path / "text"), tmp_path / "out-text")
    outer = "" if prefix.startswith("language_model") else "model."
    vision = {
        f"{outer}vision_tower.patch.weight": np.ones((3, 4), np.float32),
        f"{outer}multi_modal_projector.norm.weight": np.ones(4, np.int32),
        "lm_head.weight": np.ones((4, 4), np.float32),
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 7],
        "text_config": huggingface_config(),
        "vision_config": {"hidden_size": 4},
    }
    tensors = huggingface_tensors(random_weights(), prefix) | vision
    source = write_huggingface(tmp_path / "source", tensors, config)
    report = convert(source, tmp_path / "out")
    assert set(report.skipped_tensors) == set(vision)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "out-text")


def test_the_27b_config_of_transformers_4_is_understood() -> None:
    config = parse_config(Fields("config.json", CONFIG_27B))
    shape = config.shape
    assert config.eos_ids == (1, 106) and config.bos_id == 2
    assert (shape.vocab_size, shape.context_length) == (262_208, 131_072)
    assert (shape.rope_theta_global, shape.rope_theta_local) == (1e6, 1e4)
    assert (shape.rope_scaling_factor, shape.query_pre_attn_scalar) == (8, 168)
    assert [i for i, is_global in enumerate(shape.is_global_layer) if is_global][:2] == [5, 11]
    assert sum(shape.is_global_layer) == 10 and shape.num_layers == 62


def test_the_rope_parameters_of_transformers_5_are_understood() -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    fields = huggingface_config() | {"rope_parameters": rope, "rope_theta": 5.0}
    shape = parse_config(Fields("config.json", fields)).shape
    assert (shape.rope_theta_global, shape.rope_theta_local) == (2e6, 2e4)
    assert shape.rope_scaling_factor == 4
    assert shape.is_global_layer == (False, True)


@pytest.mark.slow
def test_both_forms_agree_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    forms: list[dict[str, object]] = [
        CONFIG_27B["text_config"],  # type: ignore[list-item]
        {"num_hidden_layers": 7, "sliding_window_pattern": 3, "rope_theta": 3e5},
    ]
    for form in forms:
        theirs = transformers.Gemma3TextConfig(**form)
        for fields in (form, theirs.to_dict()):
            ours = parse_config(Fields("c", {"model_type": "gemma3_text"} | fields)).shape
            rope = theirs.rope_parameters
            assert ours.rope_theta_global == rope["full_attention"]["rope_theta"]
            assert ours.rope_theta_local == rope["sliding_attention"]["rope_theta"]
            assert ours.rope_scaling_factor == rope["full_attention"].get("factor", 1.0)
            assert [k == "full_attention" for k in theirs.layer_types] == list(ours.is_global_layer)
            assert ours.query_pre_attn_scalar == theirs.query_pre_attn_scalar
            assert (ours.num_heads, ours.head_dim) == (theirs.num_attention_heads, theirs.head_dim)


@pytest.mark.slow
@pytest.mark.parametrize("is_multimodal", [False, True])
def test_what_transformers_saves_converts(tmp_path: Path, is_multimodal: bool) -> None:
    transformers = pytest.importorskip("transformers")
    text = transformers.Gemma3TextConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    if is_multimodal:
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
        config = transformers.Gemma3Config(text_config=text, vision_config=vision)
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        model = transformers.Gemma3ForCausalLM(text)
    source = tmp_path / "source"
    model.save_pretrained(source, max_shard_size="100KB")
    (source / "tokenizer.model").write_bytes(tokenizer_model())
    assert len(list(source.glob("*.safetensors"))) > 1
    report = convert(source, tmp_path / "out")
    weights = open_checkpoint(tmp_path / "out").matrix("layers.1.o").dequantize()
    theirs = model.state_dict()
    (name,) = [name for name in theirs if name.endswith("layers.1.self_attn.o_proj.weight")]
    assert relative_error(weights, theirs[name].float().numpy()) < 0.1
    assert bool(report.skipped_tensors) == is_multimodal
    assert all("vision" in name or "projector" in name for name in report.skipped_tensors)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_sources_are_read(tmp_path: Path, dtype: str) -> None:
    weights = huggingface_tensors(random_weights())
    if dtype == "F16":
        half = {name: w.astype(np.float16) for name, w in weights.items()}
        wide = {name: w.astype(np.float32) for name, w in half.items()}
    else:
        half = {name: to_bfloat16(np.asarray(w, np.float32)) for name, w in weights.items()}
        wide = {name: (w.astype(np.uint32) << 16).view(np.float32) for name, w in half.items()}
    source = write_huggingface(tmp_path / "source")
    entries = {name: (dtype, w.shape, w.tobytes()) for name, w in half.items()}
    write_safetensors(source / "model.safetensors", entries)
    convert(source, tmp_path / "out")
    convert(write_huggingface(tmp_path / "wide", wide), tmp_path / "out-wide")
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "out-wide")


def test_special_tokens_and_chat_template_are_kept(tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ bos }}é"}))
    convert(source, tmp_path / "out")
    info = open_checkpoint(tmp_path / "out").info
    assert info.eos_ids == (1, 7)
    assert info.chat_template == "{{ bos }}é"
    assert info.source_name == "source"
    assert (tmp_path / "out/tokenizer.model").read_bytes() == tokenizer_model()


def test_a_tokenizer_may_come_from_elsewhere(tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "source")
    other = tmp_path / "other.model"
    (source / "tokenizer.model").rename(other)
    convert(source, tmp_path / "out", tokenizer=other)
    assert (tmp_path / "out/tokenizer.model").read_bytes() == other.read_bytes()


def test_fewer_pieces_than_rows_are_fine(tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "source")
    (source / "tokenizer.model").write_bytes(tokenizer_model(SHAPE.vocab_size - 8))
    convert(source, tmp_path / "out")


def test_progress_counts_every_weight_and_ends_full(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = write_huggingface(tmp_path / "source")
    report = convert(source, tmp_path / "out", progress=lambda *at: seen.append(at))
    total = sum(loss.num_weights for loss in report.losses)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_command_reports_json_on_stdout_and_people_read_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_huggingface(tmp_path / "source")
    arguments = ["convert", str(source), str(tmp_path / "out"), "--head-bits", "4", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["head_bits"] == 4 and report["shape"]["hidden_size"] == 256
    assert "relative error" in captured.err
    assert main(arguments) == 1  # OUT exists now
    captured = capsys.readouterr()
    assert captured.out == "" and "not empty" in captured.err.splitlines()[-1]
