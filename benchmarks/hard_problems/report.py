"""`python -m benchmarks hard-problems`: train, find what could be had, and put it side by side."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hard_problems.problems import COMPARED, PROBLEMS, SCALES, problem_rows
from benchmarks.hard_problems.reach import find_reach
from benchmarks.markdown import grid
from benchmarks.sweeps.files import make_folder, read_json, write_json
from benchmarks.sweeps.results import collect, finished, mean_of, read_report, rows_before
from benchmarks.sweeps.run import Outcome, run_folder, train_rows
from benchmarks.sweeps.trials import Row
from rankpg._utils.files import Taken, lock
from rankpg._utils.plots import COLORS, pyplot
from rankpg._utils.signals import Stopped, listening
from rankpg._version import versions
from rankpg.errors import ConfigError

__all__ = ["GOAL", "draw", "learning", "markdown"]

GOAL = 0.98
"""of what the encoder reaches when it is fitted to the rewards"""

NAME = "learning"


def learning(
    names: Sequence[str] = (),
    scale: str = "laptop",
    out: Path | str | None = None,
    *,
    report_only: bool = False,
) -> tuple[Outcome, list[Path]]:
    """Train everything that is compared on some problems, or on all, and write JSON, a table and a picture.

    Args:
      names: of `PROBLEMS`; all of them if empty.
      scale: of `SCALES`.
      out: the folder of runs and reports; runs/learning/<scale> by default.
      report_only: train and fit nothing; report what is there.

    Returns:
      What became of the rows, and the files that were written.

    Raises:
      ConfigError: an unknown name, or a folder that holds something else; of rows that are at fault after all
        others are trained and the report is written.
    """
    folder = Path(out or Path("runs") / NAME / scale)
    plt = pyplot()  # or say now that it is missing
    rows = {name: problem_rows(name, scale) for name in names or PROBLEMS}
    outcome = Outcome()
    make_folder(folder)
    before = _before(scale, folder)
    if not report_only:
        for name, of_problem in rows.items():
            _fit_once(name, scale, of_problem[0], folder)
        todo = [row for of_problem in rows.values() for row in of_problem]
        outcome = train_rows(todo, folder, finished(todo, before))
    report = gather(scale, folder, before)
    files = []
    if report["problems"]:
        files = [folder / f"{NAME}.{ending}" for ending in ("json", "md", "png")]
        write_json(files[0], report)
        files[1].write_text(f"# {report['title']}\n\n{markdown(report)}\n")
        draw(plt, report, files[2])
    if outcome.refused:
        raise ConfigError("; ".join(outcome.refused))
    return outcome, files


def _before(scale: str, folder: Path) -> dict[str, Any]:
    """The rows of the folder's own report; what it says of the reach becomes files again."""
    file, before = folder / f"{NAME}.json", {}
    if not file.exists():
        return before
    for name, found in read_report(file, NAME, scale, "problems")["problems"].items():
        if name not in PROBLEMS:
            raise ConfigError(
                f"{file} has {name!r}, which is no problem now; choose another --out, or move it away"
            )
        parts = [found.get(part) if isinstance(found, dict) else None for part in ("reach", "rows")]
        if not all(isinstance(part, dict) for part in parts):
            raise ConfigError(
                f"{file}: {name} lacks its reach or its rows; put a whole copy in its place, or move it away"
            )
        if not _reach_file(folder, name).exists():
            write_json(_reach_file(folder, name), found["reach"])
        bodies = {f"{name}-{compared}": body for compared, body in found["rows"].items()}
        before |= rows_before(problem_rows(name, scale), bodies, file, PROBLEMS[name].measure)
    return before


def _reach_file(folder: Path, name: str) -> Path:
    return folder / "reach" / f"{name}.json"


def _read_reach(file: Path) -> dict[str, Any]:
    """What could be had on a problem, as it was found."""
    found = read_json(file)
    if not all(type(found.get(name)) is float for name in ("limit", "reach")):
        raise ConfigError(f"{file} lacks a limit or a reach; move it away, and it is found again")
    return found


def _fit_once(name: str, scale: str, row: Row, folder: Path) -> None:
    """What could be had on a problem, unless it is known or another process finds it."""
    file = _reach_file(folder, name)
    settings = {"problem": name, "scale": scale}
    if file.exists():
        found = _read_reach(file)
        if {key: found.get(key) for key in settings} != settings:
            raise ConfigError(f"{file} is of another problem or scale; choose another --out")
        return
    try:
        with lock(folder / "locks" / f"reach-{name}"), listening() as stop:

            def heed() -> None:
                if stop.signal:
                    raise Stopped(
                        stop.signal, f"{name} is not fitted; the same command begins it anew"
                    )

            print(f"{name}: fitting the policy to the rewards", file=sys.stderr)
            steps = SCALES[scale].fit_steps
            reach = find_reach(row.config, PROBLEMS[name].measure, steps, on_stretch=heed)
            write_json(file, {**settings, **dataclasses.asdict(reach), "versions": versions()})
    except Taken as owner:
        print(f"{name}: fitting left to {owner}", file=sys.stderr)


def gather(scale: str, folder: Path, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All that a folder holds: by problem, what could be had and what each way to train got of it."""
    problems: dict[str, Any] = {}
    unfinished, not_begun = [], []
    for name, problem in PROBLEMS.items():
        file, rows = _reach_file(folder, name), problem_rows(name, scale)
        found = {
            row.name: collect(row, run_folder(folder, row), problem.measure, before) for row in rows
        }
        if not file.exists() or not any(found.values()):
            not_begun.append(name)
            continue
        unfinished += [
            row.name
            for row in rows
            if (body := found[row.name]) is None or body["reached"] < row.config.num_steps
        ]
        reach = _read_reach(file)
        problems[name] = {
            "title": problem.title,
            "measure": problem.measure,
            "reach": reach,
            "rows": {
                body["labels"]["estimator"]: body | _judged(body, problem.measure, reach["reach"])
                for body in found.values()
                if body
            },
        }
    return {
        "table": NAME,
        "scale": scale,
        "title": "Problems that are still hard",
        "goal": GOAL,
        "problems": problems,
        "unfinished": unfinished,
        "not_begun": not_begun,
    }


def _judged(body: dict[str, Any], measure: str, reach: float) -> dict[str, Any]:
    """Share of the reach at the end, and the first step at which the mean over seeds has the goal.

    A seed without a value, which is None, leaves the mean of the others at the end, and no mean on the way.
    """
    curves = np.asarray(list(body[measure].values()), float)
    there = np.flatnonzero(curves.mean(axis=0) >= GOAL * reach)
    last = [curve[-1] for curve in body[measure].values()]
    return {
        "share_of_reach": mean_of(None if value is None else value / reach for value in last),
        "steps_to_goal": body["steps"][there[0]] if len(there) else None,
    }


def markdown(report: dict[str, Any]) -> str:
    """One row a problem, one column a way to train: share of what the fitted encoder reaches."""
    names = [
        n for n in COMPARED if any(n in problem["rows"] for problem in report["problems"].values())
    ]
    head = ["problem", "limit", "fitted", *(f"`{name}`" for name in names)]
    lines = [head]
    for name, problem in report["problems"].items():
        reach, rows = problem["reach"], problem["rows"]
        best = max(row["share_of_reach"]["mean"] or 0 for row in rows.values())
        lines.append(
            [
                f"`{name}`: {problem['title']}",
                f"{reach['limit']:.3f}",
                f"{reach['reach']:.3f} ({reach['reach'] / reach['limit']:.1%})",
                *(_cell(rows.get(n), best) for n in names),
            ]
        )
    found = [row for problem in report["problems"].values() for row in problem["rows"].values()]
    on = {
        f"{v['machine']}; {v['device']}; jax {v['jax']}"
        for v in (r["versions"] for r in found)
        if v
    }
    seeds = sorted({len(row["config"]["seeds"]) for row in found})
    notes = [
        "Share of what the encoder reaches when it is fitted to the rewards, after the last step; in "
        f"brackets the first step at which the mean has {report['goal']:.0%} of it. Bold: the best of a row.",
        f"*Mean of {' or '.join(map(str, seeds))} seeds ± 95 % interval. {'. '.join(sorted(on))}.*",
    ]
    for key, words in (("unfinished", "Not finished"), ("not_begun", "Not begun")):
        if report[key]:
            notes.insert(1, f"{words}: " + ", ".join(f"`{name}`" for name in report[key]) + ".")
    return "\n\n".join([grid(lines), *notes])


def _cell(row: dict[str, Any] | None, best: float) -> str:
    if row is None:
        return "—"
    share = row["share_of_reach"]
    if share["mean"] is None:
        return "not finite"
    half = share["half_width_95"]
    text = f"{share['mean']:.1%}" + ("" if half is None else f" ± {half:.1%}")
    if share["mean"] >= best:
        text = f"**{text}**"
    if row["reached"] < row["config"]["num_steps"]:
        text += f" at {row['reached']:,}"
    goal = row["steps_to_goal"]
    return text + (f" ({goal:,})" if goal is not None else "")


def draw(plt: Any, report: dict[str, Any], file: Path) -> None:
    """One panel a problem: the share of the reach against steps, one line a way to train."""
    problems = report["problems"]
    columns = min(4, len(problems))
    lines = -(-len(problems) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(1 + 3.2 * columns, 0.6 + 2.7 * lines), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(problems) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis, (name, problem) in zip(axes.flat, problems.items(), strict=False):
        reach = problem["reach"]["reach"]
        for compared, row in problem["rows"].items():
            curves = np.asarray(list(row[problem["measure"]].values()), float) / reach
            color = COLORS.get(compared, "black")
            (handles[compared],) = axis.plot(row["steps"], curves.mean(axis=0), color=color)
            for curve in curves:
                axis.plot(row["steps"], curve, color=color, lw=0.6, alpha=0.5)
        handles["goal"] = axis.axhline(report["goal"], color="0.35", ls="--", lw=0.8)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the reach")
    for axis in axes.flat[: len(problems)][-columns:]:  # the lowest of each column
        axis.set_xlabel("training steps")
    figure.suptitle(f"{report['title']}, scale {report['scale']}")
    figure.legend(
        handles.values(), [n if n != "goal" else f"{report['goal']:.0%}" for n in handles],
        loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.savefig(file, dpi=130)
    plt.close(figure)
