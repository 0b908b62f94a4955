"""The ONNX Runtime draft against the numpy model on the embedded draft, and its cache's edges."""

import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the cpu draft needs the extra 'cpu' (onnxruntime)")
pytest.importorskip("onnx", reason="the cpu draft needs the extra 'cpu' (onnx)")

import draft.onnx_writer
from draft.branching import BranchingDrafter
from draft.cpu import CpuModel, CpuSettings
from draft.factories import CpuDraft
from draft.messages import Wish
from draft.reference import ModelDrafter
from draft.worker import WorkerDrafter
from specdec.assets import embedded_model_dir
from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.errors import DeviceError
from specdec.gemma3.arithmetic import Float32
from specdec.gemma3.loading import build, from_checkpoint
from specdec.gemma3.reference import Gemma3Reference
from specdec.stopping import FixedStopping
from specdec.tokenizer import Tokenizer
from specdec.types import FloatArray, SamplingParams

CONTEXT = 640
TEXT = '''"""Count the words in text files."""

import argparse
import sys


def count_words(path):
    with open(path) as file:
        return sum(len(line.split()) for line in file)


def main():
    parser = argparse.ArgumentParser(description="Count words in text files.")
    parser.add_argument("files", nargs="+", help="files to read")
    args = parser.parse_args()
    for path in args.files:
        print(path, count_words(path))


if __name__ == "__main__":
    sys.exit(main())
'''


@cache
def checkpoint() -> Checkpoint:
    return open_checkpoint(embedded_model_dir("draft"))


@cache
def text_ids() -> tuple[int, ...]:
    """More tokens than the window of 512, so that local layers forget some."""
    info = checkpoint().info
    path = checkpoint().directory / "tokenizer.model"
    ids = Tokenizer.from_file(path, info.shape.vocab_size, info.bos_id).encode(TEXT, add_bos=True)
    return (ids * 8)[: CONTEXT - 40]


def cpu_model(num_slots: int = 1, head_tokens: np.ndarray | None = None) -> CpuModel:
    settings = CpuSettings(CONTEXT, num_slots=num_slots, num_threads=1)
    return CpuModel(checkpoint().info.shape, checkpoint(), settings, head_tokens)


@cache
def expected() -> FloatArray:
    """Logits (T, V) of the numpy model in W4A8 arithmetic for all of `text_ids`."""
    ids = text_ids()
    return from_checkpoint(checkpoint(), checkpoint().info.shape).feed(0, ids, len(ids))


@pytest.mark.slow
def test_with_float32_activations_the_graph_is_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draft.onnx_writer, "_INT8_ACTIVATIONS", 1)
    source, ids = checkpoint(), text_ids()
    weights = build(
        source.info.shape,
        lambda name: Float32(source.matrix(name).dequantize()),
        source.vector,
        np.float32,
    )
    want = Gemma3Reference(weights).feed(0, ids, len(ids))
    got = cpu_model().feed(0, ids, len(ids))
    assert np.abs(got - want).max() < 1e-3  # float32 sums in another order; logits reach 30


def test_teacher_forced_tokens_agree_with_the_reference_but_for_near_ties() -> None:
    ids, want = text_ids(), expected()
    got = cpu_model().feed(0, ids, len(ids))
    # both round activations to INT8, at slightly different values: each is this far from exact
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.1
    best = want.argmax(axis=1)
    differing = np.flatnonzero(got.argmax(axis=1) != best)
    second, first = np.partition(want[differing], -2, axis=1)[:, -2:].T
    gaps = dict(zip(differing.tolist(), (first - second).round(3).tolist(), strict=True))
    print(f"{len(differing)} of {len(ids)} argmax differ; position: top-2 gap {gaps}")
    assert len(differing) <= 0.03 * len(ids)
    assert max(gaps.values(), default=0.0) < 0.4


def test_logits_do_not_depend_much_on_how_a_text_is_cut_into_steps() -> None:
    ids = text_ids()
    model = cpu_model()
    whole = model.feed(0, ids, len(ids))
    model.truncate(0, 0)
    cuts = [0, 1, 2, 5, 12, 140, 141, 400, 520, 521, len(ids)]
    parts = [model.feed(0, ids[a:b], b - a) for a, b in pairwise(cuts)]
    # one row and several rows take different kernels, which round activations differently
    assert np.sqrt(np.mean((np.concatenate(parts) - whole) ** 2)) < 0.1


@pytest.mark.parametrize("length", [0, 1, 37, 511, 512, 513, 560])
def test_after_a_cut_the_slot_is_as_if_never_fed_further(length: int) -> None:
    ids = text_ids()
    model = cpu_model()
    model.feed(0, ids[:length], 0)
    want = model.feed(0, ids[length : length + 3], 3)
    model.truncate(0, length)
    model.feed(0, [7] * 20, 0)
    model.truncate(0, length)
    assert model.length(0) == length
    assert np.array_equal(model.feed(0, ids[length : length + 3], 3), want)


def test_adjacent_slots_take_one_token_each_in_a_step() -> None:
    ids = text_ids()
    model, alone = cpu_model(num_slots=4), cpu_model()
    lengths = (9, 530, 60)
    for slot, length in enumerate(lengths, start=1):
        model.feed(slot, ids[:length], 0)
    logits = model.feed_each(1, [ids[length] for length in lengths])
    assert [model.length(slot) for slot in range(4)] == [0, 10, 531, 61]
    for row, length in zip(logits, lengths, strict=True):
        alone.truncate(0, 0)
        alone.feed(0, ids[:length], 0)
        want = alone.feed(0, ids[length : length + 1], 1)[0]
        assert np.sqrt(np.mean((row - want) ** 2)) < 0.1


def test_a_copied_slot_goes_its_own_way() -> None:
    ids = text_ids()
    model = cpu_model(num_slots=2)
    model.feed(0, ids[:50], 0)
    model.copy_slot(0, 1)
    want = model.feed_each(0, [ids[50], 9])
    model.truncate(1, 50)
    model.feed(0, ids[51:60], 0)
    model.copy_slot(0, 1, 50)
    model.truncate(1, 50)
    model.truncate(0, 50)
    assert np.array_equal(model.feed_each(0, [ids[50], 9]), want)


def test_drafting_ahead_on_the_model_gives_what_drafting_anew_gives() -> None:
    ids, tokens = text_ids(), text_ids()[:30]
    ahead = BranchingDrafter(cpu_model(num_slots=8), "cpu", num_branches=7)
    anew = ModelDrafter(cpu_model(), "cpu")
    rule = FixedStopping(4, num_endings=8)
    ahead.open(0, tokens, SamplingParams())
    for number in range(8):
        run = ahead.take(0, len(tokens), 4, 1.0, rule)
        anew.open(0, tokens, SamplingParams())
        assert run.token_ids == anew.take(0, len(tokens), 4, 1.0).token_ids
        ahead.in_flight(0, run)
        ahead.work_ahead(Wish(0, 4, rule), lambda: True)
        kept = run.token_ids[: number % 5]
        tokens = [*tokens, *kept, ids[len(tokens) + len(kept)]]
        ahead.confirm(0, tokens[run.position :])


def test_a_cut_head_gives_the_same_logits_for_its_tokens_and_none_for_others() -> None:
    ids = text_ids()[:40]
    head_tokens = np.array(sorted({*ids, *range(0, 16384, 5)}), np.int32)
    cut, whole = cpu_model(head_tokens=head_tokens), cpu_model()
    got, want = cut.feed(0, ids, 3), whole.feed(0, ids, 3)
    assert got.shape == want.shape
    assert np.abs(got[:, head_tokens] - want[:, head_tokens]).max() < 1e-4
    others = np.setdiff1d(np.arange(16384), head_tokens)
    assert np.isneginf(got[:, others]).all()


def test_a_full_slot_refuses_more() -> None:
    model = cpu_model()
    model.feed(0, (text_ids() * 2)[:CONTEXT], 1)
    with pytest.raises(AssertionError, match="overflows"):
        model.feed(0, [5], 1)


@pytest.mark.slow
def test_in_a_worker_it_drafts_what_it_drafts_in_this_process() -> None:
    recipe = CpuDraft(embedded_model_dir("draft"), CONTEXT, num_threads=1)
    alone, worker = recipe(), WorkerDrafter(recipe)
    assert worker.device == alone.device == "cpu"
    sampling = SamplingParams(temperature=0.7, top_p=0.9, seed=11)
    tokens = list(text_ids()[:60])
    for drafter in (alone, worker):
        drafter.open(0, tokens, sampling)
    for replaced in (0, 2, 5, 7):
        runs = [drafter.take(0, len(tokens), 7, 60.0) for drafter in (alone, worker)]
        assert runs[0].token_ids == runs[1].token_ids and len(runs[0].token_ids) == 7
        confirmed = [*runs[0].token_ids[:replaced], 9]
        tokens += confirmed
        for drafter in (alone, worker):
            drafter.confirm(0, confirmed)
    worker.release()


def test_without_onnx_runtime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "draft.cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"pip install 'specdec\[cpu\]'"):
        CpuDraft(embedded_model_dir("draft"), CONTEXT)()
