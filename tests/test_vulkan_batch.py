"""Passes of many sequences on a device: same bits as alone; prefixes copied from slot to slot."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from small_models import SMALL, RandomModel
from vulkan_harness import open_device

from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.errors import DeviceError
from specdec.sampling import choose
from specdec.types import FloatArray, SamplingParams, Segment

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target.kvcache import CutTooDeepError
from target.model import VulkanVerifier, open_verifier
from target.pass_sizes import PASS_ROWS, pass_rows_for

pytestmark = pytest.mark.slow

GREEDY = SamplingParams()
NUM_SLOTS = 64
LENGTH = 150


@dataclass(frozen=True)
class Text:
    """A sequence and the logits after each of its tokens, fed one at a time."""

    ids: tuple[int, ...]
    logits: FloatArray

    def segment(self, slot: int, position: int, count: int) -> Segment:
        return Segment(slot, position, self.ids[position : position + count])


@pytest.fixture(scope="module", params=["fp16", "int8"])
def verifier(request: pytest.FixtureRequest) -> Iterator[VulkanVerifier]:
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    loaded = open_verifier(
        RandomModel(seed=5),
        SMALL,
        8,
        device,
        context_length=256,
        num_slots=NUM_SLOTS,
        max_pass_tokens=64,
        kv=request.param,
    )
    yield loaded
    loaded.release()
    assert loaded.messages == []


@pytest.fixture(scope="module")
def texts(verifier: VulkanVerifier) -> list[Text]:
    texts = []
    for seed in range(3):
        ids = tuple(np.random.default_rng(seed).integers(0, SMALL.vocab_size, LENGTH).tolist())
        verifier.open(0, GREEDY)
        rows = [verifier.logits([Segment(0, i, ids[i : i + 1])]) for i in range(LENGTH)]
        texts.append(Text(ids, np.concatenate(rows)))
    return texts


@pytest.fixture
def short_rings(verifier: VulkanVerifier) -> VulkanVerifier:
    """The verifier, where its local layers' rings are shorter than the texts."""
    chunk = int(verifier.numerics_id.partition("chunk=")[2].split()[0])
    if chunk >= LENGTH:
        pytest.skip(f"rings hold a whole chunk of {chunk} keys on this device: all of the text")
    return verifier


def start(verifier: VulkanVerifier, slot: int, text: Text, length: int) -> None:
    verifier.open(slot, GREEDY)
    verifier.prefill(text.segment(slot, 0, length))


def wanted(texts: Sequence[Text], segments: Sequence[Segment]) -> FloatArray:
    """Logits of a pass over slots that hold texts[slot % len(texts)]."""
    rows = [
        texts[s.slot % len(texts)].logits[s.position : s.position + len(s.token_ids)]
        for s in segments
    ]
    return np.concatenate(rows)


def ragged(rng: np.random.Generator, texts: Sequence[Text], total: int) -> list[Segment]:
    """Segments of 1 to 17 tokens, `total` in all, of slots in any order at any position."""
    segments = []
    for slot in rng.permutation(NUM_SLOTS).tolist():
        count = min(int(rng.integers(1, 18)), total)
        if count == 0:
            break
        position = int(rng.integers(0, LENGTH - 17))
        segments.append(texts[slot % len(texts)].segment(slot, position, count))
        total -= count
    return segments


def test_largest_passes_follow_the_number_of_sequences() -> None:
    assert [pass_rows_for(count) for count in (1, 2, 3, 4, 5, 64, 1000)] == [16, 32] + [64] * 5


def test_pass_sizes_are_told(verifier: VulkanVerifier) -> None:
    assert verifier.pass_sizes == PASS_ROWS and verifier.max_pass_tokens == 64


@pytest.mark.parametrize("size", [17, 31, 32, 33, 63, 64])
def test_bits_do_not_depend_on_large_pass_sizes(
    verifier: VulkanVerifier, texts: list[Text], size: int
) -> None:
    verifier.open(1, GREEDY)
    for position in range(0, LENGTH, size):
        segments = [texts[1].segment(1, position, size)]
        np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


@pytest.mark.parametrize("total", [20, 32, 50, 64])
def test_bits_do_not_depend_on_the_many_slots_beside(
    verifier: VulkanVerifier, texts: list[Text], total: int
) -> None:
    rng = np.random.default_rng(total)
    for _ in range(4):
        segments = ragged(rng, texts, total)
        for segment in segments:
            start(verifier, segment.slot, texts[segment.slot % len(texts)], segment.position)
        np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


def test_prompts_fed_together_are_as_good_as_fed_alone(
    verifier: VulkanVerifier, texts: list[Text]
) -> None:
    lengths = [0, 1, 140, 64, 63, 65, 7, 9, 128, 2, 33, 32]
    for slot in range(len(lengths)):
        verifier.open(slot, GREEDY)
    verifier.prefill(*(texts[s % 3].segment(s, 0, length) for s, length in enumerate(lengths)))
    assert [verifier.length(slot) for slot in range(len(lengths))] == lengths
    segments = [texts[s % 3].segment(s, length, 5) for s, length in enumerate(lengths)]
    np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


def test_every_slot_of_a_full_pass_chooses_with_its_own_sampling(
    verifier: VulkanVerifier, texts: list[Text]
) -> None:
    segments, expected = [], []
    for slot in range(NUM_SLOTS):
        text, position = texts[slot % len(texts)], slot + 3
        sampling = SamplingParams(
            0.3 * (slot % 4), 10 * (slot % 3), 1.0 - 0.1 * (slot % 2), 0, slot
        )
        start(verifier, slot, text, position)
        verifier.open(slot, sampling)
        verifier.prefill(text.segment(slot, 0, position))
        segments.append(text.segment(slot, position, 1))
        expected.append(choose(text.logits[position][None], [position + 1], sampling))
    assert verifier.verify(segments) == expected


def test_a_rejected_pass_of_64_leaves_no_trace(verifier: VulkanVerifier, texts: list[Text]) -> None:
    for kept in (40, 64, 80):
        start(verifier, 1, texts[1], kept)
        verifier.verify([Segment(1, kept, tuple(reversed(texts[1].ids[:64])))])
        verifier.truncate(1, kept)
        segments = [texts[1].segment(1, kept, 50)]
        np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 140])
def test_a_copied_prefix_is_as_good_as_a_fed_one(
    verifier: VulkanVerifier, texts: list[Text], length: int
) -> None:
    """Source and copies go on in their own ways; the ring starts over at 128."""
    start(verifier, 3, texts[0], length)
    for slot in (6, 63, 0):
        start(verifier, slot, texts[2], 150)
        verifier.open(slot, GREEDY)
        verifier.copy_prefix(3, slot, length)
        assert verifier.length(slot) == length
    wrong = tuple(reversed(texts[0].ids[-10:]))
    verifier.verify([Segment(6, length, wrong)])
    segments = [texts[0].segment(slot, length, 10) for slot in (63, 3, 0)]
    np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


def test_a_part_of_what_a_slot_holds_can_be_copied_while_its_rings_have_it(
    short_rings: VulkanVerifier, texts: list[Text]
) -> None:
    verifier = short_rings
    start(verifier, 3, texts[0], 120)
    verifier.open(6, GREEDY)
    verifier.copy_prefix(3, 6, 70)
    segments = [texts[0].segment(6, 70, 20)]
    np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))
    verifier.open(6, GREEDY)
    start(verifier, 3, texts[0], LENGTH)
    with pytest.raises(CutTooDeepError, match="cannot be cut to 60"):
        verifier.copy_prefix(3, 6, 60)
    assert verifier.length(6) == 0


def test_a_copy_cannot_be_cut_deeper_than_its_source(
    short_rings: VulkanVerifier, texts: list[Text]
) -> None:
    verifier = short_rings
    start(verifier, 3, texts[0], LENGTH)
    verifier.open(6, GREEDY)
    verifier.copy_prefix(3, 6, LENGTH)
    with pytest.raises(CutTooDeepError):
        verifier.truncate(6, 60)
    verifier.truncate(6, 140)
    segments = [texts[0].segment(6, 140, 10)]
    np.testing.assert_array_equal(verifier.logits(segments), wanted(texts, segments))


def generated(verifier: VulkanVerifier, slots: Sequence[int], count: int) -> dict[int, list[int]]:
    """Each slot's next tokens, all slots in every pass; slot s starts from a prompt of its own."""
    tokens = {s: [2, *np.random.default_rng(s).integers(300, 9000, 5 + s % 40)] for s in slots}
    lengths = {slot: len(ids) for slot, ids in tokens.items()}
    for slot, ids in tokens.items():
        verifier.open(slot, SamplingParams(temperature=0.9 * (slot % 2), top_k=40, seed=slot))
        verifier.prefill(Segment(slot, 0, tuple(map(int, ids[:-1]))))
    for _ in range(count):
        fed = [Segment(s, len(ids) - 1, (int(ids[-1]),)) for s, ids in tokens.items()]
        for (_, ids), (chosen,) in zip(tokens.items(), verifier.verify(fed), strict=True):
            ids.append(chosen)
    return {slot: list(map(int, ids[lengths[slot] :])) for slot, ids in tokens.items()}


@pytest.mark.slow
def test_the_embedded_target_writes_in_64_slots_what_it_writes_alone() -> None:
    checkpoint = open_checkpoint(embedded_model_dir("target"))
    info = checkpoint.info
    verifier = open_verifier(
        checkpoint,
        info.shape,
        info.head_bits,
        open_device(validation=False),
        context_length=128,
        num_slots=NUM_SLOTS,
        max_pass_tokens=64,
    )
    together = generated(verifier, range(NUM_SLOTS), 4)
    for slot in range(0, NUM_SLOTS, 9):
        assert generated(verifier, [slot], 4)[slot] == together[slot]
    verifier.release()
