"""Features in memory: one row of numbers for every context or item. No JAX here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.environments.triples import TableError, unusable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any

__all__ = ["feature_rows"]

_ROWS = 2**16
"""Rows that are checked at a time: a copy of all of them could be the largest array of a run."""


def feature_rows(features: ArrayLike, name: str, count: int) -> np.ndarray:
    """float32[count, F], finite.

    Args:
      features: numbers [count, F].
      name: of the argument or the file, for messages.
      count: how many ids there are.

    Raises:
      TableError: another shape, no numbers, or one that is NaN, infinite or too large for float32.

    >>> feature_rows([[1, 2], [3, 4]], "embeddings", 2).dtype
    dtype('float32')
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or len(rows) != count or rows.size == 0 or rows.dtype.kind not in "fiub":
        raise TableError(
            f"{name}: expected numbers of shape [{count}, F], one row an id, got {rows.dtype} of shape "
            f"{list(rows.shape)}"
        )
    for start in range(0, count, _ROWS):
        wrong = unusable(rows[start : start + _ROWS])
        if wrong.any():
            row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
            row += start
            raise TableError(
                f"{name}, row {row}, column {column} (both counted from 0): {rows[row, column]} is no "
                "finite float32: put a number there"
            )
    return rows.astype(np.float32, copy=False)
