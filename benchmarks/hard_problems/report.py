"""Report on the hard problems: trains every estimator and compares it with the attainable value."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hard_problems.problems import COMPARED, PROBLEMS, SCALES, problem_trials
from benchmarks.hard_problems.reach import find_reach
from benchmarks.markdown import grid
from benchmarks.sweeps.files import make_folder, read_json, write_json
from benchmarks.sweeps.results import collect, finished, mean_of, read_report, trials_before
from benchmarks.sweeps.run import Outcome, run_folder, train_trials
from benchmarks.sweeps.trials import Trial
from rankpg._utils.files import Taken, lock
from rankpg._utils.plots import COLORS, pyplot
from rankpg._utils.signals import Stopped, listening
from rankpg._version import versions
from rankpg.errors import ConfigError

__all__ = ["GOAL", "draw", "learning", "markdown"]

GOAL = 0.98
"""Share of the fitted encoder's value at which a problem counts as solved."""

NAME = "learning"
"""Name of the report's files."""


def learning(
    names: Sequence[str] = (),
    scale: str = "laptop",
    out: Path | str | None = None,
    *,
    report_only: bool = False,
) -> tuple[Outcome, list[Path]]:
    """Trains every estimator on the problems, and writes JSON, a table and a picture.

    Args:
      names: names in `PROBLEMS`; all if empty.
      scale: a name in `SCALES`.
      out: folder of runs and reports; runs/learning/<scale> by default.
      report_only: train and fit nothing; report the existing results.

    Returns:
      The outcome of the trials, and the files written.

    Raises:
      ConfigError: an unknown name, or a folder with other contents. Errors of single trials are raised after
        all others are trained and the report is written.
    """
    folder = Path(out or Path("runs") / NAME / scale)
    plt = pyplot()  # raises before hours of training if matplotlib is missing
    trials = {name: problem_trials(name, scale) for name in names or PROBLEMS}
    outcome = Outcome()
    make_folder(folder)
    before = _before(scale, folder)
    if not report_only:
        for name, of_problem in trials.items():
            _fit_once(name, scale, of_problem[0], folder)
        todo = [trial for of_problem in trials.values() for trial in of_problem]
        outcome = train_trials(todo, folder, finished(todo, before))
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
    """Returns the entries of the folder's own report, and restores its reach files from it."""
    file, before = folder / f"{NAME}.json", {}
    if not file.exists():
        return before
    for name, found in read_report(file, NAME, scale, "problems")["problems"].items():
        if name not in PROBLEMS:
            raise ConfigError(
                f"{file} has {name!r}, which is not a problem now; give another out=, or move the file away"
            )
        parts = [found.get(part) if isinstance(found, dict) else None for part in ("reach", "rows")]
        if not all(isinstance(part, dict) for part in parts):
            raise ConfigError(
                f"{file}: {name} lacks its reach or its rows; replace it by an intact copy, or move it away"
            )
        if not _reach_file(folder, name).exists():
            write_json(_reach_file(folder, name), found["reach"])
        bodies = {f"{name}-{compared}": body for compared, body in found["rows"].items()}
        before |= trials_before(problem_trials(name, scale), bodies, file, PROBLEMS[name].measure)
    return before


def _reach_file(folder: Path, name: str) -> Path:
    return folder / "reach" / f"{name}.json"


def _read_reach(file: Path) -> dict[str, Any]:
    """Reads the attainable value of a problem."""
    found = read_json(file)
    if not all(type(found.get(name)) is float for name in ("limit", "reach")):
        raise ConfigError(
            f"{file} lacks a limit or a reach; move it away, and it will be fitted again"
        )
    return found


def _fit_once(name: str, scale: str, trial: Trial, folder: Path) -> None:
    """Finds the attainable value of a problem, unless it is known or another process is fitting it."""
    file = _reach_file(folder, name)
    settings = {"problem": name, "scale": scale}
    if file.exists():
        found = _read_reach(file)
        if {key: found.get(key) for key in settings} != settings:
            raise ConfigError(f"{file} is of another problem or scale; give another out=")
        return
    try:
        with lock(folder / "locks" / f"reach-{name}"), listening() as stop:

            def check_signal() -> None:
                if stop.signal:
                    raise Stopped(
                        stop.signal,
                        f"{name} is not fitted; run the same command again to restart the fit",
                    )

            print(f"{name}: fitting the policy to the rewards", file=sys.stderr)
            steps = SCALES[scale].fit_steps
            reach = find_reach(trial.config, PROBLEMS[name].measure, steps, check_signal)
            write_json(file, {**settings, **dataclasses.asdict(reach), "versions": versions()})
    except Taken as owner:
        print(f"{name}: fit skipped, in progress in {owner}", file=sys.stderr)


def gather(scale: str, folder: Path, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the report of a folder: for every problem, its attainable value and every estimator's share."""
    problems: dict[str, Any] = {}
    unfinished, not_begun = [], []
    for name, problem in PROBLEMS.items():
        file, trials = _reach_file(folder, name), problem_trials(name, scale)
        found = {t.name: collect(t, run_folder(folder, t), problem.measure, before) for t in trials}
        if not file.exists() or not any(found.values()):
            not_begun.append(name)
            continue
        unfinished += [
            trial.name
            for trial in trials
            if (body := found[trial.name]) is None or body["reached"] < trial.config.num_steps
        ]
        reach = _read_reach(file)
        problems[name] = {
            "title": problem.title,
            "measure": problem.measure,
            "reach": reach,
            "rows": {
                body["labels"]["estimator"]: body | _progress(body, problem.measure, reach["reach"])
                for body in found.values()
                if body
            },
        }
    return {
        "table": NAME,
        "scale": scale,
        "title": "Hard problems",
        "goal": GOAL,
        "problems": problems,
        "unfinished": unfinished,
        "not_begun": not_begun,
    }


def _progress(body: dict[str, Any], measure: str, reach: float) -> dict[str, Any]:
    """Share of the reach after the last step, and the first step at which the mean over seeds is at the goal.

    A seed without a value (None) is left out of the final mean; at that step no mean counts for the goal.
    """
    curves = np.asarray(list(body[measure].values()), float)
    there = np.flatnonzero(curves.mean(axis=0) >= GOAL * reach)
    last = [curve[-1] for curve in body[measure].values()]
    return {
        "share_of_reach": mean_of(None if value is None else value / reach for value in last),
        "steps_to_goal": body["steps"][there[0]] if len(there) else None,
    }


def markdown(report: dict[str, Any]) -> str:
    """Table of one row per problem and one column per estimator: share of the fitted encoder's value."""
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
        "Share of the fitted encoder's value after the last step; in brackets the first step at which the "
        f"mean over seeds is at {report['goal']:.0%}. Bold: the best of a row.",
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
    """Draws the share of the reach against steps: one panel per problem, one line per estimator."""
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
        axis.set_ylabel("share of the fitted value")
    for axis in axes.flat[: len(problems)][-columns:]:  # the lowest of each column
        axis.set_xlabel("training steps")
    figure.suptitle(f"{report['title']}, scale {report['scale']}")
    figure.legend(
        handles.values(), [n if n != "goal" else f"{report['goal']:.0%}" for n in handles],
        loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.savefig(file, dpi=130)
    plt.close(figure)
