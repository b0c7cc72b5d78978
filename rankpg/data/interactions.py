"""Interactions, such as ratings, clicks or purchases, as one table of (user, item) pairs.

source -> rows that count as positive -> one row per pair -> users and items with enough rows

The splits of `rankpg.data.splits` divide such a table into parts for training and evaluation.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Sequence

import numpy as np

from rankpg.data.files import Table
from rankpg.data.id_types import check_id_types
from rankpg.data.ids import IdMap, TableError
from rankpg.data.interaction_columns import ColumnNames, check_column_names
from rankpg.data.interaction_files import Raw, raw_interactions
from rankpg.data.sessions import sessions_of_users

__all__ = ["InteractionTable", "read_interactions"]

_DUPLICATES = ("first", "last", "sum", "error")
_COMPARISONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_POSITIVE = re.compile(r"\s*(>=|<=|==|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclasses.dataclass(frozen=True, eq=False)
class InteractionTable:
    """Pairs (user, item) with a value and a time, sorted by user, then time, then place in the source.

    No pair occurs twice in a table that `read_interactions` returns.

    >>> table = read_interactions({"user": ["b", "a", "b"], "item": [7, 7, 5], "time": [2, 9, 1]})
    >>> table.user_ids[table.users].tolist(), table.item_ids[table.items].tolist()
    (['a', 'b', 'b'], [7, 5, 7])
    """

    users: np.ndarray
    """int32[n], rows of `user_ids`"""
    items: np.ndarray
    """int32[n], rows of `item_ids`"""
    values: np.ndarray
    """float32[n], positive; 1 where the source has none"""
    times: np.ndarray | None
    """float64[n], seconds since 1970 for dates, otherwise the numbers of the source; None without times"""
    user_ids: IdMap
    item_ids: IdMap
    source: str
    notes: tuple[str, ...]
    """Sentences about the columns that were read, and about the rows that were dropped."""
    weights: np.ndarray | None = None
    """float32[n], factor of each row in the loss of training, at least 0; None without a column"""
    sessions: np.ndarray | None = None
    """int64[n], number of each row's session, of which every user has others; None without a column"""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """Number of users, with and without rows."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items, with and without rows."""
        return len(self.item_ids)

    def take(self, keep: np.ndarray) -> InteractionTable:
        """Returns the table of some rows, with the same ids, so that row numbers keep their meaning.

        Args:
          keep: bool[n], True for the rows to keep.

        Raises:
          ValueError: `keep` is not a mask of this table's rows.

        >>> table = read_interactions({"user": ["a", "b"], "item": [7, 5]})
        >>> kept = table.take(table.users == 1)
        >>> len(kept), kept.num_users
        (1, 2)
        """
        if keep.dtype != bool or keep.shape != self.users.shape:
            raise ValueError(
                f"keep is {keep.dtype} of shape {list(keep.shape)}; expected a mask, bool of shape "
                f"[{len(self)}]: compare an array of this table, as in table.take(table.users == 0)"
            )
        return dataclasses.replace(
            self,
            users=self.users[keep],
            items=self.items[keep],
            values=self.values[keep],
            times=None if self.times is None else self.times[keep],
            weights=None if self.weights is None else self.weights[keep],
            sessions=None if self.sessions is None else self.sessions[keep],
        )


def read_interactions(
    source: Table,
    *,
    columns: ColumnNames | None = None,
    positive: str | None = None,
    min_per_user: int = 1,
    min_per_item: int = 1,
    duplicates: str = "first",
    header: bool = True,
    id_type: str | Sequence[str] = "auto",
) -> InteractionTable:
    r"""Reads interactions from a file or a table in memory.

    Columns are found by their names: `userId`, `user_id:token` and `reviewerID` are users, `movieId` and
    `asin` are items, `rating` and `score` are values, `timestamp` and `date` are times, `weight` is the
    weight of a row in the loss of training, and `session_id` beside a user is the session, which no split
    divides; see `data.splits`. Without a column of users, each session is a user. Every note in `notes` of
    the result says in one sentence what was read or dropped.

    The steps are: rows that `positive` keeps, then one row per pair, then the users and items with enough
    rows. The last step is the k-core: it drops users and items until both minima hold, since every user
    dropped takes rows from items.

    Args:
      source: a file (.csv, .tsv, .dat, .data, .inter, .txt, these with .gz, .parquet, .npz), a mapping of
        names to arrays, or a table of pandas, polars or pyarrow. In text, ids that are all whole numbers
        are read as numbers (`007` stays text).
      columns: names of columns by role, `{"user": ..., "item": ..., "value": ..., "timestamp": ...}`, for
        roles that their names do not show, also "weight" and "session"; None for a value, timestamp, weight
        or session that is not to be read.
      positive: condition on the value, such as ">= 4" (or >, <=, <, ==); other rows are dropped, and those
        that stay have the value 1. Without it, values are weights and must be positive.
      min_per_user: least number of rows of a user.
      min_per_item: least number of rows of an item.
      duplicates: rows of one pair: "first" keeps the earliest, "last" the latest, "sum" adds their values
        at the time of the earliest, with the mean of their weights by value, "error" rejects them.
      header: False for a text file whose first line is an interaction, with user, item, value and timestamp
        in this order, the last two optional, or at the places that `columns` names. This is also how a file
        with `::` between its fields is read, and one whose first line holds numbers and dates alone.
      id_type: type of the ids, text or integer, or of users and of items; auto, as described above.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: columns are ambiguous, a cell is wrong, or no row is left.
      ValueError: an option has an unknown value.
      TypeError: the source is of another kind.
      ImportError: text, Parquet and data frames need pyarrow.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "ratings.csv"
    >>> _ = file.write_text("userId,movieId,rating,timestamp\n1,10,5,900\n1,20,3,800\n2,20,4,700\n")
    >>> table = read_interactions(file, positive=">= 4")
    >>> table.items.tolist(), table.item_ids.ids.tolist(), table.values.tolist()
    ([0, 1], [10, 20], [1.0, 1.0])
    """
    condition = _condition(positive)
    _check_options(min_per_user, min_per_item, duplicates)
    check_column_names(columns)
    raw = raw_interactions(source, columns, header, check_id_types(id_type))
    keep, values, notes = _positive(raw, positive, condition)
    users, items = raw.rows.users[keep], raw.rows.items[keep]
    times = None if raw.times is None else raw.times[keep]
    weights = None if raw.weights is None else raw.weights[keep]
    order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
    users, items, values = users[order], items[order], values[order]
    times = None if times is None else times[order]
    weights = None if weights is None else weights[order]
    place = order if isinstance(keep, slice) else keep[order]  # rows of the source
    if weights is not None and duplicates == "sum":
        weighted = _merge(raw, users, items, values * weights, place, duplicates)[1]
    else:
        weighted = None
    keep, values, merged = _merge(raw, users, items, values, place, duplicates)
    if weighted is not None:  # the sum of the weighted values stays
        weights = weighted / values
    core, cored = _core(raw, users[keep], items[keep], min_per_user, min_per_item)
    keep = keep[core]
    users, user_ids = _present(users[keep], raw.user_ids)
    items, item_ids = _present(items[keep], raw.item_ids)
    size = f"{len(keep)} rows, {len(user_ids)} users and {len(item_ids)} items are left."
    return InteractionTable(
        users=users,
        items=items,
        values=values[keep].astype(np.float32),
        times=None if times is None else times[keep],
        user_ids=user_ids,
        item_ids=item_ids,
        source=raw.rows.source,
        notes=(*raw.notes, *notes, *merged, *cored, size),
        weights=None if weights is None else weights[keep].astype(np.float32),
        sessions=None
        if raw.sessions is None
        else sessions_of_users(users, raw.sessions[place[keep]]),
    )


# --- options --------------------------------------------------------------------------------------


def _condition(positive: str | None) -> tuple[str, float]:
    """Returns the comparison and the number of a condition such as ">= 4"; > 0 without one."""
    if positive is None:
        return ">", 0.0
    parts = _POSITIVE.fullmatch(positive)
    if parts is None:
        raise ValueError(
            f"positive={positive!r}; expected a comparison (>=, >, <=, <, ==) and a number, such as '>= 4'"
        )
    return parts[1], float(parts[2])


def _check_options(min_per_user: int, min_per_item: int, duplicates: str) -> None:
    if duplicates not in _DUPLICATES:
        raise ValueError(
            f"duplicates={duplicates!r}; expected {', '.join(_DUPLICATES[:-1])} or {_DUPLICATES[-1]}"
        )
    for name, least in (("min_per_user", min_per_user), ("min_per_item", min_per_item)):
        if least < 1:
            raise ValueError(f"{name}={least}; expected a number of rows, at least 1 (keeps all)")


# --- steps ----------------------------------------------------------------------------------------


def _positive(
    raw: Raw, positive: str | None, condition: tuple[str, float]
) -> tuple[np.ndarray | slice, np.ndarray, list[str]]:
    """Returns the rows that satisfy the condition, their values, and notes."""
    rows, (sign, bound) = raw.rows, condition
    if positive is not None and not raw.has_values:
        raise TableError(
            f"{rows.source}: positive={positive!r}, but the source has no value column: name one, "
            "columns={'value': 'NAME'}, or leave positive out, so that every row counts"
        )
    fits = _COMPARISONS[sign](rows.values, bound)
    if positive is None:
        fits &= rows.values.astype(np.float32) > 0  # weights that float32 rounds to 0 too
        if not fits.all():
            row = int(np.argmin(fits))
            raise TableError(
                f"{rows.source}, {rows.place(row)}, column {rows.columns[2]!r}: the value "
                f"{rows.values[row]:g} is not positive, and values are weights: give the condition "
                "under which a row counts, such as positive='>= 4'"
            )
        return slice(None), rows.values, []
    keep = np.flatnonzero(fits)
    if not len(keep):
        raise TableError(
            f"{rows.source}: positive={positive!r} keeps none of {len(fits)} rows, whose values lie between "
            f"{rows.values.min():g} and {rows.values.max():g}: give another condition"
        )
    note = f"The condition positive={positive!r} keeps {len(keep)} of {len(fits)} rows."
    return keep, np.ones(len(keep)), [note]


def _merge(
    raw: Raw,
    users: np.ndarray,
    items: np.ndarray,
    values: np.ndarray,
    place: np.ndarray,
    duplicates: str,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the rows that stay, one per pair, all values, and notes; rows are sorted by user and time.

    `place` holds the row of the source of each row. Values of rows that stay include those of the others
    if duplicates="sum".
    """
    pairs = users.astype(np.int64) * len(raw.item_ids) + items
    order = np.argsort(pairs, kind="stable")  # rows of one pair stay in the order of time
    pairs = pairs[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    again = len(pairs) - len(firsts)
    if not again:
        return np.arange(len(users)), values, []
    lasts = np.append(firsts[1:], len(pairs)) - 1
    if duplicates == "error":
        several = int(np.argmax(lasts > firsts))
        one, two = (int(place[row]) for row in order[firsts[several] : firsts[several] + 2])
        user, item = raw.rows.users[one], raw.rows.items[one]
        raise TableError(
            f"{raw.rows.source}, {raw.rows.place(one, two)}: the pair user {raw.user_ids.one(user)!r}, item "
            f"{raw.item_ids.one(item)!r} occurs {lasts[several] - firsts[several] + 1} times: keep one row "
            "each, or give duplicates='first', duplicates='last' or duplicates='sum'"
            f"{raw.rows.about_ids()}"
        )
    stay = order[lasts if duplicates == "last" else firsts]
    done = {"first": "the earliest is kept", "last": "the latest is kept"}
    if duplicates == "sum":
        values = values.copy()
        values[stay] = np.add.reduceat(values[order], firsts)
    stay.sort()
    return (
        stay,
        values,
        [
            f"{again} rows repeat a pair of user and item: "
            f"{done.get(duplicates, 'values are added')} (duplicates={duplicates!r})."
        ],
    )


def _core(
    raw: Raw, users: np.ndarray, items: np.ndarray, min_per_user: int, min_per_item: int
) -> tuple[np.ndarray, list[str]]:
    """Returns the rows of the largest set in which every user and every item has enough rows, and notes."""
    total, rounds, keep = len(users), 0, np.arange(len(users))
    before = _num_distinct(users), _num_distinct(items)
    while len(keep):
        enough = np.bincount(users)[users] >= min_per_user
        enough &= np.bincount(items)[items] >= min_per_item
        if enough.all():
            break
        keep, users, items = keep[enough], users[enough], items[enough]
        rounds += 1
    named = f"min_per_user={min_per_user}, min_per_item={min_per_item}"
    if not len(keep):
        raise TableError(
            f"{raw.rows.source}: no row is left under {named} (after {rounds} rounds, since every user "
            "that is dropped takes rows from items): lower them"
        )
    if not rounds:
        return keep, []
    return keep, [
        f"{named} dropped {total - len(keep)} rows, {before[0] - _num_distinct(users)} users and "
        f"{before[1] - _num_distinct(items)} items in {rounds} rounds."
    ]


def _num_distinct(codes: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(codes)))


def _present(codes: np.ndarray, ids: IdMap) -> tuple[np.ndarray, IdMap]:
    """Returns row numbers among the ids that occur, and these ids in their order."""
    present = np.bincount(codes, minlength=len(ids)) > 0
    if present.all():
        return codes, ids
    rows = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return rows[codes], IdMap(ids.ids[present], ids.kind)
