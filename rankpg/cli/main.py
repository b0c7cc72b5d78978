"""The command line: `python -m rankpg train | evaluate | export | demo | report | compare`.

Every setting of TrainConfig is a flag of `train`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.errors import JaxRuntimeError

from rankpg._utils.documents import printable
from rankpg._utils.signals import Stopped
from rankpg.cli.arguments import (
    Parser,
    checkpoint_step,
    folder_name,
    former_flag,
    metrics_table,
    option_names,
    plain_warnings,
    reject_unknown,
)
from rankpg.cli.compare import add_compare
from rankpg.cli.flags import with_flags
from rankpg.cli.origin import SettingsFileError
from rankpg.cli.train import add_train
from rankpg.errors import ConfigError
from rankpg.export.context_tower import PLATFORMS
from rankpg.export.indexes import index_choices

__all__ = ["main", "parser", "run_command"]

OUT_OF_MEMORY = (
    "out of memory. Dense retrieval holds logits[B, M, N] of every seed: lower --batch-size, --num-items, "
    "--num-experts, --embedding-dim, or train fewer --seeds at once"
)

_MOVED = {
    "reproduce": "python -m benchmarks reproduce",
    "benchmark": "python -m benchmarks lab | hard-problems | throughput | scale | roofline",
}
"""Former commands, and where they are now."""

_STEP_HELP = "checkpoint to load: a step, or best [the latest]"
_PATH_HELP = "place of the run's data, where it has moved [as trained, or relative to the run]"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of rankpg and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in _MOVED:
        now = _MOVED[argv[0]]
        print(f"rankpg: the command {argv[0]!r} has moved; run {now}", file=sys.stderr)
        return 2
    return run_command(parser(), argv)


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Runs the command that a parser finds in `argv`; an error becomes one message and an exit code."""
    argv = sys.argv[1:] if argv is None else argv
    refusal = former_flag(argv)
    if refusal:
        print(f"{parser.prog}: {refusal}", file=sys.stderr)
        return 2
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        reject_unknown(parser, argv, unknown)
    names = option_names(parser, argv)
    try:
        with plain_warnings(parser.prog, names):
            return arguments.command(arguments)
    except Stopped as stopped:
        print(f"{parser.prog}: {stopped}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt as interrupt:
        print(f"{parser.prog}: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130
    except SettingsFileError as error:
        print(f"{parser.prog}: {printable(str(error))}", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        message = with_flags(str(error), names)
        print(f"{parser.prog}: {printable(message)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"{parser.prog}: {OUT_OF_MEMORY} ({error})", file=sys.stderr)
        return 2
    except (RuntimeError, AssertionError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        print(f"{parser.prog}: {refusal}", file=sys.stderr)
        return 2


def _refusal(error: Exception) -> str | None:
    """Returns what an error of JAX means, if the user can change it: too little memory, or no device."""
    text = str(error)
    if isinstance(error, JaxRuntimeError) and ("RESOURCE_EXHAUSTED" in text or "emory" in text):
        return OUT_OF_MEMORY
    wanted = os.environ.get("JAX_PLATFORMS")
    if not wanted:
        return None
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # what JAX raises depends on the packages that are there
        return (
            f"JAX_PLATFORMS={printable(wanted)} names a device that is not there, or that JAX was installed "
            "without; unset the variable, so that JAX chooses, or set it to cpu"
        )
    return None


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = Parser(
        prog="rankpg", description="Policy-gradient training of an early-stage retriever."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    add_train(subcommands)
    _add_evaluate(subcommands)
    _add_export(subcommands)
    _add_demo(subcommands)
    _add_report(subcommands)
    add_compare(subcommands)
    return parser


def _add_evaluate(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("evaluate", help="metrics of a trained run, from its folder")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run (--out of train)")
    parser.add_argument("--step", type=checkpoint_step, metavar="N|best", help=_STEP_HELP)
    parser.add_argument("--path", type=folder_name, metavar="FILE|FOLDER", help=_PATH_HELP)
    parser.add_argument(
        "--json", action="store_true", help="output as JSON, one object per seed [a table]"
    )
    parser.set_defaults(command=evaluate)


def _add_demo(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "demo", help="comparison of four estimators on the paper's instance, in a few minutes"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path("runs/demo"),
        help="output folder; gets a number if it exists [%(default)s]",
    )
    parser.add_argument(
        "--num-steps",
        type=int,
        metavar="INT",
        default=2000,
        help="number of updates of each estimator and seed [%(default)s]",
    )
    parser.set_defaults(command=demo)


def _add_report(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "report",
        help="comparison of runs on one HTML page",
        description="Write one page that compares runs: summary, settings, learning curves, recall, regret, "
        "calibration, exposure of items, item map. The page contains its pictures and needs no network. It "
        "says what a run lacks.",
    )
    parser.add_argument(
        "runs", nargs="+", type=folder_name, metavar="RUN", help="folders of runs (--out of train)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("report.html"),
        help="output page; replaced if it exists [%(default)s]",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="csv, tsv or parquet file of item ids and their groups, for exposure by group [none]",
    )
    parser.set_defaults(command=report)


def _add_export(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "export",
        help="files of a trained run for serving without rankpg",
        description="Write item embeddings and ids, the context tower as a jax.export program, an index per "
        "expert with its measured recall against exact search, a card, and a manifest with the checksums of "
        "all files. docs/examples/serve.py serves from them.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run (--out of train)")
    parser.add_argument(
        "--out",
        type=folder_name,
        metavar="FOLDER",
        required=True,
        help="output folder; must not exist [required]",
    )
    parser.add_argument("--step", type=checkpoint_step, metavar="N|best", help=_STEP_HELP)
    parser.add_argument("--path", type=folder_name, metavar="FILE|FOLDER", help=_PATH_HELP)
    parser.add_argument(
        "--seed", type=int, metavar="INT", help="seed of the run to export [its first]"
    )
    parser.add_argument(
        "--index",
        default="all",
        metavar="|".join(index_choices()),
        help="index libraries [%(default)s]",
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=PLATFORMS,
        default=PLATFORMS,
        metavar="|".join(PLATFORMS),
        help="platforms that can run the context tower [all three]",
    )
    parser.add_argument(
        "--recall",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="required share of an expert's K best items that an index finds; its search effort is raised "
        "until it does [%(default)s]",
    )
    parser.set_defaults(command=export)


def evaluate(arguments: argparse.Namespace) -> int:
    """Prints the metrics of a saved run."""
    from rankpg.evaluation.metrics import interaction_note
    from rankpg.runs.evaluator import evaluate_run
    from rankpg.runs.held_out import part_of
    from rankpg.runs.storage.card import method_of
    from rankpg.runs.storage.load import load_run
    from rankpg.runs.storage.places import check_data_is_there

    run = load_run(arguments.run, step=arguments.step, data_path=arguments.path)
    if not run.environment.knows_rewards:
        check_data_is_there(run.config, arguments.run)
    rows = evaluate_run(run)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(f"{arguments.run}: {method_of(run)}, step {run.state_step}")
        print(metrics_table(rows, part_of if run.dataset.parts is not None else None))
        if (note := interaction_note(run.environment)) is not None:
            print(f"{note}.")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Exports a saved run and prints the head of its card; the exit code is 3 where an index is poor."""
    from rankpg.export.folder import MANIFEST, check_free, export
    from rankpg.runs.storage.load import load_run

    settings = {
        k: v
        for k, v in vars(arguments).items()
        if k not in ("command", "run", "out", "step", "path")
    }
    check_free(arguments.out)  # before anything is read or compiled
    run = load_run(arguments.run, step=arguments.step, data_path=arguments.path)
    folder = export(run, arguments.out, **settings)
    print((folder / "CARD.md").read_text().partition("\n## Data")[0])
    print(folder)
    indexes = json.loads((folder / MANIFEST).read_text())["indexes"]
    return 0 if all(entry["reached"] for entry in indexes.values()) else 3


def demo(arguments: argparse.Namespace) -> int:
    """Trains four estimators and prints their values."""
    from rankpg.cli import demo as demonstration

    if arguments.num_steps < 1:
        raise ConfigError(f"num_steps={arguments.num_steps}; expected at least 1")
    print(demonstration.demo(arguments.out, arguments.num_steps))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Writes the page that compares runs and prints its path."""
    from rankpg.report.command import report as compare

    def on_progress(sentence: str) -> None:
        print(f"rankpg: {printable(sentence)}", file=sys.stderr)

    print(compare(arguments.runs, arguments.out, groups=arguments.groups, on_progress=on_progress))
    return 0
