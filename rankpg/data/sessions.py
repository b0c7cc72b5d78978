"""Sessions of a log: rows of one user that belong together, and that no split divides.

A session is a pair of a user and an id, so that two users may use one id. Sessions of a user that overlap in
time are one block for a split in the order of time: otherwise rows of the earlier one would be later than
rows of the other.
"""

from __future__ import annotations

import numpy as np

__all__ = ["blocks_in_time", "sessions_of_users", "whole_blocks"]


def sessions_of_users(users: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """Returns a number for every pair of user and session, in the order of users, then sessions.

    Args:
      users: int32[n].
      sessions: int32[n], numbers of the ids.

    >>> sessions_of_users(np.array([0, 0, 1, 1]), np.array([7, 3, 3, 3])).tolist()
    [1, 0, 2, 2]
    """
    pairs = users.astype(np.int64) * (int(sessions.max(initial=0)) + 1) + sessions
    return np.unique(pairs, return_inverse=True)[1].reshape(-1)


def blocks_in_time(users: np.ndarray, sessions: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the block of every row: sessions of a user that overlap in time are one block.

    Two sessions do not overlap if one begins when the other ends. Blocks are numbered by user, then time.

    Args:
      users: int32[n].
      sessions: int[n], a result of `sessions_of_users`.
      times: float64[n].

    >>> users, times = np.zeros(6, int), np.array([1.0, 2, 3, 4, 5, 6])
    >>> blocks_in_time(users, np.array([0, 1, 0, 1, 2, 2]), times).tolist()
    [0, 0, 0, 0, 1, 1]
    """
    count = int(sessions.max(initial=-1)) + 1
    distinct, rank = np.unique(times, return_inverse=True)
    start, end = np.full(count, len(distinct)), np.zeros(count, np.int64)
    np.minimum.at(start, sessions, rank)
    np.maximum.at(end, sessions, rank)
    user = np.zeros(count, np.int64)
    user[sessions] = users
    order = np.lexsort((end, start, user))
    offset = user[order] * (
        len(distinct) + 1
    )  # times of a user are above those of all users before
    latest = np.maximum.accumulate(offset + end[order])
    first = np.append(True, (offset + start[order])[1:] >= latest[:-1])
    first[1:] |= np.diff(user[order]) > 0
    block = np.empty(count, np.int64)
    block[order] = np.cumsum(first) - 1
    return block[sessions]


def whole_blocks(
    users: np.ndarray, blocks: np.ndarray, wanted: np.ndarray, later: np.ndarray
) -> np.ndarray:
    """Returns the mask of the last blocks of each user that have at least the wanted number of rows.

    A block that some of the wanted rows are of is taken as a whole; the first block of a user is never
    taken.

    Args:
      users: int32[n], ascending.
      blocks: int[n], one number for each block, whose rows are adjacent.
      wanted: number of rows by user.
      later: number of last rows of each user that are not to be taken, since they have another part.

    >>> users, blocks = np.zeros(6, int), np.array([0, 0, 1, 1, 1, 2])
    >>> whole_blocks(users, blocks, np.array([2]), np.array([0])).tolist()
    [False, False, True, True, True, True]
    >>> whole_blocks(users, blocks, np.array([1]), np.array([1])).tolist()
    [False, False, True, True, True, False]
    """
    counts = np.bincount(users, minlength=len(wanted))
    ends = np.cumsum(counts)
    changes = np.append(True, (np.diff(blocks) != 0) | (np.diff(users) != 0))
    place = np.cumsum(changes) - 1  # of the block, among all
    last = np.append(np.flatnonzero(changes)[1:], len(users)) - 1  # last row of each block
    after = ends[users] - 1 - last[place]  # rows of the user after the block
    first = np.flatnonzero(changes)[place] == (ends - counts)[users]
    return ~first & (after >= later[users]) & (after < (later + wanted)[users])
