"""Columns of embeddings: a matrix, or a list a row, of NumPy or of Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankpg.environments.arrow_table import arrow, decoded
from rankpg.environments.frame import Frame, kind_of
from rankpg.environments.triples import TableError

__all__ = ["vectors"]


def vectors(frame: Frame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [n, G] with zeros where a row has none, and bool[n]: where that is so.

    Raises:
      TableError: no such column, no vectors, of different lengths, or with a number that is not finite.
    """
    column = frame.columns.get(name)
    if column is None or isinstance(column, np.ndarray):
        values, missing = _stacked(frame, frame.array(name), name)
    else:
        values, missing = _flattened(frame, decoded(column), name)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, place = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        raise TableError(
            f"{frame.where(row, name)}: number {place} of the vector is {values[row, place]}: "
            "put a finite number there"
        )
    return values, missing


def _stacked(frame: Frame, column: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a matrix, or of a list of lists some of which are missing."""
    missing = np.zeros(len(column), bool)
    if column.dtype == object and column.ndim == 1:
        missing = np.array([row is None for row in column], bool)
        rows = [np.asarray(row) for row in column[~missing]]
        _same_width(frame, np.array([row.size for row in rows]), np.flatnonzero(~missing), name)
        known = np.stack(rows) if rows else np.zeros((0, 0))
    else:
        known = column
    if known.ndim != 2 or known.dtype.kind not in "fiub" or not known.shape[1]:
        raise TableError(
            f"{frame.source}: column {name!r} is no column of vectors: {kind_of(known)}"
        )
    return _spread(known, missing), missing


def _flattened(frame: Frame, column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of one of Arrow's lists, without a detour through Python's."""
    pyarrow, compute = arrow("pyarrow"), arrow("pyarrow.compute")
    types = pyarrow.types
    if not (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or types.is_fixed_size_list(column.type)
    ):
        raise TableError(f"{frame.source}: column {name!r} is no column of vectors: {column.type}")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    missing = np.asarray(lengths != lengths)
    width = _same_width(frame, lengths[~missing], np.flatnonzero(~missing), name)
    flat = compute.list_flatten(column)
    if not (types.is_floating(flat.type) or types.is_integer(flat.type)):
        raise TableError(
            f"{frame.source}: column {name!r} is no column of vectors of numbers: {column.type}"
        )
    known = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return _spread(known, missing), missing


def _same_width(frame: Frame, lengths: np.ndarray, rows: np.ndarray, name: str) -> int:
    """The length of every vector."""
    if not len(lengths) or not lengths[0]:
        raise TableError(f"{frame.source}: column {name!r} holds no vectors, or empty ones")
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        raise TableError(
            f"{frame.where(int(rows[other[0]]), name)}: a vector of {int(lengths[other[0]])} numbers where "
            f"the first has {int(lengths[0])}"
        )
    return int(lengths[0])


def _spread(known: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Rows in their places, zeros in those that are missing."""
    if not missing.any():
        return known
    rows = np.zeros((len(missing), known.shape[1]), known.dtype)
    rows[~missing] = known
    return rows
