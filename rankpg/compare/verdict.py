"""Rows of a comparison with their intervals, and the method to take in one or two sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from rankpg.compare.results import Result
from rankpg.evaluation.intervals import (
    Difference,
    Interval,
    paired_difference,
)

__all__ = ["Row", "best_of", "final_sentence", "rows_of", "verdict"]


@dataclass(frozen=True)
class Row:
    """One method of a comparison: means over users with their intervals, and the cost."""

    method: str
    intervals: Mapping[str, Interval]
    """metric -> mean and 95 % bootstrap interval over users"""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """metric -> this method less the reference, paired over users; empty for the reference itself"""
    catalogue: Mapping[str, float] = field(default_factory=dict)
    trials: int = 1
    seeds: int = 1
    tuning_seconds: float = 0.0
    fit_seconds: float = 0.0
    cut: bool = False
    """True if the time of the comparison left it fewer trials, seeds or updates."""

    def mean(self, metric: str) -> float:
        """Mean of a metric."""
        return self.intervals[metric].mean


def rows_of(
    results: Sequence[Result],
    reference: str | None,
    compared: Sequence[str],
    cut: Collection[str] = (),
) -> tuple[Row, ...]:
    """Returns the rows of all methods, the largest mean of the first compared metric first.

    Args:
      results: one for each method, over the same users.
      reference: the method whose metrics are subtracted; no differences if None.
      compared: metrics that have differences.
      cut: names of methods that the time of the comparison cut short.
    """
    base = next((result for result in results if result.name == reference), None)
    rows = []
    for result in results:
        differences = {}
        if base is not None and result is not base:
            differences = {m: paired_difference(result.users(m), base.users(m)) for m in compared}
        rows.append(
            Row(
                result.name,
                result.intervals,
                differences,
                result.catalogue,
                len(result.trials),
                result.num_seeds,
                result.tuning_seconds,
                result.fit_seconds,
                result.name in cut,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.mean(compared[0])))


def best_of(rows: Sequence[Row], metric: str) -> Row:
    """Returns the row of the largest mean; the first of equal ones."""
    return max(rows, key=lambda row: row.mean(metric))


def verdict(rows: Sequence[Row], reference: str | None, compared: Sequence[str]) -> str:
    """Returns the best method of each metric, and the method to take, in one or two sentences.

    The reference is to be taken where it is above the best other method by an interval that excludes 0.
    Otherwise the best other method is.

    Args:
      rows: one for each method; those of the others have differences to the reference.
      reference: the method of rankpg that others are compared with; None if it is not among the rows.
      compared: metrics.

    Raises:
      ValueError: there are no rows.

    >>> ours = Row("inclusion", {"ndcg@10": Interval(0.1, 0.08, 0.12)})
    >>> less = Difference(0.05, 0.03, 0.07, 1.0)
    >>> ease = Row("ease", {"ndcg@10": Interval(0.15, 0.13, 0.17)}, {"ndcg@10": less})
    >>> print(verdict([ours, ease], "inclusion", ["ndcg@10"]))
    ease is best in ndcg@10 (0.1500). Use ease: inclusion is 0.0500 below it in ndcg@10 (95 % interval
    0.0300 to 0.0700).
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one method")
    first = f"{_best_sentence(rows, compared)}."
    own = next((row for row in rows if row.method == reference), None)
    others = [row for row in rows if row.method != reference]
    if own is None or not others:
        return first
    choices: dict[str, list[tuple[str, str]]] = {}
    for metric in compared:
        choice, reason = _choice(own, best_of(others, metric), metric)
        choices.setdefault(choice, []).append((metric, reason))
    if len(choices) == 1:
        ((choice, reasons),) = choices.items()
        return f"{first} Use {choice}: {', and '.join(reason for _, reason in reasons)}."
    parts = [
        f"use {choice} for {' and '.join(metric for metric, _ in reasons)}: "
        f"{', and '.join(reason for _, reason in reasons)}"
        for choice, reasons in choices.items()
    ]
    second = "; ".join(parts)
    return f"{first} {second[0].upper()}{second[1:]}."


def final_sentence(rows: Sequence[Row], reference: str | None, metric: str) -> str:
    """Returns the best method behind the re-ranker, and its difference to the reference.

    Args:
      rows: one for each method.
      reference: the method that is subtracted; None for none.
      metric: that of the final list.

    >>> row = Row("ease", {"final_ndcg@10": Interval(0.15, 0.13, 0.17)})
    >>> final_sentence([row], None, "final_ndcg@10")
    'Behind the re-ranker, ease has the best final list (final_ndcg@10 0.1500).'
    """
    best = best_of(rows, metric)
    said = f"Behind the re-ranker, {best.method} has the best final list ({metric} {best.mean(metric):.4f})"
    gap = best.differences.get(metric)
    if gap is None or reference is None:
        return f"{said}."
    ends = f"95 % interval {gap.low:+.4f} to {gap.high:+.4f}"
    chance = "" if gap.excludes_zero else ", which chance allows"
    return f"{said}, {gap.mean:.4f} above {reference} ({ends}){chance}."


def _best_sentence(rows: Sequence[Row], compared: Sequence[str]) -> str:
    best: dict[str, list[str]] = {}
    for metric in compared:
        row = best_of(rows, metric)
        best.setdefault(row.method, []).append(f"{metric} ({row.mean(metric):.4f})")
    return ", and ".join(f"{name} is best in {' and '.join(of)}" for name, of in best.items())


def _choice(own: Row, other: Row, metric: str) -> tuple[str, str]:
    """Returns the method to take by one metric, and the reason."""
    gap = other.differences[metric]
    if gap.high < 0:
        ends = f"{-gap.high:.4f} to {-gap.low:.4f}"
        reason = f"it is {-gap.mean:.4f} above {other.method}, the best other method"
        return own.method, f"{reason}, in {metric} (95 % interval {ends})"
    ends = f"{gap.low:.4f} to {gap.high:.4f}"
    if gap.low > 0:
        reason = f"{own.method} is {gap.mean:.4f} below it in {metric} (95 % interval {ends})"
        return other.method, reason
    reason = f"{own.method} is not above it in {metric} by more than chance allows"
    return other.method, f"{reason} ({other.method} less {own.method}: 95 % interval {ends})"
