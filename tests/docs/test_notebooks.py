"""The committed notebooks match their sources, and the sources run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))

_spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
assert _spec is not None
assert _spec.loader is not None
notebooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notebooks)


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def source(request) -> Path:
    return request.param


def test_sources_are_the_six_notebooks():
    assert {source.stem for source in SOURCES} == {
        "quickstart", "estimators_and_their_variance", "own_data", "own_reranker", "scaling", "rag",
    }  # fmt: skip


def test_committed_notebook_matches_source(source):
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    wanted = notebooks.read(source)
    cells = [(cell.cell_type, cell.source) for cell in committed.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in wanted.cells], (
        f"{source.name} has changed: python tools/notebooks.py {source.stem}"
    )
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds
    assert "display_data" in kinds  # a picture


def test_colab_install_keeps_jax(source):
    text = source.read_text()
    assert f"/blob/main/notebooks/{source.stem}.ipynb)" in text
    installed = re.findall(r"wanted = \[(.*)\]", text)
    assert len(installed) == 1
    assert "jax=={jax.__version__}" in installed[0]


@pytest.mark.slow
def test_source_runs(source):
    executed = notebooks.execute(notebooks.read(source))
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
