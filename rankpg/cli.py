"""The command line: `python -m rankpg train | evaluate | demo | reproduce | benchmark`.

Every setting of TrainConfig is a flag of `train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from jax.errors import JaxRuntimeError

from rankpg.config import TrainConfig
from rankpg.presets import PRESET_SETTINGS
from rankpg.processes import is_writer, join_processes
from rankpg.settings import ConfigError, choices_of, flag, setting_type

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
after Ctrl-C.
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
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rankpg", description="Policy gradients for early-stage retrieval.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(commands)
    evaluate = commands.add_parser("evaluate", help="measure a trained run again, from its folder")
    evaluate.add_argument("run", type=Path, help="the --out folder of a run")
    evaluate.add_argument("--json", action="store_true", help="one JSON object per seed")
    evaluate.set_defaults(command=_evaluate)
    demo = commands.add_parser(
        "demo", help="four estimators on the paper's instance, in a few minutes"
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    demo.add_argument("--num-steps", type=int, default=2000, help="default: %(default)s")
    demo.set_defaults(command=_demo)
    _add_reproduce(commands)
    _add_benchmark(commands)
    return parser


def _add_reproduce(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="the paper's tables and figures beside ours",
        description="Train what the paper's tables and figures need, and write JSON, markdown and pictures. "
        "What was interrupted goes on where it was; several processes may share one --out. The exit code "
        "is 3 if a seed was stopped by a value that is not finite.",
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
    reproduce.set_defaults(command=_reproduce)


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


def _add_benchmark(commands: Any) -> None:
    benchmark = commands.add_parser("benchmark", help="what the estimators do, measured")
    kinds = benchmark.add_subparsers(required=True, metavar="WHAT", parser_class=_Parser)
    variance = kinds.add_parser(
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
    variance.set_defaults(command=_variance)

    _add_learning(kinds)


def _add_learning(kinds: Any) -> None:
    learning = kinds.add_parser(
        "learning",
        help="problems that are still hard, every estimator on each",
        description="Train every estimator with its tuned preset on problems that are harder than the "
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
    learning.set_defaults(command=_learning)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
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
    train.set_defaults(command=_train)


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("empty; expected the name of a folder")
    return Path(text)


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
        return options | {"nargs": "+", "type": element, "metavar": element.__name__.upper()}
    if choices:
        return options | {"choices": choices, "metavar": "|".join(choices)}
    return options | {"type": hint, "metavar": hint.__name__.upper()}


def _train(arguments: argparse.Namespace) -> int:
    from rankpg.progress import progress_bar
    from rankpg.run import prepare, training_loop
    from rankpg.run_folder import RunFolder, load_settings

    others = ("command", "config", "out", "resume", "distributed")
    given = {k: v for k, v in vars(arguments).items() if k not in others}
    if hasattr(arguments, "distributed"):
        join_processes(arguments.distributed)
    file, out = getattr(arguments, "config", None), getattr(arguments, "out", None)
    resume = getattr(arguments, "resume", False)
    if resume and out is None:
        raise ConfigError("--resume needs --out, the folder of the run that goes on")
    if given.get("path"):
        given["path"] = str(Path(given["path"]).resolve())  # the run may be read from elsewhere
    folder = None if out is None else RunFolder(out)
    if resume and file is None and folder is not None:
        file = folder.path / "config.yaml"
    settings = {} if file is None else load_settings(file)
    config = TrainConfig.from_dict(_open_up(settings, given) | given, source=str(file))
    if folder is not None and not resume:
        folder.check_free()  # before anything is read or compiled
    run = prepare(config)
    if is_writer():
        _describe(run)
    if folder is not None:
        (folder.resume if resume else folder.open)(run)
    try:
        with progress_bar(run.config.num_steps, shown=is_writer()) as bar:
            bar.start(run.config.estimator)
            for progress in training_loop(run):
                if folder is not None:
                    folder.follow(run, progress)
                bar.follow(run, progress)
    except KeyboardInterrupt:
        saved = (
            f"Go on from step {run.step}: --resume --out {out}"
            if run.metrics
            else "Nothing was run yet"
        )
        raise KeyboardInterrupt(
            "Nothing was saved: no --out" if folder is None else saved
        ) from None
    finally:
        problem = folder.close(run) if folder is not None and run.metrics else None
        if problem:
            print(problem, file=sys.stderr)
    if is_writer():
        print(_report(run, folder))
        for sentence in run.stopped():
            print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if run.stopped() else 0


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


def _evaluate(arguments: argparse.Namespace) -> int:
    from rankpg.run import evaluate_run
    from rankpg.run_folder import load_run

    run = load_run(arguments.run)
    rows = evaluate_run(run)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(f"{arguments.run}: {run.config.estimator}, step {run.step}")
        print(_table(rows))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from rankpg.demo import demo

    if arguments.num_steps < 1:
        raise ConfigError(f"--num-steps is {arguments.num_steps}; expected at least 1")
    print(demo(arguments.out, arguments.num_steps))
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from rankpg.reproduce import NAMES, reproduce

    settings = {k: v for k, v in vars(arguments).items() if k not in ("command", "names")}
    names = NAMES if "all" in arguments.names else tuple(dict.fromkeys(arguments.names))
    summary = reproduce(names, **settings)
    print("\n".join(map(str, summary.written)))
    for sentence in (*summary.outcome.stopped, *summary.left_in_words()):
        print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if summary.outcome.stopped else 0


def _variance(arguments: argparse.Namespace) -> int:
    from rankpg.laboratory import report
    from rankpg.run_folder import load_run

    if arguments.num_contexts < 2:
        raise ConfigError(f"--num-contexts is {arguments.num_contexts}; expected at least 2")
    run = None if arguments.run is None else load_run(arguments.run)
    print(report(arguments.out, num_contexts=arguments.num_contexts, run=run))
    return 0


def _learning(arguments: argparse.Namespace) -> int:
    from rankpg.hard_problems import learning

    outcome, written = learning(
        arguments.problems, arguments.scale, arguments.out, report_only=arguments.report_only
    )
    print("\n".join(map(str, written)) or "nothing was trained yet")
    for sentence in outcome.stopped:
        print(f"rankpg: {sentence}", file=sys.stderr)
    return 3 if outcome.stopped else 0


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
        print(
            f"{run.dataset.missing_share:.1%} of all (context, item) pairs have no row and count as 0 "
            f"(--missing {config.missing})",
            file=sys.stderr,
        )
    chosen = run.pipeline.retrieval
    print(f"retrieval: {chosen.name} ({chosen.reason}); memory: {run.memory}", file=sys.stderr)


def _report(run: Any, folder: Any) -> str:
    last = [row for row in run.metrics if row["step"] == run.step]
    where = "not saved (no --out)" if folder is None else f"in {folder.path}"
    return f"{run.config.estimator}, step {run.step}, {where}\n{_table(last)}"


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
