"""The command compare: rankpg and baselines on one log of interactions, in a table with a verdict."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, get_type_hints

from rankpg.cli.arguments import folder_name, setting_argument
from rankpg.cli.flags import flag, with_flags
from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError

if TYPE_CHECKING:
    from rankpg.runs.run import Run

__all__ = ["add_compare", "compare"]

_DATA = (
    "path",
    "columns",
    "items_path",
    "positive",
    "min_per_user",
    "min_per_item",
    "split",
    "test_share",
    "test_count",
    "validation_share",
    "split_seed",
)
"""Settings of `TrainConfig` that say what is read, and what is held out."""

_VALIDATION_SHARE = 0.1
"""Default of this command; without a validation part, nothing can be tuned."""

_OPTIONS = (
    "methods",
    "trials",
    "seeds",
    "cutoffs",
    "minutes",
    "minutes_per_trial",
    "reranker",
    "out",
)

HELP = """\
Compare rankpg with baselines on your interactions.

Every method has the same number of trials on the validation part, as far as the time allows; the best
settings of each are fitted again to training and validation part, and evaluated on the test part. The output
folder gets comparison.md, comparison.html and comparison.json. The same command continues a comparison that
was interrupted. With LightGBM, the candidates of every method are sorted by one re-ranker, and the table has
their final lists.

For example::

  python -m rankpg compare --path ratings.csv --positive '>= 4' --out compared

A trained run, on the data that it was trained on::

  python -m rankpg compare --run runs/log --out compared
"""


def compare(arguments: argparse.Namespace) -> int:
    """Compares methods, and prints the table and the verdict."""
    from rankpg.compare.command import compare as run
    from rankpg.runs.storage.load import load_run
    from rankpg.training.build import make_environment

    flags = vars(arguments)
    given = {name: flags[name] for name in _DATA if name in flags}
    data: Dataset | Run
    if "run" in flags:
        if given:
            raise ConfigError(
                f"{next(iter(given))}= has no effect with run=, which is compared on the data that it was "
                "trained on; leave it out"
            )
        data = load_run(flags["run"])
    elif not given.get("path"):
        raise ConfigError(
            "compare needs path=FILE, a file of (user, item) rows, or run=FOLDER, a trained run"
        )
    else:
        given.setdefault("validation_share", _VALIDATION_SHARE)
        reading = {
            "environment": "interactions",
            "context_tower": "history",
        }  # which reads items_path
        config = TrainConfig.from_dict({**reading, **given})
        data = Dataset.of(make_environment(config))
    options = {name: flags[name] for name in _OPTIONS if name in flags}

    def on_progress(sentence: str) -> None:
        print(f"rankpg: {sentence}", file=sys.stderr)

    found = run(data, on_progress=on_progress, **options)
    print(f"{found.markdown}\n\n{with_flags(found.verdict, _OPTIONS)}")
    for note in found.notes:
        print(f"rankpg: {with_flags(note, (*_DATA, *_OPTIONS))}", file=sys.stderr)
    if "out" in options:
        print(options["out"] / "comparison.html")
    return 0


def add_compare(subcommands: argparse._SubParsersAction) -> None:
    """Adds the parser of `compare`: flags of the data, and of the comparison."""
    parser = subcommands.add_parser(
        "compare",
        help="comparison of rankpg with baselines on your interactions",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--run",
        type=folder_name,
        metavar="FOLDER",
        help="trained run on interactions, whose lists and data are compared, in place of a file [none]",
    )
    hints = get_type_hints(TrainConfig)
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name in _DATA:
        options = setting_argument(fields[name], hints[name], (*_DATA, *_OPTIONS))
        if name == "path":
            options["help"] = "file of (user, item) rows, with a timestamp and a value if there are"
            options["metavar"] = "FILE"
        if name == "validation_share":
            options["help"] = options["help"].rpartition(" [")[0] + f" [{_VALIDATION_SHARE}]"
        group.add_argument(flag(name), **options)
    _add_options(parser.add_argument_group("the comparison"))
    parser.set_defaults(command=compare)


def _add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods", nargs="+", metavar="NAME", help="methods to compare [all of them]"
    )
    group.add_argument(
        "--trials", type=int, metavar="INT", help="number of settings tried for each method [4]"
    )
    group.add_argument(
        "--seeds", nargs="+", type=int, metavar="INT", help="seeds of the final fits [0 1 2]"
    )
    group.add_argument(
        "--cutoffs", nargs="+", type=int, metavar="K", help="cut-offs of the metrics [10 20 100]"
    )
    group.add_argument(
        "--minutes",
        type=float,
        metavar="MINUTES",
        help="time of the comparison after reading: where it is short, there are fewer seeds, then trials, "
        "then updates, and what was cut is marked; 0 for no limit [10]",
    )
    group.add_argument(
        "--minutes-per-trial",
        type=float,
        metavar="MINUTES",
        help="most minutes of a trial of a method that rankpg trains [10]",
    )
    group.add_argument(
        "--reranker",
        metavar="lightgbm|none",
        help="re-ranker of the final list, fitted to the training data [lightgbm where it is installed and "
        "the log is not too large]",
    )
    group.add_argument(
        "--out",
        type=folder_name,
        metavar="FOLDER",
        help="output folder, from which an interrupted comparison continues [not saved]",
    )
