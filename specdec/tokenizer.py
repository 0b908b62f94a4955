"""Text to token ids and back, by sentencepiece; it knows no model, no prompt file and no chat.

Every id stands for some bytes (`Tokenizer.piece_bytes`); text is those bytes joined and read as
UTF-8. An id alone may be a part of a character, so streamed text goes through a `Detokenizer`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from specdec.errors import ModelError, PromptError, UsageError

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # sentencepiece's piece types
_SPACE = "\u2581"
_MOST_PADDING = 1024  # logits without a piece; Gemma 3's multimodal models have 64
# Many tokenizer.model files list these as ordinary symbols, which would let a text that merely
# mentions them steer a chat. They are control tokens whatever the file says.
_ALWAYS_CONTROL = re.compile(r"<(start_of_turn|end_of_turn|unused\d+|pad|bos|eos|mask)>")


class Tokenizer:
    """A sentencepiece vocabulary; control tokens in a text are plain text unless asked for."""

    vocab_size: int
    bos_id: int
    num_pieces: int

    def __init__(self, data: bytes, origin: str, vocab_size: int, bos_id: int) -> None:
        """From a serialized sentencepiece model; `origin` names it in errors."""
        try:
            model = sentencepiece_model_pb2.ModelProto.FromString(data)
        except DecodeError as error:
            raise _corrupt(origin, str(error)) from error
        for part in ("pieces", "trainer_spec", "normalizer_spec"):
            if part not in {field.name for field, _ in model.ListFields()}:
                raise _corrupt(origin, f"it has no {part}")
        self.vocab_size, self.bos_id, self.num_pieces = vocab_size, bos_id, len(model.pieces)
        self._check_sizes(origin)
        for piece in model.pieces:
            if piece.type == _USER_DEFINED and _ALWAYS_CONTROL.fullmatch(piece.piece):
                piece.type = _CONTROL
        self._bytes: dict[int, bytes] = {}  # of tokens met so far
        self._types = bytes(piece.type for piece in model.pieces)
        self._control_ids = {
            piece.piece: index
            for index, piece in enumerate(model.pieces)
            if piece.type in (_UNKNOWN, _CONTROL)
        }
        try:
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=model.SerializeToString()
            )
        except (RuntimeError, UnicodeDecodeError) as error:
            raise _corrupt(origin, str(error)) from error

    @classmethod
    def from_file(cls, path: Path, vocab_size: int, bos_id: int) -> Tokenizer:
        """Read a tokenizer.model; the model it belongs to has `vocab_size` logits per token."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{path}: the tokenizer cannot be read ({error.strerror}); a model directory needs "
                "a readable tokenizer.model"
            ) from error
        return cls(data, str(path), vocab_size, bos_id)

    def encode(self, text: str, *, add_bos: bool, parse_control: bool = False) -> tuple[int, ...]:
        """Token ids of a text; with `parse_control`, names of control tokens become their ids."""
        ids = [self.bos_id] if add_bos else []
        if not parse_control:
            return (*ids, *self._encode_plain(text))
        start = 0
        for match in self._control_names.finditer(text):
            ids += self._encode_plain(text[start : match.start()])
            ids.append(self._control_ids[match.group()])
            start = match.end()
        return (*ids, *self._encode_plain(text[start:]))

    def piece_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for: none for control tokens and ids beyond the pieces."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._bytes_of(token_id)
        return found

    def _bytes_of(self, token_id: int) -> bytes:
        if self.is_control(token_id):
            return b""
        piece: str = self._processor.id_to_piece(token_id)
        if self._types[token_id] == _BYTE:  # written <0xAB>
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.piece_bytes, token_ids)).decode(errors="replace")

    def is_control(self, token_id: int) -> bool:
        """Whether a token has no text: a control or unknown token, or an id beyond the pieces."""
        assert 0 <= token_id < self.vocab_size, f"token id {token_id} outside the vocabulary"
        return token_id >= self.num_pieces or self._types[token_id] in (_UNKNOWN, _CONTROL)

    def control_id(self, name: str) -> int | None:
        """Id of a control token by name, e.g. `<end_of_turn>`; None where there is none."""
        return self._control_ids.get(name)

    def _encode_plain(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text has U+{ord(text[error.start]):04X} at character {error.start}, half of "
                "a surrogate pair: legal is Unicode text; was its source not UTF-8?"
            ) from error
        ids: list[int] = self._processor.encode(text)
        return ids

    @cached_property
    def _control_names(self) -> re.Pattern[str]:
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _check_sizes(self, origin: str) -> None:
        if self.num_pieces > self.vocab_size:
            raise ModelError(
                f"{origin}: the tokenizer has {self.num_pieces} pieces but the model's vocabulary "
                f"{self.vocab_size}: legal are at most as many; use the model's own tokenizer"
            )
        if self.vocab_size - self.num_pieces > _MOST_PADDING:
            raise ModelError(
                f"{origin}: the tokenizer has {self.num_pieces} pieces but the model's vocabulary "
                f"{self.vocab_size}: legal are at most {_MOST_PADDING} ids without a piece; use "
                "the model's own tokenizer"
            )
        if not 0 <= self.bos_id < self.num_pieces:
            raise ModelError(
                f"{origin}: the model's bos id is {self.bos_id}: legal are the tokenizer's ids "
                f"0 to {self.num_pieces - 1}"
            )


class Detokenizer:
    """Text of a growing token sequence, in whole characters.

    The fed texts and `finish` joined equal `Tokenizer.decode` of all the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The characters that this token completes; U+FFFD only where no token can mend them."""
        return self._decoder.decode(self._tokenizer.piece_bytes(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


def decode_utf8(data: bytes, origin: str) -> str:
    """Text from bytes; `origin` (a file, `stdin`) names them in the error."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{origin}: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8 "
            f"({error.reason}): prompts are UTF-8 text; convert it first"
        ) from error


def _corrupt(origin: str, reason: str) -> ModelError:
    return ModelError(
        f"{origin}: not a sentencepiece model ({' '.join(reason.split())}); "
        "get the file anew or convert the model again"
    )
