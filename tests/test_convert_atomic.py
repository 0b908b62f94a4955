"""A conversion ends in a whole directory or in none, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.checkpoint import open_checkpoint
from specdec.convert import convert
from specdec.errors import ModelError
from tests.convert_fixtures import write_huggingface


def test_an_output_that_exists_is_kept_unless_it_is_empty(tmp_path: Path) -> None:
    directory = write_huggingface(tmp_path / "source")
    out = tmp_path / "out"
    out.mkdir()
    (out / "note").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        convert(directory, out)
    assert (out / "note").read_text() == "mine"
    (out / "note").unlink()
    convert(directory, out)
    open_checkpoint(out)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="not a directory"):
        convert(directory, tmp_path / "file")


def test_two_conversions_to_one_place_do_not_mix(tmp_path: Path) -> None:
    directory = write_huggingface(tmp_path / "source")

    def convert_again(done: int, total: int) -> None:
        with pytest.raises(ModelError, match="another conversion"):
            convert(directory, tmp_path / "out")

    convert(directory, tmp_path / "out", progress=convert_again)
    open_checkpoint(tmp_path / "out")


KILLED = """
import sys, time
from pathlib import Path
from specdec.convert import convert

def stop(done, total):
    if done > total // 2:
        print("half", flush=True)
        time.sleep(60)

convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)
"""


def test_a_killed_conversion_leaves_nothing_that_loads_and_can_be_repeated(
    tmp_path: Path,
) -> None:
    directory = write_huggingface(tmp_path / "source")
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(directory), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "half\n"
        os.kill(child.pid, signal.SIGKILL)
    assert not out.exists()
    leftovers = [path for path in tmp_path.iterdir() if path != directory]
    assert leftovers
    for path in leftovers:
        with pytest.raises(ModelError):
            open_checkpoint(path)
    convert(directory, out)
    open_checkpoint(out)
    assert sorted(tmp_path.iterdir()) == sorted([directory, out])
