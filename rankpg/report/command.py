"""`python -m rankpg report RUN...`: one page that compares runs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rankpg.errors import ConfigError
from rankpg.report.gather import Subject, measure, name_apart, read
from rankpg.report.groups import read_groups
from rankpg.report.page import render, write
from rankpg.report.sections import SECTIONS, summary
from rankpg.runs.run import Run

__all__ = ["report"]


def report(
    runs: Sequence[Run | str | os.PathLike[str]],
    out: str | os.PathLike[str] = "report.html",
    *,
    groups: str | os.PathLike[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Compare runs on one HTML page that holds everything it needs.

    What a run lacks (a checkpoint, its data, embeddings) is said in its place on the page, and stops nothing.

    Args:
      runs: run folders, or runs in memory, such as those with an environment of your own.
      out: the page; one that is there is written anew.
      groups: a csv, tsv or parquet file of item id and group, for exposure by group.
      on_progress: called with a sentence before each run is measured.

    Returns:
      The page's path.

    Raises:
      ConfigError: no runs, a folder that does not exist, none that can be read, or an impossible `out`.
      FileNotFoundError, TableError: as `groups.read_groups`.
      ModuleNotFoundError: jinja2 or matplotlib is missing; names the extra.
    """
    _check_extra()
    sources = _sources(runs)
    file = _page_file(out)
    of_item = None if groups is None else read_groups(Path(groups))
    subjects: list[Subject] = []
    unreadable: list[str] = []
    for source, name in zip(sources, name_apart(sources), strict=True):
        try:
            subject, load = read(source, name, len(subjects))
        except ConfigError as error:
            unreadable.append(f"{name} is left out: {error}")
            continue
        if on_progress is not None:
            on_progress(f"measuring {name}")
        measure(subject, load, of_item)
        subjects.append(subject)
    if not subjects:
        raise ConfigError("none of the runs can be read. " + ". ".join(unreadable))
    page = _page(subjects, unreadable)
    try:
        write(page, file)
    except OSError as error:
        raise ConfigError(f"--out {file} cannot be written: {error}; choose another") from error
    return file


def _page(subjects: Sequence[Subject], unreadable: Sequence[str]) -> str:
    names = [subject.name for subject in subjects]
    title = names[0] if len(names) == 1 else f"{len(names)} runs compared"
    steps = {s.measured_at for s in subjects if s.measured_at is not None}
    words = "Made by rankpg from " + ", ".join(f"{s.name} ({s.where})" for s in subjects) + "."
    if steps:
        listed = ", ".join(f"{step:,}" for step in sorted(steps))
        words += f" Trained policies were asked as their checkpoints hold them, at step {listed}."
    parts = [summary(subjects, unreadable), *(section(subjects) for section in SECTIONS)]
    return render(title, words, parts)


def _check_extra() -> None:
    for module in ("jinja2", "matplotlib", "scipy", "yaml"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"a report needs {module}: pip install 'rankpg[report]'"
            ) from error


def _sources(runs: Sequence[Run | str | os.PathLike[str]]) -> list[Run | Path]:
    """Runs and folders, each folder once."""
    if isinstance(runs, str | os.PathLike | Run):
        raise ConfigError("runs is one run; expected a list of them: [run]")
    found: list[Run | Path] = []
    for run in runs:
        source = run if isinstance(run, Run) else Path(run)
        if isinstance(source, Path) and not source.is_dir():
            raise ConfigError(f"{source} is no folder; expected the --out folder of a run")
        known = [other.resolve() for other in found if isinstance(other, Path)]
        if isinstance(source, Run) or source.resolve() not in known:
            found.append(source)
    if not found:
        raise ConfigError("there are no runs to report; expected the --out folder of at least one")
    return found


def _page_file(out: str | os.PathLike[str]) -> Path:
    file = Path(out)
    if file.suffix.lower() not in (".html", ".htm") or file.is_dir():
        raise ConfigError(f"--out {file}: expected the name of a page, such as report.html")
    folder = next((parent for parent in file.parents if os.path.lexists(parent)), Path())
    if not folder.is_dir():
        raise ConfigError(f"--out {file}: {folder} is no folder; choose a page in a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {file}: the folder {folder} cannot be written; choose another")
    return file
