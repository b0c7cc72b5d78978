"""Ids of users and items: text, whole numbers or dates, kept exactly as they were given. No JAX here.

list | array | column  --id_array-->  one array  --IdMap-->  row numbers, and back
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = [
    "IdMap",
    "TableError",
    "UnknownIdError",
    "UnknownIdWarning",
    "exact_array",
    "id_array",
    "id_kind",
    "is_empty",
    "is_missing",
    "labels_of",
]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # beartype takes no float for one
    ArrayLike = Any

_DAY, _TIME = "datetime64[D]", "datetime64[us]"
"""The units of dates and of times: those of Python's own. A day is found by its midnight."""


class TableError(ValueError):
    """A file, or a table in memory, that cannot be used as ratings; the message says where and why."""


class UnknownIdWarning(UserWarning):
    """Ids that the table does not hold were answered by a declared policy."""


class UnknownIdError(KeyError):
    """An id that the table does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the quoted repr of the message


@dataclasses.dataclass(frozen=True, eq=False)
class IdMap:
    """The ids of users or of items, and the row numbers that stand for them: ids[row] = id.

    Raises:
      TableError: the ids are not one-dimensional, one is none, or one occurs twice.
      UnknownIdError: `rows` was asked for an id that is not there.

    >>> videos = IdMap(np.array(["cats", "dogs", "owls"]))
    >>> videos.rows(["owls", "cats"])
    array([2, 0], dtype=int32)
    >>> videos[[2, 0]].tolist()
    ['owls', 'cats']
    """

    ids: np.ndarray
    kind: str = "id"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", id_array(self.ids, self.kind))
        if len(self._row_of) < len(self.ids):
            labels = enumerate(labels_of(self.ids).tolist())
            twice = next(x for row, x in labels if self._row_of[x] != row)
            raise TableError(
                f"{self.kind} id {twice!r} occurs twice in the list of ids: make it unique"
            )

    @functools.cached_property
    def _row_of(self) -> dict[Any, int]:
        return {label: row for row, label in enumerate(labels_of(self.ids).tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: ArrayLike) -> Any:
        return self.ids[np.asarray(rows)]

    def one(self, row: int | np.integer) -> Any:
        """The id of one row as a plain Python value."""
        return self.ids[row : row + 1].tolist()[0]

    def find(self, ids: ArrayLike) -> np.ndarray:
        """int32 row numbers as of `rows`, and -1 for an id that is not there."""
        wanted = labels_of(ids)
        rows = [self._find_one(label) for label in wanted.ravel().tolist()]
        return np.array(rows, np.int32).reshape(wanted.shape)

    def _find_one(self, label: Any) -> int:
        try:
            return -1 if isinstance(label, bool) else self._row_of.get(label, -1)  # True is no 1
        except TypeError:  # a list
            return -1

    def rows(self, ids: ArrayLike) -> np.ndarray:
        """int32 row numbers of one id or of many; the shape stays."""
        rows = self.find(ids)
        if (rows < 0).any():
            unknown = labels_of(ids).ravel()[np.argmax(rows.ravel() < 0)]
            some = ", ".join(repr(x) for x in self.ids[:3].tolist())
            raise UnknownIdError(
                f"unknown {self.kind} {unknown!r}: the table holds {len(self)} of them, such as {some}"
            )
        return rows


def labels_of(ids: ArrayLike) -> np.ndarray:
    """Ids as plain Python values in an array of objects, by which they are found.

    >>> labels_of([1, 2**63 + 5]).tolist()
    [1, 9223372036854775813]
    """
    array = np.asarray(ids) if isinstance(ids, np.generic) else ids
    if not isinstance(array, np.ndarray):
        array = np.asarray(array, object)  # of [1, 2**63] NumPy would make floats
    if array.dtype.kind == "M":
        array = array.astype(_TIME)
    found = array.astype(object, order="C")
    flat = found.ravel()
    for place, value in enumerate(flat):
        flat[place] = _label(value)
    return found


def _label(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = (value.astype(_TIME) if isinstance(value, np.datetime64) else value).item()
    if isinstance(value, datetime.date) and value == value:  # NaT is a date too
        if not isinstance(value, datetime.datetime):
            return datetime.datetime.combine(value, datetime.time())
        if value.tzinfo is not None:
            return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


def exact_array(values: Any) -> np.ndarray:
    """`numpy.asarray`, but whole numbers that need all of uint64 do not become floats."""
    array = np.asarray(values)
    if array.dtype.kind != "f" or array.ndim != 1 or not isinstance(values, list | tuple):
        return array
    whole = all(isinstance(x, int | np.integer) for x in values)
    fits = whole and array.size and min(values) >= 0 and max(values) < 2**64
    return np.array(values, np.uint64) if fits else array


def id_array(ids: ArrayLike, kind: str) -> np.ndarray:
    """Ids as an array of text, of whole numbers or of dates, each of them exact.

    Args:
      ids: a list or an array of them.
      kind: of what, for messages.

    Raises:
      TableError: no list; an id that is empty, or no id; ids of several types, or without a type that
        holds all of them.

    >>> id_array([1, 2**63], "item").dtype, id_array(np.array(["a", "bc"], object), "item").dtype
    (dtype('uint64'), dtype('<U2'))
    """
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, object)
    if array.ndim != 1:
        raise TableError(f"{kind} ids must be a list, not of shape {array.shape}")
    empty = array == "" if array.dtype.kind == "U" else is_empty(array)  # a blank is an id
    if empty.any():
        raise TableError(
            f"{kind} ids, row {int(np.argmax(empty))} (counted from 0): the id is empty: fill it in or "
            "remove the row"
        )
    if array.dtype == object:
        array = _of_one_type(array, kind)
    if array.dtype.kind == "M":
        same = array.astype(_DAY if np.datetime_data(array.dtype)[0] in "YMWD" else _TIME)
        if (same != array).any():
            row = int(np.argmax(same != array))
            raise TableError(
                f"{kind} ids: {array[row]} is finer than a microsecond: make the ids whole numbers or text"
            )
        return same
    if array.dtype.kind not in "iufUS":
        raise TableError(
            f"{kind} ids are {array.dtype}, such as {array[:1].tolist()[0]!r}; expected text, whole numbers "
            "or dates"
        )
    return array


def _of_one_type(array: np.ndarray, kind: str) -> np.ndarray:
    """Objects as the array of what they are."""
    if len(array) and all(isinstance(x, np.datetime64) for x in array):
        return np.array(array.tolist())
    values = [x.item() if isinstance(x, np.generic) else x for x in array.tolist()]
    types = {type(x) for x in values}
    if not types:
        return np.zeros(0, np.int64)
    if all(issubclass(x, str) for x in types):
        if wrong := [x for x in values if x.endswith("\0")]:  # NumPy would cut it off
            raise TableError(f"{kind} ids: {wrong[0]!r} ends in a null character: remove it")
        return np.array(values, str)
    if all(issubclass(x, datetime.date) for x in types):
        return _times(array)
    if types == {int}:
        for dtype in (np.int64, np.uint64):
            held = np.iinfo(dtype)
            if held.min <= min(values) and max(values) <= held.max:
                return np.array(values, dtype)
        wide = max(values, key=abs)
        raise TableError(
            f"{kind} ids: no type of 64 bits holds all of them, such as {wide}: make them text"
        )
    if types <= {int, float} and all(float(x) == x for x in values):
        return np.array(values, np.float64)
    named = ", ".join(sorted(x.__name__ for x in types))
    if len(types) > 1:
        raise TableError(f"{kind} ids mix several types, {named}: make them all strings")
    raise TableError(
        f"{kind} ids are {named}, such as {values[0]!r}; expected text, whole numbers or dates"
    )


def _times(values: np.ndarray) -> np.ndarray:
    """Python's dates and times, and pandas' with their nanoseconds."""
    fine = [getattr(x, "nanosecond", 0) for x in values.tolist()]
    days = not any(isinstance(x, datetime.datetime) for x in values.tolist())
    times = np.array([_label(x) for x in values.tolist()], _TIME).astype(_DAY if days else _TIME)
    return times.astype("datetime64[ns]") + np.array(fine, "m8[ns]") if any(fine) else times


def id_kind(ids: np.ndarray) -> str:
    """text, number, fraction or date: ids of two kinds are never the same."""
    kinds = {"U": "text", "S": "text", "i": "number", "u": "number", "f": "fraction", "M": "date"}
    return kinds[ids.dtype.kind]


def is_empty(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind in "US":
        return np.char.str_len(np.char.strip(labels)) == 0
    if labels.dtype.kind == "O":
        return np.array([is_missing(x) for x in labels.tolist()], bool)
    return labels != labels  # NaN, NaT


def is_missing(value: Any) -> bool:
    """None, "", NaN, NaT, or pandas' NA."""
    if isinstance(value, str):
        return not value
    if value is None or type(value).__name__ == "NAType":  # pandas' equals nothing, and is no bool
        return True
    return not isinstance(value, list | np.ndarray) and bool(value != value)
