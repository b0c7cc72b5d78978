"""Columns by their names, and categories as text that is the same for every kind of table."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from rankpg.data.ids import Columns, TableError, is_missing

__all__ = ["NAME_COLUMNS", "category", "column_role", "guess_columns", "positions"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?")
_WHOLE = re.compile(r"-?(?:0|[1-9]\d*)(?:\.0+|(?:\.\d+)?[eE]\+\d+)")
"""A whole number in the notation of floats."""


def category(value: object) -> str | None:
    """Returns a category as text, or None where it is missing.

    A CSV holds text where other tables hold booleans, floats and dates, so text that looks like one of these
    is read as one. Times are in UTC, and midnight is the day.

    >>> category(1.0), category("1.0"), category(datetime.date(2020, 1, 2)), category("2020-01-02 00:00:00")
    ('1', '1', '2020-01-02', '2020-01-02')
    """
    if is_missing(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.timedelta):  # pandas formats them differently
        return str(datetime.timedelta(value.days, value.seconds, value.microseconds))
    if isinstance(value, datetime.date):
        return _time(value.isoformat())
    return _of_text(str(value))


def _of_text(text: str) -> str:
    if text in ("True", "False"):
        return text.lower()
    if _WHOLE.fullmatch(text) and (number := float(text)).is_integer():
        return str(int(number))
    return _time(text)


def _time(text: str) -> str:
    """Returns a time without zeros that add nothing to it, and other text as it is."""
    parts = _TIME.fullmatch(text)
    if parts is None:
        return text
    day, minute, second, fraction, zone = parts.groups()
    fraction = (fraction or "").rstrip("0")
    clock = minute + (second or ":00")
    try:
        moment = datetime.datetime.fromisoformat(f"{day}T{clock}{zone or ''}")
    except ValueError:  # such as the 30th of February
        return text
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    if fraction or moment.time() != datetime.time():
        return moment.isoformat() + (f".{fraction}" if fraction else "")
    return moment.date().isoformat()


_ROLES = {
    "user": "user|context|query|customer|reader|session|visitor|u|q|row",
    "item": "item|video|document|doc|movie|product|article|song|track|i|col",
    "value": "value|rating|reward|watchratio|score|relevance|click|label|data",
}
NAME_COLUMNS = "name them, columns=('USER', 'ITEM', 'VALUE')"
"""The remedy where the roles of columns are unclear."""
_MATRIX_FILES = "; a matrix is read from .npy, .npz, or a csv without header"


def column_role(name: str) -> str | None:
    """Returns user, item or value from a column name: `User-ID`, `userId` and `users` are all user."""
    plain = re.sub(r"[\W_]", "", name.lower())
    fits = (
        r for r, known in _ROLES.items() if re.fullmatch(rf"({known})(ids?|idx|index|s)?", plain)
    )
    return next(fits, None)


def guess_columns(names: Sequence[str], is_float: Sequence[bool]) -> list[int] | None:
    """Returns the positions of user, item and value, or None where the names are ambiguous."""
    roles = [column_role(name) for name in names]
    unknown = [i for i, role in enumerate(roles) if role is None]
    if len(names) == 3:
        # the only float of unknown name is the value; one column left over has the role left over
        floats = [i for i in unknown if is_float[i]]
        if "value" not in roles and len(floats) == 1:
            roles[floats[0]] = "value"
            unknown.remove(floats[0])
        missing = [role for role in _ROLES if role not in roles]
        if len(unknown) == len(missing) == 1:
            roles[unknown[0]] = missing[0]
    if any(roles.count(role) != 1 for role in _ROLES):
        return None
    return [roles.index(role) for role in _ROLES]


def positions(
    source: str,
    names: list[str],
    columns: Columns | None,
    is_float: Sequence[bool] = (False, False, False),
) -> list[int]:
    """Returns the positions of user, item and value among the columns.

    Raises:
      TableError: a column is missing or occurs twice, or the names are ambiguous.
    """
    listed = ", ".join(map(repr, names))
    if columns is None:
        found = guess_columns(names, is_float)
        if found is None:
            raise TableError(
                f"{source}: the user, item and value columns are ambiguous; found {listed}: "
                f"{NAME_COLUMNS}{_MATRIX_FILES}"
            )
        return found
    for name in columns:
        if names.count(name) != 1:
            many = "more than one" if name in names else "no"
            raise TableError(
                f"{source}: {many} column {name!r}; found {listed}: {NAME_COLUMNS}{_MATRIX_FILES}"
            )
    return [names.index(name) for name in columns]
