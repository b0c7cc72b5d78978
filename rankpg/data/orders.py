"""Orders of the rows of a table by user, of which a split takes the last ones; sessions stay whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.data.sessions import blocks_in_time, sessions_of_users, whole_blocks

if TYPE_CHECKING:
    from rankpg.data.interactions import InteractionTable
else:
    InteractionTable = Any

__all__ = ["Order", "divided_sessions", "last_rows", "random_order", "time_order"]

Order = tuple[np.ndarray, np.ndarray | None]
"""Rows sorted by user, and the block of each of them, which no split divides; None without sessions."""


def random_order(table: InteractionTable, rng: np.random.Generator) -> Order:
    """Returns rows, or sessions, in a random order for each user that depends on their ids alone."""
    order = np.lexsort((table.items, table.users))
    if table.sessions is None:
        return order[np.lexsort((rng.random(len(order)), table.users[order]))], None
    sessions = sessions_of_users(table.users, table.sessions)[order]
    drawn = rng.random(int(sessions.max(initial=-1)) + 1)[sessions]
    by_user = np.lexsort((sessions, drawn, table.users[order]))
    return order[by_user], sessions[by_user]


def time_order(table: InteractionTable) -> Order:
    """Returns rows in the order of time for each user."""
    assert table.times is not None
    if table.sessions is None:
        return np.lexsort((table.items, table.times, table.users)), None
    sessions = sessions_of_users(table.users, table.sessions)
    blocks = blocks_in_time(table.users, sessions, table.times)
    order = np.lexsort((table.items, table.times, blocks, table.users))
    return order, blocks[order]


def last_rows(
    table: InteractionTable, ordered: Order, wanted: np.ndarray, later: np.ndarray
) -> np.ndarray:
    """Returns the mask of the last `wanted` rows by user that are before `later` rows; whole sessions."""
    order, blocks = ordered
    users = table.users[order]
    if blocks is not None:
        return whole_blocks(users, blocks, wanted, later)
    counts = np.bincount(users, minlength=table.num_users)
    from_end = np.cumsum(counts)[users] - 1 - np.arange(len(users))
    return (from_end >= later[users]) & (from_end < (later + wanted)[users])


def divided_sessions(table: InteractionTable, part: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Returns the mask of rows whose session has rows in several parts.

    Args:
      table: the interactions.
      part: int8[n].
      used: bool[n], False for rows that do not count.
    """
    if table.sessions is None:
        return np.zeros(len(table), bool)
    sessions = sessions_of_users(table.users, table.sessions)
    count = int(sessions.max(initial=-1)) + 1
    low, high = np.full(count, np.iinfo(np.int8).max), np.full(count, -1)
    np.minimum.at(low, sessions[used], part[used])
    np.maximum.at(high, sessions[used], part[used])
    return used & (low < high)[sessions]
