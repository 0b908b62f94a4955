"""Tuning finds what an exhaustive sweep finds in a quarter of its time, and says what it found."""

import io
import itertools
import json
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from specdec.cli import main
from specdec.config import Config, read_config
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.plan.acceptance import shipped_traces
from specdec.planning import Controller
from specdec.replay import no_noise, replay
from specdec.tune.choice import Choice, choose
from specdec.tune.curve import curve_svg
from specdec.tune.halving import Clock, Halving, Sample, Trial, affordable_tokens
from specdec.tune.settings import Setting, settings_of
from specdec.tune.table import table, verdict
from specdec.tune.toml_file import Evidence, config_text

SIZES = range(1, 17)
TABLES = {
    "flat": CostTable((0.0, *(0.2 for _ in SIZES)), 0.006),
    "stepped": CostTable((0.0, *(0.2 if m <= 8 else 0.27 + 0.005 * m for m in SIZES)), 0.017),
    "steep": CostTable((0.0, *(0.02 + 0.0045 * m for m in SIZES)), 0.0003),
    "hopeless": CostTable((0.0, *(0.02 * m for m in SIZES)), 0.01),
}


class Replayed:
    """A machine made of recorded text and a cost table, with a clock of its own."""

    def __init__(self, costs: CostTable, seed: int) -> None:
        by_kind: dict[str, list] = {}  # type: ignore[type-arg]
        for trace in shipped_traces():
            by_kind.setdefault(trace.kind, []).append(trace)
        self.traces = [
            trace for row in list(zip(*by_kind.values(), strict=True))[:12] for trace in row
        ]
        self.costs = costs
        self.random = random.Random(seed)
        self.elapsed_s = 0.0
        self.adaptive = AdaptiveLength(Costs(16), 15)

    def measure(self, setting: Setting, index: int) -> Sample:
        sample = self.sample(setting, index, self.adaptive, noisy=True)
        self.elapsed_s += sample.elapsed_s
        return sample

    def sample(self, setting: Setting, index: int, adaptive: Controller, noisy: bool) -> Sample:
        controller = FixedLength(setting.draft_length) if setting.is_fixed else adaptive
        trace = self.traces[index]
        noise = self.noise if noisy else no_noise
        rounds = replay(trace, controller, lambda _: self.costs, 15, noise)
        elapsed_s = sum(done.elapsed_s * noise() for done in rounds)
        return Sample(trace.kind, trace.request_id, len(trace.margins), len(rounds), elapsed_s)

    def noise(self) -> float:
        return self.random.lognormvariate(0.0, 0.04) * (4.0 if self.random.random() < 0.01 else 1)

    def exhaustive(self, settings: Sequence[Setting]) -> dict[str, float]:
        """Seconds of all texts by setting, without noise."""
        adaptive = AdaptiveLength(Costs(16), 15)
        indices = range(len(self.traces))
        return {
            setting.name: sum(self.sample(setting, i, adaptive, False).elapsed_s for i in indices)
            for setting in settings
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("with_adaptive", [True, False])
def test_a_quarter_of_the_time_finds_a_setting_within_3_percent_of_the_best(
    name: str, with_adaptive: bool
) -> None:
    settings = [
        setting
        for setting in settings_of(["cpu"], range(1, 16))
        if setting.is_fixed or with_adaptive
    ]
    total_s = Replayed(TABLES[name], 0).exhaustive(settings)
    for seed in range(1 if with_adaptive else 3):
        machine = Replayed(TABLES[name], seed)
        machine.random.shuffle(machine.traces)
        clock = Clock(sum(total_s.values()) / 4 / 1.1, lambda m=machine: m.elapsed_s)  # type: ignore[misc]
        search = Halving(settings, machine.measure, len(machine.traces), clock)
        search.run(lambda alive: None)
        found = choose(search.trials).best.setting.name
        assert machine.elapsed_s <= sum(total_s.values()) / 4
        assert total_s[found] <= 1.03 * min(total_s.values()), (found, seed)


def small_search(rates: dict[str, float], budget_s: float) -> Halving:
    """Settings with given rates; every prompt has 10 tokens of its own difficulty."""
    elapsed = 0.0

    def measure(setting: Setting, index: int) -> Sample:
        nonlocal elapsed
        taken = 10 * (1 + index % 3) / rates[setting.name]
        elapsed += taken
        return Sample("ab"[index % 2], str(index), 10, 5, taken)

    settings = [s for s in settings_of(["x"], (1, 2, 3, 4)) if s.name in rates]
    search = Halving(settings, measure, 100, Clock(budget_s, lambda: elapsed))
    search.run(lambda alive: None)
    return search


RATES = {"plain": 10.0, "x 1": 14.0, "x 2": 18.0, "x 3": 20.0, "x 4": 19.0, "x auto": 21.0}


def test_everybody_runs_the_same_prompts_as_long_as_they_are_in() -> None:
    trials = {trial.setting.name: trial for trial in small_search(RATES, 60.0).trials}
    for a, b in itertools.combinations(trials.values(), 2):
        shared = min(len(a.samples), len(b.samples))
        assert [s.prompt_id for s in a.samples[:shared]] == [
            s.prompt_id for s in b.samples[:shared]
        ]
    assert len(trials["x 3"].samples) > len(trials["x 1"].samples) > 0
    assert trials["x 3"].rung == trials["x auto"].rung > trials["plain"].rung


def test_a_search_keeps_to_its_budget_but_always_measures_every_setting_once() -> None:
    tiny = small_search(RATES, 0.001)
    assert all(len(trial.samples) == 1 for trial in tiny.trials)
    assert choose(tiny.trials).best.setting.name == "x auto"


def test_shares_compare_only_prompts_that_both_have_run() -> None:
    trials = {trial.setting.name: trial for trial in small_search(RATES, 60.0).trials}
    assert trials["x 1"].share_of(trials["x 3"]) == pytest.approx(0.7)
    assert trials["x 1"].share_of(trials["x 3"], "a") == pytest.approx(0.7)
    assert trials["x 1"].share_of(Trial(trials["x 3"].setting)) == 0.0


@pytest.mark.parametrize(
    ("auto", "mode", "claim"), [(21.0, "auto", "beats every fixed"), (19.0, "fixed", "does not")]
)
def test_auto_is_written_exactly_where_it_beats_every_fixed_choice(
    tmp_path: Path, auto: float, mode: str, claim: str
) -> None:
    search = small_search(RATES | {"x auto": auto}, 60.0)
    choice = choose(search.trials)
    assert claim in verdict(choice)[1]
    path = tmp_path / "tuned.toml"
    path.write_text(text_of(choice, search.trials))
    config = read_config(path)
    assert config.speculation.mode == mode
    assert mode == "auto" or config.speculation.draft_length == 3
    assert config.tuned.machine == "box, gpu" and config.target == Config().target


def test_plain_decoding_is_written_where_nothing_pays() -> None:
    slow = {name: 5.0 for name in RATES} | {"plain": 10.0}
    search = small_search(slow, 60.0)
    written = tomllib.loads(text_of(choose(search.trials), search.trials))
    assert written["speculation"] == {"mode": "off"}


def text_of(choice: Choice, trials: Sequence[Trial]) -> str:
    def named(setting: Setting) -> Setting:  # `x` is no drafter that a config could name
        return Setting(setting.name, setting.drafter and "cpu", setting.mode, setting.draft_length)

    choice.best.setting = named(choice.best.setting)
    return config_text(Config(), choice, trials, Evidence("box, gpu", "2026", 60.0, ["a"], 10))


def test_the_evidence_stands_in_comments() -> None:
    search = small_search(RATES, 60.0)
    text = text_of(choose(search.trials), search.trials)
    for line in (*table(search.trials), "measured"):
        assert line.strip() in text
    assert all(line.startswith(("#", "[")) or "=" in line or not line for line in text.split("\n"))


def test_the_curve_is_a_valid_picture_with_every_kind() -> None:
    svg = curve_svg(small_search(RATES, 60.0).trials, "x", 1, ["a", "b"], "rates & <kinds>")
    root = ElementTree.parse(io.StringIO(svg)).getroot()
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"a", "b", "all kinds", "rates & <kinds>"} <= set(texts)
    assert any(text and text.startswith("auto ") for text in texts)


def test_batch_sizes_are_settings_of_their_own_and_reach_the_configuration() -> None:
    settings = settings_of(["cpu"], (2,), (1, 4))
    assert [s.name for s in settings if s.batch_size == 4] == [
        "plain x 4", "cpu 2 x 4", "cpu auto x 4",
    ]  # fmt: skip
    config = settings[-1].applied_to(Config())
    assert (config.run.batch_size, config.speculation.mode) == (4, "auto")


def short_prompts(folder: Path) -> str:
    path = folder / "prompts.jsonl"
    lines = [{"id": str(i), "kind": "code", "prompt": f"x{i} ="} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.mark.slow
def test_the_command_tunes_batches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "batch.toml"
    options = ["--budget", "2", "--draft-lengths", "2", "--draft-devices", "ngram", "--json"]
    options += ["--batch-sizes", "1,4", "--prompts", short_prompts(tmp_path)]
    options += ["--max-new-tokens", "6"]
    assert main(["tune", *options, "--output", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "ngram auto x 4" in {row["setting"] for row in report["settings"]}
    assert (tmp_path / "batch-ngram-4.svg").is_file()
    assert read_config(path).run.batch_size in (1, 4)


def test_prompts_are_as_long_as_the_budget_allows() -> None:
    assert affordable_tokens(1e6, 0.01, 20, 5) == 48
    assert affordable_tokens(1.0, 0.01, 20, 5) == 16
    assert affordable_tokens(120.0, 0.01, 11, 5) == 43


@pytest.mark.slow
def test_the_command_writes_a_configuration_that_runs_and_warns_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "best.toml"
    options = ["--budget", "1", "--draft-lengths", "2,4", "--draft-devices", "ngram"]
    options += ["--prompts", short_prompts(tmp_path), "--max-new-tokens", "8"]
    options += ["--set", "target.device=reference"]
    assert main(["tune", *options, "--output", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["setting"] for row in report["settings"]} == {
        "plain", "ngram 2", "ngram 4", "ngram auto",
    }  # fmt: skip
    assert (tmp_path / "best-ngram.svg").is_file()
    generate = ["generate", "x =", "--config", str(path), "--max-new-tokens", "2"]
    assert main(generate) == 0
    assert "tuned on" not in capsys.readouterr().err
    assert main([*generate, "--set", "tuned.machine=another"]) == 0
    assert capsys.readouterr().err.count("these settings were tuned on another; this is") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "--budget is 0"),
        (["--draft-lengths", "2,x"], "--draft-lengths is '2,x'"),
        (["--draft-lengths", "99"], "legal: 0 to 15"),
        (["--batch-sizes", "0"], "run.batch_size is 0"),
        (["--draft-devices", "auto"], "'auto' is no drafter"),
        (["--kinds", "cod"], "did you mean 'code'"),
        (["--output", "no/such/folder/x.toml"], "no such directory"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["tune", *options]) == 2
    assert message in capsys.readouterr().err
