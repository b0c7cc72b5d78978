"""Flags of the command line, and messages of the library in terms of them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Collection

__all__ = ["first_argument", "flag", "with_flags"]

_CALL = r"[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\)"
_VALUE = (
    r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\([^()]*\)|\[[^\[\]]*\]"
    r"|[^\s;,:()'\"\[\]]*[^\s;,:()'\"\[\].]"
)
_NAMED_COLUMNS = re.compile(r"columns=\{[^{}]*\}")


def flag(name: str) -> str:
    """Returns the flag of a setting or option.

    >>> flag("num_candidates")
    '--num-candidates'
    """
    return "--" + name.replace("_", "-")


def with_flags(message: str, names: Collection[str]) -> str:
    """Rewrites the arguments that a library message names as flags.

    An argument is written `name=value`, `name=`, or, where its name has an underscore, alone. Python calls
    such as `load_run(path, step=80)` stay as they are.

    Args:
      message: the text of an error, or a help text.
      names: arguments that are flags of the command.

    >>> with_flags("num_candidates=0; expected at least 1", ["num_candidates"])
    '--num-candidates 0; expected at least 1'
    >>> with_flags("choose retrieval='dense' or mesh=(2, 4), or a lower batch_size",
    ...     ["retrieval", "mesh", "batch_size"])
    'choose --retrieval dense or --mesh 2 4, or a lower --batch-size'
    >>> with_flags("adaptive_learning_rate=False needs path=", ["adaptive_learning_rate", "path"])
    '--no-adaptive-learning-rate needs --path'
    >>> with_flags("resume=True, or load_run(path, step=80)", ["resume", "step"])
    '--resume, or load_run(path, step=80)'
    >>> with_flags("name it, columns={'timestamp': 'NAME'}", ["columns"])
    'name it, --columns USER ITEM TIMESTAMP'
    """
    if not names:
        return message
    if "columns" in names:
        message = _NAMED_COLUMNS.sub(_columns_flag, message)
    return _pattern(names).sub(_replacement, message)


def _columns_flag(found: re.Match[str]) -> str:
    """The flag of a mapping of column names: the command line takes them in one order."""
    if "None" in found[0]:
        return "--columns USER ITEM"
    return f"--columns USER ITEM TIMESTAMP{' VALUE' if 'value' in found[0] else ''}"


def first_argument(message: str, names: Collection[str]) -> str | None:
    """Returns the argument that a library message starts with, which is the one that it rejects.

    Args:
      message: the text of an error.
      names: arguments of the library.

    Returns:
      Its name; None if the message starts with another word.

    >>> first_argument("ranking_length=4 exceeds num_candidates=3", ["num_candidates", "ranking_length"])
    'ranking_length'
    >>> first_argument("mine.csv has no rows; pass another path=", ["path"]) is None
    True
    """
    found = _pattern(names).match(message) if names else None
    return None if found is None else found["name"]


def _pattern(names: Collection[str]) -> re.Pattern[str]:
    """Returns the pattern of a Python call, or of an argument and its value."""
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(
        rf"(?P<call>{_CALL})"
        rf"|(?<![\w.'\"/\\-])(?P<name>{known})(?:=(?P<value>{_VALUE})?|(?![\w'\"/\\-]|\.\w))"
    )


def _replacement(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    if name is None:
        return match[0]
    if value is None:
        return flag(name) if "=" in match[0] or "_" in name else match[0]
    if value == "True":
        return flag(name)
    if value == "False":
        return flag("no_" + name)
    return f"{flag(name)} {_words(value)}".rstrip()


def _words(value: str) -> str:
    """Returns a Python literal as it is typed on a command line; other text unchanged."""
    if value[0] not in "'\"(":
        return value
    try:
        literal = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
    words = literal if isinstance(literal, tuple) else (literal,)
    return " ".join(shlex.quote(str(word)) for word in words)
