"""The matrix products: every form against float64, and bit for bit with each other."""

from collections.abc import Iterator

import numpy as np
import pytest
from gemm_products import F32, LARGEST, MAX_ROWS, NO_ID, Case, Products, Variant, random_case
from numpy.typing import NDArray

from specdec.gemma3.shape import GROUP
from specdec.weights import TILE_ROWS, Bits, pack
from target.vulkan import Device

LANES, DOT = Variant(False, block=8), Variant(True)
VARIANTS = [
    LANES,
    Variant(False, block=4, tiles=4, width=16),
    DOT,
    Variant(True, width=64, unroll=2),
]
IDS = ["lanes", "lanes-wide", "dot", "dot-wide"]


@pytest.fixture(scope="module")
def shared_products(shared_device: Device) -> Iterator[Products]:
    products = Products(shared_device)
    yield products
    for program in products.programs.values():
        program.release()


@pytest.fixture
def products(device: Device, shared_products: Products) -> Products:
    """Products on the device whose validation messages are checked after the test."""
    assert shared_products.device is device
    return shared_products


def assert_same_bits(left: NDArray[np.generic], right: NDArray[np.generic]) -> None:
    np.testing.assert_array_equal(left.view(np.uint32), right.view(np.uint32))


def assert_close(y: NDArray[F32], case: Case) -> None:
    """Within what G float32 products and sums can lose, half an ulp each."""
    exact, magnitude = case.exact()
    num_groups = case.matrix.num_columns // GROUP
    bound = magnitude * (num_groups + 3) * 2.0**-24
    assert (np.abs(y - exact) <= bound).all(), float(np.max(np.abs(y - exact) / (bound + 1e-30)))


SHAPES = [(64, 192), (96, 640), (160, 1152), (40, 5376), (32, 32)]


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_product_is_the_exact_one_up_to_float32_rounding(
    products: Products, shape: tuple[int, int], bits: Bits, variant: Variant
) -> None:
    case = random_case(bits, *shape)
    y = products.plain(case, variant)
    assert_close(y, case)
    assert not y[5].any()  # a token of zeros


@pytest.mark.slow
@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_all_variants_and_block_sizes_give_the_same_bits(
    products: Products, bits: Bits, slices: int
) -> None:
    case = random_case(bits, 72, 416)  # 13 groups: slices of unequal length
    expected = products.plain(case, Variant(False, block=8, slices=slices))
    assert_close(expected, case)
    for integer_dot in (False, True):
        for block in (1, 2, 3, 4, 7, 8, 16):
            variant = Variant(integer_dot, block=block, tiles=1, slices=slices)
            y = products.plain(case.block(0, 16 // block * block), variant)
            assert_same_bits(y, expected[: len(y)])
        wide = {"width": 16, "block": 4} if not integer_dot else {"unroll": 3, "width": 64}
        variant = Variant(integer_dot, tiles=2, slices=slices, **wide)
        assert_same_bits(products.plain(case, variant), expected)


def accumulated(case: Case, slices: int, fused: bool) -> NDArray[F32]:
    """The documented arithmetic; a device's fma may round once (fused) or twice."""
    shape = (-1, case.matrix.num_columns // GROUP, GROUP)
    w, a = (v.astype(np.float64).reshape(shape) for v in (case.matrix.values(), case.values))
    dots = np.einsum("ngk,mgk->gmn", w, a)
    d_w, d_a = case.matrix.row_scales().astype(F32), case.factors
    total = np.zeros(dots.shape[1:], F32)
    for s in range(slices):
        acc = np.zeros_like(total)
        for g in range(s, len(dots), slices):
            product = dots[g].astype(np.longdouble) * (d_a[:, g, None] * d_w[:, g])
            acc = (acc + (product if fused else product.astype(F32))).astype(F32)
        total += acc
    return total


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("bits", [4, 8])
def test_float_operations_are_the_documented_ones(
    products: Products, bits: Bits, slices: int
) -> None:
    case = random_case(bits, 64, 416)
    y = products.plain(case, Variant(False, block=8, slices=slices)).view(np.uint32)
    forms = [accumulated(case, slices, fused).view(np.uint32) for fused in (False, True)]
    assert any(np.array_equal(y, form) for form in forms)


@pytest.mark.parametrize("variant", [LANES, DOT], ids=["lanes", "dot"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_token_has_the_same_bits_in_any_row_beside_any_others(
    products: Products, bits: Bits, variant: Variant
) -> None:
    case = random_case(bits, 64, 192)
    expected = products.plain(case, variant)
    order = np.random.default_rng(1).permutation(MAX_ROWS)
    shuffled = Case(case.matrix, case.values[order], case.factors[order])
    assert_same_bits(products.plain(shuffled, variant), expected[order])
    others = case.values.copy()
    others[1:] = 127
    alone = Case(case.matrix, others, np.full_like(case.factors, 3e4))
    alone.factors[0] = case.factors[0]
    assert_same_bits(products.plain(alone, variant)[0], expected[0])


@pytest.mark.parametrize("integer_dot", [False, True], ids=["lanes", "dot"])
def test_the_longest_sums_stay_exact(products: Products, integer_dot: bool) -> None:
    """Group sums at their extremes: with powers of two as factors every result is exact."""
    for bits in (4, 8):
        low = -LARGEST[bits]
        weights = np.full((32, 64), low, np.int8)
        weights[1::2] = -low - (bits == 4)
        matrix = pack(bits, weights, np.full((32, 2), 0.5, np.float16))
        values = np.full((4, 64), 127, np.int8)
        values[1::2] = -127
        case = Case(matrix, values, np.full((4, 2), 2.0, F32))
        y = products.plain(case, Variant(integer_dot, block=4, tiles=1))
        np.testing.assert_array_equal(y, case.exact()[0])


def test_a_part_of_a_matrix_writes_its_own_columns(products: Products) -> None:
    case = random_case(8, 64, 192)
    (y,) = products.run("gemm", case, LANES, [(MAX_ROWS, 192)], [64, 192])
    assert_same_bits(y[:, 64:128].copy().view(F32), products.plain(case, LANES))
    assert (y[:, :64] == NO_ID).all() and (y[:, 128:] == NO_ID).all()


def gelu(gate: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))


def gated_activations(y: NDArray[F32]) -> NDArray[np.float64]:
    """gelu(gate) x up, float64 (rows, N / 2), of float32 products with interleaved tiles."""
    tiles = y.astype(np.float64).reshape(len(y), -1, 2, TILE_ROWS)
    return (gelu(tiles[:, :, 0]) * tiles[:, :, 1]).reshape(len(y), -1)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize(
    "shape", [(64, 192), (192, 640), (320, 64)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_geglu_gates_and_quantises_the_plain_product(
    products: Products, shape: tuple[int, int], variant: Variant
) -> None:
    case = random_case(4, *shape)
    y = products.plain(case, variant)
    h = gated_activations(y).reshape(MAX_ROWS, -1, GROUP)
    values, factors = products.geglu(case, variant)
    amax = np.abs(h).max(2)
    np.testing.assert_allclose(factors, amax / 127, rtol=2e-6)
    steps = np.divide(h, amax[..., None] / 127, out=np.zeros_like(h), where=amax[..., None] > 0)
    # within half a step, and a little more where the float32 h lies on the other side of a tie
    assert np.abs(values.reshape(h.shape) - steps).max() <= 0.5 + 1e-3
    assert not values[5].any() and not factors[5].any()


@pytest.mark.slow
def test_geglu_has_the_same_bits_in_all_variants_and_block_sizes(products: Products) -> None:
    case = random_case(4, 192, 416)
    expected = products.geglu(case, LANES)
    for integer_dot in (False, True):
        for block in (1, 3, 8, 16):
            variant = Variant(integer_dot, block=block, tiles=2)
            values, factors = products.geglu(case.block(0, 16 // block * block), variant)
            np.testing.assert_array_equal(values, expected[0][: len(values)])
            assert_same_bits(factors, expected[1][: len(factors)])


def best_of_tiles(y: NDArray[F32], rows: int) -> tuple[NDArray[F32], NDArray[np.int64]]:
    """Largest value and first index of every `rows` columns."""
    blocks = [y[:, start : start + rows] for start in range(0, y.shape[1], rows)]
    ids = np.stack([block.argmax(1) + i * rows for i, block in enumerate(blocks)], axis=1)
    return np.take_along_axis(y, ids, axis=1), ids


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_rows", [64, 100, 300])
def test_argmax_is_that_of_the_plain_product(
    products: Products, num_rows: int, bits: Bits, variant: Variant
) -> None:
    case = random_case(bits, num_rows, 192)
    y = products.plain(case, variant)
    expected, expected_ids = best_of_tiles(y, variant.tiles * TILE_ROWS)
    values, ids = products.argmax(case, variant)
    np.testing.assert_array_equal(ids, expected_ids)
    assert_same_bits(values, expected)


@pytest.mark.parametrize("variant", [LANES, DOT], ids=["lanes", "dot"])
def test_argmax_takes_the_lowest_id_at_a_tie_and_never_a_padding_row(
    products: Products, variant: Variant
) -> None:
    rng = np.random.default_rng(3)
    row = rng.integers(-127, 127, 64, np.int8, endpoint=True)
    same = pack(8, np.tile(row, (69, 1)), np.full((69, 2), 0.5, np.float16))
    values = rng.integers(-127, 127, (MAX_ROWS, 64), np.int8, endpoint=True)
    case = Case(same, values, np.ones((MAX_ROWS, 2), F32))
    best, ids = products.argmax(case, variant)
    # the last tiles hold 5 rows; padding rows would give 0, more than a negative logit
    assert (ids == [0, 64]).all()
    assert (best < 0).any()
    weights = same.values()
    weights[[20, 33, 68]], values[:] = 127, 127  # row 33 is in the first lane, row 20 in another
    tied = Case(pack(8, weights, same.row_scales()), values, case.factors)
    assert (products.argmax(tied, variant)[1] == [20, 68]).all()


@pytest.mark.parametrize("variant", [LANES, DOT], ids=["lanes", "dot"])
def test_parts_of_the_head_fill_one_table(products: Products, variant: Variant) -> None:
    whole = random_case(8, 256, 96)
    expected, expected_ids = products.argmax(whole, variant)
    for first in (0, 128):
        values, scales = whole.matrix.values(), whole.matrix.row_scales()
        matrix = pack(8, values[first : first + 128], scales[first : first + 128])
        part = Case(matrix, whole.values, whole.factors)
        best, ids = products.argmax(part, variant, first, expected.shape[1])
        mine = slice(first // 64, first // 64 + 2)
        assert_same_bits(best[:, mine].copy(), expected[:, mine].copy())
        np.testing.assert_array_equal(ids[:, mine], expected_ids[:, mine])
        assert (np.delete(ids, [mine.start, mine.start + 1], axis=1) == NO_ID).all()
