"""Real models, many prompts at once: each text is what its prompt gives alone and plain."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import specdec
from specdec.errors import DeviceError
from specdec.load import load_target
from specdec.load.borrowed import borrowed
from specdec.types import Verifier

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts"
DRAFTERS = ["ngram", "cpu", "reference", "vulkan"]


def prompts(count: int) -> list[specdec.Prompt]:
    """Beginnings, of several lengths, of prompts of all kinds; with limits of several lengths."""
    rng = random.Random(5)
    files = sorted(PROMPTS.glob("*.jsonl"))
    whole = [prompt for path in files for prompt in specdec.read_prompts(path)]
    asked = []
    for number in range(count):
        prompt = whole[number * 37 % len(whole)]
        text = (prompt.text or "")[: rng.choice((8, 40, 120, 400))]
        limit = rng.choice((1, 6, 20))
        asked.append(replace(prompt, id=f"p{number}", text=text, max_new_tokens=limit))
    return asked


def config(*settings: str) -> specdec.Config:
    device = os.environ.get("SPECDEC_TEST_DEVICE", "auto")
    device = "reference" if device == "none" else device
    base = [f"target.device={device}", "run.context_length=512", "run.batch_size=64"]
    return specdec.with_overrides(specdec.Config(), [*base, *settings])


@pytest.fixture(scope="module")
def target() -> Iterator[Verifier]:
    try:
        verifier = load_target(config())
    except DeviceError as error:
        pytest.skip(str(error))
    yield verifier
    verifier.release()


def texts(target: Verifier, asked: Sequence[specdec.Prompt], *settings: str) -> dict[str, object]:
    engine = specdec.load(config(*settings), target=borrowed(target))
    with engine:
        events = list(engine.generate(asked))
    found = {r.id: (r.text, r.token_ids, r.finish_reason) for e in events if (r := e.result)}
    assert found.keys() == {prompt.id for prompt in asked}
    return found


def check(
    target: Verifier, count: int, batch_sizes: Sequence[int], drafters: Sequence[str]
) -> None:
    asked = prompts(count)
    for temperature in (0.0, 0.8):
        sampling = f"sampling.temperature={temperature}"
        plain = texts(target, asked, sampling, "run.batch_size=1", "speculation.mode=off")
        assert len({found[0] for found in plain.values()}) > count // 3
        for number, batch_size in enumerate(batch_sizes):
            random.Random(batch_size).shuffle(asked)
            size = f"run.batch_size={batch_size}"
            order = f"run.order={('arrival', 'longest')[number % 2]}"
            batched = texts(target, asked, sampling, size, order, "speculation.mode=off")
            assert batched == plain, f"plain, {batch_size} at once"
            for name in drafters:
                mode = f"speculation.mode={('auto', 'fixed')[number % 2]}"
                drafted = texts(target, asked, sampling, size, order, mode, f"draft.device={name}")
                assert drafted == plain, f"{name}, {batch_size} at once, {mode}"


@pytest.mark.slow
def test_a_sample_at_once_is_what_each_gives_alone(target: Verifier) -> None:
    check(target, 8, (16,), ["ngram"])


@pytest.mark.prove
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_three_hundred_prompts_at_once_are_what_each_gives_alone(
    target: Verifier, drafter: str
) -> None:
    check(target, 300, (1, 4, 16, 64), [drafter])


@pytest.mark.prove
def test_the_emulated_array_drafts_for_many_at_once(target: Verifier) -> None:
    check(target, 6, (4,), ["npu-emulated"])
