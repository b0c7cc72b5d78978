"""Lists that show fewer than L items: a small screen, or a user who stopped early."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankpg.data.ids import IdMap
from rankpg.runs.recommend import fill_value

__all__ = ["pad_short_lists"]


def pad_short_lists(
    ranking: Any,
    rewards: Any,
    candidates: np.ndarray,
    length: int,
    source: str,
    ids: IdMap,
) -> tuple[Any, Any, np.ndarray]:
    """Fills up lists that show fewer than L items, and marks the positions that were shown.

    A list is short if its row is shorter than L, or if it ends in None or in the fill value of the ids: -1
    among whole numbers, "" among texts. Its rewards are as many, or anything stands where no item was shown.

    Args:
      ranking: the list of every row.
      rewards: a reward for each shown item.
      candidates: row numbers [n, K]; those that were not shown fill up the lists.
      length: L.
      source: name of the draw, for messages.
      ids: item ids of the ranking.

    Returns:
      Ranking, rewards, and bool[n, L] of the positions that were shown. What has another form is returned as
      it is, for `check_ranking` and `check_rewards` to reject.

    Raises:
      ValueError: a row that shows nothing, or has another number of rewards than of items.
      UnknownIdError: an item that is not in `ids`.
    """
    full = np.ones((len(candidates), length), bool)
    fill = fill_value(ids)
    if isinstance(ranking, np.ndarray) and ranking.shape == full.shape:
        ends = ranking[:, -1]
        if not any(_is_missing(end, fill) for end in ends.tolist()):
            return ranking, rewards, full
    try:
        lists, earned = [_row(row) for row in ranking], [_row(row) for row in rewards]
    except TypeError:
        return ranking, rewards, full
    shown = [_shown(row, fill) for row in lists]
    fits = len(lists) == len(candidates) == len(earned) and max(shown, default=0) <= length
    if not fits or all(
        len(row) == count == length for row, count in zip(lists, shown, strict=True)
    ):
        return ranking, rewards, full
    places = np.zeros(full.shape, np.int32)
    values = np.zeros(full.shape)
    for row, (items, own, count) in enumerate(zip(lists, earned, shown, strict=True)):
        if not count or len(own) not in (count, len(items)):
            raise ValueError(
                f"{source}: list {row} of the ranking shows {count} items and has {len(own)} rewards; "
                "expected at least one item, and a reward for each"
            )
        places[row, :count] = ids.rows(items[:count])
        rest = candidates[row][~np.isin(candidates[row], places[row, :count])]
        places[row, count:] = rest[: length - count]
        values[row, :count] = own[:count]
    return ids[places], values, np.arange(length)[None] < np.array(shown)[:, None]


def _row(row: Any) -> Any:
    """A row that has a length and can be sliced.

    Raises:
      TypeError: text, or a single value.
    """
    if isinstance(row, list | tuple):
        return row
    array = np.asarray(row)
    if array.ndim != 1:
        raise TypeError
    return array


def _shown(row: Any, fill: object) -> int:
    """Number of items before those that fill the row up."""
    count = len(row)
    while count and _is_missing(row[count - 1], fill):
        count -= 1
    return count


def _is_missing(item: Any, fill: object) -> bool:
    """True for None, for the fill value, and for NaN and NaT, which differ from themselves."""
    return item is None or bool(item == fill) or bool(item != item)
