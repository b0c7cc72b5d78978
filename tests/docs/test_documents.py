"""The snippets of README and docs run, links lead to files, and the reference names modules that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from rankpg.advantages import ADVANTAGES
from rankpg.core.estimators import ESTIMATORS
from rankpg.encoders import TOWERS
from rankpg.export.indexes import INDEXES
from rankpg.rerankers import RERANKERS
from rankpg.retrieval import RETRIEVALS
from rankpg.reward_models import REWARD_MODELS
from rankpg.runs.storage.trackers import TRACKERS
from rankpg.training.build import ENVIRONMENTS

ENABLE_X64 = False  # the default outside of tests
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = sorted(DOCS.glob("*.md"))
REFERENCE = sorted((DOCS / "reference").glob("*.md"))
TABLES = (
    ADVANTAGES,
    ENVIRONMENTS,
    ESTIMATORS,
    INDEXES,
    RERANKERS,
    RETRIEVALS,
    REWARD_MODELS,
    TOWERS,
    TRACKERS,
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


pytestmark = pytest.mark.usefixtures("as_scripts_run")


@pytest.fixture
def tables_restored():
    """Removes the entries that a document adds to the tables of components."""
    saved = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, saved, strict=True):
        table.clear()
        table.update(entries)


def run_snippets(document: Path) -> dict[str, Any]:
    """Executes the Python blocks of a document one after the other, in one namespace."""
    names: dict[str, Any] = {}
    for code in PYTHON.findall(document.read_text()):
        exec(compile(code, str(document), "exec"), names)
    return names


@pytest.mark.slow
def test_readme_quickstart_improves_normalised_value(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quickstart = PYTHON.findall(README.read_text())[0]
    assert len(quickstart.strip().splitlines()) <= 15
    run_snippets(README)
    before, after = map(float, capsys.readouterr().out.splitlines()[0].split("->"))
    assert after > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_snippets_run(page, tmp_path, monkeypatch, tables_restored):
    monkeypatch.chdir(tmp_path)
    run_snippets(page)


@pytest.mark.parametrize(
    "document", [README, CONTRIBUTING, *PAGES, *REFERENCE], ids=lambda path: path.name
)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_is_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", REFERENCE, ids=lambda path: path.name)
def test_reference_names_existing_modules(page):
    for module in re.findall(r"^\.\. automodule:: (\S+)", page.read_text(), re.MULTILINE):
        assert importlib.util.find_spec(module), f"{page.name} documents {module}"


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=lambda path: path.name)
def test_layout_names_existing_folders(document):
    layout = re.findall(r"^\| (`[^|]*`) \|", document.read_text(), re.MULTILINE)
    names = {name for cell in layout for name in re.findall(r"`(\w+(?:/|\.py))`", cell)}
    assert len(names) >= 12
    assert all((ROOT / "rankpg" / name).exists() for name in names), names


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"^(\w+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert {page.stem for page in PAGES} - {"index"} == set(listed)
