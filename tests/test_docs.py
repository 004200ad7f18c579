"""Every example of the documents runs and prints what they show."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(page for page in (ROOT / "README.md", ROOT / "README.zh.md") if page.exists()),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    # the pages say what happens where nothing is set
    monkeypatch.delenv("RECUR_BACKEND", raising=False)
    # a fence is no part of the output above it
    text = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {"torch": torch}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert result.failed == 0


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_readmes_commands_run_word_for_word(tmp_path: Path):
    assert commands(ROOT / "README.md") == commands(ROOT / "README.zh.md")
    rows = [
        (f"a {word} film number {i}", label) for i in range(40) for word, label in (("fine", "pos"), ("dull", "neg"))
    ]
    for name, part in (("reviews.csv", rows[:60]), ("more-reviews.csv", rows[60:])):
        (tmp_path / name).write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in part))
    found = commands(ROOT / "README.md")
    assert len(found) == 3
    for command in found:
        program, *arguments = shlex.split(command)
        assert program == "recur"
        done = subprocess.run(
            [sys.executable, "-m", "recur.app.main", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert (tmp_path / "runs" / "reviews" / "report.html").exists()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
