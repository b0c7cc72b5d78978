"""Splits of interactions into parts for training, validation and testing.

InteractionTable --split_interactions--> Split, with the part of every row
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.data.ids import TableError
from rankpg.data.orders import Order, divided_sessions, last_rows, random_order, time_order

if TYPE_CHECKING:
    from rankpg.data.interactions import InteractionTable
else:
    InteractionTable = Any

__all__ = [
    "HISTORY",
    "PARTS",
    "TEST",
    "TRAIN",
    "UNUSED",
    "VALIDATION",
    "Split",
    "check_held_out",
    "split_interactions",
]

TRAIN, VALIDATION, TEST, HISTORY, UNUSED = 0, 1, 2, 3, 4
PARTS = ("train", "validation", "test", "history", "unused")
"""Names of the parts. History rows are input to the encoder of users who are held out whole; no loss and no
metric counts them."""

_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1
_ROUNDING = 1e-9
"""Added before rounding down, so that 0.29 of 100 rows, 28.999... in floats, is 29."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Part of every row of a table of interactions: TRAIN, VALIDATION, TEST, HISTORY or UNUSED."""

    kind: str
    test_share: float
    test_count: int | None
    validation_share: float
    seed: int
    part: np.ndarray
    """int8[n], in the order of the table's rows"""
    validation_users: np.ndarray
    """int32, users with a validation row, ascending"""
    test_users: np.ndarray
    """int32, users with a test row, ascending"""
    digest: str
    notes: tuple[str, ...]
    """Sentences about rows and users that are not used as a reader may expect."""

    def rows(self, part: int) -> np.ndarray:
        """Returns the mask of the rows of one part, for `InteractionTable.take`.

        >>> from rankpg.data.interactions import read_interactions
        >>> table = read_interactions({"user": [1, 1, 1, 1, 1], "item": [5, 6, 7, 8, 9]})
        >>> split = split_interactions(table, "random", validation_share=0.0, keep_new_items=True)
        >>> int(split.rows(TRAIN).sum()), int(split.rows(TEST).sum())
        (4, 1)
        """
        return self.part == part

    def describe(self) -> str:
        """Returns the settings, the sizes of the parts, and the notes, one sentence a line.

        >>> from rankpg.data.interactions import read_interactions
        >>> table = read_interactions({"user": [1, 1, 1, 1], "item": [5, 6, 7, 8], "time": [1, 2, 3, 4]})
        >>> print(split_interactions(table, "none").describe())
        Split 'none': 4 rows, train 4.
        """
        size = f"test_share={self.test_share:g}"
        if self.test_count is not None:
            size = f"test_count={self.test_count}"
        settings = f", {size}, validation_share={self.validation_share:g}, seed={self.seed}"
        counts = np.bincount(self.part, minlength=len(PARTS)).tolist()
        named = ", ".join(f"{name} {n}" for name, n in zip(PARTS, counts, strict=True) if n)
        first = f"Split {self.kind!r}{'' if self.kind == 'none' else settings}"
        return "\n".join((f"{first}: {len(self.part)} rows, {named}.", *self.notes))

    def checksum(self) -> str:
        """Returns the SHA-256 of all (user id, item id, part), which no order of the rows changes.

        >>> from rankpg.data.interactions import read_interactions
        >>> one = read_interactions({"user": [1, 2], "item": [5, 6]})
        >>> two = read_interactions({"user": [2, 1], "item": [6, 5]})
        >>> split_interactions(one, "none").checksum() == split_interactions(two, "none").checksum()
        True
        """
        return self.digest


def split_interactions(
    table: InteractionTable,
    kind: str = "last",
    *,
    test_share: float = _TEST_SHARE,
    test_count: int | None = None,
    validation_share: float = _VALIDATION_SHARE,
    seed: int = 0,
    keep_new_items: bool = False,
) -> Split:
    """Divides the rows of a table into parts.

    A user with n rows has floor(test_share * n) test rows, but at least 1 if n >= 3. The validation part is
    a share of the other rows, found in the same way: floor(validation_share * rest), at least 1 if
    rest >= 3. The kinds:

    - "last": the last rows of each user by time are the test part, those before the validation part. Rows
      of a user at one time follow the order of their items' ids.
    - "time": one cut for all users: rows after the (1 - test_share) quantile of time are the test part, and
      of the others those after the (1 - validation_share) quantile are the validation part. Rows at one
      time are never divided, so a part may be smaller than its share. Rows of users without training row
      are unused.
    - "random": random rows of each user, in the numbers of "last".
    - "user": a random test_share of the users with two rows or more is held out whole: their last
      test_share of rows (at least one; random rows if there are no times) is the test part, and their
      earlier rows are HISTORY, from which a retriever encodes a user that it never trained on. The
      validation part is a random validation_share of the other users, divided in the same way.
    - "none": every row is a training row, as with test_share=0; the other shares then have no effect, and
      one that is not its default is rejected.

    Where the table has sessions, no session is divided. Under "last", "random" and "user" a user's session
    that has some of the rows above is held out as a whole, but never the first session; sessions that
    overlap in time count as one, but under "random". Under "time", rows of sessions that go on across a cut
    are UNUSED: in the later part they would be before rows that are trained on.

    Validation, test and history rows with an item that has no training row are UNUSED, since a table of
    item embeddings cannot retrieve such an item. No order of the table's rows changes the split.

    Args:
      table: the interactions, with one row per pair.
      kind: "last", "time", "random", "user" or "none".
      test_share: share of the test part, at least 0 and below 1.
      test_count: number of test rows of each user, for "last" and "random", in place of test_share. Users
        with as many rows or fewer have none. If validation_share > 0, as many rows before these are the
        validation part, of users that keep a training row.
      validation_share: share of the validation part among the rows, or users, outside of the test part.
      seed: seed of "random" and "user".
      keep_new_items: True to keep rows with items that have no training row in their parts.

    Raises:
      TableError: the kind needs times and there are none, or no test row is left.
      ValueError: an argument is out of its range, or test_share and test_count contradict each other.

    >>> from rankpg.data.interactions import read_interactions
    >>> table = read_interactions({"user": [1, 1, 1, 2, 2, 2], "item": [5, 6, 7, 7, 6, 5], "ts": range(6)})
    >>> split_interactions(table, "last", test_count=1, validation_share=0.0).part.tolist()
    [0, 0, 2, 0, 0, 2]
    """
    _check_arguments(kind, test_share, test_count, validation_share, seed)
    if test_share == 0:
        kind = "none"
    if kind in ("last", "time") and table.times is None:
        raise TableError(
            f"{table.source}: kind={kind!r} needs times, and the source has no timestamp column: give "
            "kind='random', or name the column when you read the table, columns={'timestamp': 'NAME'}"
        )
    notes: list[str] = []
    if kind == "none":
        part = np.full(len(table), TRAIN, np.int8)
    else:
        sizes = _Sizes(test_share, test_count, validation_share)
        part = _KINDS[kind](table, sizes, np.random.default_rng(seed), notes)
        _drop_unknown(table, part, kind, keep_new_items, notes)
        _check_test(table, part, kind, notes)
    if table.sessions is not None and kind != "none":
        notes.append(
            "No session is divided, so that parts may be larger or smaller than their shares."
        )
    return Split(
        kind=kind,
        test_share=test_share,
        test_count=test_count,
        validation_share=validation_share,
        seed=seed,
        part=part,
        validation_users=_users_of(table, part, VALIDATION),
        test_users=_users_of(table, part, TEST),
        digest=_digest(table, part),
        notes=tuple(notes),
    )


# --- sizes ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Sizes of the parts."""

    test_share: float
    test_count: int | None
    validation_share: float

    def of_users(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of test and of validation rows of users with so large `counts` of rows."""
        if self.test_count is None:
            test = _floor(self.test_share, counts)
            return test, _floor(self.validation_share, counts - test)
        test = np.where(counts > self.test_count, self.test_count, 0)
        enough = (counts > 2 * self.test_count) & (self.validation_share > 0)
        return test, np.where(enough, self.test_count, 0)


def _floor(share: float, counts: np.ndarray) -> np.ndarray:
    """Returns floor(share * counts), but at least 1 where a count is 3 or more and the share is positive."""
    found = np.floor(share * counts + _ROUNDING).astype(np.int64)
    return np.maximum(found, (counts >= 3) & (share > 0))


def _check_arguments(
    kind: str, test_share: float, test_count: int | None, validation_share: float, seed: int
) -> None:
    if kind not in (*_KINDS, "none"):
        raise ValueError(f"kind={kind!r}; expected {', '.join(_KINDS)} or none")
    for name, share in (("test_share", test_share), ("validation_share", validation_share)):
        if not 0 <= share < 1:
            raise ValueError(
                f"{name}={share}; expected a share from 0 to 1, without 1, such as 0.2"
            )
    if seed < 0:
        raise ValueError(f"seed={seed}; expected a whole number, 0 or more")
    shares = (
        ("test_share", test_share, _TEST_SHARE),
        ("validation_share", validation_share, _VALIDATION_SHARE),
    )
    check_held_out(kind, test_share, {n: 0.0 if x == default else x for n, x, default in shares})
    if test_count is None:
        return
    if test_count < 1:
        raise ValueError(
            f"test_count={test_count}; expected a number of rows per user, at least 1; test_share=0 makes "
            "every row a training row"
        )
    if test_share != _TEST_SHARE:
        raise ValueError(
            f"test_share={test_share} and test_count={test_count} contradict each other: give one of them"
        )
    if kind not in ("last", "random"):
        raise ValueError(
            f"test_count={test_count} with kind={kind!r}; expected kind='last' or kind='random', which count "
            "rows per user: give test_share in its place"
        )


def check_held_out(kind: str, test_share: float, given: Mapping[str, float]) -> None:
    """Rejects shares that are given to a split that holds nothing out.

    Args:
      kind, test_share: as for `split_interactions`.
      given: name of an argument -> its value, 0 for one that was not given.

    Raises:
      ValueError: names both arguments.
    """
    if kind != "none" and test_share > 0:
        return
    cause = "kind='none'" if kind == "none" else "test_share=0"
    remedy = "kind='last'" if kind == "none" else f"test_share={_TEST_SHARE}"
    for name, share in given.items():
        if share > 0:
            raise ValueError(
                f"{name}={share:g} has no effect with {cause}, which makes every row a training row; give "
                f"{remedy} for example, or {name}=0"
            )


# --- kinds ----------------------------------------------------------------------------------------


def _last(
    table: InteractionTable, sizes: _Sizes, rng: np.random.Generator, notes: list[str]
) -> np.ndarray:
    assert table.times is not None
    order, _ = ordered = time_order(table)
    part = _divide(table, ordered, sizes)
    users, times, sorted_part = table.users[order], table.times[order], part[order]
    divided = (np.diff(users) == 0) & (np.diff(times) == 0) & (np.diff(sorted_part) != 0)
    if divided.any():
        notes.append(
            f"Rows at one time of {len(np.unique(users[1:][divided]))} users fall into several parts, "
            "divided in the order of the items' ids."
        )
    return part


def _random(
    table: InteractionTable, sizes: _Sizes, rng: np.random.Generator, notes: list[str]
) -> np.ndarray:
    return _divide(table, random_order(table, rng), sizes)


def _divide(table: InteractionTable, ordered: Order, sizes: _Sizes) -> np.ndarray:
    """Returns parts where each user's last rows, sorted by user, are test, then validation."""
    counts = np.bincount(table.users, minlength=table.num_users)
    wanted, validation = sizes.of_users(counts)
    order, _ = ordered
    part = np.full(len(order), TRAIN, np.int8)
    test = last_rows(table, ordered, wanted, np.zeros_like(counts))
    taken = np.bincount(table.users[order[test]], minlength=table.num_users)
    part[order[last_rows(table, ordered, validation, taken)]] = VALIDATION
    part[order[test]] = TEST
    return part


def _time(
    table: InteractionTable, sizes: _Sizes, rng: np.random.Generator, notes: list[str]
) -> np.ndarray:
    assert table.times is not None
    part = np.full(len(table), TRAIN, np.int8)
    times = np.sort(table.times)
    end = _cut(times, sizes.test_share)
    part[table.times > end] = TEST
    start = _cut(times[times <= end], sizes.validation_share)
    part[(table.times > start) & (table.times <= end)] = VALIDATION
    if sizes.validation_share > 0 and not (part == VALIDATION).any():
        notes.append(
            "The validation part is empty, because the latest rows before the test part share one time."
        )
    if (divided := divided_sessions(table, part, part != UNUSED)).any():
        notes.append(
            f"{int(divided.sum())} rows of sessions that go on across a cut are unused, so that no session "
            "is in two parts, and no part is before rows that are trained on."
        )
        part[divided] = UNUSED
    return part


def _cut(times: np.ndarray, share: float) -> float:
    """Returns the (1 - share) quantile of sorted times, which is one of them."""
    later = int(share * len(times) + _ROUNDING)
    return float(times[len(times) - 1 - later])


def _user(
    table: InteractionTable, sizes: _Sizes, rng: np.random.Generator, notes: list[str]
) -> np.ndarray:
    counts = np.bincount(table.users, minlength=table.num_users)
    eligible = rng.permutation(np.flatnonzero(counts >= 2))
    num_test = int(_floor(sizes.test_share, np.array([len(eligible)]))[0])
    rest = np.array([len(eligible) - num_test])
    num_validation = int(_floor(sizes.validation_share, rest)[0])
    held = np.full(table.num_users, TRAIN, np.int8)
    held[eligible[:num_test]] = TEST
    held[eligible[num_test : num_test + num_validation]] = VALIDATION
    ordered = random_order(table, rng) if table.times is None else time_order(table)
    later = np.maximum(np.floor(sizes.test_share * counts + _ROUNDING).astype(np.int64), 1)
    order, users = ordered[0], table.users[ordered[0]]
    last = last_rows(table, ordered, later, np.zeros_like(counts))
    part = np.empty(len(users), np.int8)
    part[order] = np.where(last, held[users], HISTORY)
    part[held[table.users] == TRAIN] = TRAIN
    if single := int(np.count_nonzero(counts == 1)):
        notes.append(f"{single} users have one row, and none of them is held out.")
    return part


_KINDS: dict[
    str, Callable[[InteractionTable, _Sizes, np.random.Generator, list[str]], np.ndarray]
] = {"last": _last, "time": _time, "random": _random, "user": _user}


# --- rows that cannot be used ---------------------------------------------------------------------


def _drop_unknown(
    table: InteractionTable, part: np.ndarray, kind: str, keep_new_items: bool, notes: list[str]
) -> None:
    """Marks rows of items, and for "time" of users, without training row as unused, in `part` itself."""
    groups = [] if keep_new_items else [("items", table.items, table.num_items)]
    if kind == "time":
        groups.append(("users", table.users, table.num_users))
    for name, codes, count in groups:
        trained = np.bincount(codes[part == TRAIN], minlength=count) > 0
        new = ~trained[codes] & (part != UNUSED)
        if new.any():
            lost = np.bincount(part[new], minlength=len(PARTS)).tolist()
            named = ", ".join(f"{PARTS[i]} {n}" for i, n in enumerate(lost) if n)
            remedy = ": keep_new_items=True keeps them" if name == "items" else ""
            notes.append(
                f"{int(new.sum())} rows ({named}) of {len(np.unique(codes[new]))} {name} without training "
                f"row are unused{remedy}."
            )
            part[new] = UNUSED


def _check_test(table: InteractionTable, part: np.ndarray, kind: str, notes: list[str]) -> None:
    """Rejects a split without test row, and notes the users without one."""
    with_rows = np.unique(table.users)
    with_test = _users_of(table, part, TEST)
    if not len(with_test):
        lost = f" ({notes[-1].rstrip('.')})" if (part == UNUSED).any() else ""
        raise TableError(
            f"{table.source}: kind={kind!r} leaves no test row of {len(table)} rows and {len(with_rows)} "
            f"users{lost}: give a larger test_share, another kind, or more rows per user"
        )
    if kind != "user" and len(with_test) < len(with_rows):
        notes.append(
            f"{len(with_rows) - len(with_test)} of {len(with_rows)} users have no test row."
        )
    if kind == "user":
        held = np.union1d(with_test, _users_of(table, part, VALIDATION))
        bare = np.setdiff1d(held, _users_of(table, part, HISTORY))
        if len(bare):
            notes.append(f"{len(bare)} of {len(held)} users who are held out have no history row.")


def _users_of(table: InteractionTable, part: np.ndarray, which: int) -> np.ndarray:
    return np.unique(table.users[part == which]).astype(np.int32)


# --- checks ---------------------------------------------------------------------------------------


def _digest(table: InteractionTable, part: np.ndarray) -> str:
    order = np.lexsort((table.items, table.users))
    digest = hashlib.sha256()
    for ids in (table.user_ids, table.item_ids):
        digest.update("\0".join(map(str, ids.ids.tolist())).encode() + b"\0\0")
    for codes, kind in ((table.users, "<i4"), (table.items, "<i4"), (part, "i1")):
        digest.update(codes[order].astype(kind).tobytes())
    return digest.hexdigest()
