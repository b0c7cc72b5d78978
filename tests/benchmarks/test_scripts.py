"""The scripts behind the numbers in the docs, and the command line: imports, help texts, tables."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.scripts import common, tables
from benchmarks.scripts.common import RESULTS

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(file.stem for file in Path(common.__file__).parent.glob("[a-z]*.py"))
COMMANDS = ("reproduce", "lab", "hard-problems", "throughput", "scale", "roofline")
PARSERS = sorted(
    name
    for name in SCRIPTS
    if "parse_args" in (source := (Path(common.__file__).parent / f"{name}.py").read_text())
    or "num_steps_given(" in source
)


@pytest.fixture
def environment(monkeypatch):
    """Restores the variables that a script sets for its process."""
    for name in ("OMP_NUM_THREADS", "XLA_FLAGS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_imports_and_says_how_it_is_run(name, environment):
    module = importlib.import_module(f"benchmarks.scripts.{name}")
    if name != "common":
        assert f"python -m benchmarks.scripts.{name}" in inspect.getdoc(module)


@pytest.mark.parametrize("name", [name for name in PARSERS if name != "common"])
def test_script_has_help(name, environment, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.scripts.{name}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.scripts.{name}", run_name="__main__")
    assert end.value.code == 0
    assert f"python -m benchmarks.scripts.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_run_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("page", [*(f"docs/{page}.md" for page in tables.PAGES), "README.md"])
def test_tables_of_the_docs_are_those_of_the_results(page):
    text = (ROOT / page).read_text()
    assert tables.fill(tables.reports(text)) == text


def test_fill_rows_measures_what_is_missing(tmp_path):
    def measure(steps):
        return lambda: {"steps": steps, "summary": f"{steps}"}

    common.fill_rows("x", {"a": measure(10)}, 10, tmp_path)
    common.fill_rows("x", {"a": measure(99), "b": measure(10)}, 10, tmp_path)
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert rows == {name: {"steps": 10, "summary": "10"} for name in ("a", "b")}


def test_every_result_has_versions():
    for file in RESULTS.glob("*.json"):
        assert {"jax", "machine"} <= json.loads(file.read_text())["versions"].keys()


def test_library_does_not_import_the_benchmarks():
    for file in (ROOT / "rankpg").rglob("*.py"):
        lines = file.read_text().splitlines()
        assert not [
            line for line in lines if line.lstrip().startswith(("import bench", "from bench"))
        ]
