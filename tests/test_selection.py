import pytest

from specdec.selection import DraftOption, select, tokens_per_s

FLAT = [1.0] * 16


def test_a_free_perfect_draft_fills_the_largest_pass() -> None:
    assert tokens_per_s(DraftOption("x", 0.0, 1.0), FLAT) == pytest.approx(16.0)


def test_the_published_formula() -> None:
    """a = 0.8, c = 0.1: E(0.8, k) / (0.1 k + 1) is largest at k = 6, 3.951424 / 1.6."""
    assert tokens_per_s(DraftOption("x", 0.1, 0.8), FLAT) == pytest.approx(3.951424 / 1.6)


def test_the_fastest_option_wins_and_the_reason_names_all() -> None:
    model, copy = DraftOption("cpu", 0.05, 0.7), DraftOption("ngram", 0.0, 0.2)
    device, reason = select([model, copy], FLAT)
    assert device == "cpu"
    assert "cpu" in reason and "ngram 1.2" in reason and "off 1.0" in reason


def test_drafting_is_off_where_no_option_pays() -> None:
    steep = [float(m) for m in range(1, 17)]
    device, _ = select([DraftOption("cpu", 0.9, 0.7)], steep)
    assert device == "off"
