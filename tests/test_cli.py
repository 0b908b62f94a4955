"""The generate command as a user meets it: text, JSON, exit codes and one-line errors."""

import io
import json
import sys
from pathlib import Path

import pytest

from specdec.cli import main

FAST = ["--max-new-tokens", "8", "--device", "reference", "--draft-device", "reference"]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["generate", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_text_goes_to_stdout_and_statistics_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "import numpy as", *FAST)
    assert code == 0
    assert out.startswith(" np\n")
    assert "target reference" in err and "tokens per pass" in err


def test_json_has_the_promised_names_and_plain_equals_speculative(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = []
    for mode in ("off", "fixed"):
        code, out, _ = run(capsys, "for i in", "--json", "--mode", mode, *FAST)
        assert code == 0
        results.append(json.loads(out))
    plain, speculative = results
    for name in ("id", "prompt", "text", "token_ids", "finish_reason"):
        assert plain[name] == speculative[name]
    assert plain["finish_reason"] == "length"
    assert (plain["mode"], speculative["mode"]) == ("off", "fixed")
    assert (plain["draft_device"], speculative["draft_device"]) == ("off", "reference")
    assert plain["target_device"] == "reference"
    names = {
        "num_passes",
        "num_draft_tokens",
        "num_accepted_tokens",
        "acceptance_rate",
        "tokens_per_pass",
        "accepted_per_position",
        "prefill_s",
        "decode_s",
        "tokens_per_s",
    }
    assert names <= speculative["stats"].keys()


def test_standard_input_is_a_prompt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"import numpy as")))
    code, out, _ = run(capsys, "-", *FAST)
    assert code == 0 and out.startswith(" np\n")


def test_a_prompts_file_gives_one_object_per_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"id": "a", "prompt": "x = ", "max_new_tokens": 2}\n'
        '{"id": "long", "prompt": "' + "word " * 3000 + '"}\n'
        '{"id": "b", "prompt": "import numpy as", "stop": ["p"]}\n'
    )
    code, out, err = run(capsys, "--prompts", str(path), "--json", *FAST)
    first, failed, last = map(json.loads, out.splitlines())
    assert code == 1
    assert (first["id"], len(first["token_ids"])) == ("a", 2)
    assert failed["finish_reason"] == "error" and "the context holds" in failed["error"]
    assert "prompt 'long' has" in err
    assert (last["text"], last["finish_reason"]) == (" n", "stop")


def test_stop_token_ids_end_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "import numpy as", "--json", *FAST)
    first = json.loads(out)["token_ids"][0]
    _, out, _ = run(capsys, "import numpy as", "--json", "--stop-token-id", str(first), *FAST)
    assert json.loads(out)["token_ids"] == [first]
    assert json.loads(out)["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "give either a prompt"),
        (["x", "--prompts", "y"], 2, "give either a prompt"),
        ([""], 2, "the prompt is empty"),
        (["x", "--stop", ""], 2, "--stop is empty"),
        (["x", "--set", "run.max_new_token=3"], 2, "did you mean 'run.max_new_tokens'"),
        (["x", "--max-new-tokens", "0"], 2, "run.max_new_tokens is 0; legal: 1 to"),
        (["x", "--draft-length", "99"], 2, "speculation.draft_length is 99; legal: 0 to 15"),
        (["x", "--mode", "sometimes"], 2, "legal: auto, fixed, off"),
        (["x", "--set", "speculation.max_draft_length=3"], 2, "above speculation.max_draft_len"),
        (["x", "--set", "run.context_length=999999"], 2, "the target's longest is 2048"),
        (["x", "--device", "reference", "--chat"], 1, "the target has no chat template"),
        (["--prompts", "none.jsonl"], 2, "cannot read prompts"),
        (["x", "--config", "none.toml"], 2, "cannot read config"),
        (["x", "--target", "no/such/model"], 1, "no/such/model"),
        (["x " * 3000, "--device", "reference"], 1, "the context holds 2048"),
    ],
)
def test_bad_input_is_one_line_and_no_partial_output(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    found, out, err = run(capsys, *argv)
    assert found == code
    assert out == ""
    errors = [line for line in err.splitlines() if "error:" in line]
    assert len(errors) == 1 and message in errors[0], err
    assert "Traceback" not in err


def test_invalid_utf8_names_the_byte(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xffcd")))
    code, out, err = run(capsys, "-")
    assert (code, out) == (2, "")
    assert "standard input" in err and "2" in err


def test_unknown_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "x", "--warp-speed"])
    assert caught.value.code == 2
