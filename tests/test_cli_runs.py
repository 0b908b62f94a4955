"""`specdec generate --output` as a user meets it: files, Ctrl-C, exit codes."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_run import PausingVerifier, fake_engine

from specdec.cli import main
from specdec.cli.running import FileRun, run_to_file
from specdec.config import Config, with_overrides
from specdec.types import Segment

FAST = ["--max-new-tokens", "4", "--device", "reference", "--draft-device", "ngram"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"id": "p{n}", "prompt": "x = {n}"}}\n' for n in range(6)))
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_writes_results_goes_on_and_refuses_other_settings(
    capsys: pytest.CaptureFixture[str], prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    command = ["generate", "--prompts", str(prompts), "--output", str(output), *FAST]
    assert main([*command, "--json", "--batch-size", "4"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["num_finished"], report["num_tokens"]) == (6, 24)
    assert "6 prompts finished, 0 before" in captured.err
    alone = ["generate", "--prompts", str(prompts), "--json", "--mode", "off", *FAST]
    assert main(alone) == 0
    plain = {r["id"]: r["token_ids"] for r in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {r["id"]: r["token_ids"] for r in lines(output)} == plain

    with prompts.open("a") as file:
        file.write('{"prompt": 1}\n{"id": "more", "prompt": "y"}\n')
    assert main([*command, "--mode", "off"]) == 1  # drafts change no text; one line cannot run
    captured = capsys.readouterr()
    assert captured.out == "" and "1 prompts finished, 6 before" in captured.err
    assert f"1 lines cannot run; {output}.rejects.jsonl says why" in captured.err
    assert [r["line"] for r in lines(tmp_path / "out.jsonl.rejects.jsonl")] == [7]

    assert main([*command, "--temperature", "1.0"]) == 2
    assert "was begun with other settings: sampling was" in capsys.readouterr().err
    assert len(lines(output)) == 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x", "--output", "o"], "--output goes with --prompts"),
        (["--output", "o"], "--output goes with --prompts"),
        (["--prompts", "absent", "--output", "o"], "cannot read prompts"),
        (["x", "--batch-size", "0"], "run.batch_size is 0; legal: 1 to 64"),
        (["x", "--set", "run.order=random"], "legal: arrival, longest"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *argv]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class InterruptingVerifier(PausingVerifier):
    """Ctrl-C is pressed during these passes."""

    def __init__(self, passes: Sequence[int]) -> None:
        super().__init__(0.0)
        self.passes = passes

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        if self.num_passes in self.passes:
            signal.raise_signal(signal.SIGINT)
        return super().verify(segments)


@pytest.mark.parametrize(("passes", "num_finished"), [((1,), 8), ((0, 1), 0)])
def test_ctrl_c_finishes_what_runs_and_again_abandons_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], passes: Sequence[int], num_finished: int
) -> None:
    prompts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(f'{{"id": "p{n}", "prompt": "abcd"}}\n' for n in range(40)))
    config = with_overrides(Config(), [f"run.output={output}"])
    asked = FileRun(prompts, config, (), (), is_json=False)
    before = signal.getsignal(signal.SIGINT)
    verifier = InterruptingVerifier(passes)
    assert run_to_file(asked, lambda: fake_engine(verifier=verifier)) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert len(lines(output)) == num_finished
    assert "Ctrl-C again abandons" in (err := capfd.readouterr().err) and "goes on from here" in err
    assert run_to_file(asked, fake_engine) == 0
    assert sorted(str(line["id"]) for line in lines(output)) == sorted(f"p{n}" for n in range(40))
