"""Small JSON and YAML files that may come from anyone, read within bounds; and text that is safe to print.

Every bound is far above what rankpg writes: size, depth, digits of a number, and what the aliases of a YAML
file stand for. Python would need hours and all memory for a few hundred bytes of nested aliases.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from yaml import Node
else:
    Node = Any

__all__ = [
    "DocumentError",
    "SyntaxFault",
    "kind_in_words",
    "parse_json",
    "parse_yaml",
    "printable",
    "read_json",
]

LARGEST_FILE = 2**24
"""Bytes of a small file."""
DEEPEST = 64
MOST_DIGITS = 64
MOST_NODES = 100_000
"""Values of a YAML file, with aliases replaced by what they stand for."""


class DocumentError(ValueError):
    """A file beyond the bounds, or of another form; the message begins with its name."""


class SyntaxFault(DocumentError):
    """Text that is not JSON or YAML, such as a line that was cut off."""


def printable(text: str) -> str:
    r"""Returns text with control characters, which could steer a terminal, as escapes; newlines stay.

    >>> print(printable("red \x1b[31m, and\nthe next line"))
    red \x1b[31m, and
    the next line
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(x if x in "\n\t" or not _is_control(x) else _escape(x) for x in text)


def kind_in_words(error: BaseException) -> str:
    """Returns what an error of Python means for the file or value that is read, without names of classes.

    >>> kind_in_words(FileNotFoundError(2, "No such file")), kind_in_words(KeyError("format"))
    ('it does not exist', "it lacks 'format'")
    """
    for kinds, words in _KINDS:
        if isinstance(error, kinds):
            return words
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {printable(str(error.args[0]))[:100]!r}"
    return "its content has another form than expected"


_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (UnicodeDecodeError, "its text is not UTF-8"),
    (json.JSONDecodeError, "it is not JSON"),
    (FileNotFoundError, "it does not exist"),
    (PermissionError, "it may not be read by this user"),
    (IsADirectoryError, "it is a folder"),
    (RecursionError, "it is nested too deeply"),
    (MemoryError, "there is not enough memory for it"),
    (EOFError, "it ends too early"),
    (ImportError, "a package that it needs is missing"),
)
"""Errors of Python -> words."""


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )


# --- JSON -----------------------------------------------------------------------------------------


def read_json(file: Path, *, largest: int | None = LARGEST_FILE, errors: str = "strict") -> Any:
    """Returns the content of a JSON file.

    Args:
      file: its path.
      largest: bytes that it may have; None for a file whose size the data sets.
      errors: the treatment of bytes that are not UTF-8, as of bytes.decode.

    Raises:
      DocumentError: the file is too large, is not JSON in UTF-8, or is beyond a bound.
      OSError: it cannot be read.
    """
    return parse_json(_text(file, largest, errors), str(file))


def _text(file: Path, largest: int | None, errors: str = "strict") -> str:
    with file.open("rb") as opened:
        content = opened.read() if largest is None else opened.read(largest + 1)
    if largest is not None and len(content) > largest:
        raise DocumentError(f"{file}: larger than {largest} bytes; expected a small file")
    try:
        return content.decode("utf-8", errors)
    except UnicodeDecodeError:
        raise DocumentError(f"{file} cannot be read: not text in UTF-8") from None


def parse_json(text: str, source: str) -> Any:
    """Returns the value of a JSON text whose numbers are finite.

    Args:
      text: the JSON text.
      source: the file, and the line if it has several, for messages.

    Raises:
      SyntaxFault: the text is not JSON.
      DocumentError: it is beyond a bound.

    >>> parse_json('{"step": 5}', "metrics.jsonl, line 1")
    {'step': 5}
    >>> parse_json('{"reward": 1e400}', "metrics.jsonl, line 1")
    Traceback (most recent call last):
    rankpg._utils.documents.DocumentError: metrics.jsonl, line 1: a number is not finite: '1e400'
    """
    try:
        value = json.loads(
            text,
            parse_int=partial(_whole, source),
            parse_float=partial(_fraction, source),
            parse_constant=partial(_constant, source),
        )
    except RecursionError:
        raise _too_deep(source) from None
    except json.JSONDecodeError as error:
        at = f", line {error.lineno}" if "\n" in text.rstrip() else ""
        raise SyntaxFault(f"{source}{at}: not JSON ({_reason(error.msg)})") from None
    _check_depth(value, source)
    return value


def _whole(source: str, digits: str) -> int:
    _check_digits(digits, source)
    return int(digits)


def _fraction(source: str, digits: str) -> float:
    _check_digits(digits, source)
    number = float(digits)
    if not math.isfinite(number):
        raise _not_finite(source, digits)
    return number


def _constant(source: str, name: str) -> NoReturn:
    raise _not_finite(source, name)


def _reason(message: str) -> str:
    return printable(message[:1].lower() + message[1:])


def _not_finite(source: str, digits: str) -> DocumentError:
    return DocumentError(f"{source}: a number is not finite: {digits[:20]!r}")


def _check_digits(digits: str, source: str) -> None:
    if len(digits) > MOST_DIGITS:
        raise DocumentError(
            f"{source}: a number has {len(digits)} digits; expected at most {MOST_DIGITS}"
        )


def _check_finite(digits: str, source: str) -> None:
    """Rejects infinity and NaN as YAML writes them, and a number beyond float64."""
    named = re.fullmatch(r"[-+]?\.(?:inf|nan)", digits, re.IGNORECASE)
    try:
        finite = named is None and math.isfinite(float(digits))
    except ValueError:  # in another base, or in sixties
        return
    if not finite:
        raise _not_finite(source, digits)


def _check_depth(value: object, source: str) -> None:
    level: list[object] = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise _too_deep(source)


def _too_deep(source: str) -> DocumentError:
    return DocumentError(
        f"{source}: not JSON of ours: nested too deeply; expected at most {DEEPEST} levels"
    )


# --- YAML -----------------------------------------------------------------------------------------


def parse_yaml(file: Path, yaml: Any) -> Any:
    """Returns the content of a YAML file, without running any code.

    Args:
      file: its path.
      yaml: the module PyYAML.

    Raises:
      SyntaxFault: it is not YAML.
      DocumentError: it is too large, holds a key twice, or is beyond a bound.
      OSError: it cannot be read.
    """
    text = _text(file, LARGEST_FILE)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(yaml, node, str(file), {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise DocumentError(f"{file}: nested too deeply; expected settings and values") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # only of a MarkedYAMLError
        where = "" if mark is None else f", line {mark.line + 1}"
        reason = (
            getattr(error, "problem", None) or getattr(error, "reason", None) or "see its lines"
        )
        reason = " ".join(str(reason).split())[:200]
        raise SyntaxFault(f"{file}{where}: not valid YAML ({printable(reason)})") from None
    except DocumentError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise DocumentError(
            f"{file}: not valid YAML: a value does not fit its type: put it in quotes"
        ) from None


def _count(yaml: Any, node: Node, source: str, known: dict[int, int], depth: int) -> int:
    """Returns the number of values that a node stands for, aliases replaced."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise DocumentError(f"{source}: an alias stands for itself")
        return known[id(node)]
    if depth > DEEPEST:
        raise DocumentError(f"{source}: nested too deeply; expected at most {DEEPEST} levels")
    known[id(node)] = -1
    line = f"{source}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        if node.tag.rpartition(":")[2] in ("int", "float"):
            _check_digits(node.value, line)
            _check_finite(node.value, line)
        total = 1
    else:
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in parts if isinstance(key, yaml.ScalarNode)]
            seen: set[str] = set()
            twice = next((name for name in names if name in seen or seen.add(name)), None)
            if twice is not None:
                raise DocumentError(f"{line}: the key {twice[:80]!r} is there twice; keep one")
            parts = [inner for pair in parts for inner in pair]
        total = 1
        for part in parts:
            total += _count(yaml, part, source, known, depth + 1)
            if total > MOST_NODES:
                raise DocumentError(
                    f"{source}: more than {MOST_NODES} values, most of them through aliases (*name); write "
                    "out what is meant"
                )
    known[id(node)] = total
    return total
