"""What the commands of the command line do; `cli` says how they are spelled.

Each answers its exit code. What a command needs is imported when it runs: `--help` waits for nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any, get_type_hints

from rankpg._utils.distributed import agreed, is_writer, join_processes
from rankpg.cli.arguments import checkpoint_step, folder_name, metrics_table, setting_argument
from rankpg.config.fields import flag
from rankpg.config.presets import PRESET_SETTINGS
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError

__all__ = ["train"]

_KEEPING = ("keep_last", "keep_best", "track")
"""Flags of `train` that say how its folder is kept; `RunFolder` takes them by these names."""


def train(arguments: argparse.Namespace) -> int:
    from rankpg._utils.signals import Stopped, listening
    from rankpg.runs.loop import training_loop
    from rankpg.runs.progress import progress_bar
    from rankpg.runs.run import prepare
    from rankpg.runs.storage.folder import RunFolder
    from rankpg.runs.storage.load import load_settings

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


def _describe(run: Any) -> None:
    """What will be trained, on stderr."""
    config, environment = run.config, run.environment
    print(
        f"{config.environment}: {environment.num_contexts} contexts, {environment.num_items} items; "
        f"K = {config.num_candidates}, M = {config.num_experts}, L = {config.ranking_length}; "
        f"{config.reranker} re-ranker; seeds {' '.join(map(str, config.seeds))}",
        file=sys.stderr,
    )
    if not run.dataset.ids_are_rows:
        lack = "judgement" if config.environment == "text" else "row"
        choice = f" (--missing {config.missing})" if config.environment == "ratings" else ""
        print(
            f"{run.dataset.missing_share:.1%} of all (context, item) pairs have no {lack} and count as 0"
            f"{choice}",
            file=sys.stderr,
        )
    chosen = run.policy.retrieval
    print(f"retrieval: {chosen.name} ({chosen.reason}); memory: {run.memory}", file=sys.stderr)


def _report(run: Any, folder: Any) -> str:
    where = "not saved (no --out)" if folder is None else f"in {folder.path}"
    return f"{run.config.estimator}, step {run.step}, {where}\n{metrics_table(run.last_rows)}"


TRAIN_HELP = """\
Train an early-stage ranker on the reward of the final list.

An environment gives contexts and rewards; the early stage hands K candidates of N items to the re-ranker;
the re-ranker shows L of them; what they earn, times the gradient of the estimator's score, is the step.

examples:
  the paper's instance, the default estimator:
    python -m rankpg train --out runs/first
  the paper's own start and step size, and its ordinary policy gradient:
    python -m rankpg train --estimator v_pg_swr --preset paper --out runs/paper
  your ratings (KuaiRec's small_matrix.csv as published, or any user, item, value table):
    python -m rankpg train --environment ratings --path small_matrix.csv --num-candidates 100 --out runs/mine
  settings from a file, one of them changed:
    python -m rankpg train --config runs/first/config.yaml --learning-rate 3e-3 --out runs/second

A flag overrides --config, and both override the preset. The exit code is 0 if every seed was trained to the
end; 2 for a setting or a file that you can mend; 3 if a seed was stopped by a value that is not finite; 130
after Ctrl-C and 143 after SIGTERM, with the state of the step that was reached saved in --out.
"""


def add_train(kinds: Any) -> None:
    parser = kinds.add_parser(
        "train",
        help="train a retriever",
        usage="rankpg train [--SETTING VALUE ...] [--config FILE] [--out FOLDER [--resume]]",
        description=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--config", type=Path, metavar="FILE", help="settings from a YAML file")
    files.add_argument("--out", type=folder_name, metavar="FOLDER", help="where the run is written")
    files.add_argument("--resume", action="store_true", help="continue the run that --out holds")
    files.add_argument(
        "--step", type=checkpoint_step, metavar="N|best",
        help="with --resume: the checkpoint to go on from; what came later is dropped [the newest]",
    )  # fmt: skip
    files.add_argument(
        "--keep-last", type=int, metavar="INT", help="checkpoints that stay, the newest ones [2]"
    )
    files.add_argument(
        "--keep-best",
        action=argparse.BooleanOptionalAction,
        help="keep the checkpoint of the largest policy value, mean over seeds, as well [no]",
    )
    files.add_argument(
        "--track", nargs="+", choices=("tensorboard", "wandb"), metavar="NAME",
        help="show the metrics in tensorboard or wandb too [none]",
    )  # fmt: skip
    processes = parser.add_argument_group("several processes")
    processes.add_argument(
        "--distributed",
        nargs="*",
        metavar="ADDRESS:PORT COUNT INDEX",
        help="this is one of several processes that train one run (--retrieval sharded); no values where "
        "Slurm, Open MPI, Kubernetes or a TPU pod tells which",
    )
    groups: dict[str, Any] = {}
    hints = get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag(field.name), **setting_argument(field, hints[field.name]))
    parser.set_defaults(command=train)
