"""Fakes for many prompts at once, and what each prompt gives alone and plain."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from fakes import VOCAB, ByteTokenizer, RuleVerifier

from specdec.controller import FixedLength
from specdec.engine import BatchSettings, Engine
from specdec.generation import Event, Generation
from specdec.planning import Controller
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults, Order
from specdec.types import Drafter, SamplingParams, Segment


class SeededVerifier(RuleVerifier):
    """Its choice depends on the sequence's seed too, and it writes down what it is asked."""

    def __init__(self, max_pass_tokens: int = 64, context_length: int = 512) -> None:
        super().__init__(context_length=context_length)
        self.max_pass_tokens = max_pass_tokens
        self.seeds: dict[int, int] = {}
        self.most_open = 0
        self.calls: list[tuple[str, int]] = []  # what was done with how many tokens

    def open(self, slot: int, sampling: SamplingParams) -> None:
        super().open(slot, sampling)
        self.seeds[slot] = sampling.seed % 1000
        self.most_open = max(self.most_open, len(self.cache))

    def prefill(self, *segments: Segment) -> None:
        self.calls.append(("prefill", sum(len(segment.token_ids) for segment in segments)))
        super().prefill(*segments)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        self.calls.append(("verify", sum(len(segment.token_ids) for segment in segments)))
        chosen = super().verify(segments)
        return [
            tuple(2 + (token + self.seeds[segment.slot]) % (VOCAB - 2) for token in tokens)
            for segment, tokens in zip(segments, chosen, strict=True)
        ]


DEFAULTS = GenerationDefaults(max_new_tokens=30, eos_ids=frozenset({7}))


def engine(
    drafter: Drafter | None = None,
    controller: Controller | None = None,
    batch_size: int = 1,
    verifier: RuleVerifier | None = None,
    order: Order = "arrival",
    defaults: GenerationDefaults = DEFAULTS,
    shared_prefixes: int = 0,
) -> Engine:
    return Engine(
        verifier or SeededVerifier(),
        drafter,
        controller or FixedLength(4 if drafter else 0),
        ByteTokenizer(),
        defaults,
        batch=BatchSettings(batch_size, order, shared_prefixes),
    )


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Of very different lengths, some with limits of their own."""
    rng = random.Random(seed)
    asked = []
    for number in range(count):
        text = "".join(chr(rng.randrange(33, 120)) for _ in range(rng.choice((1, 5, 30, 300))))
        limit = rng.choice((None, 1, 2, 60))
        asked.append(Prompt(id=f"p{number}", text=text, max_new_tokens=limit))
    return asked


def results(events: Iterator[Event]) -> dict[str, Generation]:
    texts: dict[str, str] = {}
    found: dict[str, Generation] = {}
    for event in events:
        texts[event.request_id] = texts.get(event.request_id, "") + event.text
        assert event.request_id not in found, "nothing comes after a result"
        if event.result:
            found[event.request_id] = event.result
            assert texts[event.request_id] == event.result.text
    return found


def what(found: dict[str, Generation]) -> dict[str, tuple[str, tuple[int, ...], str, int]]:
    return {r.id: (r.text, r.token_ids, r.finish_reason, r.seed) for r in found.values()}


PLAIN = what({p.id: results(engine().generate([p]))[p.id] for p in prompts(60)})
