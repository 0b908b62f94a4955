"""Comparisons: who runs when, what is counted, and that a difference is never missed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ByteTokenizer, Rule, RuleDrafter, RuleVerifier, rule

from specdec.cli import main
from specdec.compare.contenders import BASELINE, Contender, contenders_of
from specdec.compare.measure import Entrant, RoundLog, Run, run_all
from specdec.compare.prompt_sets import chosen, layers, prompts_of_file, shipped_prompts
from specdec.compare.result import Comparison, summarize
from specdec.compare.table import table
from specdec.config import Config
from specdec.controller import FixedLength
from specdec.engine import Engine
from specdec.errors import UsageError
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults

PROMPTS = [Prompt(id=name, text=name * 3, kind=name[0]) for name in ("a1", "b1", "a2", "b2")]


def entrant(name: str, draft_length: int, next_token: Rule = rule) -> Entrant:
    log = RoundLog()
    drafter = RuleDrafter(0.7) if draft_length else None
    engine = Engine(
        RuleVerifier(next_token),
        drafter,
        FixedLength(draft_length),
        ByteTokenizer(),  # type: ignore[arg-type]
        GenerationDefaults(max_new_tokens=20),
        [log],
    )
    return Entrant(Contender(name, Config(), {}), engine, log)


def compared(entrants: Sequence[Entrant]) -> tuple[Comparison, list[Run]]:
    runs = [run for layer in run_all(entrants, [PROMPTS] * 3, 60.0) for run in layer]
    return summarize(entrants, runs, ByteTokenizer()), runs  # type: ignore[arg-type]


def test_contenders_take_turns_and_their_order_turns_around() -> None:
    _, runs = compared([entrant(BASELINE, 0), entrant("fixed", 4)])
    order = [(run.generation.id, run.contender) for run in runs[:4]]
    assert order == [("a1", BASELINE), ("a1", "fixed"), ("b1", "fixed"), ("b1", BASELINE)]


def test_a_comparison_ends_within_its_time_but_never_before_one_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("specdec.compare.measure.time.perf_counter", clock)
    plain = [entrant(BASELINE, 0)]
    one_layer = list(run_all(plain, [PROMPTS[:1]] * 50, 1e-9))
    assert len(one_layer) == 1
    layer_s = now[0]
    several = list(run_all(plain, [PROMPTS[:1]] * 50, 5.5 * layer_s))
    assert 3 <= len(several) <= 5


def test_a_cancelled_layer_is_dropped_and_ends_the_comparison() -> None:
    plain, fixed = entrant(BASELINE, 0), entrant("fixed", 4)
    found = run_all([plain, fixed], [PROMPTS] * 3, 60.0)
    assert len(next(found)) == 2 * len(PROMPTS)
    fixed.engine.cancel()
    assert list(found) == []


def test_figures_are_those_of_the_rounds() -> None:
    comparison, runs = compared([entrant(BASELINE, 0), entrant("fixed", 4)])
    assert comparison.num_pairs == 12 and not comparison.differences
    assert list(comparison.kinds) == ["a", "b"]
    plain, fixed = comparison.kinds["a"]
    assert plain.ratio is None and plain.passes_by_tokens == (120,)
    mine = [run for run in runs if (run.kind, run.contender) == ("a", "fixed")]
    assert fixed.stats.num_passes == sum(len(run.rounds) for run in mine)
    assert sum(fixed.passes_by_tokens) == fixed.stats.num_passes
    assert sum((i + 1) * n for i, n in enumerate(fixed.passes_by_tokens)) == 120
    assert fixed.ratio is not None and fixed.ratio.num_prompts == 2
    assert fixed.ratio.num_values + fixed.ratio.num_outliers == 6


def test_a_sample_tells_where_every_token_comes_from() -> None:
    comparison, runs = compared([entrant(BASELINE, 0), entrant("fixed", 4)])
    samples = {(sample.kind, sample.contender): sample for sample in comparison.samples}
    assert {token.origin for token in samples["a", BASELINE].tokens} == {"plain"}
    sample = samples["a", "fixed"]
    assert "".join(token.text for token in sample.tokens) == runs[0].generation.text
    origins = [token.origin for token in sample.tokens]
    num_accepted = sum(accepted for _, _, accepted in sample.lengths)
    assert origins.count("accepted") == num_accepted
    assert {"accepted", "corrected", "bonus"} <= set(origins)


def test_what_is_slower_than_plain_beyond_noise_is_named() -> None:
    comparison, _ = compared([entrant(BASELINE, 0), entrant("fixed", 4)])
    plain, fixed = comparison.kinds["a"]
    bounds = {"low": 0.8, "high": 0.9}
    slow = replace(fixed, ratio=replace(fixed.ratio, **bounds))  # type: ignore[type-var]
    shown = table(replace(comparison, kinds={"a": (plain, slow)}))
    assert "slower than plain beyond noise: fixed on a" in shown
    assert "slower" not in table(comparison), "two prompts prove nothing"


def test_a_contender_that_never_drafted_is_named() -> None:
    comparison, _ = compared([entrant(BASELINE, 0), entrant("auto", 0), entrant("fixed", 4)])
    assert "auto drafted nothing (draft off): it is plain decoding too" in table(comparison)
    assert "fixed drafted" not in table(comparison) and "plain drafted" not in table(comparison)


def test_one_different_token_is_found_and_named() -> None:
    def other(tokens: Sequence[int]) -> int:
        return rule(tokens) if len(tokens) < 15 else 2

    comparison, _ = compared([entrant(BASELINE, 0), entrant("wrong", 0, other)])
    assert len(comparison.differences) == 12
    first = comparison.differences[0]
    assert (first.prompt_id, first.contender, first.index) == ("a1", "wrong", 8)
    assert "OUTPUTS DIFFER in 12 runs, first: prompt 'a1'" in table(comparison)


def test_configurations_are_named_by_what_they_change() -> None:
    found = contenders_of(Config(), ["speculation.draft_length=4", "draft.device=ngram"], 8)
    assert [c.name for c in found] == ["plain", "auto", "draft_length=4", "device=ngram"]
    assert [c.config.speculation.mode for c in found] == ["off", "auto", "fixed", "auto"]
    assert {c.config.run.max_new_tokens for c in found} == {8}
    assert found[2].settings == {"speculation.mode": "fixed", "speculation.draft_length": 4}


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ([""], "--against is empty"),
        (["'"], "No closing quotation"),
        (["speculation.draft_len=4"], "did you mean 'speculation.draft_length'"),
        (["draft.device=ngram", "draft.device=ngram"], "is compared already"),
    ],
)
def test_bad_configurations_are_refused(against: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        contenders_of(Config(), against, 8)


def test_prompts_are_timed_one_by_one() -> None:
    batched = replace(Config(), run=replace(Config().run, batch_size=4))
    with pytest.raises(UsageError, match="is 4 in 'plain'; legal is 1"):
        contenders_of(batched, [], 8)


def test_layers_treat_kinds_alike() -> None:
    sets = {"a": (PROMPTS[0], PROMPTS[2]), "b": (PROMPTS[1],)}
    assert [[p.id for p in layer] for layer in layers(sets, 2)] == [["a1", "b1"], ["a2"]] * 2


def test_the_shipped_prompts_are_24_of_each_of_five_kinds() -> None:
    assert [len(prompts) for prompts in shipped_prompts().values()] == [24] * 5


def test_a_file_brings_its_own_kinds(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "kind": "mail"}\n{"prompt": "y"}\n')
    sets = prompts_of_file(path)
    assert list(sets) == ["mail", "text"]
    with pytest.raises(UsageError, match="no prompts of kind 'mai'; did you mean 'mail'"):
        chosen(sets, ["mai"], 1)


FAST = ["--max-new-tokens", "6", "--prompts-per-kind", "1", "--repeats", "1"]
FAST += ["--kinds", "code", "--set", "target.device=reference", "--set", "draft.device=ngram"]


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "result"


@pytest.mark.slow
def test_the_command_writes_json_and_prints_the_same_to_stdout_alone(
    capsys: pytest.CaptureFixture[str], stem: Path
) -> None:
    assert main(["compare", *FAST, "--output", str(stem), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result == json.loads(stem.with_name("result.json").read_text())
    assert result["is_equal"] and result["label"] == "measured" and result["num_pairs"] == 1
    assert [row["contender"] for row in result["kinds"]["code"]] == ["plain", "auto"]
    assert "all outputs are equal" in captured.err and "wrote" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--repeats", "0"], "--repeats is 0; legal: 1 and more"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--kinds", "poems"], "no prompts of kind 'poems'"),
        (["--output", "no/such/place"], "no such directory"),
        (["--set", "speculation.mode=off"], "nothing to compare"),
        (["--prompts", "none.jsonl"], "cannot read prompts"),
    ],
)
def test_bad_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(["compare", *FAST, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_different_outputs_fail_the_command(
    capsys: pytest.CaptureFixture[str], stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*args: object) -> list[Entrant]:
        return [entrant(BASELINE, 0), entrant("wrong", 0, lambda tokens: 3)]

    monkeypatch.setattr("specdec.cli.compare.open_entrants", opened)
    assert main(["compare", *FAST, "--kinds", "prose", "--output", str(stem)]) == 1
    assert "OUTPUTS DIFFER" in capsys.readouterr().out
    assert not json.loads(stem.with_name("result.json").read_text())["is_equal"]
