"""What the commands of the command line do; `cli` says how they are spelled.

Each answers its exit code. What a command needs is imported when it runs: `--help` waits for nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from rankpg.config.fields import choices_of, setting_type
from rankpg.config.presets import PRESET_SETTINGS


def metrics_table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds and 95 % interval, one line a figure."""
    from rankpg._utils.plots import mean_interval

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


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one message."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def folder_name(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("empty; expected the name of a folder")
    return Path(text)


def checkpoint_step(text: str) -> int | str:
    """The step of a checkpoint, or best."""
    if text != "best" and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}; expected the step of a checkpoint, or best")
    return text if text == "best" else int(text)


def setting_argument(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
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
