"""The outputs of a comparison: JSON, Markdown, and one HTML page in the style of the report."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankpg._utils.files import atomic_write_all
from rankpg.compare.results import Result
from rankpg.compare.verdict import Row, best_of
from rankpg.report.page import Panel, Section, Table, encoded, render
from rankpg.report.pictures import dots

__all__ = [
    "check_extra",
    "final_table",
    "main_table",
    "markdown_table",
    "page",
    "plain",
    "write_outputs",
]

MARK = "*"
"""Behind a difference whose interval excludes 0."""
CUT = "†"
"""Behind a method that the time of the comparison cut short."""


def check_extra() -> None:
    """Rejects an installation without what the page needs.

    Raises:
      ModuleNotFoundError: a package is missing; the message names the extra.
    """
    for module in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the page of a comparison needs {module}: pip install 'rankpg[report]'"
            ) from error


def main_table(rows: Sequence[Row], reference: str | None, compared: Sequence[str]) -> Table:
    """Returns the table of all methods; the best mean of each metric is strong.

    Args:
      rows: one for each method, in the order of the table.
      reference: the method that is subtracted in the differences; None for none.
      compared: metrics of the table.
    """
    with_differences = reference is not None and len(rows) > 1
    head = ["method", *compared]
    if with_differences:
        head += [f"{metric} less {reference}" for metric in compared]
    cells = []
    for row in rows:
        line = [_named(row), *(_interval(row, metric) for metric in compared)]
        if with_differences:
            line += [_difference(row, metric) for metric in compared]
        costs = (
            str(row.trials),
            str(row.seeds),
            f"{row.tuning_seconds:.1f}",
            f"{row.fit_seconds:.1f}",
        )
        cells.append((*line, *costs))
    best = [best_of(rows, metric).method for metric in compared]
    strong = frozenset(
        (place, 1 + column)
        for column, name in enumerate(best)
        for place, row in enumerate(rows)
        if row.method == name
    )
    caption = "Mean over users of the test part, with its 95 % bootstrap interval."
    if with_differences:
        caption += f" {MARK}: the interval of the difference excludes 0."
    if any(row.cut for row in rows):
        caption += f" {CUT}: the time of the comparison cut it short, as the notes say."
    head += ["trials", "seeds", "tuning, s", "fitting, s"]
    return Table(tuple(head), cells, caption, strong=strong)


def final_table(rows: Sequence[Row], reference: str | None, final: Sequence[str]) -> Table:
    """Returns the table of the final lists, the best one first, and of the loss at each stage.

    Args:
      rows: one for each method.
      reference: the method that is subtracted in the differences; None for none.
      final: names of the metric of the final list, of the retriever's loss, and of the re-ranker's.
    """
    metric, *losses = final
    ordered = sorted(rows, key=lambda row: -row.mean(metric))
    with_differences = reference is not None and len(rows) > 1
    head = ["method", metric]
    head += [f"{metric} less {reference}"] if with_differences else []
    cells = [
        (
            _named(row),
            _interval(row, metric),
            *([_difference(row, metric)] if with_differences else []),
            *(_interval(row, loss) for loss in losses),
        )
        for row in ordered
    ]
    caption = (
        "The final list: the candidates of each method, in an order that fuses the method's and that of one "
        "re-ranker for all. Retriever loss: 1 less the nDCG of the candidates in their best order; re-ranker "
        "loss: the rest. They and the nDCG add up to 1."
    )
    return Table((*head, *losses), cells, caption, strong=frozenset({(0, 1)}))


def markdown_table(table: Table) -> str:
    """Returns a table as Markdown, with strong cells in bold.

    >>> print(markdown_table(Table(("a", "b"), [("x", "1")], strong=frozenset({(0, 1)}))))
    | a | b |
    |---|---|
    | x | **1** |
    """
    lines = [_line(table.head), "|" + "---|" * len(table.head)]
    for place, row in enumerate(table.rows):
        cells = [
            f"**{cell}**" if (place, column) in table.strong else cell
            for column, cell in enumerate(row)
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _named(row: Row) -> str:
    return f"{row.method} {CUT}" if row.cut else row.method


def _interval(row: Row, metric: str) -> str:
    found = row.intervals[metric]
    return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"


def _difference(row: Row, metric: str) -> str:
    found = row.differences.get(metric)
    if found is None:
        return ""
    mark = f" {MARK}" if found.excludes_zero else ""
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}){mark}"


def page(
    rows: Sequence[Row],
    results: Sequence[Result],
    reference: str | None,
    compared: Sequence[str],
    verdict: str,
    notes: Sequence[str],
    versions: Mapping[str, str],
    descriptions: Mapping[str, str],
    final: Sequence[str] = (),
) -> str:
    """Returns the comparison as one HTML page that contains its pictures.

    Args:
      rows, reference, compared: as for `main_table`.
      results: one for each method.
      verdict: the sentences at the top.
      notes: sentences about data, methods that were left out, and the number of steps.
      versions: packages and hardware, by name.
      descriptions: noun phrases, by method.
      final: as for `final_table`; empty without a re-ranker.
    """
    panels = [_panel(rows, metric) for metric in compared]
    methods = Table(
        ("method", "description", "chosen settings", "validation metric"),
        [_method_row(result, descriptions[result.name]) for result in results],
    )
    sections = [
        Section("Comparison", tables=[main_table(rows, reference, compared)], panels=panels),
        *_final_section(rows, reference, final),
        Section("All metrics", tables=[_all_metrics(rows)]),
        Section("Methods", tables=[methods], notes=list(notes)),
        Section("Versions", tables=[Table(("name", "value"), list(versions.items()))]),
    ]
    return render(f"Comparison of {len(rows)} methods", verdict, sections)


def _final_section(
    rows: Sequence[Row], reference: str | None, final: Sequence[str]
) -> list[Section]:
    if not final:
        return []
    tables = [final_table(rows, reference, final)]
    return [Section("Final list", tables=tables, panels=[_panel(rows, final[0])])]


def _panel(rows: Sequence[Row], metric: str) -> Panel:
    ends = [(row.intervals[metric].low, row.intervals[metric].high) for row in rows]
    image = dots([row.method for row in rows], [row.mean(metric) for row in rows], ends, metric)
    caption = "Mean over users, with the 95 % bootstrap interval of the choice of users."
    return Panel(metric, image, caption)


def _all_metrics(rows: Sequence[Row]) -> Table:
    """Metrics as rows, methods as columns."""
    names = [*rows[0].intervals, *rows[0].catalogue]
    means = [{m: row.mean(m) for m in row.intervals} | dict(row.catalogue) for row in rows]
    cells = [(name, *(f"{of_row[name]:.4f}" for of_row in means)) for name in names]
    return Table(("metric", *(row.method for row in rows)), cells)


def _method_row(result: Result, description: str) -> tuple[str, ...]:
    chosen = result.chosen
    settings = ", ".join(f"{name}={value}" for name, value in chosen.settings.items())
    if chosen.schedule.num_steps:
        settings += f"; {chosen.schedule.steps} of {chosen.schedule.num_steps} steps"
    score = "" if chosen.score is None else f"{chosen.score:.4f}"
    return result.name, description, settings, score


def plain(
    rows: Sequence[Row],
    results: Sequence[Result],
    verdict: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the comparison as plain values, for JSON.

    Args:
      rows: one for each method.
      results: one for each method.
      verdict: the sentences.
      facts: everything else, as plain values.
    """
    trials = {result.name: result for result in results}
    methods = [
        {
            "method": row.method,
            "metrics": {name: dataclasses.asdict(found) for name, found in row.intervals.items()},
            "differences": {n: dataclasses.asdict(found) for n, found in row.differences.items()},
            "catalogue": dict(row.catalogue),
            "seeds": row.seeds,
            "cut": row.cut,
            "tuning_seconds": row.tuning_seconds,
            "fit_seconds": row.fit_seconds,
            "chosen": dataclasses.asdict(trials[row.method].chosen),
            "trials": [dataclasses.asdict(trial) for trial in trials[row.method].trials],
        }
        for row in rows
    ]
    return {"verdict": verdict, **facts, "methods": methods}


def write_outputs(folder: Path, found: Mapping[str, Any], markdown: str, html: str) -> None:
    """Writes comparison.json, comparison.md and comparison.html.

    None replaces its file before all are on the disk, so that a full disk changes none of them. A process
    that is killed between two of the renames leaves files of two comparisons, each of them whole.

    Args:
      folder: exists.
      found: from `plain`.
      markdown: text of comparison.md.
      html: from `page`.

    Raises:
      OSError: a file cannot be written.
    """
    contents = {
        "comparison.json": (json.dumps(found, indent=1) + "\n").encode(),
        "comparison.md": (markdown + "\n").encode(),
        "comparison.html": encoded(html),
    }
    atomic_write_all({folder / name: content for name, content in contents.items()})
