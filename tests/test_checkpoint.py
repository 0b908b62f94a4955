"""A converted directory reads back as memory maps, and a damaged one is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint, stored_tensors
from specdec.convert import convert
from specdec.errors import ModelError
from specdec.weights import matrix_sizes, vector_sizes
from tests.convert_fixtures import SHAPE, write_huggingface

SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    convert(write_huggingface(directory / "source"), directory / "out")
    return directory / "out"


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(directory / SHARD)
    edit(tensors)
    save_file(tensors, directory / SHARD)


def error_of(directory: Path) -> str:
    """The one line that opening and reading everything ends with."""
    with pytest.raises(ModelError) as caught:
        checkpoint = open_checkpoint(directory)
        for name in matrix_sizes(checkpoint.info.shape):
            checkpoint.matrix(name)
        for name in vector_sizes(checkpoint.info.shape):
            checkpoint.vector(name)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 400
    return message


def test_every_tensor_is_a_view_of_the_mapped_file(converted: Path) -> None:
    checkpoint = open_checkpoint(converted)
    assert checkpoint.info.shape == SHAPE
    assert checkpoint.directory == converted
    assert (checkpoint.info.bos_id, checkpoint.info.eos_ids) == (2, (1,))
    stored = load_file(converted / SHARD)
    for name, (num_rows, num_columns) in matrix_sizes(SHAPE).items():
        matrix = checkpoint.matrix(name)
        assert (matrix.num_rows, matrix.num_columns) == (num_rows, num_columns)
        assert np.array_equal(matrix.packed, stored[f"{name}.int{matrix.bits}"])
        assert np.array_equal(matrix.scales, stored[f"{name}.scales"])
        assert not matrix.packed.flags.owndata and not matrix.packed.flags.writeable
        assert matrix.packed.flags.aligned and matrix.scales.flags.aligned
    for name, length in vector_sizes(SHAPE).items():
        assert checkpoint.vector(name).shape == (length,)
        assert np.array_equal(checkpoint.vector(name), stored[name])


def test_the_file_holds_exactly_the_described_tensors(converted: Path) -> None:
    stored = load_file(converted / SHARD)
    assert {name: array.shape for name, array in stored.items()} == {
        name: shape for name, (_, shape) in stored_tensors(SHAPE, 8).items()
    }


def test_an_unknown_matrix_is_a_mistake_of_the_caller(converted: Path) -> None:
    with pytest.raises(KeyError):
        open_checkpoint(converted).matrix("layers.9.qkv")


def test_the_embedded_pair_opens() -> None:
    for role, num_layers in (("target", 12), ("draft", 5)):
        checkpoint = open_checkpoint(embedded_model_dir(role))
        assert checkpoint.info.shape.num_layers == num_layers
        assert checkpoint.matrix("embed").num_rows == 16_384
        assert (checkpoint.directory / "tokenizer.model").is_file()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert "no such directory" in error_of(tmp_path / "nowhere")


def test_a_source_directory_is_told_apart(tmp_path: Path) -> None:
    assert "specdec convert" in error_of(write_huggingface(tmp_path / "source"))


def test_a_directory_without_config_is_refused(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert "config.json" in error_of(copy)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("format_version", 2, "format_version is 2"),
        ("format_version", "1", "integer"),
        ("vocab_size", 0, "vocab_size"),
        ("vocab_size", 10**30, "vocab_size"),
        ("vocab_size", 400, "must be"),
        ("hidden_size", 100, "multiple of 32"),
        ("hidden_size", 288, "must be"),
        ("num_kv_heads", 3, "KV heads"),
        ("head_dim", True, "head_dim is True"),
        ("is_global_layer", [], "0 layers"),
        ("is_global_layer", [1, 0], "true and false"),
        ("is_global_layer", [True] * 3, "missing"),
        ("is_global_layer", [True], "does not belong"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps"),
        ("rms_norm_eps", 10**400, "rms_norm_eps"),
        ("rope_theta_local", -1, "rope_theta_local"),
        ("bos_id", 300, "bos_id"),
        ("eos_ids", [1, 300], "eos_ids"),
        ("eos_ids", "x", "eos_ids"),
        ("head_bits", 5, "head_bits"),
        ("head_bits", 4, "does not belong"),
        ("source_name", None, "source_name is missing"),
    ],
)
def test_a_wrong_config_value_is_named(copy: Path, name: str, value: object, expected: str) -> None:
    edit_config(copy, **{name: value})
    message = error_of(copy)
    assert expected in message


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '"\udc80"', "\xff"])
def test_config_that_is_no_object_is_refused(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1", "replace"))
    error_of(copy)


def test_a_missing_shard_is_counted(copy: Path) -> None:
    (copy / SHARD).rename(copy / "model-00001-of-00002.safetensors")
    assert "1 model files where 2 belong" in error_of(copy)
    (copy / "model-00001-of-00002.safetensors").unlink()
    assert "holds no model" in error_of(copy)


def test_a_truncated_shard_is_refused_wherever_it_ends(copy: Path) -> None:
    data = (copy / SHARD).read_bytes()
    ends = [0, 1, 7, 8, 9, 100, 1000, *range(2000, len(data), len(data) // 20), len(data) - 1]
    for end in ends:
        (copy / SHARD).write_bytes(data[:end])
        assert SHARD in error_of(copy)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(copy: Path) -> None:
    edit_tensors(copy, lambda tensors: tensors.pop("layers.1.o.scales"))
    assert "layers.1.o.scales is missing" in error_of(copy)
    edit_tensors(copy, lambda tensors: tensors.update(extra=np.zeros(4, np.float32)))
    assert "'extra' does not belong" in error_of(copy)
    edit_tensors(copy, lambda tensors: tensors.pop("extra"))
    edit_tensors(copy, lambda tensors: tensors.update(final_norm=np.zeros(4, np.float32)))
    assert "final_norm is F32 [4]: it must be F32 [256]" in error_of(copy)


@pytest.mark.parametrize("name", ["layers.0.qkv.scales", "embed.scales", "final_norm"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scales_and_norms_that_are_not_finite_are_found(copy: Path, name: str, bad: float) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].reshape(-1)[7] = bad

    edit_tensors(copy, spoil)
    assert f"{name} holds NaN or inf" in error_of(copy)
