"""A check of splits: training must know nothing that comes after what it is evaluated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.data.ids import TableError
from rankpg.data.orders import divided_sessions
from rankpg.data.splits import HISTORY, PARTS, TEST, TRAIN, UNUSED, VALIDATION, Split

if TYPE_CHECKING:
    from rankpg.data.interactions import InteractionTable
else:
    InteractionTable = Any

__all__ = ["check_no_leak"]


def check_no_leak(table: InteractionTable, split: Split) -> None:
    """Checks that no training row is known only after the rows that it is evaluated on.

    For "last" and "user", no training, history or validation row is later than a test row of its user, and
    no training or history row later than a validation row of its user. For "time" this holds for the rows
    of all users together, and no two of these parts share a time. For "user", users who are held out have
    no training row. For every kind, no pair of user and item has rows in two parts, and no session. Random
    rows of a user may be later than the test rows; a kind "random" is not checked for it.

    Args:
      table: the interactions that were split.
      split: their parts.

    Raises:
      TableError: a row leaks; the message names it.
      ValueError: the split has another number of rows.

    >>> from rankpg.data.interactions import read_interactions
    >>> from rankpg.data.splits import split_interactions
    >>> table = read_interactions({"user": [1, 1, 1], "item": [5, 6, 5], "ts": [1, 2, 3]}, duplicates="last")
    >>> check_no_leak(table, split_interactions(table, "none"))
    """
    if len(split.part) != len(table):
        raise ValueError(
            f"the split has {len(split.part)} rows and the table {len(table)}; expected the split of "
            "this table"
        )
    _check_pairs(table, split)
    _refuse(
        table,
        divided_sessions(table, split.part, ~split.rows(UNUSED)),
        "has its session in another part as well",
    )
    if split.kind == "user":
        trained = np.isin(table.users, table.users[split.rows(TRAIN)])
        _refuse(
            table, trained & ~split.rows(TRAIN) & ~split.rows(UNUSED), "belongs to a training user"
        )
    if table.times is None or split.kind in ("random", "none"):
        return
    together = split.kind == "time"
    groups = np.zeros(len(table), np.int64) if together else table.users
    early = split.rows(TRAIN) | split.rows(HISTORY)
    for which, before in (
        (VALIDATION, early),
        (TEST, early | split.rows(VALIDATION)),
    ):
        first = np.full(int(groups.max(initial=0)) + 1, np.inf)
        held = split.rows(which)
        np.minimum.at(first, groups[held], table.times[held])
        late = table.times >= first[groups] if together else table.times > first[groups]
        whose = "" if together else " of its user"
        _refuse(table, before & late, f"is not earlier than the first {PARTS[which]} row{whose}")


def _check_pairs(table: InteractionTable, split: Split) -> None:
    pairs = table.users.astype(np.int64) * table.num_items + table.items
    order = np.lexsort((split.part, pairs))
    again = np.zeros(len(table), bool)
    again[order[1:]] = (np.diff(pairs[order]) == 0) & (np.diff(split.part[order]) != 0)
    _refuse(
        table, again & ~split.rows(UNUSED), "has its pair of user and item in another part as well"
    )


def _refuse(table: InteractionTable, wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        user, item = table.user_ids.one(table.users[row]), table.item_ids.one(table.items[row])
        raise TableError(
            f"{table.source}: the split leaks: row {row} of the table (user {user!r}, item {item!r}) {why}; "
            f"{int(wrong.sum())} rows leak in all: split the table with split_interactions"
        )
