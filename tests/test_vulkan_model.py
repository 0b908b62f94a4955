"""The whole model on a Vulkan device: against the numpy reference, and bit for bit with itself."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from small_models import SMALL, RandomModel, with_shape
from vulkan_harness import open_device

from specdec.errors import DeviceError
from specdec.gemma3.loading import from_checkpoint
from specdec.sampling import choose
from specdec.types import FloatArray, SamplingParams, Segment

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target.kvcache import CutTooDeepError
from target.model import VulkanVerifier, open_verifier

GREEDY = SamplingParams()
NUM_SLOTS = 4
LENGTH = 150  # tokens of the sequence that every test cuts up in its own way

# Relative RMS error of logits against the reference. Sums are rounded in another order (1e-6), and
# where that moves an activation across a rounding tie it changes by one step, 1/127 of the largest
# of its group; a few such steps per layer and token stay below two hundredths (0.0122 seen, H100).
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def model() -> RandomModel:
    return RandomModel()


@pytest.fixture(scope="module")
def token_ids() -> tuple[int, ...]:
    ids = np.random.default_rng(1).integers(0, SMALL.vocab_size, LENGTH)
    return tuple(ids.tolist())


def load(model: RandomModel, validation: bool = True, **options: int) -> VulkanVerifier:
    length = options.pop("context_length", model.shape.context_length)
    device = open_device(validation)
    return open_verifier(
        model,
        model.shape,
        model.head_bits,
        device,
        context_length=length,
        num_slots=NUM_SLOTS,
    )


@pytest.fixture(scope="module")
def shared_verifier(model: RandomModel) -> Iterator[VulkanVerifier]:
    try:
        verifier = load(model)
    except DeviceError as error:
        pytest.skip(str(error))
    yield verifier
    verifier.release()
    assert verifier.messages == []


@pytest.fixture
def verifier(shared_verifier: VulkanVerifier) -> Iterator[VulkanVerifier]:
    """The module's verifier with its slots open and empty; the validation layer must be quiet."""
    for slot in range(NUM_SLOTS):
        shared_verifier.open(slot, GREEDY)
    yield shared_verifier
    assert shared_verifier.messages == []


def feed(
    verifier: VulkanVerifier, slot: int, ids: Sequence[int], sizes: Sequence[int], start: int = 0
) -> FloatArray:
    """Logits of all ids, fed from position `start` on in passes of the given sizes."""
    parts, at = [], start
    for size in sizes:
        parts.append(verifier.logits([Segment(slot, at, tuple(ids[at : at + size]))]))
        at += size
    assert at == len(ids)
    return np.concatenate(parts)


def cut(length: int, size: int) -> list[int]:
    return [min(size, length - at) for at in range(0, length, size)]


@pytest.fixture(scope="module")
def expected(
    model: RandomModel, shared_verifier: VulkanVerifier, token_ids: tuple[int, ...]
) -> FloatArray:
    """Logits of the sequence fed one token at a time: what every other way must equal."""
    shared_verifier.open(0, GREEDY)
    return feed(shared_verifier, 0, token_ids, [1] * LENGTH)


def relative_error(values: FloatArray, reference: FloatArray) -> float:
    return float(np.sqrt(np.mean((values - reference) ** 2) / np.mean(reference**2)))


def test_logits_agree_with_the_reference(
    model: RandomModel, expected: FloatArray, token_ids: tuple[int, ...]
) -> None:
    reference = from_checkpoint(model, model.shape).feed(0, token_ids, LENGTH)
    assert relative_error(expected, reference) < TOLERANCE
    gaps = np.sort(reference, axis=1)
    is_near_tie = gaps[:, -1] - gaps[:, -2] < TOLERANCE * np.abs(reference).max()
    is_equal = expected.argmax(axis=1) == reference.argmax(axis=1)
    assert (is_equal | is_near_tie).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", range(2, 17))
def test_bits_do_not_depend_on_the_pass_size(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...], size: int
) -> None:
    np.testing.assert_array_equal(
        feed(verifier, 0, token_ids, cut(LENGTH, size)), expected, strict=True
    )


@pytest.mark.parametrize("split", [1, 2, 39, 40, 41, 63, 64, 65, 128, 149])
def test_bits_do_not_depend_on_how_a_prompt_was_cut(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...], split: int
) -> None:
    verifier.prefill(Segment(0, 0, token_ids[:split]))
    verifier.prefill(Segment(0, split, token_ids[split:-1]))
    last = verifier.logits([Segment(0, LENGTH - 1, token_ids[-1:])])
    np.testing.assert_array_equal(last, expected[-1:])


def test_bits_do_not_depend_on_other_slots_in_the_pass(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...]
) -> None:
    lengths = {0: 100, 1: 7, 2: 0, 3: 41}
    for slot, length in lengths.items():
        verifier.prefill(Segment(slot, 0, token_ids[:length]))
    for order, counts in (((3, 0, 2, 1), (1, 3, 2, 1)), ((0, 1, 2, 3), (4, 5, 1, 6))):
        segments = [
            Segment(slot, lengths[slot], token_ids[lengths[slot] : lengths[slot] + count])
            for slot, count in zip(order, counts, strict=True)
        ]
        rows = verifier.logits(segments)
        wanted = [expected[s.position : s.position + len(s.token_ids)] for s in segments]
        np.testing.assert_array_equal(rows, np.concatenate(wanted))
        for slot, length in lengths.items():
            verifier.truncate(slot, length)


def test_bits_do_not_depend_on_the_slot_or_what_it_held_before(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...]
) -> None:
    verifier.prefill(Segment(2, 0, tuple(reversed(token_ids))))
    verifier.close(2)
    verifier.open(2, GREEDY)
    rows = feed(verifier, 2, token_ids[:24], cut(24, 8))
    np.testing.assert_array_equal(rows, expected[:24])


@pytest.mark.parametrize("kept", [1, 39, 40, 41, 42, 63, 64, 111, 112, 127, 128, 129, 134])
def test_a_rejected_run_leaves_no_trace(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...], kept: int
) -> None:
    """40 is the window; the ring (40 + 64 positions in whole tiles of 32) starts over at 128."""
    verifier.prefill(Segment(0, 0, token_ids[:kept]))
    wrong = tuple((token + 1) % SMALL.vocab_size for token in token_ids[kept : kept + 15])
    verifier.verify([Segment(0, kept, (token_ids[kept], *wrong))])
    verifier.truncate(0, kept + 1)
    rest = token_ids[: min(LENGTH, kept + 17)]
    rows = feed(verifier, 0, rest, cut(len(rest) - kept - 1, 16), start=kept + 1)
    np.testing.assert_array_equal(rows, expected[kept + 1 : len(rest)])


@pytest.mark.parametrize("length", [1, 2, 39, 40, 41, 255, 256])
def test_prompts_at_the_edges_agree_with_the_reference(
    verifier: VulkanVerifier, model: RandomModel, length: int
) -> None:
    ids = tuple(np.random.default_rng(length).integers(0, SMALL.vocab_size, length).tolist())
    verifier.prefill(Segment(1, 0, ids[:-1]))
    last = verifier.logits([Segment(1, length - 1, ids[-1:])])
    reference = from_checkpoint(model, model.shape).feed(0, ids, 1)
    assert relative_error(last, reference) < TOLERANCE


def test_an_empty_prefill_feeds_nothing(verifier: VulkanVerifier) -> None:
    verifier.prefill(Segment(0, 0, ()))
    assert verifier.verify([Segment(0, 0, (1,))])


def test_the_greedy_choice_is_the_largest_logit(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...]
) -> None:
    for size in (1, 3, 16):
        verifier.truncate(0, 0)
        chosen = verifier.verify([Segment(0, 0, token_ids[:size])])
        assert chosen == [tuple(expected[:size].argmax(axis=1).tolist())]


def test_sampling_follows_the_shared_rule(
    verifier: VulkanVerifier, expected: FloatArray, token_ids: tuple[int, ...]
) -> None:
    sampling = SamplingParams(temperature=0.8, top_k=40, seed=7)
    verifier.open(1, sampling)
    chosen = verifier.verify([Segment(0, 0, token_ids[:3]), Segment(1, 0, token_ids[:5])])
    assert chosen[0] == tuple(expected[:3].argmax(axis=1).tolist())
    assert chosen[1] == choose(expected[:5], range(1, 6), sampling)


def test_a_cut_deeper_than_the_rings_is_refused(
    verifier: VulkanVerifier, token_ids: tuple[int, ...]
) -> None:
    chunk = int(verifier.numerics_id.partition("chunk=")[2].split()[0])
    if chunk >= len(token_ids):
        pytest.skip(f"rings hold a whole chunk of {chunk} keys on this device: all of the prompt")
    verifier.prefill(Segment(0, 0, token_ids))
    with pytest.raises(CutTooDeepError, match=r"cannot be cut to 60.*open the slot again"):
        verifier.truncate(0, 60)
    verifier.truncate(0, 0)
    verifier.prefill(Segment(0, 0, token_ids[:60]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        with_shape(hidden_size=192, head_dim=64, num_heads=2, num_kv_heads=1, vocab_size=33),
        with_shape(num_heads=8, num_kv_heads=2, intermediate_size=32, is_global_layer=(True,)),
        with_shape(head_dim=128, num_heads=1, num_kv_heads=1, is_global_layer=(False,) * 2),
        with_shape(head_dim=256, hidden_size=640, sliding_window=8, query_pre_attn_scalar=17.5),
    ],
)
@pytest.mark.parametrize("head_bits", [4, 8])
def test_awkward_shapes_agree_with_the_reference(shape: object, head_bits: int) -> None:
    model = RandomModel(shape, head_bits, seed=3)
    verifier = load(model)
    try:
        verifier.open(0, GREEDY)
        ids = tuple(np.random.default_rng(5).integers(0, model.shape.vocab_size, 90).tolist())
        rows = feed(verifier, 0, ids, [16, 8, 16, 16, 16, 16, 2])
        reference = from_checkpoint(model, model.shape).feed(0, ids, len(ids))
        assert relative_error(rows, reference) < TOLERANCE
        assert verifier.messages == []
    finally:
        verifier.release()
