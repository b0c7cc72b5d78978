"""Held-out ranking metrics of lists, by the definitions of trec_eval, and metrics of the catalogue they show.

A row is a user or a query. It has a list of items, best first, and a set of R > 0 relevant items, those held
out for it. Item j of the list has the gain g_j > 0 if it is relevant, and g_j = 0 otherwise. r_j = 1 if
g_j > 0, else 0. The metrics at the cut-off k, with trec_eval's name and that of ir-measures:

    recall@k     sum_{j<=k} r_j / R                                              recall_k       R@k
    precision@k  sum_{j<=k} r_j / k                                              P_k            P@k
    hit_rate@k   1 if any r_j = 1 for j <= k, else 0                             success_k      Success@k
    ndcg@k       sum_{j<=k} g_j / log2(j + 1)  /  the same sum of the best list  ndcg_cut_k     nDCG@k
    mrr@k        1 / (the smallest j <= k with r_j = 1), 0 if there is none      recip_rank     RR@k
    map@k        1/R sum_{j<=k} r_j (sum_{i<=j} r_i) / j                         map_cut_k      AP@k

The best list of ndcg@k holds all relevant items of the row, largest gain first. A list of fewer than k items
counts as filled up with irrelevant ones: precision@k divides by k. map@k divides by R, not by min(k, R).

recall@k divides by R as well. The recall of Liang et al. (2018) and of some libraries of recommenders divides
by min(k, R) and is larger where R > k; it is not reported here.

Ellen Voorhees and Donna Harman (eds.), "TREC: Experiment and Evaluation in Information Retrieval", 2005.
Sean MacAvaney, Craig Macdonald and Iadh Ounis, "Streamlining evaluation with ir-measures", ECIR 2022.
Kalervo Järvelin and Jaana Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (nDCG).
Chris Burges et al., "Learning to rank using gradient descent", ICML 2005 (exponential gain).
Dawen Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rankpg.evaluation.exposure import coverage, gini
from rankpg.types import Bool, Float, Int

__all__ = ["GAINS", "METRICS", "catalogue_metrics", "ranking_metrics"]

METRICS = ("recall", "precision", "hit_rate", "ndcg", "mrr", "map")
"""Names of the metrics of a row, each followed by `@k` in the result of `ranking_metrics`."""

GAINS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda grades: grades,
    "exponential": lambda grades: np.expm1(grades * np.log(2)),
}
"""gain -> function of the grades v: v (Järvelin and Kekäläinen 2002), or 2^v - 1 (Burges et al. 2005)."""

_CELLS = 1 << 20
"""Positions of lists that are looked up at once; bounds the memory."""
_LARGEST_ITEM = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class _Relevant:
    """Relevant items of every row, in ascending order of (row, item)."""

    row_starts: Int[np.ndarray, "rows_plus_1"]
    """int64; the entries of row u are row_starts[u] to row_starts[u + 1], without the last."""
    keys: Int[np.ndarray, "nnz"]
    """row * 2^31 + item, int64, ascending: one number for a pair."""
    gains: Float[np.ndarray, "nnz"]

    @property
    def counts(self) -> Int[np.ndarray, "rows"]:
        """R, the number of relevant items of every row."""
        return np.diff(self.row_starts)


def ranking_metrics(
    lists: Int[np.ndarray, "n depth"],
    relevant: tuple[Int[np.ndarray, "n_plus_1"], Int[np.ndarray, "nnz"]],
    *,
    at: Sequence[int] = (10, 20, 100),
    grades: np.ndarray | None = None,
    gain: str = "linear",
) -> dict[str, Float[np.ndarray, "n"]]:
    """Recall, precision, hit rate, nDCG, MRR and MAP of every row at every cut-off.

    The module docstring has the formulas and their sources. They are those of trec_eval and ir-measures, with
    one exception: grades need not be whole numbers here. A row whose list is empty has the value 0. A row
    without relevant items has the value NaN, since most metrics divide by R = 0; leave it out of a mean
    (`np.nanmean`), as `bootstrap_interval` does.

    Args:
      lists: item numbers, best first, [n, depth]; -1 after the last item of a list of fewer than `depth`.
      relevant: (row_starts, items), the relevant items of all rows in CSR form: those of row u are
        items[row_starts[u]:row_starts[u + 1]], in any order.
      at: the cut-offs k, 1 to depth.
      grades: graded relevance v > 0 of `items`, [nnz]; 1 for all of them if None. Used by ndcg only: the
        other metrics count every item in `items` as relevant.
      gain: the gain of a grade, a name in `GAINS`: "linear" (v) or "exponential" (2^v - 1) ["linear"].

    Returns:
      `<metric>@<k>` -> float64[n] for every metric in `METRICS` and every k in `at`.

    Raises:
      ValueError: a shape, a cut-off or the gain is unusable; a list holds an item twice, a number that is not
        an item, or an item after -1; the relevant items of a row hold one twice; a grade is not above 0.

    >>> lists = np.array([[4, 2, 9], [7, 1, -1], [5, 6, 7]])
    >>> held_out = np.array([0, 2, 3, 3]), np.array([2, 8, 7])  # {2, 8}, {7}, none
    >>> metrics = ranking_metrics(lists, held_out, at=[2])
    >>> metrics["recall@2"], metrics["mrr@2"]
    (array([0.5, 1. , nan]), array([0.5, 1. , nan]))
    >>> float(np.nanmean(metrics["ndcg@2"]).round(3))  # the first: 1/log2(3) / (1 + 1/log2(3)); the second: 1
    0.693
    """
    lists = _checked_lists(lists)
    at = _checked_cutoffs(at, lists.shape[1])
    known = _checked_relevant(relevant, grades, gain, len(lists))
    ideal = _ideal(known, at)
    result = {f"{name}@{k}": np.empty(len(lists)) for name in METRICS for k in at}
    for rows in _row_blocks(*lists.shape):
        gains = _gains_in_lists(lists[rows, : max(at)], rows.start, known)
        block = _metrics(gains, known.counts[rows], {k: best[rows] for k, best in ideal.items()})
        for name, values in block.items():
            result[name][rows] = values
    return result


def catalogue_metrics(
    lists: Int[np.ndarray, "n depth"],
    num_items: int,
    popularity: Int[np.ndarray, "items"],
    *,
    num_users: int,
    at: Sequence[int] = (10, 20, 100),
) -> dict[str, float]:
    """Coverage, Gini coefficient and novelty of the first k items of all lists.

        coverage@k   share of the catalogue that is in at least one list (Ge et al. 2010)
        gini@k       Gini coefficient of the exposures x_a, the number of lists with item a, over all N items;
                     0 if all are equal (Gini 1912)
        novelty@k    mean over lists of their mean self-information -log2(p_a) (Zhou et al. 2010)

    p_a is the share of the users of the training part who interacted with item a. An item that none of them
    interacted with counts as one interaction, p_a = 1 / num_users. A list without items counts in no metric.

    Mouzhi Ge, Carla Delgado-Battenfeld and Dietmar Jannach, "Beyond accuracy: evaluating recommender systems
    by coverage and serendipity", RecSys 2010. Tao Zhou et al., "Solving the apparent diversity-accuracy
    dilemma of recommender systems", PNAS 2010.

    Args:
      lists: see `ranking_metrics`.
      num_items: N, items of the catalogue.
      popularity: number of users of the training part who interacted with every item, [N].
      num_users: number of users of the training part.
      at: see `ranking_metrics`.

    Returns:
      `<metric>@<k>` -> value for every metric and every k in `at`.

    Raises:
      ValueError: see `ranking_metrics`; a list holds an item >= num_items; all lists are empty; a popularity
        is outside 0 to num_users.

    >>> lists = np.array([[0, 1], [0, 2]])
    >>> catalogue_metrics(lists, 4, np.array([8, 2, 0, 5]), num_users=8, at=[2])
    {'coverage@2': 0.75, 'gini@2': 0.375, 'novelty@2': 1.25}
    """
    lists = _checked_lists(lists, num_items)
    at = _checked_cutoffs(at, lists.shape[1])
    information = _self_information(popularity, num_items, num_users)
    lengths = np.count_nonzero(lists >= 0, axis=1)
    if not lengths.any():
        raise ValueError("lists has no items, only -1; expected at least one list with an item")
    result = {}
    for k in at:
        exposure, total = np.zeros(num_items, np.int64), 0.0
        for rows in _row_blocks(len(lists), k):
            shown = lists[rows, :k]
            taken = shown >= 0
            exposure += np.bincount(shown[taken], minlength=num_items)
            sums = np.where(taken, information[shown], 0).sum(axis=1)
            total += float(np.sum(sums / np.clip(lengths[rows], 1, k)))
        result[f"coverage@{k}"] = coverage(exposure)
        result[f"gini@{k}"] = gini(exposure)
        result[f"novelty@{k}"] = float(total / np.count_nonzero(lengths))
    return result


def _row_blocks(rows: int, depth: int) -> Iterator[slice]:
    """Slices of consecutive rows that hold at most `_CELLS` positions, or one row."""
    step = max(1, _CELLS // depth)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _gains_in_lists(
    lists: Int[np.ndarray, "b k"], first_row: int, known: _Relevant
) -> Float[np.ndarray, "b k"]:
    """Returns the gain of every position, 0 for an item that is not relevant."""
    low, high = known.row_starts[first_row], known.row_starts[first_row + len(lists)]
    if low == high:
        return np.zeros(lists.shape)
    keys, gains = known.keys[low:high], known.gains[low:high]
    wanted = _pair_keys(np.arange(first_row, first_row + len(lists))[:, None], lists)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[place] == wanted) & (lists >= 0), gains[place], 0.0)


def _ideal(known: _Relevant, at: Sequence[int]) -> dict[int, Float[np.ndarray, "n"]]:
    """Returns the discounted gain of the best list of k items, for every row and every k."""
    rows = np.repeat(np.arange(len(known.counts)), known.counts)
    largest_first = np.lexsort((-known.gains, rows))
    position = np.arange(len(rows)) - known.row_starts[rows]
    terms = known.gains[largest_first] / np.log2(position + 2)
    sums = {k: np.bincount(rows, terms * (position < k), len(known.counts)) for k in at}
    return {k: values.astype(float) for k, values in sums.items()}  # integers if there are no terms


def _metrics(
    gains: Float[np.ndarray, "b k"],
    counts: Int[np.ndarray, "b"],
    ideal: dict[int, Float[np.ndarray, "b"]],
) -> dict[str, Float[np.ndarray, "b"]]:
    """Returns the metrics of a block of rows, from the gains by position."""
    positions = np.arange(1, gains.shape[1] + 1)
    found = gains > 0
    hits = np.cumsum(found, axis=1)
    precisions = np.cumsum(np.where(found, hits / positions, 0), axis=1)
    discounted = np.cumsum(gains / np.log2(positions + 1), axis=1)
    first = np.where(found.any(axis=1), found.argmax(axis=1) + 1, np.inf)
    total = np.where(counts > 0, counts, np.nan)
    valid = np.where(counts > 0, 1.0, np.nan)
    result = {}
    for k, best in ideal.items():
        result[f"recall@{k}"] = hits[:, k - 1] / total
        result[f"precision@{k}"] = valid * hits[:, k - 1] / k
        result[f"hit_rate@{k}"] = valid * (hits[:, k - 1] > 0)
        result[f"ndcg@{k}"] = discounted[:, k - 1] / np.where(counts > 0, best, np.nan)
        result[f"mrr@{k}"] = valid * np.where(first <= k, 1 / first, 0)
        result[f"map@{k}"] = precisions[:, k - 1] / total
    return result


def _pair_keys(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns one int64 for every pair of row and item, ascending in (row, item)."""
    return rows.astype(np.int64) * (_LARGEST_ITEM + 1) + items


def _checked_cutoffs(at: Sequence[int], depth: int) -> tuple[int, ...]:
    """Returns the cut-offs, or raises ValueError."""
    cutoffs = tuple(at)
    if not cutoffs:
        raise ValueError("at is empty; expected at least one cut-off, such as at=(10,)")
    for k in cutoffs:
        if k != int(k) or k < 1:
            raise ValueError(f"at holds {k}; expected whole numbers >= 1")
        if k > depth:
            raise ValueError(
                f"at holds {k}, but lists has {depth} positions; lower the cut-off or make longer lists"
            )
    return tuple(int(k) for k in cutoffs)


def _checked_lists(
    lists: Int[np.ndarray, "n depth"], num_items: int = _LARGEST_ITEM + 1
) -> Int[np.ndarray, "n depth"]:
    """Returns the lists, or raises ValueError with the first row that is not a list of distinct items."""
    if lists.ndim != 2 or not lists.size or lists.dtype.kind != "i":
        raise ValueError(
            f"lists is {lists.dtype}{list(lists.shape)}; expected integers [n, depth], with n and depth >= 1"
        )
    for rows in _row_blocks(*lists.shape):
        block = lists[rows]
        outside = (block < -1) | (block >= num_items)
        _reject(
            lists, rows.start, outside, f"expected items 0 to {num_items - 1}, or -1 for no item"
        )
        after_end = np.zeros(block.shape, bool)
        after_end[:, 1:] = (block[:, :-1] < 0) & (block[:, 1:] >= 0)
        _reject(lists, rows.start, after_end, "expected -1 after the last item only: move it there")
        ordered = np.sort(block, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            row, place = np.argwhere(twice)[0]
            raise ValueError(
                f"lists holds item {ordered[row, place]} twice in row {rows.start + row}; expected distinct "
                "items: keep the first of equal ones"
            )
    return lists


def _reject(
    lists: Int[np.ndarray, "n depth"], start: int, wrong: Bool[np.ndarray, "b depth"], expected: str
) -> None:
    """Raises ValueError for the first wrong position of a block of rows, if there is one."""
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        raise ValueError(
            f"lists holds {lists[start + row, position]} in row {start + row}, position {position} (both "
            f"counted from 0); {expected}"
        )


def _checked_relevant(
    relevant: tuple[Int[np.ndarray, "n_plus_1"], Int[np.ndarray, "nnz"]],
    grades: np.ndarray | None,
    gain: str,
    num_rows: int,
) -> _Relevant:
    """Returns the relevant items in ascending order, or raises ValueError."""
    row_starts, items = relevant
    integers = row_starts.dtype.kind == items.dtype.kind == "i"
    if row_starts.shape != (num_rows + 1,) or items.ndim != 1 or not integers:
        raise ValueError(
            f"relevant has row_starts {row_starts.dtype}{list(row_starts.shape)} and items "
            f"{items.dtype}{list(items.shape)}; expected integers [{num_rows + 1}], one more than there are "
            "lists, and integers [nnz]"
        )
    row_starts = row_starts.astype(np.int64)
    sizes = np.diff(row_starts)
    if row_starts[0] != 0 or row_starts[-1] != len(items) or np.any(sizes < 0):
        raise ValueError(
            f"relevant has row_starts from {row_starts[0]} to {row_starts[-1]}; expected numbers that ascend "
            f"from 0 to the {len(items)} items"
        )
    rows = np.repeat(np.arange(num_rows), sizes)
    wrong = np.flatnonzero((items < 0) | (items > _LARGEST_ITEM))
    if wrong.size:
        raise ValueError(
            f"relevant holds item {items[wrong[0]]} in row {rows[wrong[0]]}; expected int32 numbers >= 0"
        )
    keys = _pair_keys(rows, items)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        entry = order[twice[0]]
        raise ValueError(
            f"relevant holds item {items[entry]} twice in row {rows[entry]}; expected distinct items: drop "
            "the repetition, or add its grades up"
        )
    return _Relevant(row_starts, keys, _checked_gains(grades, gain, rows)[order])


def _checked_gains(
    grades: np.ndarray | None, gain: str, rows: Int[np.ndarray, "nnz"]
) -> Float[np.ndarray, "nnz"]:
    """Returns the gain of every relevant item, or raises ValueError."""
    if gain not in GAINS:
        raise ValueError(f"gain={gain!r} is unknown; expected one of {', '.join(GAINS)}")
    values = np.ones(len(rows)) if grades is None else np.asarray(grades, float)
    if values.shape != rows.shape:
        raise ValueError(
            f"grades has shape {values.shape}; expected [{len(rows)}], one per relevant item"
        )
    with np.errstate(over="ignore"):
        gains = GAINS[gain](values)
    wrong = np.flatnonzero(~(np.isfinite(gains) & (gains > 0)))
    if wrong.size:
        raise ValueError(
            f"grades holds {values[wrong[0]]} in row {rows[wrong[0]]}; expected numbers above 0 whose {gain} "
            "gain is finite: leave irrelevant items out, or lower the grades"
        )
    return gains


def _self_information(
    popularity: Int[np.ndarray, "items"], num_items: int, num_users: int
) -> Float[np.ndarray, "items"]:
    """Returns -log2(max(count, 1) / num_users) of every item, or raises ValueError."""
    if popularity.shape != (num_items,) or popularity.dtype.kind != "i":
        raise ValueError(
            f"popularity is {popularity.dtype}{list(popularity.shape)}; expected integers [{num_items}], the "
            "number of users of every item, not their share"
        )
    if num_users < 1:
        raise ValueError(f"num_users={num_users}; expected the users of the training part, >= 1")
    wrong = np.flatnonzero((popularity < 0) | (popularity > num_users))
    if wrong.size:
        raise ValueError(
            f"popularity holds {popularity[wrong[0]]} for item {wrong[0]}; expected 0 to "
            f"num_users={num_users}: count users, not interactions"
        )
    return np.log2(num_users) - np.log2(np.maximum(popularity, 1))
