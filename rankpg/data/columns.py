"""Columns by their names, and categories as text that is the same for every kind of table."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from rankpg.data.ids import TableError, is_missing

__all__ = [
    "NAME_COLUMNS",
    "category",
    "column_role",
    "guess_columns",
    "has_no_role",
    "positions",
]

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
    "user": "user|context|query|customer|reader|session|visitor|u|q",
    "item": "item|video|document|doc|movie|product|article|song|track|i",
    "value": "value|rating|reward|watchratio|score|relevance|click|label|data",
}
_OF_A_SPARSE_MATRIX = {"row": "user", "col": "item"}
_NO_ROLE = re.compile(
    r"unnamed\d*|(index)?level\d+|index|idx|id|rows?|(row|line)(id|idx|index|no|nr|num|number|names?)s?|recordid"
    r"|\w*(time|timestamp|date|datetime|epoch)(s|ms|us|ns|utc)?|(event)?ts(s|ms|utc)?|created|when"
    r"|\w*(created|updated|modified|clicked|viewed|watched|purchased)(at|on)|year|month|day|hour|week|weekday"
    r"|unix|\w*folds?(id)?|\w*splits?(id)?|subset|partition|(is)?(train|test|valid|validation)"
    r"|\w*weights?|",
    re.IGNORECASE,
)
"""Names of times, folds and row numbers, which are neither user, item nor value, whatever is left over."""
NAME_COLUMNS = "name them, columns=('USER', 'ITEM', 'VALUE')"
"""The remedy where the roles of columns are unclear."""
_MATRIX_FILES = "; a matrix is read from .npy, .npz, or a csv without header"


def column_role(name: str) -> str | None:
    """Returns user, item or value from a column name: `User-ID`, `userId` and `users` are all user."""
    plain = _plain(name)
    fits = (
        r for r, known in _ROLES.items() if re.fullmatch(rf"({known})(ids?|idx|index|s)?", plain)
    )
    return next(fits, None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def has_no_role(name: str) -> bool:
    """Returns True for the name of a time, a fold, a weight or a row number."""
    return _NO_ROLE.fullmatch(_plain(name)) is not None


def guess_columns(names: Sequence[str], is_float: Sequence[bool]) -> list[int] | None:
    """Returns the positions of user, item and value, or None where the names are ambiguous.

    Two columns, a user and an item, are enough: every row has the value 1. One column of unknown name has the
    role that is left over, unless it is a time, a fold or a row number by its name.

    >>> guess_columns(["user_id", "item_id", "plays"], [False] * 3)
    [0, 1, 2]
    >>> guess_columns(["user_id", "item_id", "timestamp"], [False] * 3) is None
    True
    """
    roles = [column_role(name) for name in names]
    if [x for x in map(_plain, names) if x in _OF_A_SPARSE_MATRIX] == [*_OF_A_SPARSE_MATRIX]:
        roles = [_OF_A_SPARSE_MATRIX.get(_plain(n), r) for n, r in zip(names, roles, strict=True)]
    if len(names) == 2 and sorted(map(str, roles)) == ["item", "user"]:
        return [roles.index("user"), roles.index("item")]
    unknown = [i for i, role in enumerate(roles) if role is None and not has_no_role(names[i])]
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
    columns: Sequence[str] | None,
    is_float: Sequence[bool] = (False, False, False),
    hint: str = "",
) -> list[int]:
    """Returns the positions of the user and item columns, and of the value column if there is one.

    Args:
      source: the name of the table, for messages.
      names: names of its columns.
      columns: names of the user and item, and perhaps the value column; found by their names if None.
      is_float: True for columns of floats.
      hint: the end of the messages.

    Raises:
      TableError: a column is missing or occurs twice, or the names are ambiguous.
    """
    listed = ", ".join(map(repr, names))
    if columns is None:
        found = guess_columns(names, is_float)
        if found is None:
            raise TableError(
                f"{source}: the user, item and value columns are ambiguous; found {listed}: "
                f"{NAME_COLUMNS}{_without_value(names)}{hint or _MATRIX_FILES}"
            )
        return found
    for name in columns:
        if names.count(name) != 1:
            many = "more than one" if name in names else "no"
            raise TableError(
                f"{source}: {many} column {name!r}; found {listed}: {NAME_COLUMNS}{hint or _MATRIX_FILES}"
            )
    return [names.index(name) for name in columns]


def _without_value(names: list[str]) -> str:
    """Returns the remedy for a table with a user and an item, and no value."""
    roles = {column_role(name): name for name in names}
    if "value" in roles or not {"user", "item"} <= roles.keys():
        return ""
    return f", or columns=({roles['user']!r}, {roles['item']!r}) if every row counts as 1"
