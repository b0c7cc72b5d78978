"""Parsers and argument types that the commands share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from rankpg._utils.documents import printable
from rankpg.cli.flags import flag, with_flags
from rankpg.config.fields import checked, choices_of, setting_type
from rankpg.config.renamed import RENAMED
from rankpg.errors import ConfigError, DataWarning

__all__ = [
    "Parser",
    "checkpoint_step",
    "folder_name",
    "former_flag",
    "metrics_table",
    "option_names",
    "plain_warnings",
    "reject_unknown",
    "setting_argument",
]


def metrics_table(
    rows: Sequence[dict[str, Any]], part_of: Callable[[str], str] | None = None
) -> str:
    """Returns the mean over seeds and its 95 % interval, one line per metric.

    Args:
      rows: metrics of one evaluation, a row for each seed.
      part_of: maps the name of a metric to the part of the data that it is computed on, under which it is
        listed; None lists all of them together.

    >>> print(metrics_table([{"step": 5, "seed": 0, "recall@20": 0.25, "reward": 0.5}], lambda name: "all"))
    all:
      recall@20                0.2500
      reward                   0.5000
      (one seed)
    """
    from rankpg._utils.plots import mean_interval

    lines: dict[str, list[str]] = {}
    width = 18 if part_of is None else 20
    for name in rows[0]:
        values = [row[name] for row in rows if isinstance(row[name], float)]
        if not values:
            continue
        if name == "steps_per_second":  # one program trains all seeds
            lines.setdefault("", []).append(f"  {name:<{width}} {values[0]:10.1f}")
            continue
        mean, half = mean_interval(values)
        part = part_of(name) if part_of else ""
        text = f"  {name:<{width}} {mean:10.4f}" + ("" if half is None else f" ± {half:.4f}")
        lines.setdefault(part, []).append(text)
    last = lines.pop("", [])
    note = f"  (mean of {len(rows)} seeds, 95 % interval)" if len(rows) > 1 else "  (one seed)"
    headed = [line for part, own in lines.items() for line in (f"{part}:", *own)]
    return "\n".join([*headed, *last, note])


class Parser(argparse.ArgumentParser):
    """argparse.ArgumentParser that reports an error in one line, and takes flags by their whole name."""

    def __init__(self, *arguments: Any, allow_abbrev: bool = False, **options: Any):
        super().__init__(*arguments, allow_abbrev=allow_abbrev, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@contextlib.contextmanager
def plain_warnings(prog: str, names: Collection[str]) -> Iterator[None]:
    """Prints warnings about data as one sentence each, in terms of flags, and others as Python does."""
    before = warnings.formatwarning

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, DataWarning):
            return f"{prog}: {printable(with_flags(str(message), names))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def option_names(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Returns the names of the options of the command that `argv` chooses.

    >>> parser = Parser()
    >>> _ = parser.add_subparsers().add_parser("train").add_argument("--num-steps")
    >>> sorted(option_names(parser, ["train"]))
    ['help', 'num_steps']
    """
    return {
        action.dest
        for chosen in _chosen(parser, argv)
        for action in chosen._actions
        if action.option_strings
    }


def reject_unknown(
    parser: argparse.ArgumentParser, argv: Sequence[str], unknown: Sequence[str]
) -> NoReturn:
    """Exits with a message of the command that `argv` chooses, which guesses the flag that was meant.

    Args:
      parser: the parser of all commands.
      argv: the command line.
      unknown: its arguments that no parser knows.

    >>> import contextlib, sys
    >>> parser = Parser(prog="rankpg")
    >>> _ = parser.add_subparsers().add_parser("train").add_argument("--num-steps")
    >>> with contextlib.redirect_stderr(sys.stdout), contextlib.suppress(SystemExit):
    ...     reject_unknown(parser, ["train", "--num-step", "3"], ["--num-step", "3"])
    rankpg train: unrecognized arguments: --num-step 3; did you mean --num-steps?
    (see rankpg train --help)
    """
    command = _chosen(parser, argv)[-1]
    flags = [text for action in command._actions for text in action.option_strings]
    word = next((word for word in unknown if word.startswith("--")), "")
    # Without the dashes, which would make any two short flags alike.
    name = word.partition("=")[0].removeprefix("--")
    near = difflib.get_close_matches(name, [text.removeprefix("--") for text in flags], n=1)
    guess = f"; did you mean --{near[0]}?" if near else ""
    command.error(f"unrecognized arguments: {' '.join(unknown)}{guess}")


def _chosen(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[argparse.ArgumentParser]:
    """Returns a parser and those of the commands that `argv` chooses, outermost first."""
    chosen = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for position, word in enumerate(argv):
                if word in action.choices:
                    chosen += _chosen(action.choices[word], argv[position + 1 :])
                    break
    return chosen


def former_flag(argv: Sequence[str]) -> str | None:
    """Returns the message that refuses a flag under its former name, if `argv` has one.

    >>> former_flag(["train", "--late_stage=optimal"])
    '--late_stage is now named --reranker'
    """
    current = {flag(old): flag(new) for old, new in RENAMED.items()}
    for word in argv:
        former = word.partition("=")[0]
        now = current.get(former.replace("_", "-"))
        if now is not None:
            return f"{former} is now named {now}"
    return None


def folder_name(text: str) -> Path:
    """Returns the path of a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("empty; expected the name of a folder")
    return Path(text)


def checkpoint_step(text: str) -> int | str:
    """Returns the step of a checkpoint, or "best"."""
    if text != "best" and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}; expected the step of a checkpoint, or best")
    return text if text == "best" else int(text)


def setting_argument(
    field: dataclasses.Field, hint: object, names: Collection[str]
) -> dict[str, Any]:
    """Returns the arguments of `add_argument` for a setting.

    Args:
      field: a field of `TrainConfig`.
      hint: its type.
      names: all settings, which its help may mention.
    """
    choices = choices_of(field, hint)
    kind, _ = setting_type(hint)
    text = f"{with_flags(field.metadata['help'], names)} [{_default(field)}]"
    options: dict[str, Any] = {"help": text.replace("%", "%%")}
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        options["nargs"] = "*"
    elif choices:
        options["choices"] = choices
    options["type"] = _reader(field, kind)
    metavar = field.metadata["metavar"] or "|".join(choices) or kind.__name__.upper()
    return options | {"metavar": metavar}


def _reader(field: dataclasses.Field, hint: object) -> Callable[[str], Any]:
    """Returns the function that reads a setting from a word, and rejects it as `TrainConfig` does."""

    def read(text: str) -> Any:
        try:
            value = int(text) if hint is int else text
        except ValueError:
            value = text  # rejected below
        try:
            return checked(field, hint, value)
        except ConfigError as error:
            # An ArgumentTypeError would put "argument --flag:" in front.
            raise argparse.ArgumentError(None, with_flags(str(error), [field.name])) from None

    return read


def _default(field: dataclasses.Field) -> str:
    if field.metadata["default_help"]:
        return field.metadata["default_help"]
    if field.default is None:
        return "none"
    if isinstance(field.default, tuple):
        return " ".join(map(str, field.default))
    return str(field.default)
