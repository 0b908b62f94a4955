"""The product of many rows has the bits of the others, with cooperative matrices or a stand-in."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from gemm_products import Case, Products, Variant, random_case

from specdec.weights import Bits
from target.vulkan import Device

PANELS = {
    "least": Variant(True, block=16, tiles=2, width=64, panel=True),
    "two groups a stage": Variant(True, block=32, tiles=2, width=64, unroll=2, panel=True),
    "several rounds": Variant(True, block=64, tiles=2, width=128, unroll=2, panel=True),
    "four groups a stage": Variant(True, block=32, tiles=2, width=128, unroll=4, panel=True),
}


@pytest.fixture(scope="module")
def shared_products(shared_device: Device) -> Iterator[Products]:
    products = Products(shared_device)
    yield products
    for program in products.programs.values():
        program.release()


@pytest.fixture
def products(device: Device, shared_products: Products) -> Products:
    assert shared_products.device is device
    return shared_products


@pytest.fixture(params=[True, False], ids=["stand-in", "matrices"])
def stand_in(request: pytest.FixtureRequest, device: Device) -> bool:
    """Whether lanes stand in for cooperative matrices, which they do on any device."""
    if not request.param and not device.info.has_cooperative_matrix:
        pytest.skip(f"{device.info.name} has no cooperative matrices")
    return bool(request.param)


def many_rows(case: Case) -> Case:
    """64 different rows, by turning those of the case."""
    values = np.concatenate([np.roll(case.values, turn, axis=1) for turn in range(4)])
    return Case(case.matrix, values, np.tile(case.factors, (4, 1)))


@pytest.mark.parametrize("name", PANELS)
@pytest.mark.parametrize(
    ("bits", "slices", "shape"),
    [(4, 1, (72, 416)), (4, 4, (160, 1152)), (8, 3, (300, 192)), (4, 4, (40, 64))],
    ids=str,
)
def test_a_panel_has_the_bits_of_integer_dots(
    products: Products, bits: Bits, slices: int, shape: tuple[int, int], name: str, stand_in: bool
) -> None:
    case = many_rows(random_case(bits, *shape))
    expected = products.plain(case, Variant(True, slices=slices))
    y = products.plain(case, replace(PANELS[name], slices=slices, stand_in=stand_in))
    np.testing.assert_array_equal(y.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", PANELS)
def test_gates_and_best_ids_of_a_panel_are_those_of_integer_dots(
    products: Products, name: str, stand_in: bool
) -> None:
    case = many_rows(random_case(4, 192, 416))
    panel, dots = replace(PANELS[name], stand_in=stand_in), Variant(True, tiles=PANELS[name].tiles)
    for run in (products.geglu, products.argmax):
        for found, expected in zip(run(case, panel), run(case, dots), strict=True):
            np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))
