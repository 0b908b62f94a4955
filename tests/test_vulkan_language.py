"""A second model on the GPU drafts: the same logits as its numpy form, wherever it is cut."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from small_models import SMALL, RandomModel
from vulkan_harness import open_device

from draft.reference import ModelDrafter
from specdec.errors import DeviceError
from specdec.types import SamplingParams

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target.language import VulkanModel
from target.model import open_verifier


@pytest.fixture(scope="module")
def model() -> Iterator[VulkanModel]:
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    verifier = open_verifier(RandomModel(seed=4), SMALL, 8, device, context_length=256, num_slots=2)
    loaded = VulkanModel(verifier, SMALL.vocab_size)
    yield loaded
    assert verifier.messages == []
    loaded.release()


def test_any_cut_and_any_split_gives_the_same_logits(model: VulkanModel) -> None:
    ids = np.random.default_rng(1).integers(0, SMALL.vocab_size, 200).tolist()
    whole = model.feed(0, ids, num_logits=20)
    for length in (199, 190, 120, 3):  # the last two are deeper than the rings reach
        model.truncate(0, length)
        assert model.length(0) == length
        assert np.array_equal(model.feed(0, ids[length:], num_logits=1)[0], whole[-1])
    model.truncate(0, 0)
    assert model.length(0) == 0


def test_it_drafts_as_any_language_model(model: VulkanModel) -> None:
    drafter = ModelDrafter(model, "vulkan")
    drafter.open(0, [5, 6, 7], SamplingParams())
    run = drafter.take(0, 3, 4, 1.0)
    drafter.confirm(0, [*run.token_ids[:2], 9])
    again = drafter.take(0, 6, 2, 1.0)
    drafter.close(0)
    tokens = [5, 6, 7, *run.token_ids[:2], 9]
    best = [int(model.feed(1, tokens, 1)[0].argmax())]
    best.append(int(model.feed(1, best, 1)[0].argmax()))
    model.truncate(1, 0)
    assert list(again.token_ids) == best
