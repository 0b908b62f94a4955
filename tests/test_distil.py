"""Distilling a draft: its arithmetic, its measures, and the whole command at toy size."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `distil`")

from draft.distil.acceptance import loop_start, num_passes
from draft.distil.corpus import Windows
from draft.distil.losses import distillation_loss, with_repeats
from draft.distil.model import Gemma3
from draft.distil.recipe import shape_of_sizes
from draft.distil.rounding import to_int4_grid, to_int8_grid
from draft.distil.training import Plan, Training
from draft.distil.vocabulary import Vocabulary, narrowed, widened
from draft.distil.weights import deepened, grid_state, load_checkpoint, save_huggingface
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.cli import main
from specdec.convert import convert
from specdec.gemma3.arithmetic import W4A8, quantize
from specdec.gemma3.loading import build, from_tensors
from specdec.gemma3.reference import Gemma3Reference
from specdec.gemma3.shape import Gemma3Shape

CPU = torch.device("cpu")
SMALL = shape_of_sizes("64x2", 96, 128)


def model(shape: Gemma3Shape = SMALL, seed: int = 1) -> Gemma3:
    torch.manual_seed(seed)
    made = Gemma3(shape, 4, torch.float32)
    made.embed_tokens.weight.data.normal_(std=0.1)
    return made


def logits(of: Gemma3, ids: list[int], is_rounded: bool) -> np.ndarray:
    with torch.no_grad():
        hidden, table = of(torch.tensor([ids]), is_rounded)
        found: np.ndarray = (hidden @ table.T)[0].numpy()
    return found


@pytest.mark.slow
def test_the_module_computes_what_the_numpy_model_computes() -> None:
    ids = random.Random(1).choices(range(4, 16384), k=40)
    checkpoint = open_checkpoint(embedded_model_dir("draft"))
    loaded = load_checkpoint(checkpoint, torch.float32)
    tensors = {f"model.{name}": value.numpy() for name, value in loaded.state_dict().items()}
    wanted = from_tensors(checkpoint.info.shape, tensors).feed(0, ids, len(ids))
    np.testing.assert_allclose(logits(loaded, ids, False), wanted, atol=2e-4)
    # keys and values in float32, as in training; later on a value halfway between steps may go
    # either way, and all after it differs
    rounded = build(
        checkpoint.info.shape,
        lambda name: W4A8(checkpoint.matrix(name)),
        checkpoint.vector,
        np.float32,
    )
    wanted = Gemma3Reference(rounded).feed(0, ids[:3], 3)
    np.testing.assert_allclose(logits(loaded, ids[:3], True), wanted, atol=2e-4)


def test_activations_are_rounded_as_the_devices_round_them() -> None:
    x = np.random.default_rng(2).standard_normal((7, 96)).astype(np.float32)
    x[0] = 0
    values, scales = quantize(x)
    wanted = (values * scales[:, :, None]).transpose(1, 0, 2).reshape(7, 96)
    np.testing.assert_allclose(to_int8_grid(torch.from_numpy(x)).numpy(), wanted, atol=1e-6)


def test_conversion_recovers_the_grid_that_training_rounded_to(tmp_path: Path) -> None:
    made = model(shape_of_sizes("64x2", 16384, 128))
    save_huggingface(made, tmp_path / "hf", 2, (1,))
    tokenizer = embedded_model_dir("draft") / "tokenizer.model"
    convert(tmp_path / "hf", tmp_path / "out", head_bits=4, tokenizer=tokenizer)
    again = load_checkpoint(open_checkpoint(tmp_path / "out"), torch.float32).state_dict()
    for name, tensor in grid_state(made).items():
        assert torch.equal(again[name], tensor), name


def test_a_weight_keeps_its_gradient_through_rounding() -> None:
    made = model()
    hidden, table = made(torch.tensor([[5, 6, 7, 8]]), True)
    (hidden @ table.T).logsumexp(-1).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    weight = made.layers[0].mlp.up_proj.weight
    assert torch.equal(to_int4_grid(to_int4_grid(weight)), to_int4_grid(weight))


def test_inserted_layers_change_little_and_keep_the_last_layer_last() -> None:
    made = model()
    deeper = deepened(made, (False, False, False, True))
    assert deeper.shape.num_layers == 4
    first, second = made.layers[1].state_dict(), deeper.layers[3].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    ids = list(range(4, 24))
    gap = np.abs(logits(deeper, ids, False) - logits(made, ids, False)).max()
    assert gap < 0.5 * np.abs(logits(made, ids, False)).max()


def test_a_narrowed_vocabulary_widens_again_with_the_trained_rows() -> None:
    target, draft = model(), model(seed=3)
    kept = np.array([*range(8), *range(40, 96)], np.int32)
    vocabulary = Vocabulary(kept, 96)
    assert vocabulary.places(np.array([5, 40, 20], np.int32)).tolist() == [5, 8, 3]
    ids = [4, 5, 50, 60]
    small = logits(narrowed(target, vocabulary), vocabulary.places(np.array(ids)).tolist(), False)
    np.testing.assert_allclose(small, logits(target, ids, False)[:, kept], atol=1e-5)
    table = target.embed_tokens.weight
    full = widened(narrowed(draft, vocabulary), table, vocabulary).embed_tokens.weight
    assert torch.equal(full[kept], draft.embed_tokens.weight[kept]) and len(full) == 96


def test_every_window_comes_once_per_pass_and_the_seed_fixes_the_order() -> None:
    ids = np.arange(1003, dtype=np.int32)
    windows, again = Windows(ids, 10, 5, CPU), Windows(ids, 10, 5, CPU)
    rows = windows.rows(0, 100)
    assert sorted((rows[:, 0] // 10).tolist()) == list(range(100))
    assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.ones(100, 10, dtype=torch.int64))
    assert torch.equal(again.rows(150, 20), windows.rows(150, 20))


def test_loops_are_found_where_their_second_round_starts() -> None:
    text = list(range(100, 140))
    assert loop_start(text) == 40
    assert loop_start(text + [7, 8, 9] * 10) == 43
    assert loop_start(text + [7] * 23) == 63  # too short to be one
    assert loop_start(text + [7] * 24) == 41
    assert loop_start([1, 2, 3] * 20 + text) == 100  # it left the loop


def test_passes_count_runs_to_the_first_other_token() -> None:
    yes, no = True, False
    assert num_passes([yes] * 8, 7) == 1
    assert num_passes([yes] * 8, 3) == 2
    assert num_passes([no] * 5, 7) == 5
    assert num_passes([yes, no, yes, yes, no, no], 7) == 3
    assert num_passes([], 7) == 0


def test_windows_turned_into_loops_repeat_from_their_start_on() -> None:
    rows = torch.from_numpy(np.random.default_rng(4).integers(4, 10_000, (3, 257)))
    repeats = with_repeats(rows, 2, seed=9)
    assert torch.equal(repeats.ids[2], rows[2]) and bool(repeats.is_text[2].all())
    for row in (0, 1):
        goal = repeats.ids[row, 1:]
        for place in torch.nonzero(repeats.is_loop[row]).flatten().tolist():
            period = int(repeats.periods[row, place])
            assert goal[place] == goal[place - period] == repeats.ids[row, place + 1 - period]
        assert 0 < int(repeats.is_loop[row].sum()) < int((~repeats.is_text[row]).sum())
        kept = repeats.is_text[row]
        assert torch.equal(goal[kept], rows[row, 1:][kept])


def test_the_loss_is_least_where_the_draft_is_the_target() -> None:
    hidden, table = torch.randn(2, 3, 64), torch.randn(96, 64) * 0.1
    weight = torch.tensor(1.0)
    assert distillation_loss(hidden, table, hidden, table, weight) < 1e-5
    assert distillation_loss(hidden + 1, table, hidden, table, weight) > 1e-3


def test_the_overlap_is_of_the_distributions_at_temperature_0_7() -> None:
    ours, theirs, table = torch.randn(2, 3, 64), torch.randn(2, 3, 64), torch.randn(96, 64) * 0.1
    alone, both = (
        distillation_loss(ours, table, theirs, table, torch.tensor(w)) for w in (0.0, 1.0)
    )
    p, q = (((hidden @ table.T) / 0.7).softmax(-1) for hidden in (theirs, ours))
    assert both - alone == pytest.approx(0.5 * float((p - q).abs().sum(-1).mean()), rel=1e-4)


@pytest.mark.slow
def test_a_training_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    ids = torch.randint(4, 96, (40, 2, 17), generator=torch.Generator().manual_seed(6))

    def train(made: Gemma3, max_steps: int, state: Path | None) -> Training:
        plan = Plan(20, 1e9, decay_from=0.0, report_every=5)  # rates know the whole budget
        training = Training(made, plan, 32, state)

        def objective(index: int, is_rounded: bool, share: float) -> torch.Tensor:
            if index == max_steps:
                raise KeyboardInterrupt
            hidden, table = made(ids[index, :, :-1], is_rounded)
            goal = ids[index, :, 1:].flatten()
            return torch.nn.functional.cross_entropy((hidden @ table.T).flatten(0, 1), goal)

        training.run(objective, lambda point: training.save(point.elapsed_s))
        return training

    whole = model()
    history = train(whole, 99, tmp_path / "whole").history
    with pytest.raises(KeyboardInterrupt):
        train(model(), 12, tmp_path / "cut")
    resumed = model(seed=8)
    assert [p.loss for p in train(resumed, 99, tmp_path / "cut").history] == [
        p.loss for p in history
    ]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def small_corpus(directory: Path) -> tuple[Path, Path]:
    """A toy language that a tiny model can learn, and a tokenizer for it."""
    draw = random.Random(10)
    names = ["ant", "bee", "cat", "dog", "elk", "fox"]
    lines = []
    for _ in range(6000):
        first, second = draw.choice(names), draw.choice(names)
        lines.append(f"The {first} sees the {second} and the {second} sees the {first}.")
    corpus = directory / "corpus.txt"
    corpus.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "pieces"),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return corpus, directory / "pieces.model"


TOY = "--rows 8 --length 64 --prompt-length 16 --continuation 24 --prompts 8 --own-tokens 2000"


@pytest.mark.slow
def test_the_command_trains_a_pair_whose_draft_agrees_more_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, tokenizer = small_corpus(tmp_path)
    target, draft = str(tmp_path / "target"), str(tmp_path / "draft")
    options = f"--corpus {corpus} --tokenizer {tokenizer} --steps 60 --measure-every 30 {TOY}"
    asked = ["distil", target, draft, "--from-scratch", "64x2", "--shape", "64x1"]
    assert main([*asked, *options.split(), "--rate-scale", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for before, after in zip(report["draft"]["before"], report["draft"]["after"], strict=True):
        assert after["tokens_per_pass"][6] > before["tokens_per_pass"][6] + 0.5
    assert report["draft"]["history"][-1]["is_rounded"]
    assert "<svg" in (tmp_path / "draft-work" / "curve.svg").read_text(encoding="utf-8")
    texts = []
    for mode in ("off", "fixed"):
        pair = ["--set", f"target.model={target}", "--set", f"draft.model={draft}"]
        devices = ["--device", "reference", "--draft-device", "reference"]
        asked = ["generate", "The cat sees", "--max-new-tokens", "16", "--mode", mode, "--json"]
        assert main([*asked, *pair, *devices]) == 0
        texts.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("", "no budget"),
        ("--steps 0", "--steps is 0"),
        ("--steps 5 --rows 1", "--rows is 1"),
        ("--steps 5 --corpus nowhere.txt", "nowhere.txt"),
        ("--steps 5 --shape 100x2", "multiple of 64"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    extra: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("to be or not to be " * 2000, encoding="utf-8")
    options = ["--corpus", str(corpus), *TOY.split(), *extra.split()]
    target = str(embedded_model_dir("draft"))
    assert main(["distil", target, str(tmp_path / "out"), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and reason in lines[0]


def test_a_working_directory_belongs_to_one_recipe(tmp_path: Path) -> None:
    from draft.distil.recipe import Budget, Recipe
    from draft.distil.session import claim_work
    from specdec.errors import UsageError

    def recipe(seed: int, steps: int) -> Recipe:
        work = tmp_path / "work"
        return Recipe(work, (Path("a"),), (), "64x1", None, 4, Budget(steps, 1.0), seed=seed)

    claim_work(recipe(seed=1, steps=5))
    claim_work(recipe(seed=1, steps=9))
    with pytest.raises(UsageError, match="other options"):
        claim_work(recipe(seed=2, steps=5))
