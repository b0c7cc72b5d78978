"""The command train: trains a run, saves it, and prints its last metrics."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from rankpg._utils.distributed import agreed, is_writer, join_processes
from rankpg._utils.documents import printable
from rankpg.cli.arguments import checkpoint_step, folder_name, metrics_table, setting_argument
from rankpg.cli.flags import flag, with_flags
from rankpg.cli.origin import Origin
from rankpg.config.presets import PRESET_SETTINGS
from rankpg.config.train_config import GROUPS, TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.storage.trackers import TRACKERS

if TYPE_CHECKING:
    from rankpg.runs.run import Progress, Run
    from rankpg.runs.storage.folder import RunFolder

__all__ = ["add_train", "train"]

_KEEPING = ("keep_last", "keep_best", "track")
"""Flags of `train` that are arguments of `RunFolder`."""

_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))


def train(arguments: argparse.Namespace) -> int:
    """Trains a run; the exit code is 3 where a seed was stopped by a value that is not finite."""
    from rankpg.runs.run import prepare
    from rankpg.runs.storage.folder import RunFolder
    from rankpg.runs.storage.places import check_data_is_there

    flags = vars(arguments)
    if "distributed" in flags:
        join_processes(flags["distributed"])
    out, resume, step = flags.get("out"), flags.get("resume", False), flags.get("step")
    keeping = {name: flags[name] for name in _KEEPING if name in flags}
    _check_files(out, resume, step, keeping)
    folder = None if out is None else RunFolder(out, **keeping)
    if folder is not None and resume:
        folder.check_resumable()
    config, origin = _read_config(flags, folder if resume else None)
    if folder is not None and not resume:
        folder.check_free()  # before anything is read or compiled
    with origin.named():
        saved, restored = {}, False
        if folder is not None and resume:
            check_data_is_there(config, folder.path)
            saved, restored = folder.components(), folder.has_checkpoint()
        run = prepare(config, restored=restored, **saved)
    if is_writer():
        _describe(run)
    if folder is not None and resume:
        folder.resume(run, step)
    elif folder is not None:
        folder.open(run)
    if folder is not None and folder.notice:
        print(f"rankpg: {folder.notice}", file=sys.stderr)
    try:
        _train(run, folder)
    finally:
        problem = None if folder is None else folder.close(run)
        if problem:
            print(problem, file=sys.stderr)
    if is_writer():
        from rankpg.runs.held_out import in_sample

        print(_report(run, folder))
        note = None if run.dataset.parts is not None else in_sample(run.config, run.environment)
        if note:
            print(f"rankpg: {with_flags(note, _SETTINGS)}", file=sys.stderr)
        for sentence in run.stopped():
            print(f"rankpg: {printable(with_flags(sentence, _SETTINGS))}", file=sys.stderr)
    return 3 if run.stopped() else 0


def _read_config(flags: Mapping[str, Any], resumed: RunFolder | None) -> tuple[TrainConfig, Origin]:
    """Returns the settings of a file or of a resumed run, with those of the flags in their place.

    Raises:
      ConfigError: a file that cannot be read, or a setting that cannot be used.
    """
    from rankpg.runs.storage.load import load_run_settings, load_settings

    given = {name: value for name, value in flags.items() if name in _SETTINGS}
    if {"num_steps", "num_epochs"} <= given.keys():
        raise ConfigError(
            f"--num-steps {given['num_steps']} and --num-epochs {given['num_epochs']} both say when training "
            "ends; give one of them"
        )
    if "num_steps" in given:
        given["num_epochs"] = None  # also where a file has it
    file, settings = flags.get("config"), {}
    if file is not None:
        settings = load_settings(file)
    elif resumed is not None:
        file, settings = load_run_settings(resumed.path)
    settings = _reopened(settings, given)
    origin = Origin(file, in_file=settings.keys() & set(_SETTINGS), in_flags=given.keys())
    with origin.named():
        return TrainConfig.from_dict(settings | given, source=str(file)), origin


def _train(run: Run, folder: RunFolder | None) -> None:
    """Runs the training loop, under a progress bar, until its end or a signal."""
    from rankpg._utils.signals import Stopped, listening
    from rankpg.runs.loop import training_loop
    from rankpg.runs.progress import progress_bar

    with progress_bar(run.config.num_steps, shown=is_writer()) as bar, listening() as stop:
        bar.start(run.config.estimator)
        for progress in training_loop(run):
            if folder is not None:
                folder.on_progress(run, progress)
            bar.update(run, progress)
            number = agreed(stop.signal)
            if number and run.evaluated < run.config.num_steps:
                raise Stopped(number, _saved(run, folder, progress))


def _check_files(
    out: Path | None, resume: bool, step: int | str | None, keeping: Mapping[str, Any]
) -> None:
    """Rejects flags about files that would have no effect."""
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the run to resume")
    if step is not None and not resume:
        raise ConfigError("--step is the checkpoint of --resume; it has no effect without it")
    if keeping and out is None:
        raise ConfigError(f"{flag(next(iter(keeping)))} needs --out, the folder of the run")


def _saved(run: Run, folder: RunFolder | None, progress: Progress) -> str:
    """Saves a run that is about to stop, and returns how to resume it."""
    if folder is None:
        return f"It was at step {run.step}. Nothing was saved: no --out"
    if not run.metrics:
        return "Nothing was run yet"
    if progress.phase == "train":  # else this state is there already
        folder.save(run)
    path = str(folder.path)
    path = f"./{path}" if path.startswith("-") else path  # else it is read as a flag
    return (
        f"The state of step {run.step} is saved in {folder.path}. Resume it with: "
        f"python -m rankpg train --resume --out {shlex.quote(path)}"
    )


def _reopened(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the preset's values from a resolved file where a flag changes the preset or the estimator.

    A file that holds all of them is the config.yaml of a run, where a preset chose them.
    """
    resolved = all(settings.get(name) is not None for name in PRESET_SETTINGS)
    dropped: tuple[str, ...] = ()
    if resolved and {"preset", "estimator"} & given.keys():
        dropped = PRESET_SETTINGS
    elif resolved and "optimizer" in given:
        dropped = ("optimizer_options",)
    return {name: value for name, value in settings.items() if name not in dropped}


def _describe(run: Run) -> None:
    """Prints what will be trained, on stderr."""
    config, environment = run.config, run.environment
    print(
        f"{config.environment}: {environment.num_contexts} contexts, {environment.num_items} items; "
        f"K = {config.num_candidates}, M = {config.num_experts}, L = {config.ranking_length}; "
        f"{config.reranker} re-ranker; seeds {' '.join(map(str, config.seeds))}",
        file=sys.stderr,
    )
    if not run.dataset.ids_are_rows:
        lacks = {"text": "judgement", "subtopics": "judgement", "interactions": "interaction"}
        lack = lacks.get(config.environment, "row")
        choice = f" (--missing {config.missing})" if config.environment == "ratings" else ""
        print(
            f"{run.dataset.missing_share:.1%} of all (context, item) pairs have no {lack} and count as 0"
            f"{choice}",
            file=sys.stderr,
        )
    for note in run.dataset.notes:
        print(printable(with_flags(note, _SETTINGS)), file=sys.stderr)
    chosen = run.policy.retrieval
    print(f"retrieval: {chosen.name} ({chosen.reason}); memory: {run.memory}", file=sys.stderr)


def _report(run: Run, folder: RunFolder | None) -> str:
    from rankpg.evaluation.metrics import interaction_note
    from rankpg.runs.held_out import part_of
    from rankpg.runs.storage.card import method_of

    where = "not saved (no --out)" if folder is None else f"in {folder.path}"
    if run.restored_step is not None:
        where += f", the best of the evaluations up to step {run.step}"
    table = metrics_table(run.state_rows, None if run.dataset.parts is None else part_of)
    note = interaction_note(run.environment)
    said = f"\n{note}." if note else ""
    return f"{method_of(run)}, step {run.state_step}, {where}\n{table}{said}"


TRAIN_HELP = """\
Train an early-stage retriever on the reward of the final list.

An environment provides contexts and rewards. The early stage hands K candidates out of N items to the
re-ranker, which shows L of them. Each update follows the gradient of the estimator's score, weighted by the
advantage of the rewards.

examples:
  the paper's instance, the default estimator:
    python -m rankpg train --out runs/first
  the paper's preset, and its ordinary policy gradient:
    python -m rankpg train --estimator v_pg_swr --preset paper --out runs/paper
  your ratings (KuaiRec's small_matrix.csv as published, or any user, item, value table):
    python -m rankpg train --environment ratings --path small_matrix.csv --num-candidates 100 --out runs/mine
  settings from a file, one of them changed:
    python -m rankpg train --config runs/first/config.yaml --learning-rate 3e-3 --out runs/second

A flag overrides --config, and both override the preset. Defaults are in brackets. Exit code: 0 if every seed
was trained to the end; 2 for a setting or file that you can correct; 3 if a value that is not finite stopped
a seed; 130 after Ctrl-C and 143 after SIGTERM, with the state of the last update saved in --out.
"""


def add_train(subcommands: argparse._SubParsersAction) -> None:
    """Adds the parser of `train`: flags about files and processes, and one flag per setting."""
    parser = subcommands.add_parser(
        "train",
        help="training of a retriever",
        usage="rankpg train [--SETTING VALUE ...] [--config FILE] [--out FOLDER [--resume]]",
        description=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    _add_files(parser.add_argument_group("files"))
    parser.add_argument_group("several processes").add_argument(
        "--distributed",
        nargs="*",
        metavar="ADDRESS:PORT COUNT INDEX",
        help="this process's place among several that train one run with --retrieval sharded: address of "
        "the first, their number, and index from 0; empty where Slurm, Open MPI, Kubernetes or a TPU pod "
        "provides it [one process]",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    hints = get_type_hints(TrainConfig)
    for title in GROUPS:
        groups[title] = parser.add_argument_group(title)
    for field in dataclasses.fields(TrainConfig):
        title = field.metadata["group"]
        options = setting_argument(field, hints[field.name], _SETTINGS)
        groups[title].add_argument(flag(field.name), **options)
    parser.set_defaults(command=train)


def _add_files(files: argparse._ArgumentGroup) -> None:
    files.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings [none]")
    files.add_argument(
        "--out", type=folder_name, metavar="FOLDER", help="output folder of the run [not saved]"
    )
    files.add_argument(
        "--resume", action="store_true", help="continuation of the run in --out [a new run]"
    )
    files.add_argument(
        "--step",
        type=checkpoint_step,
        metavar="N|best",
        help="checkpoint to resume from: a step, or best; later ones are dropped [the latest]",
    )
    files.add_argument(
        "--keep-last",
        type=int,
        metavar="INT",
        help="number of latest checkpoints to keep [2]",
    )
    files.add_argument(
        "--keep-best",
        action=argparse.BooleanOptionalAction,
        help="additional checkpoint of the best evaluation, by validation_ndcg@10 or else by policy value, "
        "mean over seeds [no; yes with --patience]",
    )
    files.add_argument(
        "--track",
        nargs="+",
        choices=tuple(TRACKERS),
        metavar="|".join(TRACKERS),
        help="trackers that receive the metrics as well [none]",
    )
