"""Times of interactions as float64: numbers stay as they are, dates become seconds since 1970 in UTC."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rankpg.data.arrow import decoded
from rankpg.data.ids import TableError, is_missing, labels_of
from rankpg.data.optional import arrow
from rankpg.data.text_lines import number_remedy

__all__ = ["array_times", "arrow_times"]

_MICROSECONDS = "datetime64[us]"
_UNITS = {"seconds": 1e8, "milliseconds": 1e11, "microseconds": 1e14, "nanoseconds": 1e17}
"""Unit -> the smallest number that looks like one since 1970; 1e8 seconds is in 1973."""
_GAP = 20.0
"""Least ratio between the times of two units: times of one unit in the 1970s pass no such gap."""


def array_times(column: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Returns the times in a NumPy array as float64[n].

    Args:
      column: numbers, ISO dates as text, datetime64, or dates of Python, [n].
      where: returns the place of a row, for messages.

    Raises:
      TableError: a time is missing, or is not a time.

    >>> array_times(np.array(["1970-01-02", "1970-01-01T00:00:05Z"]), str)
    array([8.64e+04, 5.00e+00])
    """
    if column.dtype == object:
        missing = np.array([is_missing(x) for x in column.tolist()], bool)
        _check_missing(missing, where)
        column = _of_one_type(labels_of(column))
    if column.dtype.kind == "M":
        _check_missing(np.isnat(column), where)
        return column.astype(_MICROSECONDS).astype(np.int64) / 1e6
    if column.dtype.kind in "fiu":
        return _of_numbers(column.astype(np.float64), where)
    if column.dtype.kind != "U":
        raise _not_a_time(column[:1].tolist()[0], where(0))
    try:
        numbers = column.astype(np.float64)
    except ValueError:  # some are not numbers
        texts, codes = np.unique(column, return_inverse=True)
        return _of_texts(texts.tolist(), codes, where)
    return _of_numbers(numbers, where)


def arrow_times(column: Any, where: Callable[[int], str]) -> np.ndarray:
    """Returns the times in a column of pyarrow as float64[n].

    Args:
      column: numbers, ISO dates as text, dates or timestamps, [n].
      where: returns the place of a row, for messages.

    Raises:
      TableError: a time is missing, or is not a time.

    >>> import pyarrow
    >>> arrow_times(pyarrow.chunked_array([["1970-01-02 00:00:01"]]), str)
    array([86401.])
    """
    pyarrow = arrow("pyarrow")
    types, plain = pyarrow.types, decoded(column)
    if plain.null_count:
        _check_missing(plain.is_null().to_numpy(zero_copy_only=False), where)
    kind = plain.type
    if types.is_timestamp(kind) or types.is_date(kind):
        return _microseconds(plain)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        numbers = plain.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        return _of_numbers(numbers, where)
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise _not_a_time(plain[0].as_py(), where(0))
    for read, check in (
        (lambda: plain.cast(pyarrow.float64()).to_numpy(), _of_numbers),
        (lambda: _microseconds(plain), _checked),
    ):
        try:
            return check(read(), where)
        except pyarrow.ArrowException:
            continue
    texts = plain.dictionary_encode()
    return _of_texts(texts.dictionary.to_pylist(), texts.indices.to_numpy(), where)


def _microseconds(column: Any) -> np.ndarray:
    """Returns dates, timestamps or ISO text without a zone in seconds."""
    pyarrow = arrow("pyarrow")
    zone = getattr(column.type, "tz", None)
    whole = column.cast(pyarrow.timestamp("us", tz=zone), safe=False).cast(pyarrow.int64())
    return whole.to_numpy(zero_copy_only=False) / 1e6


def _of_one_type(values: np.ndarray) -> np.ndarray:
    """Returns objects as an array of text, of datetime64 or of numbers, or as they are if they are mixed."""
    plain = values.tolist()
    if all(isinstance(x, str) for x in plain):
        return np.array(plain, str)
    if all(isinstance(x, datetime.date) for x in plain):
        return np.array(plain, _MICROSECONDS)
    if all(isinstance(x, int | float) for x in plain):
        return np.array(plain, np.float64)
    return values


def _of_texts(texts: Sequence[str], codes: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Returns times in seconds; the text of row r is texts[codes[r]]."""
    moments = [_moment(text) for text in texts]
    wrong = [i for i, moment in enumerate(moments) if moment is None]
    if wrong:
        i = min(wrong, key=lambda i: _is_number(texts[i]))  # a number among dates, if nothing else
        row = int(np.argmax(codes == i))
        raise _not_a_time(texts[i], where(row)) if texts[i].strip() else _missing(where(row))
    return np.array(moments, np.float64)[codes]


def _moment(text: str) -> float | None:
    """Returns an ISO date in seconds, or None for another text."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _of_numbers(times: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Returns times that are numbers; rejects those of two units, whose order would mean nothing."""
    times = _checked(times, where)
    bounds = [*_UNITS.values(), np.inf]
    units = np.digitize(times, bounds) - 1
    present = [unit for unit in range(len(_UNITS)) if (units == unit).any()]
    for one, other in itertools.pairwise(present):
        low, high = times[units == one], times[units == other]
        if high.min() < _GAP * low.max():
            continue
        few = one if len(low) < len(high) else other
        row = int(np.argmax(units == few))
        named = [
            f"{len(part)} look like {[*_UNITS][unit]}, from {part.min():.0f} to {part.max():.0f}"
            for unit, part in ((one, low), (other, high))
        ]
        raise TableError(
            f"{where(row)}: the times are of two units: {named[0]}, and {named[1]}: convert them to one "
            "unit, or read the table without times, columns={'timestamp': None}"
        )
    return times


def _checked(times: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    wrong = ~np.isfinite(times)
    if wrong.any():
        row = int(np.argmax(wrong))
        missing = bool(np.isnan(times[row]))
        raise _missing(where(row)) if missing else _not_a_time(float(times[row]), where(row))
    return times


def _check_missing(missing: np.ndarray, where: Callable[[int], str]) -> None:
    if missing.any():
        raise _missing(where(int(np.argmax(missing))))


def _missing(where: str) -> TableError:
    return TableError(
        f"{where}: the time is missing or NaN: fill it in, remove the row, or read the table without times, "
        "columns={'timestamp': None}"
    )


def _not_a_time(value: object, where: str) -> TableError:
    remedy = number_remedy(value) if isinstance(value, str) else None
    return TableError(
        f"{where}: {value!r} is not a time; expected a finite number or an ISO date such as "
        f"2020-01-31T10:00:00: {remedy or 'correct it'}, or read the table without times, "
        "columns={'timestamp': None}"
    )
