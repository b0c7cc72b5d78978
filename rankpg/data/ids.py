"""Ids of contexts and items: text, whole numbers or dates, kept exactly as they were given.

list | array | column  --id_array-->  one array  --IdMap-->  row numbers, and back
"""

from __future__ import annotations

import datetime
import functools
import unicodedata
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

__all__ = [
    "ArrayLike",
    "Columns",
    "Id",
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
    "objects",
    "text_array",
    "visible",
    "whole_numbers",
]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # beartype rejects tuples and floats of the type that NumPy declares
    ArrayLike = Any

_DAY, _TIME = "datetime64[D]", "datetime64[us]"
"""The units of Python's own dates and times. A day is found by its midnight."""
_MOST_COMPARED = 100_000
"""Ids that are compared with one that is unknown."""
Id: TypeAlias = str | bytes | int | float | datetime.date
"""An id as a plain Python value."""


Columns: TypeAlias = tuple[str, str, str]
"""Names of the user, the item and the value column."""


class TableError(ValueError):
    """A file, or a table in memory, that cannot be used; the message names the place and the reason."""


class UnknownIdWarning(UserWarning):
    """A declared policy replaced ids that the table does not hold."""


class UnknownIdError(KeyError, ValueError):
    """An id that a table does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the quoted repr of the message


class IdMap:
    """Ids of contexts or of items, in the order of their rows: ids[row] = id.

    Raises:
      TableError: the ids are not one-dimensional, one is empty, or one occurs twice.

    >>> videos = IdMap(np.array(["cats", "dogs", "owls"]))
    >>> videos.rows(["owls", "cats"])
    array([2, 0], dtype=int32)
    >>> videos[[2, 0]].tolist()
    ['owls', 'cats']
    """

    is_range = False
    """True where ids are the row numbers themselves."""

    def __init__(self, ids: ArrayLike, kind: str = "id"):
        self._ids, self.kind = id_array(ids, kind), kind
        if len(self._row_of) < len(self):
            labels = enumerate(labels_of(self._ids).tolist())
            row, twice = next((row, x) for row, x in labels if self._row_of[x] != row)
            forms = [ascii(self.one(r)) for r in (row, self._row_of[twice])]
            if forms[0] != forms[1]:
                raise TableError(
                    f"{kind} id {twice!r} is written in two ways, {forms[0]} and {forms[1]}, which look "
                    "alike: write all ids in one Unicode form, unicodedata.normalize('NFC', id)"
                )
            raise TableError(f"{kind} id {twice!r} occurs twice in the list of ids: make it unique")

    @staticmethod
    def of_range(count: int, kind: str = "id") -> IdMap:
        """The ids 0 to count - 1, each of which is its own row number; no table of them is kept.

        >>> IdMap.of_range(10**9).rows([7, 3])
        array([7, 3])
        """
        return _RangeIdMap(count, kind)

    @property
    def ids(self) -> np.ndarray:
        """All ids, in the order of their rows."""
        return self._ids

    @functools.cached_property
    def _row_of(self) -> dict[Id, int]:
        return {label: row for row, label in enumerate(labels_of(self._ids).tolist())}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, rows: ArrayLike) -> Any:
        return self._ids[np.asarray(rows)]

    def one(self, row: int | np.integer) -> Id:
        """Returns the id of one row as a plain Python value."""
        return self._ids[row : row + 1].tolist()[0]

    def labels(self, ids: ArrayLike) -> np.ndarray:
        """Returns ids in the form in which they are looked up; the shape stays."""
        return labels_of(ids)

    def find(self, ids: ArrayLike) -> np.ndarray:
        """Returns row numbers as `rows` does, and -1 for an unknown id."""
        wanted = labels_of(ids)
        rows = [self._find_one(label) for label in wanted.ravel().tolist()]
        return np.array(rows, np.int32).reshape(wanted.shape)

    def _find_one(self, label: Any) -> int:
        try:
            return self._row_of.get(label, -1)
        except TypeError:  # a list
            return -1

    def rows(self, ids: ArrayLike) -> np.ndarray:
        """Returns the int32 row numbers of one id or of many; the shape stays.

        Raises:
          UnknownIdError: an id that is not in the table.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            raise self._unknown(self.labels(ids).ravel()[np.argmax(rows.ravel() < 0)])
        return rows

    def _unknown(self, label: Any) -> UnknownIdError:
        some = ", ".join(map(repr, self._ids[:3].tolist()))
        alike = _look_alike_of(label, self._ids)
        hint = (
            ""
            if alike is None
            else f"; {alike!a} looks like it: give the id with the same characters"
        )
        shown = repr(label) if alike is None else ascii(label)
        return UnknownIdError(
            f"unknown {self.kind} {shown}: the table has {len(self)} {self.kind} ids, such as {some}{hint}"
        )


class _RangeIdMap(IdMap):
    """Row numbers as ids. They keep the integer type in which they are given."""

    is_range = True

    def __init__(self, count: int, kind: str):
        self._count, self.kind = count, kind

    @property
    def ids(self) -> np.ndarray:
        return np.arange(self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: ArrayLike) -> Any:
        return np.asarray(rows)[()]

    def one(self, row: int | np.integer) -> int:
        return int(row)

    def labels(self, ids: ArrayLike) -> np.ndarray:
        """Returns ids as an array of whole numbers.

        Raises:
          ValueError: the ids have another type.
        """
        found = np.asarray(ids)
        if found.dtype == object:  # as pandas returns them
            found = np.array(found.tolist())
        if found.dtype.kind not in "iu":
            raise ValueError(
                f"{self.kind}s have the type {found.dtype}; expected {self.kind} ids, whole numbers from 0 "
                f"to {self._count - 1}"
            )
        return found

    def find(self, ids: ArrayLike) -> np.ndarray:
        rows = self.labels(ids)
        return np.where((rows >= 0) & (rows < self._count), rows, -1)

    def rows(self, ids: ArrayLike) -> np.ndarray:
        rows = self.labels(ids)
        outside = (rows < 0) | (rows >= self._count)
        if outside.any():
            raise UnknownIdError(
                f"{self.kind} {rows[outside][0]} is unknown; {self.kind} ids are the row numbers 0 to "
                f"{self._count - 1}"
            )
        return rows


def labels_of(ids: ArrayLike) -> np.ndarray:
    """Returns ids as plain Python values in an array of objects, in which equal ids are equal.

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
    if isinstance(value, str):  # two forms of one text look alike
        return value if value.isascii() else unicodedata.normalize("NFC", value)
    if isinstance(value, bool):  # True equals 1, but is not the id 1
        return str(value)
    if isinstance(value, datetime.date) and value == value:  # NaT is a date too
        if not isinstance(value, datetime.datetime):
            return datetime.datetime.combine(value, datetime.time())
        if value.tzinfo is not None:
            return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


def exact_array(values: Any) -> np.ndarray:
    """Returns `numpy.asarray(values)`, but keeps whole numbers above 2**63 whole.

    Raises:
      TableError: a text ends in a null character, which NumPy would cut off.
    """
    array = np.asarray(values)
    if array.dtype.kind == "U" and array.ndim == 1 and not isinstance(values, np.ndarray):
        _check_last_characters([x for x in values if isinstance(x, str)], "table")
    if array.dtype.kind != "f" or array.ndim != 1 or not isinstance(values, list | tuple):
        return array
    whole = all(isinstance(x, int | np.integer) for x in values)
    fits = whole and array.size and min(values) >= 0 and max(values) < 2**64
    return np.array(values, np.uint64) if fits else array


def id_array(ids: ArrayLike, kind: str) -> np.ndarray:
    """Returns ids as an array of text, of whole numbers or of dates, each of them exact.

    Floats that are whole numbers, as pandas makes them where a value was missing once, become whole numbers,
    and True and False become text.

    Args:
      ids: a list or an array of ids.
      kind: the name of the ids in messages, such as "item".

    Raises:
      TableError: the ids are not a list, one is empty or of a type that cannot be an id, or no NumPy type
        holds all of them.

    >>> id_array([1, 2**63], "item").dtype, id_array(np.array(["a", "bc"], object), "item").dtype
    (dtype('uint64'), dtype('<U2'))
    """
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, object)
    if array.ndim != 1:
        raise TableError(
            f"{kind} ids have the shape {list(array.shape)}; {kind} ids must be a list"
        )
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
    if array.dtype.kind == "b":
        return array.astype(str)
    if array.dtype.kind == "f":
        return _without_fraction(array, kind)
    if array.dtype.kind not in "iuUS":
        raise TableError(
            f"{kind} ids are {array.dtype}, such as {array[:1].tolist()[0]!r}; expected text, whole numbers "
            "or dates"
        )
    return array


def _of_one_type(array: np.ndarray, kind: str) -> np.ndarray:
    """Returns an array of objects as an array of their common type."""
    if len(array) and all(isinstance(x, np.datetime64) for x in array):
        return np.array(array.tolist())
    values = [x.item() if isinstance(x, np.generic) else x for x in array.tolist()]
    types = {type(x) for x in values}
    if not types:
        return np.zeros(0, np.int64)
    if all(issubclass(x, str) for x in types):
        return text_array(values, f"{kind} ids")
    if types == {bool}:
        return np.array(values)
    if all(issubclass(x, datetime.date) for x in types):
        return _times(array)
    if types == {int}:
        for dtype in (np.int64, np.uint64):
            held = np.iinfo(dtype)
            if held.min <= min(values) and max(values) <= held.max:
                return np.array(values, dtype)
        wide = max(values, key=abs)
        raise TableError(
            f"{kind} ids: no 64-bit type holds all of them, such as {wide}: make them text"
        )
    if types <= {int, float} and all(float(x) == x for x in values):
        return np.array(values, np.float64)
    named = ", ".join(sorted(x.__name__ for x in types))
    if len(types) > 1:
        raise TableError(f"{kind} ids mix several types, {named}: make them all strings")
    raise TableError(
        f"{kind} ids are {named}, such as {values[0]!r}; expected text, whole numbers or dates"
    )


def text_array(values: list[str], source: str) -> np.ndarray:
    """Returns text as an array.

    Raises:
      TableError: a text ends in a null character, which NumPy would cut off.
    """
    _check_last_characters(values, source)
    return np.array(values, str)


def _check_last_characters(values: list[str], source: str) -> None:
    if wrong := next((x for x in values if x.endswith("\0")), None):
        raise TableError(f"{source}: {wrong!r} ends in a null character: remove it")


def _without_fraction(array: np.ndarray, kind: str) -> np.ndarray:
    """Returns whole numbers that are stored as floats as int64."""
    wrong = ~((array == np.floor(array)) & (np.abs(array) < 2**53))
    if wrong.any():
        where = kind if kind.endswith(":") else f"{kind} ids:"
        raise TableError(
            f"{where} the id {array[wrong][0]} is not a whole number: make the ids whole numbers or text"
        )
    return array.astype(np.int64)


def _times(values: np.ndarray) -> np.ndarray:
    """Returns Python's dates and times, and those of pandas with their nanoseconds, as datetime64."""
    fine = [getattr(x, "nanosecond", 0) for x in values.tolist()]  # Python's have none
    days = not any(isinstance(x, datetime.datetime) for x in values.tolist())
    times = np.array([_label(x) for x in values.tolist()], _TIME).astype(_DAY if days else _TIME)
    return times.astype("datetime64[ns]") + np.array(fine, "m8[ns]") if any(fine) else times


def id_kind(ids: np.ndarray) -> str:
    """Returns text, number or date; ids of different kinds are never equal."""
    kinds = {"U": "text", "S": "text", "i": "number", "u": "number", "M": "date"}
    return kinds[ids.dtype.kind]


def is_empty(labels: np.ndarray) -> np.ndarray:
    """Returns bool[n], True where an id is blank or missing."""
    if labels.dtype.kind in "US":
        return np.char.str_len(np.char.strip(labels)) == 0
    if labels.dtype.kind == "O":
        return np.array([is_missing(x) for x in labels.tolist()], bool)
    return labels != labels  # NaN, NaT


def is_missing(value: Any) -> bool:
    """Returns True for None, "", NaN, NaT, and NA of pandas."""
    if isinstance(value, str):
        return not value
    if (
        value is None or type(value).__name__ == "NAType"
    ):  # pandas' NA equals nothing, not even as a bool
        return True
    return not isinstance(value, list | np.ndarray) and bool(value != value)


def objects(values: list[Any]) -> np.ndarray:
    """Returns a list as a one-dimensional array of objects, also where its values are lists."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def whole_numbers(labels: np.ndarray) -> np.ndarray:
    """Returns ids that were read as text as int64 if all are whole numbers without leading zeros.

    >>> whole_numbers(np.array([" 7", "10"])), whole_numbers(np.array(["007", "10"]))
    (array([ 7, 10]), array(['007', '10'], dtype='<U3'))
    """
    labels = np.char.strip(labels)
    try:
        whole = labels.astype(np.int64)
        return whole if np.array_equal(whole.astype(str), labels) else labels
    except (ValueError, OverflowError):
        return labels  # some are not whole numbers


def visible(text: str) -> str:
    r"""Returns what is shown of a text: without format and control characters, blanks as one kind of blank.

    >>> visible("a\u200bb\u00a0"), visible("\ufeffab")
    ('ab', 'ab')
    """
    if text.isascii() and text.isprintable():
        return text.strip()
    shown = [
        " " if c.isspace() else c
        for c in unicodedata.normalize("NFC", text)
        if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")
    ]
    return "".join(shown).strip()


def _look_alike_of(wanted: object, ids: np.ndarray) -> str | None:
    r"""Returns the id that looks like one that is unknown; None without one, and for ids that are not text.

    >>> _look_alike_of("ab ", np.array(["x", "a\u200bb"]))
    'a\u200bb'
    """
    if not isinstance(wanted, str) or ids.dtype.kind != "U" or len(ids) > _MOST_COMPARED:
        return None
    shown = visible(wanted)
    return next((text for text in ids.tolist() if visible(text) == shown), None)
