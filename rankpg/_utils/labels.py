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
    if pandas is not None and isinstance(table, pandas.Series) and table.dtype == bool:
        return Labelled(table.to_numpy(), None, _labels(table.index))  # a mask of items
    if pandas is None or not isinstance(table, pandas.DataFrame):
        return Labelled(table, None, None)
    for axis in (table.index, table.columns):
        if axis.nlevels > 1:
            raise ValueError(
                "a table whose labels have several parts cannot be a matrix: reset_index() it, or pass it to "
                "from_table"
            )
    return Labelled(table.to_numpy(), _labels(table.index), _labels(table.columns))


def _labels(axis: Any) -> np.ndarray | None:
    labels = np.asarray(axis.to_numpy())
    if labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels))):
        return None
    return labels


def without_labels(table: Any, name: str) -> Any:
    """Returns the values of a table for contexts and items that are row numbers.

    Raises:
      ValueError: the table has labels, which no id of the catalogue matches.
    """
    found = labelled(table)
    if found.rows is not None:
        raise ValueError(
            f"{name} has row labels such as {found.rows[:3].tolist()}, and this catalogue has row "
            "numbers alone: give the ids to from_table, or pass .to_numpy() if its order is right"
        )
    return found.values
