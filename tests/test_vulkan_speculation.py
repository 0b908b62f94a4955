"""On a Vulkan device speculation changes nothing: plain ids equal speculative ids, bit for bit."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, RandomModel
from vulkan_harness import open_device

from specdec.accept import accept
from specdec.checkpoint import open_checkpoint
from specdec.errors import DeviceError
from specdec.gemma3.loading import from_checkpoint
from specdec.types import DraftRun, SamplingParams, Segment

if os.environ.get("SPECDEC_TEST_DEVICE") == "none":
    pytest.skip("no Vulkan device wanted", allow_module_level=True)

from target.model import VulkanVerifier, open_verifier

NUM_TOKENS = 24


@pytest.fixture(scope="module")
def verifier() -> Iterator[VulkanVerifier]:
    model = RandomModel(seed=11)
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    loaded = open_verifier(model, SMALL, 8, device, context_length=256)
    yield loaded
    assert loaded.messages == []
    loaded.release()


def prompt(seed: int) -> tuple[int, ...]:
    """1 to 90 tokens: shorter and longer than the window of 40 and than a prefill chunk."""
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, SMALL.vocab_size, int(rng.integers(1, 91))).tolist())


def start(verifier: VulkanVerifier, ids: Sequence[int], sampling: SamplingParams) -> None:
    verifier.open(0, sampling)
    verifier.prefill(Segment(0, 0, tuple(ids[:-1])))


def plain(verifier: VulkanVerifier, ids: tuple[int, ...], sampling: SamplingParams) -> list[int]:
    start(verifier, ids, sampling)
    tokens = list(ids)
    for _ in range(NUM_TOKENS + 15):
        tokens.extend(verifier.verify([Segment(0, len(tokens) - 1, (tokens[-1],))])[0])
    return tokens[len(ids) :]


def drafted(rng: np.random.Generator, turn: int, right: Sequence[int]) -> tuple[int, ...]:
    """A run that is right, wrong from a random place on, or random, by turns."""
    tokens = np.array(right)
    if turn % 3 == 1:
        tokens[int(rng.integers(0, len(tokens))) :] += 1
    elif turn % 3 == 2:
        tokens = rng.integers(0, SMALL.vocab_size, len(tokens))
    return tuple((tokens % SMALL.vocab_size).tolist())


def speculative(
    verifier: VulkanVerifier,
    ids: tuple[int, ...],
    sampling: SamplingParams,
    right: Sequence[int],
    draft_length: int,
) -> list[int]:
    start(verifier, ids, sampling)
    rng, emitted, turn = np.random.default_rng(len(ids)), list[int](), draft_length
    while len(emitted) < NUM_TOKENS:
        at = len(emitted)
        run = DraftRun(at, drafted(rng, turn, right[at : at + draft_length]))
        position = len(ids) + at
        last = (ids + tuple(emitted))[-1]
        chosen = verifier.verify([Segment(0, position - 1, (last, *run.token_ids))])[0]
        acceptance = accept(run, chosen)
        verifier.truncate(0, position + len(acceptance.accepted))
        emitted.extend(acceptance.emitted)
        turn += 1
    return emitted[:NUM_TOKENS]


SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.9, top_k=50),
    SamplingParams(temperature=0.4, top_p=0.9),
    SamplingParams(temperature=0.7, min_p=0.05),
    SamplingParams(temperature=1.0, top_k=40, top_p=0.95, min_p=0.02),
    SamplingParams(temperature=1.5),
]


def check(
    verifier: VulkanVerifier, seed: int, sampling: SamplingParams, lengths: Sequence[int]
) -> None:
    sampling = replace(sampling, seed=seed)
    ids = prompt(seed)
    right = plain(verifier, ids, sampling)
    for length in lengths:
        got = speculative(verifier, ids, sampling, right, length)
        assert got == right[:NUM_TOKENS], f"prompt {seed}, draft length {length}"


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_speculation_changes_no_token(verifier: VulkanVerifier, sampling: SamplingParams) -> None:
    for seed in range(2):
        check(verifier, seed, sampling, (1, 7, 15))


def test_another_seed_gives_another_text(verifier: VulkanVerifier) -> None:
    first, second = (SamplingParams(temperature=1.0, seed=seed) for seed in (1, 1 + 2**32))
    assert plain(verifier, prompt(1), first) != plain(verifier, prompt(1), second)


@pytest.mark.prove
def test_speculation_changes_no_token_on_a_hundred_prompts(verifier: VulkanVerifier) -> None:
    for seed in range(100):
        check(verifier, seed, SamplingParams(), range(1, 16))


@pytest.mark.prove
@pytest.mark.parametrize("sampling", SAMPLINGS[1:], ids=str)
def test_speculation_changes_no_sampled_token_on_fifty_prompts(
    verifier: VulkanVerifier, sampling: SamplingParams
) -> None:
    for seed in range(50):
        check(verifier, seed, sampling, (1, 4, 7, 15))


def near_tie(logits: np.ndarray, first: int, second: int) -> float:
    """Gap of two logits relative to the spread of all of them."""
    return float(abs(logits[first] - logits[second]) / logits.std())


@pytest.mark.prove
def test_the_real_model_chooses_what_the_reference_chooses() -> None:
    """50 prompts of the model named by SPECDEC_270M; every near-tie is printed.

    A choice may differ only where the two logits are closer than rounding can move them: an
    activation on a rounding tie moves by 1/127 of its group's largest, a few times per layer.
    """
    directory = os.environ.get("SPECDEC_270M", "")
    if not directory:
        pytest.skip("SPECDEC_270M names no converted model")
    checkpoint = open_checkpoint(Path(directory))
    shape = checkpoint.info.shape
    reference = from_checkpoint(checkpoint, shape)
    device = open_device(validation=False)
    verifier = open_verifier(
        checkpoint, shape, checkpoint.info.head_bits, device, context_length=1024
    )
    for seed in range(50):
        rng = np.random.default_rng(seed)
        ids = (checkpoint.info.bos_id, *rng.integers(1000, 60000, 24).tolist())
        start(verifier, ids, SamplingParams())
        reference.truncate(0, 0)
        reference.feed(0, ids[:-1], 0)
        for position in range(len(ids) - 1, len(ids) + 15):
            expected = reference.feed(0, ids[position:], 1)[0]
            (chosen,) = verifier.verify([Segment(0, position, ids[position:])])[0]
            best = int(expected.argmax())
            if chosen != best:
                gap = near_tie(expected, chosen, best)
                print(f"prompt {seed} position {position}: {chosen} for {best}, gap {gap:.4f}")
                assert gap < 0.25
            ids = (*ids, best)
    verifier.release()
