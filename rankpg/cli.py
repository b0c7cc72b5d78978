"""The command line: `python -m rankpg train | evaluate | export | demo | report | reproduce | benchmark`.

Every setting of TrainConfig is a flag of `train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from jax.errors import JaxRuntimeError

from rankpg import commands
from rankpg.config import TrainConfig
from rankpg.estimators import ESTIMATORS
from rankpg.presets import PRESET_SETTINGS
from rankpg.settings import choices_of, flag, setting_type
from rankpg.stopping import Stopped

__all__ = ["main"]

TRAIN_HELP = """\
Train an early-stage ranker on the reward of the final list.

An environment gives contexts and rewards; the early stage hands K candidates of N items to the late stage;
the late stage shows L of them; what they earn, times the gradient of the estimator's score, is the step.

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


OUT_OF_MEMORY = (
    "out of memory. Dense retrieval holds logits[B, M, N] of every seed: lower --batch-size, --num-items, "
    "--num-experts, --embedding-dim, or train fewer --seeds at once"
)


class _Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one message."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; answers the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except Stopped as stopped:
        print(f"rankpg: {stopped}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt as interrupt:
        print(f"rankpg: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        print(f"rankpg: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"rankpg: {OUT_OF_MEMORY} ({error})", file=sys.stderr)
        return 2
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "emory" not in str(error):
            raise
        print(f"rankpg: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rankpg", description="Policy gradients for early-stage retrieval.")
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(kinds)
    evaluate = kinds.add_parser("evaluate", help="measure a trained run again, from its folder")
    evaluate.add_argument("run", type=Path, help="the --out folder of a run")
    evaluate.add_argument(
        "--step", type=_step, metavar="N|best", help="of the checkpoint; the newest if left out"
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
    _add_reproduce(kinds)
    _add_benchmark(kinds)
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
        "runs", nargs="+", type=_folder, metavar="RUN", help="--out folders of runs"
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
        "--out", type=_folder, metavar="FOLDER", required=True, help="does not exist yet"
    )
    export.add_argument(
        "--step", type=_step, metavar="N|best", help="of the checkpoint; the newest if left out"
    )
    export.add_argument("--seed", type=int, help="one of the run's [its first]")
    export.add_argument(
        "--index", choices=("none", "faiss", "usearch", "both"), default="both", help="[both]"
    )
    platforms = ("cpu", "cuda", "tpu")
    export.add_argument(
        "--platforms", nargs="+", choices=platforms, default=platforms, help="of the tower [all]"
    )
    export.add_argument(
        "--recall", type=float, default=0.99, metavar="SHARE",
        help="what an index should find of an expert's K best; it looks harder until it does [%(default)s]",
    )  # fmt: skip
    export.set_defaults(command=commands.export)


def _add_reproduce(kinds: Any) -> None:
    reproduce = kinds.add_parser(
        "reproduce",
        help="the paper's tables and figures beside ours",
        description="Train what the paper's tables and figures need, and write JSON, markdown and pictures. "
        "What was interrupted goes on where it was; rows that a report in --out has finished are not trained "
        "again; several processes may share one --out. The exit code is 3 if a seed was stopped by a value "
        "that is not finite.",
    )
    names = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "all")
    reproduce.add_argument("names", nargs="+", choices=names, metavar="|".join(names))
    _add_campaign_flags(
        reproduce,
        "smoke: some cells, minutes; laptop: every cell, hours on two cores; full: as long as the paper, "
        "for a GPU",
        "runs/reproduce/SCALE",
    )
    reproduce.add_argument("--path", metavar="FILE", help="table4: KuaiRec's small_matrix.csv")
    reproduce.add_argument("--rows", nargs="+", metavar="NAME", help="train these rows only")
    reproduce.set_defaults(command=commands.reproduce)


def _add_campaign_flags(parser: Any, scales: str, folder: str) -> None:
    """What every command takes that trains many rows for one report."""
    parser.add_argument(
        "--scale", choices=("smoke", "laptop", "full"), default="laptop", help=f"{scales} [laptop]"
    )
    parser.add_argument(
        "--out", type=_folder, metavar="FOLDER", help=f"of runs and reports [{folder}]"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing; report what is there"
    )


def _add_benchmark(kinds: Any) -> None:
    benchmark = kinds.add_parser("benchmark", help="what the estimators do, measured")
    measures = benchmark.add_subparsers(required=True, metavar="WHAT", parser_class=_Parser)
    variance = measures.add_parser(
        "variance",
        help="bias, variance and direction of every estimator's gradient",
        description="On small problems by enumeration, for several K, N, M, late stages, temperatures and "
        "baselines; with --run also signal and noise of the gradient where a trained run stands. Writes JSON "
        "and pictures.",
    )
    variance.add_argument("--run", type=Path, metavar="FOLDER", help="the --out folder of a run")
    variance.add_argument(
        "--out",
        type=_folder,
        metavar="FOLDER",
        default=Path("runs/variance"),
        help="default: %(default)s",
    )
    variance.add_argument(
        "--num-contexts", type=int, default=32, help="random problems of a size [%(default)s]"
    )
    variance.set_defaults(command=commands.variance)

    _add_learning(measures)
    _add_speed(measures)


def _add_learning(kinds: Any) -> None:
    learning = kinds.add_parser(
        "learning",
        help="problems that are still hard, every estimator on each",
        description="Train every estimator with its tuned preset, and ca_pg_swr with an entropy bonus and a "
        "baseline per context (exploring), on problems that are harder than the "
        "paper's, each in one direction, and tell what share it got of what the same encoder can reach when "
        "it is fitted to the rewards directly. What was interrupted goes on where it was; several processes "
        "may share one --out.",
    )
    learning.add_argument("--problems", nargs="+", default=(), metavar="NAME", help="[all of them]")
    _add_campaign_flags(
        learning,
        "smoke: to see that it runs; laptop: hours on two cores; full: more seeds, for a GPU",
        "runs/learning/SCALE",
    )
    learning.set_defaults(command=commands.learning)


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
        parser.add_argument("--out", type=_folder, metavar="FOLDER", help=f"[runs/{what}/SCALE]")
        parser.set_defaults(command=commands.speed, what=what)


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


def _add_train(kinds: Any) -> None:
    train = kinds.add_parser(
        "train",
        help="train a retriever",
        usage="rankpg train [--SETTING VALUE ...] [--config FILE] [--out FOLDER [--resume]]",
        description=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    files = train.add_argument_group("files")
    files.add_argument("--config", type=Path, metavar="FILE", help="settings from a YAML file")
    files.add_argument("--out", type=_folder, metavar="FOLDER", help="where the run is written")
    files.add_argument("--resume", action="store_true", help="continue the run that --out holds")
    files.add_argument(
        "--step", type=_step, metavar="N|best",
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
    processes = train.add_argument_group("several processes")
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
            groups[title] = train.add_argument_group(title)
        groups[title].add_argument(flag(field.name), **_argument(field, hints[field.name]))
    train.set_defaults(command=commands.train)


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("empty; expected the name of a folder")
    return Path(text)


def _step(text: str) -> int | str:
    """The step of a checkpoint, or best."""
    if text != "best" and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}; expected the step of a checkpoint, or best")
    return text if text == "best" else int(text)


def _argument(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    """A setting as arguments of `add_argument`."""
    choices = choices_of(field, hint)
    hint, _ = setting_type(hint)
    default = field.default
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    suffix = (
        "from the preset"
        if field.name in PRESET_SETTINGS
        else "none"
        if default is None
        else default
    )
    options: dict[str, Any] = {"help": f"{field.metadata['help']} [{suffix}]".replace("%", "%%")}
    if hint is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return options | {"nargs": "*", "type": element, "metavar": element.__name__.upper()}
    if choices:
        return options | {"choices": choices, "metavar": "|".join(choices)}
    return options | {"type": hint, "metavar": hint.__name__.upper()}
