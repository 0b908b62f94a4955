"""Prompts as users give them, in JSONL files; it knows no tokens and no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from specdec.chat import ChatMessage
from specdec.config import Value, checked_value, nearest
from specdec.errors import UsageError
from specdec.tokenizer import decode_utf8

_SETTINGS = {  # keys checked like the config key that they override
    "max_new_tokens": "run.max_new_tokens",
    "seed": "sampling.seed",
    "temperature": "sampling.temperature",
    "top_k": "sampling.top_k",
    "top_p": "sampling.top_p",
    "min_p": "sampling.min_p",
    "log_probs": "sampling.log_probs",
}
_KEYS = ("prompt", "messages", "id", "kind", "stop", *_SETTINGS)
_MESSAGE_KEYS = ("role", "content")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: a text or chat messages, and what it sets itself (None: as the run has it)."""

    id: str
    text: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    log_probs: bool | None = None
    kind: str = ""  # the kind of text, e.g. `code`, where results are told by kind

    @property
    def shown_text(self) -> str:
        """The prompt as results show it; of a chat, one line `role: content` per message."""
        if self.messages is None:
            return self.text or ""
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a JSONL file, all checked before the first is handed out.

    A line is an object with `prompt` (text) or `messages` (a list of {role, content}), and
    optionally id, kind, max_new_tokens, seed, stop, temperature, top_k, top_p, min_p, log_probs.
    Without an id the line's number is taken; blank lines are skipped.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read prompts {str(path)!r}: {error.strerror}") from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        prompt = parse_line(line, path, number)
        if prompt.id in prompts:
            raise UsageError(f"{path}:{number}: id {prompt.id!r} occurs twice; ids must differ")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UsageError(f'{path}: no prompts in it; give one {{"prompt": "..."}} per line')
    return iter(prompts.values())


def parse_line(line: bytes, path: Path, number: int) -> Prompt:
    """The prompt on line `number` of a JSONL file; UsageError says what is wrong with it."""
    origin = f"{path}:{number}"
    return _parse(_load(decode_utf8(line, origin), origin), origin, number)


def _load(line: str, origin: str) -> Mapping[str, object]:
    try:
        value: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{origin}: not JSON at column {error.colno} ({error.msg}); each line is one object, "
            'e.g. {"prompt": "..."}'
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all bounds
        raise UsageError(f"{origin}: JSON that cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise _wrong(origin, "the line", value, 'an object, e.g. {"prompt": "..."}')
    return value


def _parse(line: Mapping[str, object], origin: str, number: int) -> Prompt:
    for key in line:
        if key not in _KEYS:
            raise UsageError(f"{origin}: unknown key {key!r}{nearest(key, _KEYS)}")
    if ("prompt" in line) == ("messages" in line):
        found = "both" if "prompt" in line else "neither"
        raise UsageError(f"{origin}: found {found} of 'prompt' and 'messages'; legal is one")
    return Prompt(
        id=_id(line.get("id", number), origin),
        text=_text(line["prompt"], origin, "prompt") if "prompt" in line else None,
        messages=_messages(line["messages"], origin) if "messages" in line else None,
        max_new_tokens=_whole(line, "max_new_tokens", origin),
        seed=_whole(line, "seed", origin),
        stop=_stop(line["stop"], origin) if "stop" in line else None,
        temperature=_number(line, "temperature", origin),
        top_k=_whole(line, "top_k", origin),
        top_p=_number(line, "top_p", origin),
        min_p=_number(line, "min_p", origin),
        log_probs=_flag(line, "log_probs", origin),
        kind=_text(line.get("kind", ""), origin, "kind"),
    )


def _id(value: object, origin: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong(origin, "id", value, "text or a whole number")
    return str(value)


def _text(value: object, origin: str, key: str) -> str:
    if not isinstance(value, str):
        raise _wrong(origin, key, value, "text")
    return value


def _messages(value: object, origin: str) -> tuple[ChatMessage, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong(origin, "messages", value, "a list of {role, content}, not empty")
    return tuple(_message(item, origin, f"messages[{i}]") for i, item in enumerate(value))


def _message(value: object, origin: str, name: str) -> ChatMessage:
    if not isinstance(value, dict) or set(value) != set(_MESSAGE_KEYS):
        raise _wrong(origin, name, value, "an object with the keys role and content")
    role, content = (_text(value[key], origin, f"{name}.{key}") for key in _MESSAGE_KEYS)
    return ChatMessage(role, content)


def _stop(value: object, origin: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text:
            raise _wrong(origin, "stop", value, "text or a list of texts, none empty")
    return tuple(texts)


def _whole(line: Mapping[str, object], key: str, origin: str) -> int | None:
    value = _number(line, key, origin)
    assert value is None or isinstance(value, int), "the config knows it as a whole number"
    return value


def _number(line: Mapping[str, object], key: str, origin: str) -> float | None:
    value = _checked(line, key, origin)
    assert value is None or isinstance(value, int | float)
    return value


def _flag(line: Mapping[str, object], key: str, origin: str) -> bool | None:
    value = _checked(line, key, origin)
    assert value is None or isinstance(value, bool)
    return value


def _checked(line: Mapping[str, object], key: str, origin: str) -> Value | None:
    if key not in line:
        return None
    try:
        return checked_value(_SETTINGS[key], line[key])
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _wrong(origin: str, name: str, value: object, legal: str) -> UsageError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return UsageError(f"{origin}: {name} is {shown}; legal is {legal}")
