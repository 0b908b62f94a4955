"""The comparison's page in a real browser: it fits, it reads well, and nothing in it breaks."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Browser, browser
from fakes import ByteTokenizer
from test_compare import entrant

from specdec.compare.contenders import BASELINE
from specdec.compare.measure import Run, run_all
from specdec.compare.page import page
from specdec.compare.result import Difference, summarize
from specdec.compare.to_json import to_json
from specdec.prompts import Prompt

KINDS = ("code", "copy_edit", "documentation", "prose", "question_answering")
NASTY = "</script><script>boom()</script><!-- &amp; " + "unbroken" * 40
CHECKS = (Path(__file__).parent / "report_checks.js").read_text()


def result(**changes: object) -> dict[str, object]:
    """A comparison as large and awkward as they get."""
    entrants = [entrant(BASELINE, 0), entrant("auto", 4), entrant("fixed 15", 15)]
    entrants += [entrant(f"a rather long name, draft_length={i}", i) for i in (1, 7)]
    prompts = [Prompt(f"{k}{i}", f"{k}{i}", kind=k) for i in range(6) for k in KINDS]
    runs = [run for layer in run_all(entrants, [prompts], 60.0) for run in layer]
    comparison = summarize(entrants, [with_prompt(run) for run in runs], ByteTokenizer())  # type: ignore[arg-type]
    plan: dict[str, object] = {"max_new_tokens": 20, "target": "embedded"}
    return to_json(replace(comparison, **changes), plan)  # type: ignore[arg-type]


def with_prompt(run: Run) -> Run:
    return replace(run, generation=replace(run.generation, prompt=NASTY + run.generation.prompt))


def test_the_data_in_the_page_are_the_result_whatever_the_text() -> None:
    data = result()
    html = page(data)
    start = html.index(">", html.index('id="data"')) + 1
    assert json.loads(html[start : html.index("</script>", start)]) == data
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", html), "nothing is fetched"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("no Chromium: scripts/system-packages.sh test installs it")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(result()), encoding="utf-8")
    return path


def checked(tab: Browser, path: Path, width: int, theme: str) -> dict[str, Any]:
    tab.show(path, width, theme)
    found = tab.evaluate(CHECKS)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_every_text_can_be_read(
    tab: Browser, report: Path, tmp_path: Path, width: int, theme: str
) -> None:
    found = checked(tab, report, width, theme)
    assert found["scroll_width"] <= width and found["outside"] == []
    assert found["theme"] == theme
    assert found["low_contrast"] == [] and found["tiny"] == [] and found["overlapping"] == []
    assert found["num_charts"] == 4 * len(KINDS) + 1
    assert found["num_texts"] > 300, "the checks saw the page's text"
    assert tab.problems == []
    shot = tmp_path / f"{width}-{theme}.png"  # pytest keeps it, for eyes
    tab.screenshot(shot)
    assert shot.stat().st_size > 100_000, "a page full of charts"


@pytest.mark.slow
def test_tabs_show_another_text_and_its_tokens_are_marked(tab: Browser, report: Path) -> None:
    tab.show(report, 1440, "light")
    script = """(() => {
      const text = () => document.querySelector(".text").textContent;
      const before = text();
      document.querySelectorAll(".tabs button")[1].click();
      const count = (origin) => document.querySelectorAll(".text ." + origin).length;
      return [before === text(), count("accepted"), count("corrected"), text()];
    })()"""
    is_same, num_accepted, num_corrected, text = tab.evaluate(script)  # type: ignore[misc]
    assert not is_same and num_accepted > 0 and num_corrected > 0
    assert "copy_edit0" in text
    assert tab.problems == []


@pytest.mark.slow
def test_different_outputs_are_the_first_thing_one_sees(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(result(differences=(Difference("code3", "auto", 8),))), encoding="utf-8")
    found = checked(tab, path, 375, "dark")
    assert found["verdict"].startswith("1 of 150 outputs differ, first: prompt code3 by auto")
    assert found["low_contrast"] == [] and found["scroll_width"] <= 375
