"""Feature arrays: numbers with one row for each id."""

from __future__ import annotations

import numpy as np

from rankpg.data.ids import ArrayLike, TableError
from rankpg.data.ratings_table import unusable

__all__ = ["feature_rows"]

_ROWS = 2**16
"""Rows checked at a time: a copy of all rows could be the largest array of a run."""


def feature_rows(features: ArrayLike, name: str, count: int) -> np.ndarray:
    """Returns features as float32[count, F] after checking that they are finite.

    Args:
      features: numbers [count, F].
      name: the argument or the file, for messages.
      count: number of ids.

    Raises:
      TableError: the shape differs, or a value is not a number, or is NaN, infinite or too large for float32.

    >>> feature_rows([[1, 2], [3, 4]], "embeddings", 2).dtype
    dtype('float32')
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or len(rows) != count or rows.size == 0 or rows.dtype.kind not in "fiub":
        raise TableError(
            f"{name}: expected numbers of shape [{count}, F], one row per id, got {rows.dtype} of shape "
            f"{list(rows.shape)}"
        )
    for start in range(0, count, _ROWS):
        wrong = unusable(rows[start : start + _ROWS])
        if wrong.any():
            row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
            row += start
            raise TableError(
                f"{name}, row {row}, column {column} (both counted from 0): {rows[row, column]} is not "
                "a finite float32: put a number there"
            )
    return rows.astype(np.float32, copy=False)
