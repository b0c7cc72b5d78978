"""Arrays with labels, such as data frames of pandas, taken apart."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Labelled", "labelled", "without_labels"]


class Labelled(NamedTuple):
    """An array, and the labels of its rows and columns where it has any."""

    values: Any
    rows: np.ndarray | None
    columns: np.ndarray | None


def labelled(table: Any) -> Labelled:
    """Returns an array with its labels: those of a pandas table that are not just 0, 1, 2, ...

    A series of True and False is a row of a table, so that its labels are those of columns.

    >>> labelled([[1.0, 2.0]]).rows is None
    True
    """
    pandas = sys.modules.get("pandas")  # a caller with such a table has imported it
    if pandas is not None and isinstance(table, pandas.Series) and _is_mask(pandas, table):
        return Labelled(table.to_numpy(bool), None, _labels(table.index))  # a mask of items
    if pandas is None or not isinstance(table, pandas.DataFrame):
        return Labelled(table, None, None)
    for axis in (table.index, table.columns):
        if axis.nlevels > 1:
            raise ValueError(
                "a table whose labels have several parts cannot be a matrix: reset_index() it, or pass it to "
                "from_table"
            )
    mask = len(table.columns) and all(
        _is_mask(pandas, table[[x]].iloc[:, 0]) for x in table.columns
    )
    values = table.to_numpy(bool) if mask else table.to_numpy()
    return Labelled(values, _labels(table.index), _labels(table.columns))


def _is_mask(pandas: Any, column: Any) -> bool:
    """Returns True for a column of True and False, also of pandas' own type of them, without a gap."""
    return bool(pandas.api.types.is_bool_dtype(column.dtype) and not column.isna().any())


def _labels(axis: Any) -> np.ndarray | None:
    labels = np.asarray(axis.to_numpy())
    if labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels))):
        return None
    return labels


def without_labels(table: Any, name: str, *, of_items: bool = False) -> Any:
    """Returns the values of a table for contexts and items that are row numbers.

    Args:
      table: an array, with or without labels.
      name: the argument, for messages.
      of_items: True if its columns are items; those of features may have any names.

    Raises:
      ValueError: the table has labels, which no id of the catalogue matches.
    """
    found = labelled(table)
    for what, labels in (("row", found.rows), ("column", found.columns if of_items else None)):
        if labels is not None:
            raise ValueError(
                f"{name} has {what} labels such as {labels[:3].tolist()}, and this catalogue has row "
                "numbers alone: give the ids to from_table, or pass .to_numpy() if its order is right"
            )
    return found.values
