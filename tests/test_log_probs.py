"""Log-probabilities are the raw softmax's, and the same bits plain and speculative."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from fakes import ByteTokenizer, RuleDrafter, RuleVerifier, ScriptedDrafter
from numpy.typing import NDArray
from shader_cases import INACTIVE, Row, step_buffer
from small_models import SMALL, RandomModel
from vulkan_harness import open_device, run

from draft.ngram import NgramDrafter
from draft.reference import ModelDrafter
from specdec.controller import FixedLength
from specdec.engine import Engine
from specdec.errors import DeviceError
from specdec.gemma3.loading import from_checkpoint
from specdec.generation import Generation
from specdec.requests import GenerationDefaults
from specdec.sampling import log_probabilities
from specdec.types import Drafter, FloatArray, SamplingParams, Segment, Verifier
from target.model import open_verifier
from target.reference import ReferenceVerifier
from target.vulkan import Device

# Of the device against float64: rounding of sums, exp and ln near 0, of the result beyond.
TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 2.4e-7  # 2 ulp
UNTOUCHED = 0xABCDABCD
MODEL = RandomModel(seed=11)
SAMPLINGS = [
    SamplingParams(log_probs=True),
    SamplingParams(temperature=0.8, top_k=40, log_probs=True),
    SamplingParams(temperature=1.2, top_p=0.9, min_p=0.01, log_probs=True),
]


def test_they_are_those_of_the_raw_softmax() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32) * 4
    tokens = [0, 299, 7, 150, 3]
    weights = np.exp(logits.astype(np.float64))
    expected = np.log(weights / weights.sum(axis=1, keepdims=True))[range(5), tokens]
    np.testing.assert_allclose(log_probabilities(logits, tokens), expected, rtol=1e-7)
    assert log_probabilities(np.zeros((1, 64), np.float32), [9]) == (
        float(-np.log(64).astype("f4")),
    )


def on_device(
    device: Device, logits: FloatArray, ids: list[int], positions: list[int]
) -> NDArray[np.float32]:
    """The device's log-probabilities; what lies beyond the vocabulary is poison."""
    rows, vocab = logits.shape
    padded = np.full((rows, -(-vocab // 32) * 32), 1e9, np.float32)
    padded[:, :vocab] = logits
    buffers = [
        step_buffer([Row(position) for position in positions]),
        padded,
        np.array(ids, np.uint32),
        np.full(rows, UNTOUCHED, np.uint32),
    ]
    return run(device, "log_prob", buffers, rows, [vocab, padded.shape[1]])[3].view(np.float32)


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
@pytest.mark.parametrize("vocab", [33, 500, 262_144])
def test_the_devices_are_the_hosts(device: Device, vocab: int, scale: float) -> None:
    rng = np.random.default_rng(vocab)
    logits = (rng.standard_normal((6, vocab)) * scale).astype(np.float32)
    ids = [*rng.integers(0, vocab, 5).tolist(), int(logits[5].argmax())]
    got = on_device(device, logits, ids, list(range(6)))
    expected = log_probabilities(logits, ids)
    np.testing.assert_allclose(got, expected, rtol=RELATIVE_TOLERANCE, atol=TOLERANCE)


def test_rows_do_not_depend_on_their_neighbours_and_padding_is_left_alone(device: Device) -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((8, 700)).astype(np.float32)
    ids = rng.integers(0, 700, 8).tolist()
    alone = [on_device(device, logits[r : r + 1], ids[r : r + 1], [9])[0] for r in range(8)]
    together = on_device(device, logits, ids, [3, 4, INACTIVE, 5, 6, 7, 8, 9])
    assert together.view(np.uint32)[2] == UNTOUCHED
    kept = [r for r in range(8) if r != 2]
    assert together[kept].tolist() == np.array(alone)[kept].tolist()


class WideTokenizer(ByteTokenizer):
    vocab_size = SMALL.vocab_size

    def piece_bytes(self, token_id: int) -> bytes:
        return b"%d " % token_id


@pytest.fixture(scope="module", params=["reference", "vulkan"])
def verifier(request: pytest.FixtureRequest) -> Iterator[Verifier]:
    if request.param == "reference":
        yield ReferenceVerifier(from_checkpoint(MODEL, SMALL))
        return
    try:
        device = open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    loaded = open_verifier(MODEL, SMALL, 8, device, context_length=256, num_slots=3)
    yield loaded
    assert loaded.messages == []
    loaded.release()


def generate(
    verifier: Verifier, drafter: Drafter | None, length: int, sampling: SamplingParams
) -> list[Generation]:
    defaults = GenerationDefaults(sampling, max_new_tokens=24)
    engine = Engine(verifier, drafter, FixedLength(length), WideTokenizer(), defaults)
    prompts = ["a b a b a b", "log-probabilities"]
    return [event.result for event in engine.generate(prompts) if event.result]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_plain_and_speculative_bits_are_equal(verifier: Verifier, sampling: SamplingParams) -> None:
    plain = generate(verifier, None, 0, sampling)
    tokenizer = WideTokenizer()
    scripts = {tokenizer.encode(r.prompt, add_bos=True): r.token_ids for r in plain}
    drafters: list[Drafter] = [
        ScriptedDrafter(scripts, SMALL.vocab_size),
        NgramDrafter(),
        ModelDrafter(from_checkpoint(MODEL, SMALL), "same"),
    ]
    for drafter in drafters:
        for length in (1, 6, 15):
            results = generate(verifier, drafter, length, sampling)
            assert [r.token_ids for r in results] == [r.token_ids for r in plain]
            assert [r.log_probs for r in results] == [r.log_probs for r in plain]
    for result in plain:
        assert result.log_probs is not None and len(result.log_probs) == len(result.token_ids)
        assert all(-30.0 < value < 0.0 for value in result.log_probs)


def test_a_sequence_has_its_own_in_a_shared_pass(verifier: Verifier) -> None:
    samplings = [SAMPLINGS[0], SamplingParams(temperature=1.0), SAMPLINGS[1]]
    segments = [Segment(slot, 0, tuple(range(slot, 3 * slot + 2))) for slot in range(3)]
    alone = []
    for segment, sampling in zip(segments, samplings, strict=True):
        verifier.open(segment.slot, sampling)
        verifier.verify([segment])
        alone.append(verifier.log_probs(segment.slot))
        verifier.truncate(segment.slot, 0)
    verifier.verify(segments)
    assert [verifier.log_probs(slot) for slot in range(3)] == alone
    assert [len(values) for values in alone] == [2, 0, 6]
    for segment in segments:
        verifier.close(segment.slot)


def test_asking_for_them_changes_no_token(verifier: Verifier) -> None:
    for sampling in SAMPLINGS:
        silent = SamplingParams(
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p
        )
        asked, unasked = (generate(verifier, None, 0, each) for each in (sampling, silent))
        assert [r.token_ids for r in asked] == [r.token_ids for r in unasked]
        assert [r.log_probs for r in unasked] == [None, None]
        assert "log_probs" not in unasked[0].to_json()


def test_results_show_one_number_a_token_also_where_a_stop_cuts_a_run() -> None:
    defaults = GenerationDefaults(SamplingParams(log_probs=True), max_new_tokens=40)
    engine = Engine(RuleVerifier(), None, FixedLength(0), ByteTokenizer(), defaults)
    whole = next(e.result for e in engine.generate(["some prompt"]) if e.result)
    final = GenerationDefaults(
        defaults.sampling, max_new_tokens=40, stop_token_ids=frozenset({whole.token_ids[17]})
    )
    engine = Engine(RuleVerifier(), RuleDrafter(1.0), FixedLength(15), ByteTokenizer(), final)
    cut = next(e.result for e in engine.generate(["some prompt"]) if e.result)
    shown = json.loads(json.dumps(cut.to_json()))
    assert len(shown["token_ids"]) < 40 and whole.log_probs is not None
    assert shown["log_probs"] == list(whole.log_probs[: len(shown["token_ids"])])
