"""Habits that a reviewer would otherwise have to watch."""

import ast
import re
import subprocess
from pathlib import Path

import specdec

ROOT = Path(__file__).resolve().parent.parent


def tracked(*suffixes: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    paths = [ROOT / name for name in names]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def test_every_public_name_is_exported_and_exists() -> None:
    assert sorted(specdec.__all__) == list(specdec.__all__)
    public = {
        name
        for name, value in vars(specdec).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("specdec")
    }
    assert public == set(specdec.__all__)


def test_python_files_and_functions_stay_short() -> None:
    for path in tracked(".py"):
        text = path.read_text()
        assert text.count("\n") <= 300, f"{path.name} has more than 300 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= 40, f"{path.name}: {node.name} has {length} lines"


def test_the_target_package_is_tracked() -> None:
    assert any(path.parent == ROOT / "target" for path in tracked(".py"))


def test_no_paths_of_one_machine() -> None:
    machine = re.compile("/" + r"(work|root|farm)/")
    for path in tracked(".py", ".md", ".toml", ".comp", ".glsl", ".cc", ".sh"):
        assert not machine.search(path.read_text()), f"{path.name} names a path of one machine"


def test_library_code_never_prints() -> None:
    for path in tracked(".py"):
        top = path.relative_to(ROOT).parts[0]
        if top in ("specdec", "draft", "target") and "cli" not in path.parts:
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if getattr(c.func, "id", "") == "print"], path.name


def test_shaders_and_kernels_open_with_a_header() -> None:
    for path in tracked(".comp", ".cc"):
        assert path.read_text().lstrip().startswith(("//", "/*")), path.name
