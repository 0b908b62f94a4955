"""The same run over two workers of a Ray cluster on this machine."""

import json
from pathlib import Path

import pytest

from specdec.cli import main

pytest.importorskip("ray")

ROOT = Path(__file__).parent.parent
FAST = ["--max-new-tokens", "3", "--device", "reference", "--draft-device", "ngram"]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the cluster's own making
def test_two_workers_give_the_lines_of_one_machine_and_go_on_where_they_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    prompts = tmp_path / "in.jsonl"
    texts = [json.dumps({"id": f"p{n}", "prompt": f"x = {n}"}) for n in range(10)]
    prompts.write_text("\n".join([*texts, "not json", '{"id": "none", "prompt": ""}']))
    command = ["generate", "--prompts", str(prompts), *FAST, "--set", "run.context_length=64"]
    alone, output = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    assert main([*command, "--output", str(alone)]) == 1
    expected = {line["id"]: line["token_ids"] for line in lines(alone)}
    assert len(expected) == 10

    output.write_bytes(b"".join(alone.read_bytes().splitlines(keepends=True)[:4]) + b'{"id": "to')
    (tmp_path / "out.jsonl.run.json").write_bytes((tmp_path / "alone.jsonl.run.json").read_bytes())
    on_cluster = [*command, "--output", str(output), "--ray", "local", "--ray-workers", "2"]
    assert main([*on_cluster, "--json", "--batch-size", "2"]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["num_finished"], report["num_finished_before"]) == (6, 4)
    assert {line["id"]: line["token_ids"] for line in lines(output)} == expected
    rejects = lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert sorted(str(line["line"]) for line in rejects) == ["11", "12"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('{"prompt": "x"}\n')
    command = ["generate", "--prompts", str(prompts), "--output", str(tmp_path / "out.jsonl")]
    assert main([*command, "--ray", "127.0.0.1:1"]) == 1
    assert "no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err
    assert main(["generate", "--prompts", str(prompts), "--ray", "local"]) == 2
    assert "--ray goes with --output" in capsys.readouterr().err
