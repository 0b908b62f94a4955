"""Every form of the arithmetic gives the same bits: integer dots or not, in place or staged."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, RandomModel
from vulkan_harness import open_device

from specdec.errors import DeviceError
from specdec.types import FloatArray, SamplingParams, Segment

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target import tuning
from target.model import open_verifier
from target.tuning import Tuning, parse_tuning
from target.vulkan import Memory

pytestmark = pytest.mark.slow

GENERIC = Path(tuning.__file__).parent / "tunings" / "generic.toml"
TOKEN_IDS = tuple(np.random.default_rng(1).integers(0, SMALL.vocab_size, 90).tolist())


def generic_tuning(**product: int) -> Tuning:
    """The generic settings with some speed settings of all products changed."""
    content = tomllib.loads(GENERIC.read_text())
    content["speed"]["product"] = {**content["speed"]["product"], **product}
    return parse_tuning("test", content)


def logits(has_integer_dot: bool, in_place: bool, settings: Tuning) -> FloatArray:
    """Logits after passes of 1, 16 and 4 tokens and a prefill between."""
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    device.info = replace(device.info, has_integer_dot=has_integer_dot)
    device.memory = Memory(device, in_place=in_place)
    verifier = open_verifier(RandomModel(), SMALL, 8, device, context_length=256, tuning=settings)
    verifier.open(0, SamplingParams())
    parts = [verifier.logits([Segment(0, 0, TOKEN_IDS[:1])])]
    parts.append(verifier.logits([Segment(0, 1, TOKEN_IDS[1:17])]))
    verifier.prefill(Segment(0, 17, TOKEN_IDS[17:80]))
    parts.append(verifier.logits([Segment(0, 80, TOKEN_IDS[80:84])]))
    assert verifier.messages == []
    verifier.release()
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def expected() -> Iterator[FloatArray]:
    yield logits(False, True, generic_tuning())


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("has_integer_dot", [True, False])
def test_forms_give_the_same_bits(
    expected: FloatArray, has_integer_dot: bool, in_place: bool
) -> None:
    got = logits(has_integer_dot, in_place, generic_tuning())
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("product", [{"tiles": 4}, {"width": 64}, {"unroll": 2}])
def test_speed_settings_leave_the_bits_alone(expected: FloatArray, product: dict[str, int]) -> None:
    np.testing.assert_array_equal(logits(True, True, generic_tuning(**product)), expected)
