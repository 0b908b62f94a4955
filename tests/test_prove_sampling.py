"""Equal seeds give equal text: prompts x sampling x drafters x controllers, `make prove`."""

from itertools import product
from pathlib import Path

import pytest

import specdec

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts"
SAMPLINGS = [
    "sampling.temperature=0.4",
    "sampling.temperature=0.8 sampling.top_k=40 sampling.seed=1",
    "sampling.temperature=1.0 sampling.top_p=0.9 sampling.seed=2",
    "sampling.temperature=1.3 sampling.min_p=0.1 sampling.top_k=100 sampling.seed=3",
]
DRAFTS = ["cpu", "ngram", "reference"]
MODES = ["auto", "fixed"]


def asked() -> list[specdec.Prompt]:
    files = sorted(PROMPTS.glob("*.jsonl"))
    return [list(specdec.read_prompts(path))[index] for path in files for index in (0, 1)]


def texts(settings: str, device: str) -> list[tuple[int, ...]]:
    every = [*settings.split(), f"target.device={device}", "run.max_new_tokens=24"]
    config = specdec.with_overrides(specdec.Config(), [*every, "run.context_length=1024"])
    with specdec.load(config) as engine:
        return [event.result.token_ids for event in engine.generate(asked()) if event.result]


@pytest.mark.prove
@pytest.mark.parametrize("device", ["auto", "reference"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_plain_and_speculative_text_are_equal_for_equal_seeds(sampling: str, device: str) -> None:
    """10 prompts x 4 samplings x 3 drafters x 2 controllers = 240 combinations per device."""
    plain = texts(f"{sampling} speculation.mode=off", device)
    assert len(set(plain)) == len(plain)
    for draft, mode in product(DRAFTS, MODES):
        chosen = f"{sampling} draft.device={draft} speculation.mode={mode}"
        assert texts(chosen, device) == plain, chosen
