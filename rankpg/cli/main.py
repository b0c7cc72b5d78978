"""The command line: `python -m rankpg train | evaluate | export | demo | report | reproduce | benchmark`.

Every setting of TrainConfig is a flag of `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from rankpg._utils.signals import Stopped
from rankpg.cli import commands
from rankpg.cli.arguments import Parser, checkpoint_step, folder_name
from rankpg.cli.train import add_train
from rankpg.export.indexes import index_choices

__all__ = ["main", "parser", "run_command"]


OUT_OF_MEMORY = (
    "out of memory. Dense retrieval holds logits[B, M, N] of every seed: lower --batch-size, --num-items, "
    "--num-experts, --embedding-dim, or train fewer --seeds at once"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of rankpg and returns the exit code."""
    return run_command(parser(), argv)


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Runs the command that a parser finds in `argv`; an error becomes one message and an exit code."""
    arguments = parser.parse_args(argv)
    try:
        return arguments.command(arguments)
    except Stopped as stopped:
        print(f"{parser.prog}: {stopped}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt as interrupt:
        print(f"{parser.prog}: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"{parser.prog}: {OUT_OF_MEMORY} ({error})", file=sys.stderr)
        return 2
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "emory" not in str(error):
            raise
        print(f"{parser.prog}: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rankpg", description="Policy gradients for early-stage retrieval.")
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    add_train(kinds)
    evaluate = kinds.add_parser("evaluate", help="measure a trained run again, from its folder")
    evaluate.add_argument("run", type=Path, help="the --out folder of a run")
    evaluate.add_argument(
        "--step",
        type=checkpoint_step,
        metavar="N|best",
        help="of the checkpoint; the newest if left out",
    )
    evaluate.add_argument("--json", action="store_true", help="one JSON object per seed")
    evaluate.set_defaults(command=commands.evaluate)
    _add_export(kinds)
    demo = kinds.add_parser(
        "demo", help="four estimators on the paper's instance, in a few minutes"
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    demo.add_argument("--num-steps", type=int, default=2000, help="default: %(default)s")
    demo.set_defaults(command=commands.demo)
    _add_report(kinds)
    return parser


def _add_report(kinds: Any) -> None:
    report = kinds.add_parser(
        "report",
        help="runs compared on one HTML page",
        description="Write one page that compares runs: summary, settings, learning curves, recall, regret, "
        "calibration, exposure of items, item map. It holds its pictures and needs no network. What a run "
        "lacks is said on the page.",
    )
    report.add_argument(
        "runs", nargs="+", type=folder_name, metavar="RUN", help="--out folders of runs"
    )
    report.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("report.html"), help="default: %(default)s"
    )
    report.add_argument(
        "--groups", type=Path, metavar="FILE", help="item id and group: csv, tsv or parquet"
    )
    report.set_defaults(command=commands.report)


def _add_export(kinds: Any) -> None:
    export = kinds.add_parser(
        "export",
        help="a trained run as files that serve without rankpg",
        description="Write item embeddings and ids, the context tower as a program of jax.export, an index "
        "an expert with its recall measured against exact search, a card, and a manifest with the sums of "
        "all. docs/examples/serve.py answers from them.",
    )
    export.add_argument("run", type=Path, help="the --out folder of a run")
    export.add_argument(
        "--out", type=folder_name, metavar="FOLDER", required=True, help="does not exist yet"
    )
    export.add_argument(
        "--step",
        type=checkpoint_step,
        metavar="N|best",
        help="of the checkpoint; the newest if left out",
    )
    export.add_argument("--seed", type=int, help="one of the run's [its first]")
    export.add_argument("--index", choices=index_choices(), default="all", help="[all]")
    platforms = ("cpu", "cuda", "tpu")
    export.add_argument(
        "--platforms", nargs="+", choices=platforms, default=platforms, help="of the tower [all]"
    )
    export.add_argument(
        "--recall", type=float, default=0.99, metavar="SHARE",
        help="what an index should find of an expert's K best; it looks harder until it does [%(default)s]",
    )  # fmt: skip
    export.set_defaults(command=commands.export)
