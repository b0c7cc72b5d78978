"""Reproduces the paper's tables and figures: trains the trials, measures the rest, writes the reports."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paper import greedy_error, pictures, speed, tables
from benchmarks.paper.learning_speed import learning_speed
from benchmarks.paper.published import SOURCE
from benchmarks.paper.trials import TRAINED, table_trials
from benchmarks.sweeps.files import make_folder, write_json
from benchmarks.sweeps.results import finished, read_report, training_report, trials_before
from benchmarks.sweeps.run import Outcome, train_trials
from benchmarks.sweeps.trials import Trial, unique_trials
from rankpg._utils.files import Taken, lock
from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.runs.run import prepare

__all__ = ["MEASURED", "NAMES", "Summary", "reproduce"]

MEASURED: dict[str, Callable[[str], dict[str, Any]]] = {
    "table5": greedy_error.measure,
    "figure4": speed.measure,
}
"""Tables and figures that need no training: name -> measurement at a scale."""

KEYS = {
    "table5": ("cells", {"temperature", "num_candidates", "paper", "errors"}),
    "figure4": ("arms", {"settings", "paper", "seconds"}),
}
"""Key of the measurements in such a report, and the keys that each of them needs."""

NAMES = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4")

KUAIREC = (
    "table4 needs KuaiRec (Gao et al., CIKM 2022): download small_matrix.csv from https://kuairec.com and "
    "pass its location as path='small_matrix.csv'"
)


@dataclass
class Summary:
    """Result of `reproduce`."""

    outcome: Outcome
    written: list[Path] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """trials and measurements that are not begun or not finished"""
    limited_by: str | None = None
    """the argument because of which they were not trained, if any"""


def reproduce(
    names: Sequence[str],
    scale: str = "laptop",
    out: Path | str | None = None,
    *,
    path: str | None = None,
    trials: Sequence[str] | None = None,
    report_only: bool = False,
) -> Summary:
    """Trains, measures and reports some of the paper's tables and figures.

    Args:
      names: names in `NAMES`.
      scale: a name in `SCALES`.
      out: folder of runs and reports; runs/reproduce/<scale> by default.
      path: KuaiRec's small_matrix.csv, for table4.
      trials: names of the only trials to train; all by default.
      report_only: train and measure nothing; report the existing results.

    Raises:
      ConfigError: an unknown name, or a folder or file with other contents. Errors of single trials and
        reports are raised after all others are trained and written.
    """
    _check_arguments(names, path)
    by_table = {name: table_trials(name, scale, path) for name in names if name in TRAINED}
    if trials is not None and not by_table:
        raise ConfigError(f"trials={tuple(trials)}: {' '.join(names)} needs no training")
    chosen = _chosen(by_table, trials)
    folder = Path(out or Path("runs") / "reproduce" / scale)
    make_folder(folder)
    before = _before(by_table, scale, folder, stand_in=path is None)
    summary = Summary(Outcome())
    if report_only or trials is not None:
        summary.limited_by = "report_only" if report_only else "trials"
    if not report_only:
        _check_file(chosen)
        if "table4" in names and path is None:
            _log(f"{KUAIREC}. A generated problem of the same size stands in for it.")
        summary.outcome = train_trials(chosen, folder, finished(chosen, before))
    refused = list(summary.outcome.refused)
    for name in names:
        try:
            if name in TRAINED:
                body = training_report(by_table[name], folder, before)
                if name == "figure3":
                    body["learning_speed"] = learning_speed(body["rows"])
                summary.left += body["not_begun"] + body["unfinished"]
            else:
                body = _measured(name, scale, folder, only_read=summary.limited_by is not None)
                summary.left += [] if body else [name]
            if body:
                summary.written += _write(_headed(body, name, scale, path), folder)
        except ConfigError as error:
            refused.append(str(error))
    if refused:
        raise ConfigError("; ".join(dict.fromkeys(refused)))
    summary.left = list(dict.fromkeys(summary.left))
    return summary


def _check_arguments(names: Sequence[str], path: str | None) -> None:
    """Rejects unknown tables, and a path that is not a file or that no table needs."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not a table or figure; expected {', '.join(NAMES)}")
    if path is not None and "table4" not in names:
        raise ConfigError(
            f"path={path!r} is the file for table4; {' '.join(names)} does not read it"
        )
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"path={path!r} is not a file. {KUAIREC}")


def _check_file(trials: list[Trial]) -> None:
    """Rejects a user's file that lacks items for the largest K, before anything is trained."""
    of_file = [trial for trial in trials if trial.config.path is not None]
    if not of_file:
        return
    config = max(of_file, key=lambda trial: trial.config.num_candidates).config
    try:
        prepare(config)
    except ValueError as error:  # invalid settings or an invalid table
        raise ConfigError(
            f"path={config.path!r} cannot be used for table4 with K = {config.num_candidates}: {error}. "
            "Nothing was trained. Correct the file, or run the other tables without table4 and path="
        ) from None


def _chosen(by_table: dict[str, list[Trial]], names: Sequence[str] | None) -> list[Trial]:
    """Returns the trials to train, by priority."""
    trials = unique_trials(trial for table in by_table.values() for trial in table)
    if names is None:
        return trials
    known = [trial.name for trial in trials]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ConfigError(
                f"trials={tuple(names)}: {name!r} is not a trial of {' '.join(by_table)}; close names: "
                f"{', '.join(near)}"
            )
    return [trial for trial in trials if trial.name in names]


def _before(
    by_table: dict[str, list[Trial]], scale: str, folder: Path, *, stand_in: bool
) -> dict[str, Any]:
    """Returns the trials that the folder's own reports hold; finished ones are not trained again."""
    before: dict[str, Any] = {}
    for name, trials in by_table.items():
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        report = read_report(file, name, scale, "rows")
        if name == "table4" and report["stand_in"] != stand_in:
            held, wanted = "KuaiRec", "the stand-in, without path="
            if not stand_in:
                held, wanted = "the stand-in", "KuaiRec, with path="
            raise ConfigError(f"{file} is a report of {held}; expected {wanted}. Give another out=")
        for trial, body in trials_before(trials, report["rows"], file).items():
            if trial not in before or body["reached"] > before[trial]["reached"]:
                before[trial] = body  # tables share trials
    return before


def _measured(name: str, scale: str, folder: Path, *, only_read: bool) -> dict[str, Any] | None:
    """Returns existing measurements, or measures now; None if another process is measuring."""
    file = folder / f"{name}.json"
    if file.exists():
        holds, has = KEYS[name]
        report = read_report(file, name, scale, holds, list)
        for number, figure in enumerate(report[holds], start=1):
            if not isinstance(figure, dict) or not figure.keys() >= has:
                raise ConfigError(
                    f"{file}: entry {number} of {holds} lacks some of {', '.join(sorted(has))}; move that "
                    "file away, and it will be measured again"
                )
        return report
    if only_read:
        return None
    try:
        with lock(folder / "locks" / name):
            _log(f"{name}: measuring")
            return {**MEASURED[name](scale), "versions": versions()}
    except Taken as owner:
        _log(f"{name}: skipped, in progress in {owner}")
        return None


def _headed(body: dict[str, Any], name: str, scale: str, path: str | None) -> dict[str, Any]:
    """Puts the description of a report before its contents."""
    head = {
        "table": name,
        "scale": scale,
        "title": tables.TITLES[name],
        "stand_in": name == "table4" and path is None,
        "paper": SOURCE,
    }
    return head | {key: value for key, value in body.items() if key not in head}


def _write(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes JSON, markdown and, if there is anything to draw, a picture; returns the files."""
    name = report["table"]
    written = [folder / f"{name}.{ending}" for ending in ("json", "md", "png")]
    write_json(written[0], report)
    written[1].write_text(f"# {report['title']}\n\n{tables.markdown(report)}\n")
    if not pictures.draw(report, written[2]):
        return written[:2]
    return written


def _log(sentence: str) -> None:
    print(sentence, file=sys.stderr)
