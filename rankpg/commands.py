"""What the commands of the command line do; `cli` says how they are spelled.

Each answers its exit code. What a command needs is imported when it runs: `--help` waits for nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rankpg.config import TrainConfig
from rankpg.presets import PRESET_SETTINGS
from rankpg.processes import agreed, is_writer, join_processes
from rankpg.settings import ConfigError, flag

__all__ = [
    "demo",
    "evaluate",
    "export",
    "learning",
    "report",
    "reproduce",
    "speed",
    "train",
    "variance",
]

_KEEPING = ("keep_last", "keep_best", "track")
"""Flags of `train` that say how its folder is kept; `RunFolder` takes them by these names."""


def train(arguments: argparse.Namespace) -> int:
    from rankpg.progress import progress_bar
    from rankpg.run import prepare, training_loop
    from rankpg.run_folder import RunFolder, load_settings
    from rankpg.stopping import Stopped, listening

    others = ("command", "config", "out", "resume", "distributed", "step", *_KEEPING)
    given = {k: v for k, v in vars(arguments).items() if k not in others}
    if hasattr(arguments, "distributed"):
        join_processes(arguments.distributed)
    file, out = getattr(arguments, "config", None), getattr(arguments, "out", None)
    resume, step = getattr(arguments, "resume", False), getattr(arguments, "step", None)
    keeping = {name: vars(arguments)[name] for name in _KEEPING if name in vars(arguments)}
    _check_files(out, resume, step, keeping)
    if given.get("path"):
        given["path"] = str(Path(given["path"]).resolve())  # the run may be read from elsewhere
    folder = None if out is None else RunFolder(out, **keeping)
    if resume and file is None and folder is not None:
        file = folder.path / "config.yaml"
    settings = {} if file is None else load_settings(file)
    config = TrainConfig.from_dict(_open_up(settings, given) | given, source=str(file))
    if folder is not None and not resume:
        folder.check_free()  # before anything is read or compiled
    run = prepare(config)
    if is_writer():
        _describe(run)
    if folder is not None and resume:
        folder.resume(run, step)
    elif folder is not None:
        folder.open(run)
    try:
        with progress_bar(run.config.num_steps, shown=is_writer()) as bar, listening() as stop:
            bar.start(run.config.estimator)
            for progress in training_loop(run):
                if folder is not None:
                    folder.follow(run, progress)
                bar.follow(run, progress)
                number = agreed(stop.signal)
                if number and run.evaluated < run.config.num_steps:
                    raise Stopped(number, _saved(run, folder, progress))
    finally:
        problem = None if folder is None else folder.close(run)
        if problem:
            print(problem, file=sys.stderr)
    if is_writer():
        print(_report(run, folder))
        for sentence in run.stopped():
            print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if run.stopped() else 0


def _check_files(out: Path | None, resume: bool, step: Any, keeping: dict[str, Any]) -> None:
    """Refuse flags about files that would have no effect."""
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the run that goes on")
    if step is not None and not resume:
        raise ConfigError("--step says where --resume goes on; it has no effect without it")
    if keeping and out is None:
        raise ConfigError(f"{flag(next(iter(keeping)))} needs --out, the folder of the run")


def _saved(run: Any, folder: Any, progress: Any) -> str:
    """Save a run that is asked to stop, and say what became of it."""
    if folder is None:
        return f"It was at step {run.step}. Nothing was saved: no --out"
    if not run.metrics:
        return "Nothing was run yet"
    if progress.phase == "train":  # else this state is there already
        folder.save(run)
    path = str(folder.path)
    path = f"./{path}" if path.startswith("-") else path  # else it is read as a flag
    return (
        f"The state of step {run.step} is saved in {folder.path}. Go on with: "
        f"python -m rankpg train --resume --out {shlex.quote(path)}"
    )


def _open_up(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Leave the preset's settings of a resolved file open where a flag chooses what they were resolved from.

    A file that holds all of them is the config.yaml of a run, not somebody's choice of each.
    """
    resolved = all(settings.get(name) is not None for name in PRESET_SETTINGS)
    if resolved and {"preset", "estimator"} & given.keys():
        return {name: v for name, v in settings.items() if name not in PRESET_SETTINGS}
    if resolved and "optimizer" in given:
        return {name: v for name, v in settings.items() if name != "optimizer_options"}
    return settings


def evaluate(arguments: argparse.Namespace) -> int:
    from rankpg.run import evaluate_run
    from rankpg.run_folder import load_run

    run = load_run(arguments.run, step=arguments.step)
    rows = evaluate_run(run)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(f"{arguments.run}: {run.config.estimator}, step {run.step}")
        print(_table(rows))
    return 0


def export(arguments: argparse.Namespace) -> int:
    from rankpg.export import check_free, export
    from rankpg.run_folder import load_run

    settings = {
        k: v for k, v in vars(arguments).items() if k not in ("command", "run", "out", "step")
    }
    check_free(arguments.out)  # before anything is read or compiled
    folder = export(load_run(arguments.run, step=arguments.step), arguments.out, **settings)
    print((folder / "CARD.md").read_text().partition("\n## Data")[0])
    print(folder)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    from rankpg import demo as demonstration

    if arguments.num_steps < 1:
        raise ConfigError(f"--num-steps is {arguments.num_steps}; expected at least 1")
    print(demonstration.demo(arguments.out, arguments.num_steps))
    return 0


def report(arguments: argparse.Namespace) -> int:
    from rankpg.report import report as compare

    def tell(sentence: str) -> None:
        print(f"rankpg: {sentence}", file=sys.stderr)

    print(compare(arguments.runs, arguments.out, groups=arguments.groups, on_progress=tell))
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    from rankpg import reproduce as paper

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "names")}
    names = paper.NAMES if "all" in arguments.names else tuple(dict.fromkeys(arguments.names))
    summary = paper.reproduce(names, **settings)
    print("\n".join(map(str, summary.written)))
    for sentence in (*summary.outcome.stopped, *summary.left_in_words()):
        print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if summary.outcome.stopped else 0


def variance(arguments: argparse.Namespace) -> int:
    from rankpg.judging import check_rewards
    from rankpg.laboratory import report
    from rankpg.run_folder import load_run

    if arguments.num_contexts < 2:
        raise ConfigError(f"--num-contexts is {arguments.num_contexts}; expected at least 2")
    run = None if arguments.run is None else load_run(arguments.run)
    if run is not None:
        check_rewards(run)
    print(report(arguments.out, num_contexts=arguments.num_contexts, run=run))
    return 0


def learning(arguments: argparse.Namespace) -> int:
    from rankpg import hard_problems

    outcome, written = hard_problems.learning(
        arguments.problems, arguments.scale, arguments.out, report_only=arguments.report_only
    )
    print("\n".join(map(str, written)) or "nothing was trained yet")
    for sentence in outcome.stopped:
        print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if outcome.stopped else 0


def speed(arguments: argparse.Namespace) -> int:
    from rankpg.speed import benchmark
    from rankpg.speed.shapes import parse_shape

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "what")}
    if "shapes" in settings:
        settings["shapes"] = [parse_shape(text) for text in settings["shapes"]]
    files = benchmark(arguments.what, **settings)
    print(files[1].read_text())
    print("\n".join(map(str, files)))
    return 0


def _describe(run: Any) -> None:
    """What will be trained, on stderr."""
    config, environment = run.config, run.environment
    print(
        f"{config.environment}: {environment.num_contexts} contexts, {environment.num_items} items; "
        f"K = {config.num_candidates}, M = {config.num_experts}, L = {config.ranking_length}; "
        f"{config.late_stage} late stage; seeds {' '.join(map(str, config.seeds))}",
        file=sys.stderr,
    )
    if run.dataset is not None:
        lack = "judgement" if config.environment == "text" else "row"
        choice = f" (--missing {config.missing})" if config.environment == "ratings" else ""
        print(
            f"{run.dataset.missing_share:.1%} of all (context, item) pairs have no {lack} and count as 0"
            f"{choice}",
            file=sys.stderr,
        )
    chosen = run.pipeline.retrieval
    print(f"retrieval: {chosen.name} ({chosen.reason}); memory: {run.memory}", file=sys.stderr)


def _report(run: Any, folder: Any) -> str:
    where = "not saved (no --out)" if folder is None else f"in {folder.path}"
    return f"{run.config.estimator}, step {run.step}, {where}\n{_table(run.last_rows)}"


def _table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds and 95 % interval, one line a figure."""
    from rankpg.summary import mean_interval

    lines = []
    for name in rows[0]:
        values = [row[name] for row in rows if isinstance(row[name], float)]
        if values and name == "steps_per_second":  # one program trains all seeds
            lines.append(f"  {name:<18} {values[0]:10.1f}")
        elif values:
            mean, half = mean_interval(values)
            lines.append(f"  {name:<18} {mean:10.4f}" + ("" if half is None else f" ± {half:.4f}"))
    note = f"(mean of {len(rows)} seeds, 95 % interval)" if len(rows) > 1 else "(one seed)"
    return "\n".join([*lines, f"  {note}"])
