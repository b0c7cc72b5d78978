"""The command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankpg.cli.arguments import Parser, folder_name
from rankpg.cli.main import run_command
from rankpg.cli.flags import flag
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a benchmark and returns the exit code."""
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="benchmarks", description="The paper's tables, the estimators' variance, speed."
    )
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_reproduce(kinds)
    _add_lab(kinds)
    _add_hard_problems(kinds)
    _add_speed(kinds)
    return parser


def reproduce(arguments: argparse.Namespace) -> int:
    from benchmarks.paper import command as paper

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "names")}
    names = paper.NAMES if "all" in arguments.names else tuple(dict.fromkeys(arguments.names))
    summary = paper.reproduce(names, **settings)
    print("\n".join(map(str, summary.written)))
    for sentence in (*summary.outcome.stopped, *summary.left_in_words()):
        print(f"benchmarks: {sentence}", file=sys.stderr)
    return 3 if summary.outcome.stopped else 0


def lab(arguments: argparse.Namespace) -> int:
    from benchmarks.estimator_lab import report
    from rankpg.runs.evaluator import check_rewards
    from rankpg.runs.storage.load import load_run

    if arguments.num_contexts < 2:
        raise ConfigError(f"--num-contexts is {arguments.num_contexts}; expected at least 2")
    run = None if arguments.run is None else load_run(arguments.run)
    if run is not None:
        check_rewards(run)
    print(report(arguments.out, num_contexts=arguments.num_contexts, run=run))
    return 0


def hard_problems(arguments: argparse.Namespace) -> int:
    from benchmarks.hard_problems.report import learning

    outcome, written = learning(
        arguments.problems, arguments.scale, arguments.out, report_only=arguments.report_only
    )
    print("\n".join(map(str, written)) or "nothing was trained yet")
    for sentence in outcome.stopped:
        print(f"benchmarks: {sentence}", file=sys.stderr)
    return 3 if outcome.stopped else 0


def speed(arguments: argparse.Namespace) -> int:
    from benchmarks.speed.report import benchmark
    from benchmarks.speed.shapes import parse_shape

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "what")}
    if "shapes" in settings:
        settings["shapes"] = [parse_shape(text) for text in settings["shapes"]]
    files = benchmark(arguments.what, **settings)
    print(files[1].read_text())
    print("\n".join(map(str, files)))
    return 0


def _add_reproduce(kinds: Any) -> None:
    parser = kinds.add_parser(
        "reproduce",
        help="the paper's tables and figures beside ours",
        description="Train what the paper's tables and figures need, and write JSON, markdown and pictures. "
        "What was interrupted goes on where it was; rows that a report in --out has finished are not trained "
        "again; several processes may share one --out. The exit code is 3 if a seed was stopped by a value "
        "that is not finite.",
    )
    names = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "all")
    parser.add_argument("names", nargs="+", choices=names, metavar="|".join(names))
    _add_sweep_flags(
        parser,
        "smoke: some cells, minutes; laptop: every cell, hours on two cores; full: as long as the paper, "
        "for a GPU",
        "runs/reproduce/SCALE",
    )
    parser.add_argument("--path", metavar="FILE", help="table4: KuaiRec's small_matrix.csv")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="train these rows only")
    parser.set_defaults(command=reproduce)


def _add_sweep_flags(parser: Any, scales: str, folder: str) -> None:
    """What every command takes that trains many rows for one report."""
    parser.add_argument(
        "--scale", choices=("smoke", "laptop", "full"), default="laptop", help=f"{scales} [laptop]"
    )
    parser.add_argument(
        "--out", type=folder_name, metavar="FOLDER", help=f"of runs and reports [{folder}]"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing; report what is there"
    )


def _add_lab(kinds: Any) -> None:
    parser = kinds.add_parser(
        "lab",
        help="bias, variance and direction of every estimator's gradient",
        description="On small problems by enumeration, for several K, N, M, re-rankers, temperatures and "
        "baselines; with --run also signal and noise of the gradient where a trained run stands. Writes JSON "
        "and pictures.",
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="the --out folder of a run")
    parser.add_argument(
        "--out",
        type=folder_name,
        metavar="FOLDER",
        default=Path("runs/lab"),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--num-contexts", type=int, default=32, help="random problems of a size [%(default)s]"
    )
    parser.set_defaults(command=lab)


def _add_hard_problems(kinds: Any) -> None:
    parser = kinds.add_parser(
        "hard-problems",
        help="problems that are still hard, every estimator on each",
        description="Train every estimator with its tuned preset, and ca_pg_swr with an entropy bonus and a "
        "baseline per context (exploring), on problems that are harder than the "
        "paper's, each in one direction, and tell what share it got of what the same encoder can reach when "
        "it is fitted to the rewards directly. What was interrupted goes on where it was; several processes "
        "may share one --out.",
    )
    parser.add_argument("--problems", nargs="+", default=(), metavar="NAME", help="[all of them]")
    _add_sweep_flags(
        parser,
        "smoke: to see that it runs; laptop: hours on two cores; full: more seeds, for a GPU",
        "runs/hard-problems/SCALE",
    )
    parser.set_defaults(command=hard_problems)


def _add_speed(kinds: Any) -> None:
    """Measurements of the step itself. A flag that is not given is as --scale has it."""
    whats = {
        "throughput": "updates per second of every estimator, with the environment and without",
        "scale": "time and memory of a step against N, streamed and dense, with exponents of growth",
        "roofline": "the share of the hardware's limit that a step reaches",
    }
    numbers = {"embedding_dim": "D", "num_candidates": "K", "batch_size": "B", "num_experts": "M"}
    shapes = {"throughput": {"num_items": "N", **numbers}, "scale": numbers}
    for what, words in whats.items():
        parser = kinds.add_parser(
            what,
            help=words,
            description=f"{words[0].upper()}{words[1:]}: JSON, a table and a picture. Arms take turns in "
            "every round; compilation and a warm-up are not counted. For one core: taskset -c 0, and "
            "XLA_FLAGS=--xla_cpu_multi_thread_eigen=false.",
            argument_default=argparse.SUPPRESS,
        )
        for name, letter in shapes.get(what, {"batch_size": "B", "num_experts": "M"}).items():
            parser.add_argument(flag(name), type=int, metavar=letter, help="[that of --scale]")
        parser.add_argument(
            "--rounds", type=int, metavar="INT", help="looks at the clock [that of --scale]"
        )
        _add_what_is_timed(parser, what)
        parser.add_argument(
            "--scale", choices=("smoke", "laptop", "full"), default="laptop",
            help="smoke: to see that it runs; laptop: up to half an hour; full: for an accelerator [laptop]",
        )  # fmt: skip
        parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="[what JAX takes]")
        parser.add_argument(
            "--out", type=folder_name, metavar="FOLDER", help=f"[runs/{what}/SCALE]"
        )
        parser.set_defaults(command=speed, what=what)


def _add_what_is_timed(parser: Any, what: str) -> None:
    """Sizes, estimators and retrieval of a measurement."""
    if what == "scale":
        parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="[those of --scale]")
    if what == "roofline":
        parser.add_argument("--shapes", nargs="+", metavar="N,D,K", help="[those of --scale]")
        parser.add_argument(
            "--estimator", choices=ESTIMATORS, metavar="NAME", help="whose step [top1_pg]"
        )
    else:
        parser.add_argument(
            "--estimators", choices=ESTIMATORS, nargs="+", metavar="NAME", help="[those of --scale]"
        )
    if what != "scale":
        parser.add_argument("--retrieval", choices=("auto", "dense", "streamed"), help="[auto]")
