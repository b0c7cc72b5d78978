"""Roles of the columns of a table of interactions, found by their names.

names of columns | columns={...}  --find_columns-->  role of each column: user, item, value, timestamp,
weight, session
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rankpg.data.ids import TableError

__all__ = [
    "ROLES",
    "ColumnNames",
    "Roles",
    "check_column_names",
    "columns_by_place",
    "find_columns",
]

ColumnNames: TypeAlias = Mapping[str, str | int | None]
"""Columns by role, as the caller names them; None for one that is not to be read."""
Roles: TypeAlias = dict[str, str | None]
"""Name of the column of each role; None where the table has none."""

ROLES = ("user", "item", "value", "timestamp", "weight", "session")
_BY_PLACE = ROLES[:4]
"""Roles that columns without names have by their order."""
_NEEDED = ("user", "item")

_ID = "(ids?|idx|index|s)?"
_KNOWN: dict[str, tuple[str, ...]] = {
    "user": (
        f"(user|reviewer|customer|reader|visitor|member|u){_ID}|uid",
        f"(session|query|q|context){_ID}",
    ),
    "item": (
        f"(item|video|movie|product|article|song|track|document|doc|book|i){_ID}|asin|iid",
        "id",
    ),
    "value": (
        "values?|ratings?|scores?|labels?|stars|rewards?|watchratio|relevance|clicks?|overall",
    ),
    "timestamp": (
        "timestamps?|ts|unixreviewtime|unixtime",
        "time|datetime|date|reviewtime|createdat|eventtime",
        "order",
    ),
    "weight": ("(sample|row|loss)?weights?",),
    "session": ("sessionids?", "sessions?"),
}
"""Patterns of names by role. A pattern is tried where no column fits those before it.

A session is the user where no other column is."""

_TYPE = re.compile(r":(token|float)(_seq)?$")
"""The type that RecBole writes behind a name, as in `user_id:token`."""


def find_columns(
    source: str, names: Sequence[str], columns: ColumnNames | None, hint: str = ""
) -> Roles:
    """Returns the names of the user, item, value, timestamp, weight and session columns.

    Args:
      source: the name of the table, for messages.
      names: names of all columns.
      columns: columns that the caller names; the others are found by their names.
      hint: the end of the message where the names are unclear.

    Raises:
      TableError: a named column, or that of users or items, is missing, or two columns fit one role.

    >>> find_columns("log.csv", ["userId", "Id", "time", "session"], None)
    {'user': 'userId', 'item': 'Id', 'value': None, 'timestamp': 'time', 'weight': None, 'session': 'session'}
    """
    roles: Roles = dict.fromkeys(ROLES)
    given = dict(columns or {})
    for role, name in given.items():
        roles[role] = None if name is None else _named(source, names, role, str(name))
    for role in ROLES:
        if role not in given:
            free = [name for name in names if name not in roles.values()]
            roles[role] = _find(source, names, free, role, hint)
    return roles


def _named(source: str, names: Sequence[str], role: str, name: str) -> str:
    """Returns the column that a caller names, with or without the type that RecBole writes."""
    fits = [x for x in names if x == name] or [x for x in names if _TYPE.sub("", x) == name]
    if len(fits) == 1:
        return fits[0]
    many = "more than one" if fits else "no"
    raise TableError(
        f"{source}: columns={{{role!r}: {name!r}}}, but there is {many} column {name!r}; "
        f"found {_listed(names)}: give the name of one of them"
    )


def _find(
    source: str, names: Sequence[str], free: Sequence[str], role: str, hint: str
) -> str | None:
    for pattern in _KNOWN[role]:
        fits = [name for name in free if re.fullmatch(pattern, _plain(name))]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise TableError(
                f"{source}: {_listed(fits)} may each be the {role} column; found {_listed(names)}: "
                f"name it, columns={{{role!r}: {fits[0]!r}}}{hint}"
            )
    if role in _NEEDED:
        raise TableError(
            f"{source}: no column is known as the {role}; found {_listed(names)}: name it, "
            f"columns={{{role!r}: {(list(free) or ['NAME'])[0]!r}}} for example{hint}"
        )
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", _TYPE.sub("", name).lower())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def columns_by_place(source: str, count: int, columns: ColumnNames | None) -> Roles:
    """Returns the column of each role by its place, "0", "1", ..., in a file without a header line.

    Args:
      source: the name of the file, for messages.
      count: number of columns.
      columns: places of columns, counted from 0; otherwise user, item, value and timestamp in this order.

    Raises:
      TableError: a place is not in the file, or there are not two to four columns and none is named.

    >>> columns_by_place("ratings.dat", 4, None)
    {'user': '0', 'item': '1', 'value': '2', 'timestamp': '3', 'weight': None, 'session': None}
    """
    names = [str(i) for i in range(count)]
    given = dict(columns or {})
    if not given.keys() >= {*_NEEDED} and not 2 <= count <= len(_BY_PLACE):
        raise TableError(
            f"{source}: no header line and {count} columns; expected user, item, value and timestamp, the "
            "last two optional: give their places, columns={'user': 0, 'item': 1, 'timestamp': 2}"
        )
    roles: Roles = dict.fromkeys(ROLES)
    for role, name in given.items():
        roles[role] = None if name is None else _named(source, names, role, str(name))
    for role, name in zip(_BY_PLACE, names, strict=False):
        if role not in given and name not in roles.values():
            roles[role] = name
    if missing := [role for role in _NEEDED if roles[role] is None]:
        raise TableError(
            f"{source}: columns={given!r} leave no column for the {missing[0]}: "
            f"give its place too, columns={{{missing[0]!r}: 0}} for example"
        )
    return roles


def check_column_names(columns: ColumnNames | None) -> None:
    """Rejects names of columns whose roles are unknown, or that name one column twice.

    Raises:
      TableError: as above, or the user or the item is None.

    >>> check_column_names({"user": "who", "item": "film"})
    """
    if columns is None:
        return
    example = "columns={'user': 'userId', 'item': 'movieId', 'value': 'rating', 'timestamp': 'ts'}"
    if not isinstance(columns, Mapping) or not columns.keys() <= {*ROLES}:
        raise TableError(
            f"columns={columns!r}; expected names by role, such as {example} or some of these"
        )
    named = [name for name in columns.values() if name is not None]
    if len({*map(str, named)}) < len(named):
        raise TableError(f"columns={dict(columns)!r} name one column twice; expected {example}")
    if empty := [role for role in _NEEDED if role in columns and columns[role] is None]:
        raise TableError(
            f"columns={dict(columns)!r}: the {empty[0]} is needed; only the value, the timestamp, the "
            "weight and the session may be None"
        )
