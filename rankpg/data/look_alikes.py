"""Ids that look alike: they differ in characters that are not shown, such as blanks at their ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from rankpg.data.ids import visible

__all__ = ["note_of_look_alikes", "note_of_stripped"]


def note_of_look_alikes(labels: np.ndarray, kind: str) -> tuple[str, ...]:
    r"""Returns a sentence about distinct ids that look alike, with these characters as escapes.

    Args:
      labels: ids, each of them once.
      kind: name of the ids, such as "user".

    >>> note_of_look_alikes(np.array(["ab", "a\u200bb", "c"]), "user")[0][:58]
    "2 user ids look like another one, such as 'ab' and 'a\\u200"
    """
    if labels.dtype.kind != "U" or not len(labels):
        return ()
    odd = labels[_has_hidden(labels)].tolist()
    groups: dict[str, list[str]] = defaultdict(list)
    for text in odd:
        if visible(text) != text:
            groups[visible(text)].append(text)
    if not groups:
        return ()
    plain = np.array(list(groups))
    for text in plain[np.isin(plain, labels)].tolist():
        groups[text].insert(0, text)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    one, other = alike[0][:2]
    return (
        f"{sum(map(len, alike))} {kind} ids look like another one, such as {one!a} and {other!a}, and differ "
        "in characters that are not shown: they stay different ids; make them equal if they are one.",
    )


def _has_hidden(labels: np.ndarray) -> np.ndarray:
    """Returns True for texts that hold other characters than ASCII that is shown, or blanks at an end."""
    width = labels.dtype.itemsize // 4
    codes = np.ascontiguousarray(labels).view(np.uint32).reshape(len(labels), max(width, 1))
    odd = ((codes >= 127) | ((codes < 32) & (codes > 0))).any(axis=1)
    return odd | (np.char.strip(labels) != labels)


def note_of_stripped(
    before: np.ndarray, after: np.ndarray, kind: str, column: str
) -> tuple[str, ...]:
    """Returns a sentence about ids of a text file whose blanks at the ends were removed.

    >>> note_of_stripped(np.array(["a ", "b"]), np.array(["a", "b"]), "user", "who")
    ("Blanks at the ends of 1 user ids were removed, such as 'a ' in the column 'who'.",)
    """
    changed: Iterable[str] = before[before != after].tolist()
    first = next(iter(changed), None)
    if first is None:
        return ()
    return (
        f"Blanks at the ends of {len([*changed])} {kind} ids were removed, such as {first!a} in the column "
        f"{column!r}.",
    )
