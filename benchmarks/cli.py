"""The command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankpg.cli.arguments import Parser, folder_name
from rankpg.cli.flags import flag
from rankpg.cli.main import run_command
from rankpg.core.estimators import ESTIMATORS

__all__ = ["main"]

SCALES = ("smoke", "laptop", "full")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a benchmark and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--rows" in argv:
        _print_errors(["--rows is now named --trials"])
        return 2
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="benchmarks",
        description="Benchmarks of rankpg: the paper's tables, the estimator lab, hard problems, and speed.",
    )
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_reproduce(kinds)
    _add_lab(kinds)
    _add_hard_problems(kinds)
    _add_speed(kinds)
    return parser


def reproduce(arguments: argparse.Namespace) -> int:
    """Runs `python -m benchmarks reproduce` and returns the exit code."""
    from benchmarks.paper import command as paper

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "names")}
    names = paper.NAMES if "all" in arguments.names else tuple(dict.fromkeys(arguments.names))
    summary = paper.reproduce(names, **settings)
    print("\n".join(map(str, summary.written)))
    left = [] if not summary.left else [_unfinished(summary.left, summary.limited_by)]
    _print_errors([*summary.outcome.stopped, *left])
    return 3 if summary.outcome.stopped else 0


def lab(arguments: argparse.Namespace) -> int:
    """Runs `python -m benchmarks lab` and returns the exit code."""
    from benchmarks.estimator_lab import report
    from rankpg.runs.evaluator import check_rewards
    from rankpg.runs.storage.load import load_run

    run = None if arguments.run is None else load_run(arguments.run)
    if run is not None:
        check_rewards(run)
    print(report(arguments.out, num_contexts=arguments.num_contexts, run=run))
    return 0


def hard_problems(arguments: argparse.Namespace) -> int:
    """Runs `python -m benchmarks hard-problems` and returns the exit code."""
    from benchmarks.hard_problems.report import learning

    outcome, written = learning(
        arguments.problems, arguments.scale, arguments.out, report_only=arguments.report_only
    )
    print("\n".join(map(str, written)) or "no results yet")
    _print_errors(outcome.stopped)
    return 3 if outcome.stopped else 0


def speed(arguments: argparse.Namespace) -> int:
    """Runs `python -m benchmarks throughput`, `scale` or `roofline` and returns the exit code."""
    from benchmarks.speed.report import benchmark
    from benchmarks.speed.shapes import parse_shape

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "what")}
    if "shapes" in settings:
        settings["shapes"] = [parse_shape(text) for text in settings["shapes"]]
    files = benchmark(arguments.what, **settings)
    print(files[1].read_text())
    print("\n".join(map(str, files)))
    return 0


def _unfinished(names: list[str], limited_by: str | None) -> str:
    """Sentence that lists what is not finished and how to resume.

    >>> _unfinished(["table5"], "report_only")
    '1 not finished: table5. Run the command without --report-only to resume'
    """
    without = f" without {flag(limited_by)}" if limited_by else " again"
    return f"{len(names)} not finished: {', '.join(names)}. Run the command{without} to resume"


def _print_errors(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"benchmarks: {sentence}", file=sys.stderr)


def _add_reproduce(kinds: Any) -> None:
    parser = kinds.add_parser(
        "reproduce",
        help="the paper's tables and figures next to ours",
        description="Train and measure the paper's tables and figures; write JSON, markdown and pictures. An "
        "interrupted command resumes where it stopped; trials that a report in --out holds as finished are "
        "not trained again; several processes may share one --out. The exit code is 3 if a seed stopped at a "
        "non-finite value.",
    )
    names = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "all")
    parser.add_argument("names", nargs="+", choices=names, metavar="|".join(names))
    _add_sweep_flags(
        parser,
        "smoke: a few cells, minutes; laptop: every cell, hours on two cores; full: the paper's number of "
        "steps, for a GPU",
        "runs/reproduce/SCALE",
    )
    parser.add_argument("--path", metavar="FILE", help="table4: KuaiRec's small_matrix.csv [none]")
    parser.add_argument("--trials", nargs="+", metavar="NAME", help="trials to train [all]")
    parser.set_defaults(command=reproduce)


def _add_sweep_flags(parser: Any, scales: str, folder: str) -> None:
    """Adds the flags of the commands that train many trials for one report."""
    parser.add_argument("--scale", choices=SCALES, default="laptop", help=f"{scales} [laptop]")
    parser.add_argument(
        "--out", type=folder_name, metavar="FOLDER", help=f"folder of runs and reports [{folder}]"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="report the existing results without training"
    )


def _add_lab(kinds: Any) -> None:
    parser = kinds.add_parser(
        "lab",
        help="bias, variance and direction of every estimator's gradient",
        description="Enumerate small problems for several K, N, M, re-rankers, temperatures and baselines, "
        "and measure every estimator's gradient; with --run also the signal and noise of the gradient at the "
        "parameters of a trained run. Writes JSON and pictures.",
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="folder of a trained run [none]")
    parser.add_argument(
        "--out",
        type=folder_name,
        metavar="FOLDER",
        default=Path("runs/lab"),
        help="output folder [%(default)s]",
    )
    parser.add_argument(
        "--num-contexts", type=int, default=32, help="random problems per size [%(default)s]"
    )
    parser.set_defaults(command=lab)


def _add_hard_problems(kinds: Any) -> None:
    parser = kinds.add_parser(
        "hard-problems",
        help="every estimator on problems harder than the paper's",
        description="Train every estimator with its tuned preset, and ca_pg_swr with an entropy bonus and a "
        "baseline per context (exploring), on problems that are each harder than the paper's in one "
        "direction. Report the share of the value that the same encoder attains when it is fitted to the "
        "rewards directly. An interrupted command resumes where it stopped; several processes may share one "
        "--out.",
    )
    parser.add_argument(
        "--problems", nargs="+", default=(), metavar="NAME", help="problems to train [all]"
    )
    _add_sweep_flags(
        parser,
        "smoke: to check that everything runs; laptop: hours on two cores; full: more seeds, for a GPU",
        "runs/learning/SCALE",
    )
    parser.set_defaults(command=hard_problems)


def _add_speed(kinds: Any) -> None:
    """Adds the measurements of a step; a flag that is not given keeps the value set by --scale."""
    whats = {
        "throughput": "updates per second of every estimator, with and without the environment",
        "scale": "time and memory of a step against N, streamed and dense, with exponents of growth",
        "roofline": "share of the hardware's limit that a step reaches",
    }
    letters = {
        "num_items": ("N", "items in the catalogue"),
        "embedding_dim": ("D", "width of the embeddings"),
        "num_candidates": ("K", "candidates per context"),
        "batch_size": ("B", "contexts per batch"),
        "num_experts": ("M", "experts"),
    }
    numbers = {
        "throughput": tuple(letters),
        "scale": tuple(letters)[1:],
        "roofline": ("batch_size", "num_experts"),
    }
    for what, words in whats.items():
        parser = kinds.add_parser(
            what,
            help=words,
            description=f"Measure {words}. Writes JSON, a table and a picture. In each round all settings "
            "are timed in turn; compilation and a warm-up are not counted. For one core: taskset -c 0, and "
            "XLA_FLAGS=--xla_cpu_multi_thread_eigen=false.",
            argument_default=argparse.SUPPRESS,
        )
        for name in numbers[what]:
            letter, meaning = letters[name]
            parser.add_argument(
                flag(name), type=int, metavar=letter, help=f"{meaning} [set by --scale]"
            )
        parser.add_argument(
            "--rounds", type=int, metavar="INT", help="timing repetitions [set by --scale]"
        )
        _add_what_is_timed(parser, what)
        parser.add_argument(
            "--scale", choices=SCALES, default="laptop",
            help="smoke: to check that everything runs; laptop: up to half an hour; full: for an "
            "accelerator [laptop]",
        )  # fmt: skip
        parser.add_argument(
            "--device", choices=("cpu", "gpu", "tpu"), help="platform [chosen by JAX]"
        )
        parser.add_argument(
            "--out", type=folder_name, metavar="FOLDER", help=f"output folder [runs/{what}/SCALE]"
        )
        parser.set_defaults(command=speed, what=what)


def _add_what_is_timed(parser: Any, what: str) -> None:
    """Adds the sizes, estimators and retrieval of a measurement."""
    if what == "scale":
        parser.add_argument(
            "--sizes", type=int, nargs="+", metavar="N", help="catalogue sizes [set by --scale]"
        )
    if what == "roofline":
        parser.add_argument(
            "--shapes", nargs="+", metavar="N,D,K", help="shapes to time [set by --scale]"
        )
        parser.add_argument(
            "--estimator", choices=ESTIMATORS, metavar="NAME", help="estimator to time [top1_pg]"
        )
    else:
        parser.add_argument(
            "--estimators", choices=ESTIMATORS, nargs="+", metavar="NAME",
            help="estimators to time [set by --scale]",
        )  # fmt: skip
    if what != "scale":
        parser.add_argument(
            "--retrieval", choices=("auto", "dense", "streamed"), help="top-k retrieval [auto]"
        )
