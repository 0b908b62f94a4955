"""The draft model on the emulated NPU: the array's own arithmetic, whatever is fed and cut."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from npu_oracle import NpuOracle
from npu_rig import make_model, make_session
from small_models import SMALL, RandomModel

from draft.npu.layout import ROW_FLOATS
from draft.npu.memory_map import RING_SLACK, tile_bucket
from draft.npu.model import NpuModel, NpuSettings
from specdec.errors import ModelError
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray

# a ring of 16 + 64 places, so that it goes round soon
SHAPE = replace(SMALL, num_kv_heads=1, num_heads=3, head_dim=64, sliding_window=16)
CONTEXT = 200
SOURCE = RandomModel(SHAPE, head_bits=4)


@pytest.fixture(scope="module")
def shared_model() -> NpuModel:
    return make_model(SHAPE, SOURCE, CONTEXT, num_slots=4)


@pytest.fixture
def model(shared_model: NpuModel) -> Iterator[NpuModel]:
    yield shared_model
    for slot in range(4):
        shared_model.truncate(slot, 0)


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, SHAPE.vocab_size, count).tolist()


def assert_same(found: FloatArray, expected: FloatArray, num_kept: int = 128) -> None:
    """Every kept logit is the oracle's, and the kept ones are each core's best."""
    is_kept = np.isfinite(found)
    assert (is_kept.sum(axis=1) == min(num_kept, found.shape[1])).all()
    assert np.array_equal(found[is_kept], expected[is_kept])
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("lengths", [(1, 1, 1), (4, 3, 1), (2, 9), (37, 1, 1, 1)])
def test_logits_are_the_oracles_however_tokens_are_cut(
    model: NpuModel, lengths: Sequence[int]
) -> None:
    oracle = NpuOracle(SHAPE, SOURCE, CONTEXT)
    for index, length in enumerate(lengths):
        fed = tokens(length, index)
        num_logits = min(length, 5)
        assert_same(model.feed(0, fed, num_logits), oracle.feed(fed, num_logits))
    assert model.length(0) == sum(lengths)


@pytest.mark.slow
def test_a_ring_goes_round_and_a_cut_leaves_what_the_window_sees(model: NpuModel) -> None:
    oracle = NpuOracle(SHAPE, SOURCE, CONTEXT)
    fed = tokens(150)
    assert_same(model.feed(0, fed, 1), oracle.feed(fed, 1))
    for length in (150 - RING_SLACK, 92, 99):
        model.truncate(0, length)
        oracle.truncate(length)
        fed = tokens(7, length)
        assert_same(model.feed(0, fed, 7), oracle.feed(fed, 7))


@pytest.mark.slow
def test_a_cut_deeper_than_the_ring_feeds_again(
    model: NpuModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    run = type(model._session).run
    monkeypatch.setattr(
        type(model._session), "run", lambda *arguments: (steps.append(1), run(*arguments))
    )
    oracle, fed = NpuOracle(SHAPE, SOURCE, CONTEXT), tokens(150)
    model.feed(0, fed, 0)
    steps.clear()
    model.truncate(0, 80)
    assert len(steps) == 20  # 4 at a time
    oracle.feed(fed[:80], 1)
    assert_same(model.feed(0, [7], 1), oracle.feed([7], 1))
    steps.clear()
    model.truncate(0, 30)
    model.truncate(0, 0)
    assert not steps and model.length(0) == 0


@pytest.mark.slow
def test_rows_of_several_slots_are_those_of_each_alone(model: NpuModel) -> None:
    prompts = [tokens(length, length) for length in (3, 20, 1, 33)]
    oracles = [NpuOracle(SHAPE, SOURCE, CONTEXT) for _ in prompts]
    for slot, (prompt, oracle) in enumerate(zip(prompts, oracles, strict=True)):
        model.feed(slot, prompt, 0)
        oracle.feed(prompt, 1)
    for step in range(3):
        fed = tokens(4, 100 + step)
        found = model.feed_each(0, fed)
        expected = [oracle.feed([t], 1) for oracle, t in zip(oracles, fed, strict=True)]
        assert_same(found, np.concatenate(expected))
    assert_same(
        model.feed_each(2, [5, 6]),
        np.concatenate([o.feed([t], 1) for o, t in ((oracles[2], 5), (oracles[3], 6))]),
    )


@pytest.mark.slow
def test_a_branch_goes_on_from_its_source(model: NpuModel) -> None:
    prompt = tokens(90)
    model.feed(0, prompt, 0)
    for slot in (1, 2):
        model.copy_slot(0, slot)
    found = model.feed_each(0, [11, 12, 13])
    oracle = NpuOracle(SHAPE, SOURCE, CONTEXT)
    oracle.feed(prompt, 1)
    for row, token_id in enumerate((11, 12, 13)):
        oracle.truncate(len(prompt))
        assert_same(found[row : row + 1], oracle.feed([token_id], 1))


@pytest.mark.slow
@pytest.mark.parametrize("length", [70, 150])  # the local ring of 80 places has gone round
def test_what_a_branch_lacks_of_its_source_is_all_that_is_copied(
    model: NpuModel, length: int
) -> None:
    prompt, branch, chain = tokens(length), tokens(5, 40), tokens(7, 41)
    model.feed(0, prompt, 0)
    model.copy_slot(0, 1)
    model.feed(1, branch, 0)  # a branch that goes its own way for a while
    model.feed(0, chain, 0)
    model.copy_slot(0, 1, length)  # and now that of the longer chain
    model.truncate(1, length + 4)
    found = model.feed_each(0, [11, 12])
    oracle = NpuOracle(SHAPE, SOURCE, CONTEXT)
    for part in (prompt, chain):
        oracle.feed(part, 1)
    assert_same(found[:1], oracle.feed([11], 1))
    oracle.truncate(length + 4)
    assert_same(found[1:], oracle.feed([12], 1))


def test_tiles_that_nobody_sees_change_no_bit(model: NpuModel) -> None:
    fed = tokens(70)
    first = model.feed(0, fed, 1)
    model.truncate(0, 0)
    model.feed(1, tokens(160, 9), 0)  # other streams, and old keys in other places
    model.feed(0, tokens(79, 8), 0)
    model.truncate(0, 0)
    assert np.array_equal(model.feed(0, fed, 1), first)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_heads": 1, "head_dim": 256, "hidden_size": 640},
        {"num_heads": 4, "head_dim": 128, "intermediate_size": 4160},  # three slices of K
        {"num_heads": 2, "is_global_layer": (True, True)},
        {"num_heads": 2, "is_global_layer": (False,), "vocab_size": 77},
    ],
)
def test_other_shapes_are_exact_too(sizes: dict[str, object]) -> None:
    shape = replace(SHAPE, **sizes)
    source = RandomModel(shape, head_bits=4)
    model, oracle = make_model(shape, source, 64), NpuOracle(shape, source, 64)
    for length in (5, 1, 2):
        fed = (np.arange(length) + length).tolist()
        assert_same(model.feed(0, fed, 1), oracle.feed(fed, 1), min(128, shape.vocab_size))


def test_a_cut_head_gives_logits_to_its_tokens_alone() -> None:
    kept = np.arange(3, 500, 4, dtype=np.int32)
    source = RandomModel(SHAPE, head_bits=8)
    settings = NpuSettings(CONTEXT)
    model = NpuModel(make_session(), SHAPE, source, settings, kept)
    oracle = NpuOracle(SHAPE, source, CONTEXT, kept)
    logits, expected = model.feed(0, [1, 2, 3], 1), oracle.feed([1, 2, 3], 1)
    assert logits.shape == (1, SHAPE.vocab_size)
    assert set(np.flatnonzero(np.isfinite(logits[0]))) <= set(kept.tolist())
    assert_same(logits[:, kept], expected, min(128, np.isfinite(logits).sum()))


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"hidden_size": ROW_FLOATS + 32}, "hidden_size is 672, the array takes at most 640"),
        ({"num_heads": 5}, "num_heads is 5"),
        ({"num_heads": 2, "num_kv_heads": 2}, "num_kv_heads is 2"),
        ({"head_dim": 96}, "head_dim is 96"),
    ],
)
def test_shapes_beyond_the_cores_are_refused(sizes: dict[str, int], what: str) -> None:
    shape: Gemma3Shape = replace(SHAPE, **sizes)
    with pytest.raises(ModelError, match=what):
        make_model(shape, SOURCE, CONTEXT)


def test_few_numbers_of_tiles_are_read() -> None:
    buckets = {tile_bucket(count, 36) for count in range(1, 37)}
    assert buckets == {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 36}
    assert all(count <= tile_bucket(count, 36) for count in range(1, 37))
