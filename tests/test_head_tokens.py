"""The list of a cut head's tokens: chosen by frequency, stored, and read back with suspicion."""

from pathlib import Path

import numpy as np
import pytest

from specdec.assets import embedded_model_dir
from specdec.convert.head_choice import GEMMA3_LIST, choose_head_tokens, is_gemma3
from specdec.errors import ModelError
from specdec.head_tokens import FILE_NAME, head_tokens_bytes, most_frequent, read_head_tokens
from specdec.tokenizer import Tokenizer


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(embedded_model_dir("draft") / "tokenizer.model", 16384, 2)


def test_the_most_frequent_tokens_win_and_lower_ids_among_equals() -> None:
    counts = np.array([0, 5, 9, 5, 5, 1], np.int64)
    always = np.array([0], np.int32)
    assert most_frequent(counts, always, 3).tolist() == [0, 1, 2]
    assert most_frequent(counts, always, 4).tolist() == [0, 1, 2, 3]
    assert most_frequent(counts, always, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_tokens_of_the_texts_come_first_and_a_turn_can_end() -> None:
    text = "def main() -> int:\n    return 0\n"
    chosen = choose_head_tokens(tokenizer(), [text] * 3, size=200)
    assert chosen is not None and chosen.dtype == np.int32 and len(chosen) == 200
    assert (np.diff(chosen) > 0).all()
    ids = tokenizer().encode(text, add_bos=False)
    assert np.isin(ids, chosen).all()
    assert tokenizer().control_id("<eos>") in chosen


def test_small_and_unknown_vocabularies_keep_their_whole_head() -> None:
    assert choose_head_tokens(tokenizer(), ["some text"], size=16384) is None
    assert choose_head_tokens(tokenizer(), size=1000) is None
    assert not is_gemma3(tokenizer())


def test_a_list_survives_its_file(tmp_path: Path) -> None:
    assert read_head_tokens(tmp_path, 100) is None
    (tmp_path / FILE_NAME).write_bytes(head_tokens_bytes(np.array([7, 0, 99, 7], np.int32)))
    ids = read_head_tokens(tmp_path, 100)
    assert ids is not None and ids.tolist() == [0, 7, 99]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        np.array([3, 2], "<i4").tobytes(),
        np.array([3, 3], "<i4").tobytes(),
        np.array([-1, 3], "<i4").tobytes(),
        np.array([3, 100], "<i4").tobytes(),
        bytes(404),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(ModelError, match="convert the model again"):
        read_head_tokens(tmp_path, 100)


def test_the_list_shipped_for_gemma3_is_sound() -> None:
    ids = read_head_tokens(GEMMA3_LIST, 262144)
    assert ids is not None and len(ids) == 32768
    assert {1, 106, 107, 506} <= set(ids.tolist())  # eos, end of turn, line feed, " the"
