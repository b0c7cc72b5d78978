"""Which columns are user, item and value: told by their names where only one reading is possible."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rankpg.environments.triples import Columns, TableError

__all__ = ["column_role", "guess_columns", "positions"]

_ROLES = {
    "user": "user|context|query|customer|reader|session|visitor|u|q|row",
    "item": "item|video|document|doc|movie|product|article|song|track|i|col",
    "value": "value|rating|reward|watchratio|score|relevance|click|label|data",
}
_NAME_THEM = (
    "name them with --columns USER ITEM VALUE (in Python: columns=(user, item, value)); a matrix is read "
    "from .npy, .npz, or a csv without header"
)


def column_role(name: str) -> str | None:
    """user, item or value, where the name tells: `User-ID`, `userId` and `users` are all user."""
    plain = re.sub(r"[\W_]", "", name.lower())
    fits = (
        r for r, known in _ROLES.items() if re.fullmatch(rf"({known})(ids?|idx|index|s)?", plain)
    )
    return next(fits, None)


def guess_columns(names: Sequence[str], is_float: Sequence[bool]) -> list[int] | None:
    """Positions of user, item and value; None where the names allow no reading, or several."""
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
    """Where user, item and value stand among the columns."""
    listed = ", ".join(map(repr, names))
    if columns is None:
        found = guess_columns(names, is_float)
        if found is None:
            raise TableError(
                f"{source}: cannot tell which columns are user, item and value; found {listed}: {_NAME_THEM}"
            )
        return found
    for name in columns:
        if names.count(name) != 1:
            many = "more than one" if name in names else "no"
            raise TableError(f"{source}: {many} column {name!r}; found {listed}: {_NAME_THEM}")
    return [names.index(name) for name in columns]
