"""What compares us with peers: a file of random weights, and subjects that may crash."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from bench_target import SHAPES
from random_gguf import write_random_gguf
from side_by_side import rows, table
from subjects import Job, Remote


class FakeSubject:
    """Takes no time but what it says."""

    def __init__(self) -> None:
        self.length = 0

    @property
    def name(self) -> str:
        return "fake"

    def cut(self, length: int) -> None:
        self.length = length

    def feed(self, token_ids: Sequence[int]) -> float:
        self.length += len(token_ids)
        return 1.0

    def choose(self, token_ids: Sequence[int]) -> float:
        if len(token_ids) == 13:
            os._exit(3)
        self.length += len(token_ids)
        return self.length / 100


class Unopened(FakeSubject):
    def __init__(self) -> None:
        raise RuntimeError("no such device")


def test_the_random_model_has_every_tensor_of_its_shape(tmp_path: Path) -> None:
    shape = replace(SHAPES["tiny"], vocab_size=640)
    path = tmp_path / "random.gguf"
    assert write_random_gguf(shape, path) == path.stat().st_size
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == 2 + shape.num_layers * 13
    assert tensors["blk.5.ffn_down.weight"].shape.tolist() == [1024, 256]
    assert tensors["blk.5.post_ffw_norm.weight"].data.tolist() == [1.0] * 256


def test_a_job_leaves_the_sequence_as_long_as_it_found_it() -> None:
    with Remote(FakeSubject, 400) as remote:
        assert remote.name() == "fake"
        assert remote.block(Job("verify", 4, depth=128), 2) == [1.32, 1.32]
        assert remote.block(Job("decode", 2, depth=128), 1) == [1.29 + 1.30]
        assert remote.block(Job("prefill", 8), 1) == [1.0]


def test_a_subject_that_crashes_is_an_error_and_not_the_end() -> None:
    with Remote(FakeSubject, 400) as remote:
        remote.name()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="process"):
                remote.block(Job("verify", 13), 1)
    with Remote(Unopened, 400) as remote, pytest.raises(RuntimeError, match="no such device"):
        remote.name()


def test_a_row_says_how_many_times_faster_ours_is() -> None:
    times = {
        Job("decode", 32, 128): {"specdec": [0.32, 0.64, 0.32], "llama.cpp": [0.64]},
        Job("verify", 4, 128): {"specdec": [0.01]},
    }
    found = rows(times)
    assert found[0]["ratio"] == 2.0
    assert found[0]["specdec"] == {"n": 3, "median_ms": 10.0, "p10_ms": 10.0, "p90_ms": 18.0}
    assert "ratio" not in found[1]
    assert "100.0" in table(found)
