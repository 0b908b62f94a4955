from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from goldens.tokenizer_texts import TEXTS
from goldens.vocabulary import write_vocabulary

from specdec.assets import embedded_model_dir
from specdec.convert.gguf_tokenizer import sentencepiece_model
from specdec.errors import ModelError
from specdec.tokenizer import Tokenizer

EMBEDDED = embedded_model_dir("target") / "tokenizer.model"


def test_a_vocabulary_rebuilt_from_gguf_gives_the_same_ids(tmp_path: Path) -> None:
    gguf = tmp_path / "vocabulary.gguf"
    write_vocabulary(EMBEDDED, gguf)
    rebuilt = Tokenizer(sentencepiece_model(GGUFReader(gguf)), "rebuilt", 16384, 2)
    original = Tokenizer.from_file(EMBEDDED, 16384, 2)
    for name, text in TEXTS.items():
        for parse_control in (False, True):
            ids = original.encode(text, add_bos=True, parse_control=parse_control)
            assert rebuilt.encode(text, add_bos=True, parse_control=parse_control) == ids, name


TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), "a", "ab"]
SCORES = [0.0] * 260 + [-1.0, -2.0]
TYPES = [3, 3, 3, 2] + [6] * 256 + [1, 1]


def small(
    path: Path,
    *,
    model: str | None = "llama",
    tokens: list[str] | None = None,
    scores: list[float] | None = None,
    types: list[int] | None = None,
    bos_id: int = 2,
) -> GGUFReader:
    writer = GGUFWriter(path / "small.gguf", "gemma3")
    if model:
        writer.add_tokenizer_model(model)
    writer.add_token_list(TOKENS if tokens is None else tokens)
    writer.add_token_scores(SCORES if scores is None else scores)
    writer.add_token_types(TYPES if types is None else types)
    writer.add_bos_token_id(bos_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GGUFReader(path / "small.gguf")


def test_a_small_vocabulary_is_rebuilt(tmp_path: Path) -> None:
    tokenizer = Tokenizer(sentencepiece_model(small(tmp_path)), "small", 262, 2)
    assert tokenizer.encode("ab a", add_bos=True) == (2, 261, 4 + 0xE2, 4 + 0x96, 4 + 0x81, 260)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: small(p, model="gpt2"), r"tokenizer.ggml.model is 'gpt2': only 'llama'"),
        (lambda p: small(p, model=None), "no field tokenizer.ggml.model"),
        (lambda p: small(p, scores=SCORES[:-1]), "scores has 261 entries but there are 262 tokens"),
        (lambda p: small(p, types=[*TYPES, 1]), "token_type has 263 entries but there are 262"),
        (lambda p: small(p, types=[9, *TYPES[1:]]), "1 entries that are no token types 1 to 6"),
        (lambda p: small(p, scores=[float("nan"), *SCORES[1:]]), "1 entries that are no finite"),
        (lambda p: small(p, bos_id=300), "bos_token_id is 300: legal are the ids 0 to 261"),
        (lambda p: small(p, tokens=[*TOKENS[:-1], "a"]), "a is already defined"),
    ],
)
def test_bad_metadata_is_a_one_line_error(
    tmp_path: Path, build: Callable[[Path], GGUFReader], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        sentencepiece_model(build(tmp_path))
    assert "\n" not in str(error.value)
