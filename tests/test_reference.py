"""The numpy Gemma 3 against transformers, its W4A8 arithmetic against the definition, and the law.

The law: a token's logits are the same bits however many tokens share a call, however the prompt
was cut, and after truncating and feeding again.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, RandomModel, with_shape

from specdec.gemma3.arithmetic import W4A8, Float32, quantize
from specdec.gemma3.attention import KeyValueCache, attend
from specdec.gemma3.loading import build, from_checkpoint, from_tensors
from specdec.gemma3.reference import Gemma3Reference
from specdec.gemma3.rope import Rope, rotate
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray, LanguageModel
from specdec.weights import QuantizedMatrix, pack

GOLDENS = Path(__file__).parent / "goldens"
sys.path.insert(0, str(GOLDENS))
from random_gemma3 import CASES, RandomGemma3  # noqa: E402

# float32 products in another order, some hundred sums deep: measured 1e-6 of the logits' range
RELATIVE_TOLERANCE = 1e-4

LAW_SHAPES = {
    "small": SMALL,
    "one key head": with_shape(num_heads=4, num_kv_heads=1, head_dim=64),
    "window beyond a tile": with_shape(sliding_window=100, num_heads=2, num_kv_heads=2),
    "wide": with_shape(vocab_size=700, hidden_size=320, intermediate_size=544),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_logits_equal_those_of_transformers(case: RandomGemma3) -> None:
    golden = np.load(GOLDENS / f"transformers_{case.name}.npz")
    assert golden["token_ids"].tolist() == case.token_ids()
    assert case.num_tokens > case.shape.sliding_window + 2
    model: LanguageModel = from_tensors(case.shape, case.tensors())
    first = model.feed(0, case.token_ids()[:37], 37)
    logits = np.concatenate((first, model.feed(0, case.token_ids()[37:], case.num_tokens - 37)))
    difference = np.abs(logits - golden["logits"])
    assert difference.max() <= RELATIVE_TOLERANCE * np.ptp(golden["logits"])


def one_by_one(model: LanguageModel, token_ids: list[int]) -> FloatArray:
    return np.concatenate([model.feed(0, [token_id], 1) for token_id in token_ids])


def test_a_copied_prefix_is_as_good_as_a_fed_one() -> None:
    model = from_checkpoint(RandomModel(), SMALL)
    ids = random_ids(100, SMALL.vocab_size)
    expected = one_by_one(model, ids)
    model.copy_prefix(0, 1, 70)
    model.copy_prefix(0, 2, 0)
    model.feed(1, [1, 2, 3], 0)
    model.truncate(1, 70)
    assert np.array_equal(model.feed(1, ids[70:], 30), expected[70:])
    assert model.length(0) == 100 and model.length(2) == 0
    model.truncate(0, 90)
    assert np.array_equal(model.feed(0, ids[90:], 10), expected[90:])


def random_ids(count: int, vocab_size: int) -> list[int]:
    return np.random.default_rng(7).integers(0, vocab_size, count).tolist()


@pytest.mark.parametrize("num_slices", [1, 3])
@pytest.mark.parametrize("shape", LAW_SHAPES.values(), ids=LAW_SHAPES)
def test_logits_do_not_depend_on_how_the_prompt_is_cut(shape: Gemma3Shape, num_slices: int) -> None:
    model = from_checkpoint(RandomModel(shape), shape, num_slices)
    token_ids = random_ids(150, shape.vocab_size)
    expected = one_by_one(model, token_ids)
    assert np.ptp(expected) > 1
    rng = np.random.default_rng(num_slices)
    for highest in (2, 16, 70, 150):
        model.truncate(0, 0)
        middle = np.unique(rng.integers(1, 149, 2 * 150 // highest)).tolist()
        cuts = [0, *middle, 150]
        parts = [model.feed(0, token_ids[a:b], b - a) for a, b in pairwise(cuts)]
        assert np.array_equal(np.concatenate(parts), expected)


def test_logits_do_not_depend_on_how_many_tokens_share_the_pass() -> None:
    model = from_checkpoint(RandomModel(), SMALL)
    token_ids = random_ids(120, SMALL.vocab_size)
    expected = one_by_one(model, token_ids)
    for start in (97, 64, 62, 38, 1, 0):  # around the window's and the tiles' edges
        for count in range(1, 17):
            model.truncate(0, start)
            found = model.feed(0, token_ids[start : start + count], count)
            assert np.array_equal(found, expected[start : start + count]), (start, count)


@pytest.mark.slow
def test_many_tiles_are_summed_in_one_order() -> None:
    shape = with_shape(context_length=512, sliding_window=300, num_heads=2, num_kv_heads=1)
    model = from_checkpoint(RandomModel(shape), shape)
    token_ids = random_ids(420, shape.vocab_size)
    expected = one_by_one(model, token_ids)
    for first in (5, 16, 31, 32):
        model.truncate(0, 0)
        parts = [model.feed(0, token_ids[i : i + first], first) for i in range(0, 400, first)]
        found = np.concatenate(parts)
        assert np.array_equal(found, expected[: len(found)])


def test_truncating_and_feeding_other_tokens_leaves_nothing_behind() -> None:
    model = from_checkpoint(RandomModel(), SMALL)
    token_ids = random_ids(100, SMALL.vocab_size)
    expected = one_by_one(model, token_ids)
    rng = np.random.default_rng(3)
    for length in (99, 70, 64, 41, 1):
        model.truncate(0, length)
        model.feed(0, rng.integers(0, SMALL.vocab_size, 60).tolist(), 0)
        model.truncate(0, length)
        assert model.length(0) == length
        rest = model.feed(0, token_ids[length:], 100 - length)
        assert np.array_equal(rest, expected[length:])


def test_slots_do_not_see_each_other() -> None:
    model = from_checkpoint(RandomModel(), SMALL)
    token_ids = random_ids(60, SMALL.vocab_size)
    expected = one_by_one(model, token_ids)
    model.feed(5, token_ids[30:], 0)
    model.truncate(0, 20)
    assert np.array_equal(model.feed(0, token_ids[20:], 40), expected[20:])
    assert (model.length(0), model.length(5), model.length(9)) == (60, 30, 0)


def test_only_the_last_logits_are_returned_when_fewer_are_asked_for() -> None:
    model = from_checkpoint(RandomModel(), SMALL)
    token_ids = random_ids(80, SMALL.vocab_size)
    expected = model.feed(0, token_ids, 80)
    for num_logits in (0, 1, 16, 17, 50):
        model.truncate(0, 0)
        found = model.feed(0, token_ids, num_logits)
        assert np.array_equal(found, expected[80 - num_logits :])


def test_a_slot_holds_its_context_length_and_no_more() -> None:
    shape = with_shape(context_length=70)
    model = from_checkpoint(RandomModel(shape), shape)
    model.feed(0, random_ids(70, shape.vocab_size), 1)
    with pytest.raises(AssertionError, match="overflows"):
        model.feed(0, [1], 1)


def random_matrix(num_rows: int, num_columns: int, bits: int) -> QuantizedMatrix:
    rng = np.random.default_rng(bits)
    low, high = (-8, 8) if bits == 4 else (-127, 128)
    values = rng.integers(low, high, (num_rows, num_columns)).astype(np.int8)
    scales = rng.uniform(0.001, 0.02, (num_rows, num_columns // 32)).astype(np.float16)
    return pack(4 if bits == 4 else 8, values, scales)


@pytest.mark.parametrize("num_slices", [1, 2, 5, 20])
@pytest.mark.parametrize("bits", [4, 8])
def test_w4a8_is_its_definition_group_by_group(bits: int, num_slices: int) -> None:
    matrix = random_matrix(300, 224, bits)
    x = np.random.default_rng(0).normal(size=(3, 224)).astype(np.float32)
    found = W4A8(matrix, num_slices)(x)
    values, weight_scales = matrix.values().astype(np.int64), matrix.row_scales()
    for token, row in np.ndindex(3, 300):
        total = np.float32(0)
        for first in range(min(num_slices, 7)):
            acc = np.float32(0)
            for group in range(first, 7, num_slices):
                part = slice(32 * group, 32 * group + 32)
                amax = np.abs(x[token, part]).max()
                q = np.rint(x[token, part] * (np.float32(127) / amax)).astype(np.int64)
                dot = int(values[row, part] @ q)
                scale = np.float32(weight_scales[row, group]) * (amax * np.float32(1 / 127))
                acc = np.float32(float(dot) * float(scale) + float(acc))
            total = acc if first == 0 else total + acc
        assert found[token, row] == total


def test_w4a8_is_close_to_the_float32_product() -> None:
    matrix = random_matrix(70, 640, 4)
    x = np.random.default_rng(0).normal(size=(5, 640)).astype(np.float32)
    exact = Float32(matrix.dequantize())(x)
    error = np.linalg.norm(W4A8(matrix)(x) - exact) / np.linalg.norm(exact)
    assert error < 0.01


def test_activations_round_half_to_even_and_zeros_stay_zero() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, :5] = (127, 0.5, 1.5, -2.5, 1e-9)
    x[0, 32:] = 1e-38
    values, scales = quantize(x)
    assert values[0, 0, :5].tolist() == [127, 0, 2, -2, 0]
    assert not values[1].any() and scales[1, 0] == 0


def test_embedding_rows_are_the_matrix_rows() -> None:
    matrix = random_matrix(300, 96, 8)
    ids = [0, 299, 31, 32, 31]
    assert np.array_equal(W4A8(matrix).rows(ids), matrix.dequantize()[ids])
    assert np.array_equal(Float32(matrix.dequantize()).rows(ids), matrix.dequantize()[ids])


def test_attention_is_the_softmax_over_the_window() -> None:
    rng = np.random.default_rng(5)
    keys, values = (rng.normal(size=(150, 2, 32)).astype(np.float32) for _ in range(2))
    queries = rng.normal(size=(150, 6, 32)).astype(np.float32)
    cache = KeyValueCache(1, 2, 32)
    cache.reserve(150)
    cache.write(0, 0, keys, values)
    found = attend(queries[100:], cache, 0, 100, 70)
    for i, head in np.ndindex(50, 6):
        seen = slice(31 + i, 101 + i)  # 70 keys, the query's own among them
        scores = keys[seen, head // 3] @ queries[100 + i, head]
        weights = np.exp(scores - scores.max())
        expected = weights @ values[seen, head // 3] / weights.sum()
        np.testing.assert_allclose(found[i, head], expected, rtol=1e-4, atol=1e-5)


def test_rotation_keeps_scores_of_pairs_equally_far_apart() -> None:
    rope = Rope(32, 10_000.0, 1.0)
    rng = np.random.default_rng(2)
    query, key = (rng.normal(size=(1, 1, 32)).astype(np.float32) for _ in range(2))

    def score(query_position: int, key_position: int) -> float:
        a = rotate(query, *rope.tables(query_position, 1))
        b = rotate(key, *rope.tables(key_position, 1))
        return float((a * b).sum())

    assert score(9, 2) == pytest.approx(score(130, 123), abs=1e-4)
    assert score(9, 2) != pytest.approx(score(130, 122), abs=1e-2)


def test_w4a8_of_weights_on_the_grid_stays_near_the_float32_model() -> None:
    source = RandomModel()
    weights = build(
        SMALL, lambda name: Float32(source.matrix(name).dequantize()), source.vector, np.float32
    )
    exact = Gemma3Reference(weights)
    token_ids = random_ids(100, SMALL.vocab_size)
    expected = exact.feed(0, token_ids, 100)
    found = from_checkpoint(source, SMALL).feed(0, token_ids, 100)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.05
