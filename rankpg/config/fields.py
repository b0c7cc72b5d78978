"""Settings as dataclass fields: help, types, choices, and the check of their values."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    SupportsIndex,
    cast,
    get_args,
    get_origin,
)

from rankpg._utils.paths import expanded
from rankpg.errors import ConfigError, argument

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Range",
    "absolute",
    "check_ranges",
    "checked",
    "choices_of",
    "complete",
    "or_none",
    "setting",
    "setting_type",
]


LARGEST = float.fromhex("0x1.fffffep+127")
"""Largest number of float32."""


def setting(
    default: object,
    group: str,
    help: str,
    choices: Collection[str] | Callable[[], Collection[str]] = (),
    needs: Mapping[str, str | tuple[str, ...]] = types.MappingProxyType({}),
    default_help: str = "",
    metavar: str = "",
) -> Any:
    """Returns a field of a config.

    Args:
      default: its default value.
      group: the heading under which it is listed.
      help: a noun phrase, with the unit.
      choices: its values, or a table or function that gives them when they are needed; empty if its type
        says so, or if all values of its type are allowed.
      needs: settings and their values, one or several, any of which gives this one an effect; empty if it
        always has one.
      default_help: the default in words, where its value does not say it.
      metavar: its value in the help of the command line; by default its type or its choices. One that starts
        with FILE makes the value a path, which is stored absolute, so that it is the same from every folder.
    """
    ways = [
        (name, value)
        for name, values in needs.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]
    metadata = {
        "group": group,
        "help": help,
        "choices": choices,
        "needs": ways,
        "default_help": default_help,
        "metavar": metavar,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check_effects(config: DataclassInstance) -> None:
    """Rejects a setting that is not its default and has no effect beside the others."""
    for field in dataclasses.fields(config):
        value, ways = getattr(config, field.name), field.metadata["needs"]
        effective = not ways or any(getattr(config, name) == want for name, want in ways)
        if value != field.default and not effective:
            names = dict.fromkeys(name for name, _ in ways)
            now = " and ".join(argument(name, getattr(config, name)) for name in names)
            wanted = " or ".join(argument(name, want) for name, want in ways)
            raise ConfigError(
                f"{argument(field.name, value)} has no effect with {now}; "
                f"leave it out, or choose {wanted}"
            )


def complete(config: DataclassInstance) -> None:
    """Rejects a setting without an effect, as `check_effects`, and then makes paths of files absolute."""
    check_effects(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if (
            field.metadata["metavar"].startswith("FILE")
            and isinstance(value, str)
            and value.strip()
        ):
            object.__setattr__(config, field.name, absolute(value))


class Range(NamedTuple):
    """Numbers that a setting may have, each of them where it has several."""

    low: float
    high: float
    expected: str
    """The range in words."""
    without_low: bool = False
    without_high: bool = False
    increasing: int = 0
    """Number of values, each larger than the one before; 0: any values."""


def check_ranges(config: DataclassInstance, ranges: Mapping[str, Range]) -> None:
    """Rejects the first setting that is outside of its range; None and settings without a range fit.

    Raises:
      ConfigError: names the setting, its value and its range.
    """
    for name, allowed in ranges.items():
        value = getattr(config, name)
        if value is None:
            continue
        several = value if isinstance(value, tuple) else (value,)
        above = [x > allowed.low or (x == allowed.low and not allowed.without_low) for x in several]
        below = [
            x < allowed.high or (x == allowed.high and not allowed.without_high) for x in several
        ]
        ordered = not allowed.increasing or (
            len(several) == allowed.increasing and list(several) == sorted(set(several))
        )
        if not several or not all(above) or not all(below) or not ordered:
            raise ConfigError(f"{argument(name, value)}; expected {allowed.expected}")


def setting_type(hint: object) -> tuple[Any, bool]:
    """Returns the type of a setting without None, and whether None is allowed."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        inner = [arm for arm in get_args(hint) if arm is not type(None)]
        return inner[0], True
    return hint, False


def or_none(table: Collection[str]) -> Callable[[], Collection[str]]:
    """Returns a function that gives "none" and the names of a table, which may grow.

    >>> or_none({"context": 1})()
    ('none', 'context')
    """
    return lambda: ("none", *table)


def choices_of(field: dataclasses.Field, hint: object) -> tuple[str, ...]:
    """Returns the values that a setting may take; empty if all values of its type are allowed."""
    hint = setting_type(hint)[0]
    if get_origin(hint) is Literal:
        return get_args(hint)
    choices = cast(Iterable[str] | Callable[[], Iterable[str]], field.metadata["choices"])
    return tuple(choices() if callable(choices) else choices)


def checked(field: dataclasses.Field, hint: object, value: object) -> Any:
    """Returns a value in the setting's type, whether it comes from YAML or from Python.

    Raises:
      ConfigError: a value of another type, or not one of the choices.
    """
    choices = choices_of(field, hint)
    hint, optional = setting_type(hint)
    if value is None:
        if optional:
            return None
        raise _wrong(field, value, hint)
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple | range):
            raise _wrong(field, value, hint)
        try:
            several = tuple(_scalar(field, element, v) for v in value)
        except ConfigError:
            raise _wrong(field, tuple(value), hint) from None
        if choices and (not several or not set(several) <= set(choices)):
            raise ConfigError(
                f"{argument(field.name, several)}; expected one or more of {', '.join(choices)}"
            )
        return several
    value = _scalar(field, str if get_origin(hint) is Literal else hint, value)
    if choices and value not in choices:
        raise ConfigError(f"{argument(field.name, value)}; expected one of {', '.join(choices)}")
    return value


def absolute(value: str) -> str:
    """Returns the absolute path of a file, whose leading ~ is the home directory.

    Args:
      value: a path; names of arrays in the file may follow it, after ::.

    >>> absolute("/data/../x.npz::items")
    '/data/../x.npz::items'
    """
    file, separator, names = value.partition("::")
    return f"{expanded(file).absolute()}{separator}{names}"


def _scalar(field: dataclasses.Field, hint: object, value: object) -> Any:
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise _wrong(field, value, hint)
    if hint is float and isinstance(value, numbers.Real | str):
        try:
            number = float(value)  # YAML reads 1e-2 as a string
        except (ValueError, OverflowError):
            raise _wrong(field, value, hint) from None
        if math.isfinite(number) and abs(number) > LARGEST:
            raise ConfigError(
                f"{argument(field.name, value)}; expected a number that fits in float32"
            )
        return number
    if hint is int and isinstance(value, SupportsIndex):
        return int(value)
    if hint is str and isinstance(value, str):
        return value
    raise _wrong(field, value, hint)


def _wrong(field: dataclasses.Field, value: object, hint: object) -> ConfigError:
    return ConfigError(f"{argument(field.name, value)}; expected {_describe(hint)}")


_TYPES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _describe(hint: object) -> str:
    """Returns a setting's type in words."""
    if get_origin(hint) is tuple:
        return f"a list, each entry {_describe(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return _TYPES[hint]
