"""Rebuild a sentencepiece model from the tokenizer metadata of a GGUF file; it knows no tensors.

GGUF stores pieces, scores and types one by one and drops the rest of the model. The rest is
the same for every Gemma 3: byte pair encoding with byte fallback, text taken as it is, spaces
escaped as U+2581, no space put in front.
"""

from __future__ import annotations

import math

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2

from specdec.errors import ModelError

_PREFIX = "tokenizer.ggml."
# GGUF's token types are numbered like sentencepiece's piece types.
_UNKNOWN, _USER_DEFINED = 2, 4
_TYPES = range(1, 7)
_SPECIAL = {  # sentencepiece's name: GGUF's field and Gemma's id for it
    "pad": ("padding_token_id", 0),
    "eos": ("eos_token_id", 1),
    "bos": ("bos_token_id", 2),
    "unk": ("unknown_token_id", 3),
}


def sentencepiece_model(reader: GGUFReader) -> bytes:
    """Serialized sentencepiece model with the same ids as the GGUF file's vocabulary."""
    kind = _contents(reader, "model")
    if kind != "llama":
        raise ModelError(
            f"GGUF tokenizer.ggml.model is {kind!r}: only 'llama' (sentencepiece) vocabularies "
            "can be converted; Gemma 3 files have one"
        )
    tokens = _strings(reader, "tokens")
    scores = _floats(reader, "scores", len(tokens))
    types = _integers(reader, "token_type", len(tokens))
    special = {name: _special_id(reader, name, len(tokens)) for name in _SPECIAL}
    return _serialize(tokens, scores, types, special, _adds_space_prefix(reader))


def _serialize(
    tokens: list[str],
    scores: list[float],
    types: list[int],
    special: dict[str, int],
    adds_space_prefix: bool,
) -> bytes:
    model = sentencepiece_model_pb2.ModelProto()
    for index, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        # User-defined pieces (runs of spaces, ...) are stored with plain spaces, others escaped.
        piece = token.replace(" ", "\u2581") if kind == _USER_DEFINED else token
        kind = _UNKNOWN if index == special["unk"] else kind
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = True
    for name, index in special.items():
        setattr(trainer, f"{name}_id", index)
        setattr(trainer, f"{name}_piece", tokens[index])
    trainer.split_by_whitespace = trainer.allow_whitespace_only_pieces = trainer.split_digits = True
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = adds_space_prefix
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    data: bytes = model.SerializeToString()
    _check_loads(data)
    return data


def _check_loads(data: bytes) -> None:
    try:
        sentencepiece.SentencePieceProcessor(model_proto=data)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the GGUF vocabulary makes no sentencepiece model: {reason}; legal: distinct pieces, "
            "one unknown piece and all 256 byte pieces; get the file anew"
        ) from error


def _contents(reader: GGUFReader, name: str) -> object:
    field = reader.get_field(_PREFIX + name)
    if field is None:
        raise ModelError(
            f"the GGUF file has no field {_PREFIX}{name}: its vocabulary is incomplete; "
            "use a file made with the tokenizer inside"
        )
    try:
        contents: object = field.contents()
    except UnicodeDecodeError as error:
        raise ModelError(f"GGUF field {_PREFIX}{name} is not UTF-8: {error}") from error
    return contents


def _strings(reader: GGUFReader, name: str) -> list[str]:
    values = _contents(reader, name)
    if not isinstance(values, list) or not values:
        raise _wrong_type(name, values, "a list of strings, not empty")
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise _wrong_type(name, values, "a list of strings")
    return strings


def _floats(reader: GGUFReader, name: str, length: int) -> list[float]:
    values = _contents(reader, name)
    if not isinstance(values, list):
        raise _wrong_type(name, values, "a list of numbers")
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    _check_length(name, values, numbers, length, "finite numbers")
    return numbers


def _integers(reader: GGUFReader, name: str, length: int) -> list[int]:
    values = _contents(reader, name)
    if not isinstance(values, list):
        raise _wrong_type(name, values, "a list of integers")
    numbers = [v for v in values if isinstance(v, int) and v in _TYPES]
    _check_length(name, values, numbers, length, "token types 1 to 6")
    return numbers


def _check_length(
    name: str, values: list[object], legal: list[float] | list[int], length: int, what: str
) -> None:
    if len(values) != length:
        raise ModelError(
            f"GGUF field {_PREFIX}{name} has {len(values)} entries but there are {length} tokens: "
            "every token needs one; the file is damaged"
        )
    if len(legal) != len(values):
        raise ModelError(
            f"GGUF field {_PREFIX}{name} has {len(values) - len(legal)} entries that are no "
            f"{what}; the file is damaged"
        )


def _special_id(reader: GGUFReader, name: str, num_tokens: int) -> int:
    field, default = _SPECIAL[name]
    if reader.get_field(_PREFIX + field) is None:
        value: object = default
    else:
        value = _contents(reader, field)
    if not isinstance(value, int) or not 0 <= value < num_tokens:
        raise ModelError(
            f"GGUF {_PREFIX}{field} is {value!r}: legal are the ids 0 to {num_tokens - 1}"
        )
    return value


def _adds_space_prefix(reader: GGUFReader) -> bool:
    # Gemma puts no space in front; files that say nothing are taken to follow it.
    if reader.get_field(_PREFIX + "add_space_prefix") is None:
        return False
    return bool(_contents(reader, "add_space_prefix"))


def _wrong_type(name: str, value: object, legal: str) -> ModelError:
    found = f"a list starting {value[:3]!r}" if isinstance(value, list) else repr(value)
    return ModelError(f"GGUF field {_PREFIX}{name} is {found}: legal is {legal}")
