"""The snippets of README and docs run as they stand, one after the other within a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ENABLE_X64 = False  # what a user gets
ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


pytestmark = pytest.mark.usefixtures("as_scripts_run")


def run_snippets(document: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in PYTHON.findall(document.read_text()):
        exec(compile(code, str(document), "exec"), names)
    return names


@pytest.mark.slow
def test_readme_runs_and_its_quickstart_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quickstart = PYTHON.findall((ROOT / "README.md").read_text())[0]
    assert len(quickstart.strip().splitlines()) <= 15
    run_snippets(ROOT / "README.md")
    before, after = map(float, capsys.readouterr().out.splitlines()[0].split("->"))
    assert after > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=lambda path: path.name)
def test_snippets_of_docs_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_snippets(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
