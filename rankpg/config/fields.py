"""Settings as dataclass fields: their help, their types and choices, and one door for their values."""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from rankpg.errors import ConfigError

__all__ = ["check_effects", "checked", "choices_of", "flag", "setting", "setting_type"]


def flag(name: str) -> str:
    """The flag of a setting: num_candidates -> --num-candidates."""
    return "--" + name.replace("_", "-")


def setting(
    default: Any,
    group: str,
    help: str,
    choices: tuple[str, ...] = (),
    needs: Mapping[str, str | tuple[str, ...]] = types.MappingProxyType({}),
) -> Any:
    """A field of a config: its default, the group it is listed in, its help, and its choices if any.

    `needs` are settings and their values, one or several, any of which gives this one an effect; empty if it
    always has one.
    """
    ways = [
        (name, value)
        for name, values in needs.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]
    metadata = {"group": group, "help": help, "choices": choices, "needs": ways}
    return dataclasses.field(default=default, metadata=metadata)


def check_effects(config: Any) -> None:
    """Refuse a setting that was given (is not its default) and changes nothing beside the others."""
    for field in dataclasses.fields(config):
        value, ways = getattr(config, field.name), field.metadata["needs"]
        effective = not ways or any(getattr(config, name) == want for name, want in ways)
        if value != field.default and not effective:
            words = " ".join(map(str, value)) if isinstance(value, tuple) else value
            now = " ".join(
                f"{flag(n)} {getattr(config, n)}" for n in dict.fromkeys(n for n, _ in ways)
            )
            wanted = " or ".join(f"{flag(name)} {want}" for name, want in ways)
            raise ConfigError(
                f"{flag(field.name)} is {words}, but has no effect with {now}; "
                f"leave it out, or choose {wanted}"
            )


def setting_type(hint: Any) -> tuple[Any, bool]:
    """The type of a setting without None, and whether None is allowed."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        inner = [arm for arm in get_args(hint) if arm is not type(None)]
        return inner[0], True
    return hint, False


def choices_of(field: dataclasses.Field, hint: Any) -> tuple[str, ...]:
    """The values a setting may take; empty if any of its type will do."""
    hint = setting_type(hint)[0]
    return get_args(hint) if get_origin(hint) is Literal else field.metadata["choices"]


def checked(field: dataclasses.Field, hint: Any, value: Any) -> Any:
    """The value in the setting's type, or ConfigError: YAML and Python pass through the same door."""
    choices = choices_of(field, hint)
    hint, optional = setting_type(hint)
    if value is None:
        if optional:
            return None
        raise ConfigError(f"{flag(field.name)} is empty; expected {_describe(hint)}")
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple | range):
            raise ConfigError(f"{flag(field.name)} is {value!r}; expected {_describe(hint)}")
        return tuple(_scalar(field, element, v) for v in value)
    value = _scalar(field, str if get_origin(hint) is Literal else hint, value)
    if choices and value not in choices:
        raise ConfigError(f"{flag(field.name)} is {value!r}; expected one of {', '.join(choices)}")
    return value


def _scalar(field: dataclasses.Field, hint: Any, value: Any) -> Any:
    wrong = ConfigError(f"{flag(field.name)} is {value!r}; expected {_describe(hint)}")
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise wrong
    if hint is float and isinstance(value, numbers.Real | str):
        try:
            return float(value)  # YAML reads 1e-2 as a string
        except ValueError:
            raise wrong from None
    if hint is int and hasattr(value, "__index__"):
        return int(value)
    if hint is str and isinstance(value, str):
        return value
    raise wrong


def _describe(hint: Any) -> str:
    """A setting's type in words."""
    if get_origin(hint) is tuple:
        return f"a list, each entry {_describe(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
