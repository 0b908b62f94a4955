"""A small model in a large one's shape says what the small one says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expand import Expanded, expanded_shape, write_expanded
from large_speculation import SmallModel, one
from small_models import SMALL, RandomModel

import specdec
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.errors import UsageError
from specdec.gemma3.loading import from_checkpoint
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray

LARGE = replace(
    SMALL,
    hidden_size=224,
    intermediate_size=320,
    num_heads=8,
    num_kv_heads=4,
    is_global_layer=(False, True, False, True, False),
)
PROMPTS = (
    specdec.Prompt(id="code", text="def count_words(text: str)"),
    specdec.Prompt(id="prose", text="The weather in the mountains"),
)


def logits_of_both(hidden_size: int) -> tuple[FloatArray, FloatArray]:
    """Logits (60, V) of a model in a larger shape, and its own."""
    # eps that matters nowhere: it is exact in the norms after a matrix, not in the others
    small = replace(SMALL, rms_norm_eps=1e-12)
    large = expanded_shape(small, replace(LARGE, hidden_size=hidden_size))
    source = RandomModel()
    ids = np.random.default_rng(1).integers(0, SMALL.vocab_size, 60).tolist()
    expanded = from_checkpoint(Expanded(source, small, large, 8), large)
    return expanded.feed(0, ids, len(ids)), from_checkpoint(source, small).feed(0, ids, len(ids))


def test_a_model_in_four_times_its_width_computes_the_same_bits() -> None:
    logits, expected = logits_of_both(4 * SMALL.hidden_size)  # all is scaled by 2
    np.testing.assert_array_equal(logits, expected)


def test_eps_shrinks_with_the_mean_square_of_an_output_that_is_zero_beyond_the_width() -> None:
    eps = expanded_shape(SMALL, LARGE).rms_norm_eps
    assert eps == pytest.approx(SMALL.rms_norm_eps * SMALL.hidden_size / LARGE.hidden_size)


def test_a_model_in_any_larger_width_computes_nearly_the_same() -> None:
    logits, expected = logits_of_both(224)
    # a last bit may round an activation to another INT8 step; a wrong factor shifts everything
    assert np.median(np.abs(logits - expected)) < 1e-4
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"head_dim": 64}, "head_dim is 32 and 64"),
        ({"num_heads": 12}, "query heads per key head"),
        ({"is_global_layer": (True, False, False)}, "local and global"),
        ({"intermediate_size": 96}, "intermediate_size is 160, above 96"),
    ],
)
def test_a_shape_that_the_model_does_not_fit_into_is_refused(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        expanded_shape(SMALL, replace(LARGE, **change))


@pytest.mark.slow
def test_the_embedded_target_in_a_larger_shape_says_the_same_up_to_near_ties(
    tmp_path: Path,
) -> None:
    source = open_checkpoint(embedded_model_dir("target"))
    small = source.info.shape
    sizes: Gemma3Shape = replace(
        small,
        hidden_size=2 * small.hidden_size,
        intermediate_size=small.intermediate_size + 512,
        num_heads=2 * small.num_heads,
        num_kv_heads=2 * small.num_kv_heads,
        is_global_layer=(*small.is_global_layer, False, False),
    )
    write_expanded(source, sizes, tmp_path / "large")
    with specdec.load(with_model(str(tmp_path / "large"))) as engine:
        large = [one(engine, prompt) for prompt in PROMPTS]
    with specdec.load(with_model("embedded")) as engine:
        expected = [one(engine, prompt) for prompt in PROMPTS]
    model = SmallModel(source.directory)
    for prompt, ours, theirs in zip(PROMPTS, expected, large, strict=True):
        gap = model.gap(prompt, ours.token_ids, theirs.token_ids)
        assert 0.0 <= gap < 0.1, f"{theirs.text!r} for {ours.text!r}"


def with_model(target: str) -> specdec.Config:
    settings = [f"target.model={target}", "target.device=reference", "speculation.mode=off"]
    return specdec.with_overrides(specdec.Config(), [*settings, "run.max_new_tokens=24"])
