import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.sequence import Limits, Sequence
from specdec.types import SamplingParams


class Letters:
    """Token t is the letter chr(97 + t)."""

    def feed(self, token_id: int) -> str:
        return chr(97 + token_id)

    def finish(self) -> str:
        return ""


def sequence(**limits: object) -> Sequence:
    return Sequence(
        "x", 0, (1, 2), SamplingParams(), Limits(**{"max_new_tokens": 99} | limits), Letters()
    )


def ids(text: str) -> list[int]:
    return [ord(letter) - 97 for letter in text]


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    running = sequence(stop_strings=("abc",))
    running.extend(ids("xxab"))
    assert running.take_text() == "xx"
    running.extend(ids("a"))
    assert running.take_text() == "ab"
    running.extend(ids("bc"))
    assert running.take_text() == ""
    assert (running.text, running.finish_reason) == ("xxab", "stop")


def test_held_back_text_comes_out_at_the_end() -> None:
    running = sequence(stop_strings=("abc",), max_new_tokens=3)
    assert running.extend(ids("xabxx")) == tuple(ids("xab"))
    assert (running.take_text(), running.finish_reason) == ("xab", "length")


def test_the_first_of_several_stop_strings_cuts() -> None:
    running = sequence(stop_strings=("cd", "bcd", "d"))
    running.extend(ids("abcdef"))
    assert running.text == "a"
    assert running.emitted_ids == ids("abcd")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_streamed_text_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    running = sequence(stop_strings=tuple(stops), max_new_tokens=max(len(text), 1))
    shown = ""
    for token_id in ids(text):
        if running.finish_reason is None:
            running.extend([token_id])
            shown += running.take_text()
            assert running.text.startswith(shown)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:  # the stop string completed first, and of those the one that starts first
        end = min(ends)
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        assert shown == running.text == text[: min(starts)]
    else:
        assert shown == text


@pytest.mark.parametrize("reason", ["cancelled", "error"])
def test_a_sequence_can_be_ended_from_outside(reason: str) -> None:
    running = sequence()
    running.extend(ids("ab"))
    running.finish(reason)
    assert (running.take_text(), running.finish_reason) == ("ab", reason)
