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
from specdec.gemma3.loading import from_checkpoint
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


def test_an_int8_cache_keeps_every_bit_law_and_little_error() -> None:
    """Keys and values in steps of 1/127 of their group's largest: errors stay below 3 %."""
    model = RandomModel()
    verifier = open_verifier(
        model, SMALL, 8, open_device(), context_length=256, num_slots=2, kv="int8"
    )
    assert verifier.numerics_id.endswith("kv=int8")
    verifier.open(0, SamplingParams())
    verifier.open(1, SamplingParams())
    single = [verifier.logits([Segment(0, i, TOKEN_IDS[i : i + 1])]) for i in range(90)]
    verifier.prefill(Segment(1, 0, TOKEN_IDS[:70]))
    together = verifier.logits([Segment(1, 70, TOKEN_IDS[70:86])])
    np.testing.assert_array_equal(together, np.concatenate(single[70:86]))
    verifier.truncate(1, 75)
    again = verifier.logits([Segment(1, 75, TOKEN_IDS[75:83])])
    np.testing.assert_array_equal(again, np.concatenate(single[75:83]))
    reference = from_checkpoint(model, SMALL).feed(0, TOKEN_IDS, 90)
    error = np.concatenate(single) - reference
    assert np.sqrt(np.mean(error**2) / np.mean(reference**2)) < 0.03
    assert verifier.messages == []
    verifier.release()


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


def test_a_long_chunk_of_prefill_gives_the_bits_of_short_passes() -> None:
    rows = []
    for chunk in (16, 128):
        settings = replace(generic_tuning(), prefill_rows=chunk)
        verifier = open_verifier(
            RandomModel(), SMALL, 8, open_device(), context_length=256, tuning=settings
        )
        verifier.open(0, SamplingParams())
        verifier.prefill(Segment(0, 0, TOKEN_IDS + TOKEN_IDS[:11]))
        rows.append(verifier.logits([Segment(0, 101, TOKEN_IDS[85:90])]))
        assert verifier.messages == []
        verifier.release()
    np.testing.assert_array_equal(rows[1], rows[0])


@pytest.mark.parametrize("product", [{"tiles": 4}, {"width": 64}, {"unroll": 2}])
def test_speed_settings_leave_the_bits_alone(expected: FloatArray, product: dict[str, int]) -> None:
    np.testing.assert_array_equal(logits(True, True, generic_tuning(**product)), expected)
