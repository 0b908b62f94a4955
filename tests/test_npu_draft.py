"""The embedded draft on the emulated NPU: its tokens, and that they never change the output."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from npu_oracle import NpuOracle
from npu_rig import make_model, needs_compiler
from test_worker import child_pids, worker_pid_or_none

import specdec
from draft.npu.emulated.machine import Fault, Faults
from draft.npu.factories import EmulatedNpuDraft
from draft.worker import WorkerDrafter, WorkerSettings
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.controller import FixedLength
from specdec.engine import Engine
from specdec.gemma3.loading import from_checkpoint
from specdec.requests import GenerationDefaults
from specdec.sampling import SamplingParams
from specdec.tokenizer import Tokenizer
from specdec.types import Drafter, Segment
from target.reference import ReferenceVerifier

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts"
CONTEXT = 256
DRAFT = open_checkpoint(embedded_model_dir("draft"))
SHAPE = DRAFT.info.shape
PROMPT_TOKENS, DRAFTED = 22, 8
NEAR_TIE = 0.25  # logits: INT8 rounding of activations that differ in the last bits


def texts(count: int) -> list[str]:
    """Prompts of all kinds in turn."""
    kinds = [list(specdec.read_prompts(path)) for path in sorted(PROMPTS.glob("*.jsonl"))]
    mixed = [prompt.text for group in zip(*kinds, strict=False) for prompt in group]
    assert len(mixed) >= count
    return mixed[:count]


def prompt_ids(count: int) -> list[list[int]]:
    path = DRAFT.directory / "tokenizer.model"
    tokenizer = Tokenizer.from_file(path, SHAPE.vocab_size, DRAFT.info.bos_id)
    return [list(tokenizer.encode(text, add_bos=True))[:PROMPT_TOKENS] for text in texts(count)]


def check_tokens(prompts: Sequence[list[int]]) -> list[tuple[int, int, float]]:
    """Greedy runs equal the oracle's; (prompt, position, gap) where the W4A8 reference differs."""
    needs_compiler()
    model, reference = make_model(SHAPE, DRAFT, CONTEXT), from_checkpoint(DRAFT, SHAPE)
    differing = []
    for index, prompt in enumerate(prompts):
        oracle, fed = NpuOracle(SHAPE, DRAFT, CONTEXT), prompt
        for place in range(DRAFTED):
            found, expected = model.feed(0, fed, 1)[0], oracle.feed(fed, 1)[0]
            token_id = int(found.argmax())
            assert token_id == int(expected.argmax()), f"prompt {index}, token {place}"
            wanted = reference.feed(0, fed, 1)[0]
            if int(wanted.argmax()) != token_id:
                differing.append((index, place, float(wanted.max() - wanted[token_id])))
            fed = [token_id]
        model.truncate(0, 0)
        reference.truncate(0, 0)
    return differing


@pytest.mark.slow
def test_draft_tokens_are_the_oracles_and_the_references_up_to_near_ties() -> None:
    differing = check_tokens(prompt_ids(3))
    assert all(gap < NEAR_TIE for _, _, gap in differing), differing


@pytest.mark.prove
def test_draft_tokens_on_many_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    differing = check_tokens(prompt_ids(60))
    with capsys.disabled():
        print(f"\n{len(differing)} of {60 * DRAFTED} tokens differ from the W4A8 reference:")
        for index, place, gap in differing:
            print(f"  prompt {index}, draft token {place}: logit gap {gap:.4f}")
    assert all(gap < NEAR_TIE for _, _, gap in differing), differing


def open_drafter(faults: Faults | None = None, settings: WorkerSettings | None = None) -> Drafter:
    needs_compiler()
    factory = EmulatedNpuDraft(DRAFT.directory, CONTEXT, faults=faults or Faults())
    return WorkerDrafter(factory, settings)


class Target(ReferenceVerifier):
    """The embedded target; `before_pass` may do harm."""

    def __init__(self, before_pass: Callable[[], None] = lambda: None) -> None:
        checkpoint = open_checkpoint(embedded_model_dir("target"))
        super().__init__(from_checkpoint(checkpoint, checkpoint.info.shape))
        self.before_pass = before_pass

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        self.before_pass()
        return super().verify(segments)


def generate(
    target: Target, drafter: Drafter | None, temperature: float, num_tokens: int = 24
) -> tuple[list[tuple[int, ...]], int]:
    """Token ids of some prompts, and how many draft tokens were accepted."""
    path = DRAFT.directory / "tokenizer.model"
    tokenizer = Tokenizer.from_file(path, SHAPE.vocab_size, DRAFT.info.bos_id)
    sampling = SamplingParams(temperature=temperature, seed=5)
    defaults = GenerationDefaults(sampling, max_new_tokens=num_tokens)
    controller = FixedLength(0 if drafter is None else 5)
    engine = Engine(target, drafter, controller, tokenizer, defaults)
    asked = [text[:120] for text in texts(3)]
    results = [event.result for event in engine.generate(asked) if event.result]
    ids = [result.token_ids for result in sorted(results, key=lambda r: r.id)]
    return ids, sum(result.stats.num_accepted_tokens for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculative_output_equals_plain_output(temperature: float) -> None:
    target, drafter = Target(), open_drafter()
    assert drafter.device == "npu-emulated"
    plain, _ = generate(target, None, temperature)
    speculative, num_accepted = generate(target, drafter, temperature)
    drafter.release()
    assert speculative == plain
    assert num_accepted >= 10


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.CONTEXT_LOST])
def test_a_fault_of_the_array_costs_drafts_one_warning_and_no_output(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target()
    plain, _ = generate(target, None, 0.0)
    drafter = open_drafter(Faults(((20, fault),)), WorkerSettings(pause_s=0.01))
    speculative, _ = generate(target, drafter, 0.0)
    drafter.release()
    assert speculative == plain
    (record,) = caplog.records
    assert "NPU: cannot run the draft" in record.getMessage() and "\n" not in record.getMessage()


@pytest.fixture
def nothing_stays_behind() -> Iterator[None]:
    before = set(os.listdir("/dev/shm")), child_pids(), len(os.listdir("/proc/self/fd"))
    yield
    assert (set(os.listdir("/dev/shm")), child_pids(), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_stays_behind")
def test_fifty_kills_change_no_token_and_leave_nothing() -> None:
    settings = WorkerSettings(max_restarts=1000, pause_s=0.0, num_good_runs=1)
    drafter, kills = open_drafter(settings=settings), []
    random = np.random.default_rng(0)

    def harm() -> None:
        pid = worker_pid_or_none()
        if pid is not None and pid not in kills and random.random() < 0.2:
            kills.append(pid)
            os.kill(pid, signal.SIGKILL)

    plain, _ = generate(Target(), None, 0.0)
    target, deadline = Target(harm), time.monotonic() + 600.0
    while len(kills) < 50:
        assert generate(target, drafter, 0.0)[0] == plain
        assert time.monotonic() < deadline
    again, num_accepted = generate(Target(), drafter, 0.0)
    drafter.release()
    assert again == plain and num_accepted > 0
