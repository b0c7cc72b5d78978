"""`python -m benchmarks reproduce`: train what the tables need, measure the rest, and write the reports."""

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
from benchmarks.paper.rows import TRAINED, table_rows
from benchmarks.sweeps.files import make_folder, write_json
from benchmarks.sweeps.results import finished, read_report, rows_before, training_report
from benchmarks.sweeps.run import Outcome, train_rows
from benchmarks.sweeps.trials import Row, unique_rows
from rankpg._utils.files import Taken, lock
from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.runs.run import prepare

__all__ = ["MEASURED", "NAMES", "Summary", "reproduce"]

MEASURED: dict[str, Callable[[str], dict[str, Any]]] = {
    "table5": greedy_error.measure,
    "figure4": speed.measure,
}
"""What is measured without training: name -> figures at a scale."""

FIGURES = {
    "table5": ("cells", {"temperature", "num_candidates", "paper", "errors"}),
    "figure4": ("arms", {"settings", "paper", "seconds"}),
}
"""Under which key a report of these holds them, and what each has."""

NAMES = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4")

KUAIREC = (
    "table4 is about KuaiRec (Gao et al., CIKM 2022): get small_matrix.csv from https://kuairec.com and "
    "give it as --path small_matrix.csv."
)


@dataclass
class Summary:
    """What was done, and what is left."""

    outcome: Outcome
    written: list[Path] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """rows that are not begun or not finished"""
    left_out: str | None = None
    """the flag that kept the rows that are left from being trained"""

    def left_in_words(self) -> list[str]:
        """One sentence, if anything is left."""
        if not self.left:
            return []
        how = f"Without {self.left_out} the" if self.left_out else "The same"
        return [f"{len(self.left)} not finished: {', '.join(self.left)}. {how} command goes on"]


def reproduce(
    names: Sequence[str],
    scale: str = "laptop",
    out: Path | str | None = None,
    *,
    path: str | None = None,
    rows: Sequence[str] | None = None,
    report_only: bool = False,
) -> Summary:
    """Train, measure and report some of the paper's tables and figures.

    Args:
      names: of `NAMES`.
      scale: of `SCALES`.
      out: the folder of runs and reports; runs/reproduce/<scale> by default.
      path: KuaiRec's small_matrix.csv, for table4.
      rows: train these rows only.
      report_only: train and measure nothing; report what is there.

    Raises:
      ConfigError: an unknown name, or a folder or a file that holds something else; of rows and reports that
        are at fault after all others are trained and written.
    """
    folder = Path(out or Path("runs") / "reproduce" / scale)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no table or figure; expected {', '.join(NAMES)}")
    if path is not None and "table4" not in names:
        raise ConfigError(f"--path is KuaiRec's file, which {' '.join(names)} does not read")
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"--path {path} is no file. {KUAIREC}")
    by_table = {name: table_rows(name, scale, path) for name in names if name in TRAINED}
    if rows is not None and not by_table:
        raise ConfigError(f"--rows: {' '.join(names)} trains no rows")
    chosen = _chosen(by_table, rows)
    make_folder(folder)
    before = _before(by_table, scale, folder, stand_in=path is None)
    summary = Summary(Outcome())
    summary.left_out = "--report-only" if report_only else "--rows" if rows is not None else None
    if not report_only:
        _check_file(chosen)
        if "table4" in names and path is None:
            _say(f"{KUAIREC} Without it, a generated problem of its size stands in.")
        summary.outcome = train_rows(chosen, folder, finished(chosen, before))
    refused = list(summary.outcome.refused)
    for name in names:
        try:
            if name in TRAINED:
                body = training_report(by_table[name], folder, before)
                if name == "figure3":
                    body["learning_speed"] = learning_speed(body["rows"])
                summary.left += body["not_begun"] + body["unfinished"]
            else:
                body = _measured(name, scale, folder, only_read=report_only or rows is not None)
                summary.left += [] if body else [name]
            if body:
                summary.written += _write(_headed(body, name, scale, path), folder)
        except ConfigError as error:
            refused.append(str(error))
    if refused:
        raise ConfigError("; ".join(dict.fromkeys(refused)))
    summary.left = list(dict.fromkeys(summary.left))
    return summary


def _check_file(rows: list[Row]) -> None:
    """Read a user's file before anything is trained, for the largest K that is asked of it."""
    of_file = [row for row in rows if row.config.path is not None]
    if not of_file:
        return
    config = max(of_file, key=lambda row: row.config.num_candidates).config
    try:
        prepare(config)
    except ValueError as error:  # of the settings or of the table
        raise ConfigError(
            f"--path {config.path} cannot be used for table4, with K = {config.num_candidates}: {error}. "
            "Nothing was trained; the other tables go on without table4 and --path"
        ) from None


def _chosen(by_table: dict[str, list[Row]], names: Sequence[str] | None) -> list[Row]:
    """The rows to train, the most important first."""
    rows = unique_rows(row for table in by_table.values() for row in table)
    if names is None:
        return rows
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ConfigError(
                f"--rows: {name!r} is no row of {' '.join(by_table)}; for instance {', '.join(near)}"
            )
    return [row for row in rows if row.name in names]


def _before(
    by_table: dict[str, list[Row]], scale: str, folder: Path, *, stand_in: bool
) -> dict[str, Any]:
    """Rows that the folder's own reports have: finished ones are not trained again."""
    before: dict[str, Any] = {}
    for name, rows in by_table.items():
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        report = read_report(file, name, scale, "rows")
        if name == "table4" and report["stand_in"] != stand_in:
            held = "of KuaiRec" if stand_in else "of the stand-in"
            asked = "for the stand-in, without --path" if stand_in else "for KuaiRec, with --path"
            raise ConfigError(
                f"{file} is {held}, and this asks {asked}; choose another --out for it"
            )
        for row, body in rows_before(rows, report["rows"], file).items():
            if row not in before or body["reached"] > before[row]["reached"]:
                before[row] = body  # tables share rows
    return before


def _measured(name: str, scale: str, folder: Path, *, only_read: bool) -> dict[str, Any] | None:
    """The figures of an earlier call, or measured now; None where another process measures them."""
    file = folder / f"{name}.json"
    if file.exists():
        holds, has = FIGURES[name]
        report = read_report(file, name, scale, holds, list)
        for number, figure in enumerate(report[holds], start=1):
            if not isinstance(figure, dict) or not figure.keys() >= has:
                raise ConfigError(
                    f"{file}: number {number} of its {holds} lacks some of {', '.join(sorted(has))}; move "
                    "that file away, and it is measured again"
                )
        return report
    if only_read:
        return None
    try:
        with lock(folder / "locks" / name):
            _say(f"{name}: measuring")
            return {**MEASURED[name](scale), "versions": versions()}
    except Taken as owner:
        _say(f"{name}: left to {owner}")
        return None


def _headed(body: dict[str, Any], name: str, scale: str, path: str | None) -> dict[str, Any]:
    """A report says what it is before anything else."""
    head = {
        "table": name,
        "scale": scale,
        "title": tables.TITLES[name],
        "stand_in": name == "table4" and path is None,
        "paper": SOURCE,
    }
    return head | {key: value for key, value in body.items() if key not in head}


def _write(report: dict[str, Any], folder: Path) -> list[Path]:
    """JSON, markdown and picture."""
    name = report["table"]
    written = [folder / f"{name}.{ending}" for ending in ("json", "md", "png")]
    write_json(written[0], report)
    written[1].write_text(f"# {report['title']}\n\n{tables.markdown(report)}\n")
    if not pictures.draw(report, written[2]):
        return written[:2]
    return written


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
