"""Runs over files: each prompt exactly once, whatever happens to the process or the disk."""

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fake_run import HEADER, PausingVerifier, fake_engine
from fakes import RuleVerifier

from specdec.errors import SpecdecError, UsageError
from specdec.runs.prompt_stream import count_lines
from specdec.runs.run import Run, RunTotals
from specdec.types import Segment

TESTS = Path(__file__).parent


def write_prompts(path: Path, count: int) -> Path:
    lines = [json.dumps({"id": f"p{n}", "prompt": "abc"[: n % 3 + 1] * 3}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def execute(prompts: Path, output: Path, verifier: RuleVerifier | None = None) -> RunTotals:
    with closing(Run(prompts, output)) as run:
        for _ in run.generate(fake_engine(verifier=verifier), HEADER):
            pass
    return run.totals


def read(path: Path) -> list[dict[str, object]]:
    text = path.read_text()
    assert not text or text.endswith("\n"), "a torn line"
    return [json.loads(line) for line in text.splitlines()]


def texts(path: Path) -> dict[str, str]:
    lines = read(path)
    found = {str(line["id"]): str(line["text"]) for line in lines}
    assert len(found) == len(lines), "an id occurs twice"
    return found


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "in.jsonl", 50)


@pytest.fixture
def whole(prompts: Path, tmp_path: Path) -> dict[str, str]:
    """What an undisturbed run gives."""
    execute(prompts, tmp_path / "whole.jsonl")
    return texts(tmp_path / "whole.jsonl")


def test_every_prompt_gets_a_line_and_a_second_run_adds_none(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    assert whole.keys() == {f"p{n}" for n in range(50)}
    before = (tmp_path / "whole.jsonl").read_bytes()
    totals = execute(prompts, tmp_path / "whole.jsonl")
    assert (totals.num_finished, totals.num_finished_before) == (0, 50)
    assert (tmp_path / "whole.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_torn_last_line_is_cut_off_and_its_prompt_runs_again(
    prompts: Path, whole: dict[str, str], tmp_path: Path, cut: int
) -> None:
    output = tmp_path / "whole.jsonl"
    output.write_bytes(output.read_bytes()[:-cut])
    assert execute(prompts, output).num_finished == 1
    assert texts(output) == whole


def test_a_line_that_is_broken_elsewhere_is_not_touched(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "whole.jsonl"
    lines = output.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"id": "p\n'
    output.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"whole.jsonl:4: not a whole JSON object"):
        execute(prompts, output)
    assert output.read_bytes() == b"".join(lines)


@contextmanager
def limited_files(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk looks like to a program."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_stops_the_run_with_whole_lines(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    with (
        limited_files(10_000),
        pytest.raises(SpecdecError, match=r"cannot write .*out.jsonl.*run the same command again"),
    ):
        execute(prompts, output)
    written = texts(output)
    assert 0 < len(written) < 50
    assert execute(prompts, output).num_finished == 50 - len(written)
    assert texts(output) == whole


def test_an_output_of_other_settings_is_refused_by_name(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    with closing(Run(prompts, tmp_path / "whole.jsonl")) as run:
        events = run.generate(fake_engine(), {"numerics_id": "other"})
        with pytest.raises(UsageError, match="numerics_id was 'fake', is 'other'"):
            next(events)


def test_a_file_that_is_no_output_of_ours_is_refused(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary\n")
    with pytest.raises(UsageError, match="holds something already"):
        execute(prompts, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "dear diary\n"
    with pytest.raises(UsageError, match="is the file of prompts"):
        execute(prompts, prompts)
    with pytest.raises(UsageError, match="cannot write"):
        execute(prompts, tmp_path)
    with pytest.raises(UsageError, match="cannot write"):
        execute(prompts, tmp_path / "absent" / "out.jsonl")
    with pytest.raises(UsageError, match="not a regular file"):
        execute(prompts, Path("/dev/null"))


def test_two_runs_never_write_to_one_output(prompts: Path, tmp_path: Path) -> None:
    with (
        closing(Run(prompts, tmp_path / "out.jsonl")),
        pytest.raises(UsageError, match="is being written by another run"),
    ):
        Run(prompts, tmp_path / "out.jsonl")


def test_lines_that_cannot_run_are_set_aside_with_number_and_reason(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "prompt": "ab"}',
        "not json",
        '{"id": "b"}',
        "",
        '{"id": "c", "prompt": 3}',
        '{"id": "a", "prompt": "again"}',
        json.dumps({"id": "long", "prompt": "x" * 600}),
        json.dumps({"id": "huge", "prompt": "y" * 1_000_000}),
        '{"id": "empty", "prompt": ""}',
        '{"id": "last", "prompt": "z"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for _ in range(2):  # a run that goes on finds them anew
        totals = execute(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        assert texts(tmp_path / "out.jsonl").keys() == {"a", "last"}
        rejects = read(tmp_path / "out.jsonl.rejects.jsonl")
        assert totals.num_rejected == len(rejects) == 7
        reasons = {line["line"]: (line["id"], str(line["reason"])) for line in rejects}
        assert reasons[2][0] is None and "not JSON" in reasons[2][1]
        assert "neither of 'prompt'" in reasons[3][1]
        assert "prompt is 3; legal is text" in reasons[5][1]
        assert reasons[6][0] == "a" and "occurs twice" in reasons[6][1]
        assert "has 601 tokens; the context holds 512" in reasons[7][1]
        assert "has 1000001 tokens" in reasons[8][1]
        assert "is empty" in reasons[9][1]


def test_a_file_of_prompts_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UsageError, match="no prompts in it"):
        count_lines(tmp_path / "empty.jsonl")
    with pytest.raises(UsageError, match="cannot read prompts"):
        count_lines(tmp_path / "absent.jsonl")
    (tmp_path / "two.jsonl").write_text("{}\n{}")
    assert count_lines(tmp_path / "two.jsonl") == 2


class FailingVerifier(PausingVerifier):
    """Its device is lost after some passes."""

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        if self.num_passes == 12:
            raise SpecdecError("device lost")
        return super().verify(segments)


def test_what_was_finished_before_a_device_was_lost_stays(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SpecdecError, match="device lost"):
        execute(prompts, tmp_path / "out.jsonl", FailingVerifier(0.0))
    written = texts(tmp_path / "out.jsonl")
    assert 0 < len(written) < 50
    execute(prompts, tmp_path / "out.jsonl")
    assert texts(tmp_path / "out.jsonl") == whole


def killed(prompts: Path, output: Path, pause_s: float, moments: Sequence[float]) -> int:
    """Start the run over and over, kill it after so many seconds; how often it was killed."""
    command = [sys.executable, str(TESTS / "fake_run.py"), str(prompts), str(output), str(pause_s)]
    num_killed = 0
    for moment_s in moments:
        process = subprocess.Popen(command, cwd=TESTS.parent, env={"PYTHONPATH": "."})
        while not output.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moment_s)
        process.kill()
        num_killed += process.wait() == -9
        if output.exists():
            texts_of_whole_lines = output.read_bytes().rpartition(b"\n")[0]
            assert all(json.loads(line) for line in texts_of_whole_lines.splitlines())
    subprocess.run(command, cwd=TESTS.parent, env={"PYTHONPATH": "."}, check=True)
    return num_killed


@pytest.mark.slow
def test_a_run_killed_again_and_again_loses_and_repeats_nothing(
    prompts: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    assert killed(prompts, tmp_path / "out.jsonl", 0.02, (0.05, 0.2, 0.1)) >= 2
    assert texts(tmp_path / "out.jsonl") == whole


@pytest.mark.prove
def test_a_thousand_prompts_killed_at_thirty_random_moments(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "in.jsonl", 1000)
    execute(prompts, tmp_path / "whole.jsonl")
    rng = random.Random(9)
    moments = [rng.uniform(0.0, 0.4) for _ in range(30)]
    assert killed(prompts, tmp_path / "out.jsonl", 0.02, moments) == 30
    assert texts(tmp_path / "out.jsonl") == texts(tmp_path / "whole.jsonl")
