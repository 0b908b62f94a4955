"""What a comparison found, from its runs: figures by kind and contender, samples of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.compare.contenders import BASELINE
from specdec.compare.estimates import Estimate, estimate
from specdec.compare.measure import Entrant, Run
from specdec.config import Value
from specdec.stats import SpecStats
from specdec.tokenizer import Detokenizer, Tokenizer
from specdec.types import RoundReport


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one kind of text."""

    contender: str
    tokens_per_s: Estimate
    ratio: Estimate | None  # decode time of the baseline over this one's, prompt by prompt
    stats: SpecStats  # totals of all runs
    passes_by_tokens: tuple[int, ...]  # entry i: passes that emitted i + 1 tokens


@dataclass(frozen=True, slots=True)
class SampleToken:
    """A token of a sample: what it is and its text (may be empty: part of a character)."""

    origin: str  # accepted | corrected | bonus | plain
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One run, round by round."""

    kind: str
    contender: str
    prompt_id: str
    prompt: str
    tokens: tuple[SampleToken, ...]
    lengths: tuple[tuple[int, int, int], ...]  # of each round: drafted, checked, accepted


@dataclass(frozen=True, slots=True)
class Entered:
    """A contender as it ran."""

    name: str
    settings: dict[str, Value]  # where they differ from the baseline's
    draft_device: str
    numerics_id: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two outputs that should have been equal."""

    prompt_id: str
    contender: str
    index: int  # of the first token that differs from the baseline's


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that a comparison found; all times measured."""

    target_device: str
    entered: tuple[Entered, ...]
    kinds: dict[str, tuple[Row, ...]]
    num_pairs: int  # prompts continued by every contender, repeats included
    differences: tuple[Difference, ...]
    samples: tuple[Sample, ...]


def summarize(entrants: Sequence[Entrant], runs: Sequence[Run], tokenizer: Tokenizer) -> Comparison:
    """Statistics of all runs and one sample per kind and contender."""
    names = [entrant.contender.name for entrant in entrants]
    kinds = list(dict.fromkeys(run.kind for run in runs))
    by_cell = {
        (kind, name): [run for run in runs if (run.kind, run.contender) == (kind, name)]
        for kind in kinds
        for name in names
    }
    first = {name: next(run.generation for run in runs if run.contender == name) for name in names}
    return Comparison(
        target_device=first[BASELINE].target_device,
        entered=tuple(
            Entered(
                entrant.contender.name,
                dict(entrant.contender.settings),
                entrant.engine.draft_device,
                first[entrant.contender.name].numerics_id,
            )
            for entrant in entrants
        ),
        kinds={
            kind: tuple(_row(name, by_cell[kind, name], by_cell[kind, BASELINE]) for name in names)
            for kind in kinds
        },
        num_pairs=len(runs) // len(names),
        differences=_differences(runs),
        samples=tuple(_sample(cell[0], tokenizer) for cell in by_cell.values()),
    )


def _row(name: str, runs: Sequence[Run], plain: Sequence[Run]) -> Row:
    """Figures of one contender on one kind; `plain` are the baseline's runs of the same prompts."""
    total = SpecStats()
    emitted: list[int] = []
    for run in runs:
        total.add(run.generation.stats)
        emitted += [len(report.emitted) for report in run.rounds]
    pairs = list(zip(runs, plain, strict=True))  # in the same order: both ran layer by layer
    return Row(
        name,
        _estimate(runs, [run.generation.stats.tokens_per_s for run in runs]),
        None if name == BASELINE else _estimate(runs, [_ratio(*pair) for pair in pairs]),
        total,
        tuple(emitted.count(i + 1) for i in range(max(emitted))),
    )


def _ratio(run: Run, plain: Run) -> float:
    assert run.generation.id == plain.generation.id, "a pair is one prompt"
    return plain.generation.stats.decode_s / run.generation.stats.decode_s


def _estimate(runs: Sequence[Run], values: Sequence[float]) -> Estimate:
    """Over prompts, each with its repeats."""
    repeats: dict[str, list[float]] = {}
    for run, value in zip(runs, values, strict=True):
        repeats.setdefault(run.generation.id, []).append(value)
    return estimate(list(repeats.values()))


def _differences(runs: Sequence[Run]) -> tuple[Difference, ...]:
    """Every run whose tokens are not those of the baseline's first run of its prompt."""
    expected = {
        run.generation.id: run.generation.token_ids
        for run in reversed(runs)
        if run.contender == BASELINE
    }
    return tuple(
        Difference(
            run.generation.id,
            run.contender,
            _first_difference(run.generation.token_ids, expected[run.generation.id]),
        )
        for run in runs
        if run.generation.token_ids != expected[run.generation.id]
    )


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _sample(run: Run, tokenizer: Tokenizer) -> Sample:
    decoder = Detokenizer(tokenizer)
    tokens = [
        SampleToken(origin, decoder.feed(token_id))
        for report in run.rounds
        for token_id, origin in _origins(report)
    ]
    tokens.append(SampleToken(tokens[-1].origin, decoder.finish()))
    return Sample(
        run.kind,
        run.contender,
        run.generation.id,
        run.generation.prompt,
        tuple(token for token in tokens if token.text),
        tuple(
            (len(report.run.token_ids), report.num_checked, len(report.acceptance.accepted))
            for report in run.rounds
        ),
    )


def _origins(report: RoundReport) -> list[tuple[int, str]]:
    """The emitted tokens of a round, and where each comes from."""
    own = "plain"
    if report.num_checked:
        own = "bonus" if report.acceptance.is_bonus else "corrected"
    num_accepted = len(report.acceptance.accepted)
    return [
        (token_id, "accepted" if i < num_accepted else own)
        for i, token_id in enumerate(report.emitted)
    ]
