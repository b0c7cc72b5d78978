"""Errors of other libraries in words of our own."""

from __future__ import annotations

import re

from rankpg._utils.documents import kind_in_words, printable
from rankpg.data.ids import TableError

__all__ = ["in_one_line", "numpy_fault"]

_LONGEST = 200
"""Characters of the message of another library that are shown."""


def numpy_fault(source: object, cause: Exception) -> TableError:
    """Returns the error for a NumPy file that `numpy.load` rejected."""
    if "allow_pickle" in str(cause):
        return TableError(
            f"{source}: holds pickled Python objects, which are never loaded because they can run code: "
            "save numbers or strings (array.astype(str)) instead"
        )
    return TableError(
        f"{source} is damaged: a NumPy file whose content cannot be read: restore a "
        "copy of it, or save it again with numpy.save or numpy.savez"
    )


def in_one_line(cause: BaseException) -> str:
    r"""Returns the message of another library on one line: without its JSON or traceback, and cut off.

    Control characters, which may come from a file, are escaped.

    >>> in_one_line(ValueError("no such\nfile \x1b[31m"))
    'no such file \\x1b[31m'
    """
    text = re.split(r"\{\s*[\"']|Traceback \(most recent|\n\s*File \"", str(cause), maxsplit=1)[0]
    text = printable(" ".join(text.split()))
    return (text if len(text) <= _LONGEST else text[:_LONGEST] + "...") or kind_in_words(cause)
