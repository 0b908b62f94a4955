r"""Gemma 3's turn format for chat messages, as token ids; it knows no files and no templates.

    <bos><start_of_turn>user\n{system}\n\n{user}<end_of_turn>\n<start_of_turn>model\n

The turn tokens are put in by id and contents are encoded as plain text, so a content that spells
`<end_of_turn>` cannot end its turn. As in the model's own template, contents are stripped of
surrounding white space, and a system message goes unstripped in front of the first user message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specdec.errors import PromptError
from specdec.tokenizer import Tokenizer

_START, _END = "<start_of_turn>", "<end_of_turn>"
_TURN_NAMES = {"user": "user", "assistant": "model"}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message; role is `user`, `assistant` or, in the first message only, `system`."""

    role: str
    content: str


def encode_chat(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
    """Ids of a conversation and of the opening of the model's answer, `<bos>` included."""
    start, end = _turn_token(tokenizer, _START), _turn_token(tokenizer, _END)
    ids = [tokenizer.bos_id]
    for turn in _turns(messages):
        ids += [start, *tokenizer.encode(turn, add_bos=False)]
        ids += [end, *tokenizer.encode("\n", add_bos=False)]
    return (*ids, start, *tokenizer.encode("model\n", add_bos=False))


def _turns(messages: Sequence[ChatMessage]) -> Iterator[str]:
    """The text between the turn tokens, one per turn; PromptError at a role out of place."""
    if not messages:
        raise PromptError("the chat has no messages; give at least one from 'user'")
    has_system = messages[0].role == "system"
    prefix = f"{messages[0].content}\n\n" if has_system else ""
    for index, message in enumerate(messages[has_system:]):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            raise _misplaced(index + has_system, message.role, expected)
        yield f"{_TURN_NAMES[expected]}\n{prefix}{message.content.strip()}"
        prefix = ""
    if messages[-1].role != "user":
        raise PromptError(
            f"message {len(messages) - 1}, the last, has role {messages[-1].role!r}: "
            "legal is 'user', for the model answers a user's message"
        )


def _misplaced(index: int, role: str, expected: str) -> PromptError:
    legal = "'system' or 'user'" if index == 0 else repr(expected)
    return PromptError(
        f"message {index} has role {role!r}: legal here is {legal}; after an optional 'system' "
        "message 'user' and 'assistant' alternate, 'user' first"
    )


def _turn_token(tokenizer: Tokenizer, name: str) -> int:
    token_id = tokenizer.control_id(name)
    if token_id is None:
        raise PromptError(
            f"this model has no chat template: its tokenizer has no {name}; "
            "give a plain prompt, or a model made for chat (Gemma 3 -it)"
        )
    return token_id
