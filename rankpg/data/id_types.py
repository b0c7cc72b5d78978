"""One declared type of ids for every table: CSV holds text only, other tables hold types of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from rankpg.data.ids import TableError, id_array, whole_numbers

__all__ = ["AUTO", "ID_TYPES", "IdTypes", "check_id_types", "typed_ids", "typed_text"]

IdTypes: TypeAlias = tuple[str, str]
"""Type of the user ids, and type of the item ids."""

ID_TYPES = ("auto", "text", "integer")
AUTO: IdTypes = ("auto", "auto")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")


def check_id_types(id_type: str | Sequence[str]) -> IdTypes:
    """Returns the types of user and item ids, from one for both or from two.

    Raises:
      ValueError: a type is unknown.

    >>> check_id_types("text"), check_id_types(["auto", "integer"])
    (('text', 'text'), ('auto', 'integer'))
    """
    given = (id_type,) if isinstance(id_type, str) else tuple(id_type)
    if len(given) not in (1, 2) or not set(given) <= set(ID_TYPES):
        raise ValueError(
            f"id_type={id_type!r}; expected auto, text or integer, or two of them: of users and of items"
        )
    return given[0], given[-1]


def typed_text(labels: np.ndarray) -> np.ndarray:
    """Returns ids that were read as text as whole numbers, if all of them are.

    >>> typed_text(np.array(["7.0", "10"])), typed_text(np.array(["007", "10"]))
    (array([ 7, 10]), array(['007', '10'], dtype='<U3'))
    """
    labels = whole_numbers(labels)
    if labels.dtype.kind != "U" or not all(map(_FLOAT.fullmatch, labels.tolist())):
        return labels
    return whole_numbers(np.array([label.partition(".")[0] for label in labels.tolist()]))


def typed_ids(ids: np.ndarray, id_type: str, where: str, *, is_text: bool = False) -> np.ndarray:
    """Returns ids in the declared type; `auto` keeps that of the table.

    Args:
      ids: none of which is empty.
      id_type: auto, text or integer.
      where: the table and the column, for messages.
      is_text: True for a table that holds text alone, in which whole numbers are recognised.

    Raises:
      TableError: an id that has no such form.

    >>> typed_ids(np.array([1.0, 2.0]), "text", "column").tolist()
    ['1', '2']
    """
    ids = id_array(ids, f"{where}:")
    if is_text:
        ids = typed_text(ids)
    if id_type == "text":
        if ids.dtype.kind == "M":
            return np.datetime_as_string(ids)
        return ids.astype(str) if ids.dtype.kind in "iu" else ids
    if id_type == "integer" and ids.dtype.kind not in "iu":
        whole = typed_text(ids) if ids.dtype.kind == "U" else ids
        if whole.dtype.kind not in "iu":
            wrong = [x for x in ids.tolist() if not _is_whole(x)] or ids.tolist()
            raise TableError(
                f"{where}: the id {wrong[0]!r} is not a whole number: give id_type='text' for all tables"
            )
        return whole
    return ids


def _is_whole(label: object) -> bool:
    return isinstance(label, str) and _FLOAT.fullmatch(label) is not None
