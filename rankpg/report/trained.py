"""Sections of the report that need the trained policy: calibration, exposure, groups, item maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rankpg._utils.plots import mean_interval
from rankpg.evaluation.calibration import calibration_error, reliability
from rankpg.evaluation.exposure import coverage, gini, group_shares
from rankpg.evaluation.fairness import MEASURES
from rankpg.report import pictures
from rankpg.report.page import Panel, Section, Table
from rankpg.report.records import MOST_GROUPS, Calibration, Exposure, ReportedRun

__all__ = ["calibration", "exposure", "groups", "item_maps"]

_NOT_SATURATED = (0.02, 0.98)
"""Range of exact probabilities in which the ratio predicted / exact is informative."""

_PREDICTED = (
    "Above the dashed line the prediction is too small, below it too large (bars: 95 % binomial intervals). "
    "Off the line the gradient is biased. If your items are there, try the estimator ca_pg_threshold, which "
    "does not have this bias, or a smaller K."
)
_EXACT_ONLY = (
    "The estimator does not approximate an inclusion probability, so only the exact probability is shown "
    "(bars: 95 % binomial intervals). It should stay on the dashed line. If it does not, the sampler is "
    "wrong: please report a bug."
)
_OF_LISTS = (
    "no items are the best K by themselves, because the rewards of a list interact: the reward of an item "
    "depends on the others that are shown."
)
_NO_REWARDS = (
    "shown items and best K are unknown, because the run has no rewards. A run folder does not store rewards "
    "that were passed in memory, and items that were added later have none. Report the run while it is in "
    "memory: rankpg.report.report([run], out)."
)


def calibration(runs: Sequence[ReportedRun]) -> Section:
    """Returns reliability curves of predicted and exact inclusion probabilities."""
    measured = [(run, run.calibration) for run in runs if run.calibration is not None]
    notes = _missing(runs, "calibration")
    panels, rows, colors = [], [], []
    for run, found in measured:
        if found.method is None:
            notes.append(
                f"{run.name}: the score of {run.config.estimator} does not approximate an inclusion "
                "probability, so it makes no prediction to test."
            )
        if found.exact is None:
            notes.append(
                f"{run.name}: no exact probability; it needs a single expert and at most 5000 items."
            )
        if found.method is None and found.exact is None:
            continue
        rows.append((run.name, found.method or "none", *_errors(found)))
        colors.append(pictures.color_of(run.index))
        caption = _PREDICTED if found.method else _EXACT_ONLY
        panels.append(Panel(run.name, pictures.reliability_curve(run), caption))
    text = (
        "Inclusion probability P(a in S) of an item: the approximation that the estimator uses, against the "
        "frequency in sampled candidates of the first seed. Methods: greedy, Eq. 8 of the paper; swr, "
        "sampling with replacement; sum, the expected number of draws."
    )
    head = ("run", "method", "error, predicted", "error, exact", "predicted / exact", "pairs")
    caption = (
        "Error: mean |predicted − observed| over pairs of context and item with a prediction of at least "
        "0.001. Predicted / exact: median over pairs with an exact probability from 0.02 to 0.98."
    )
    tables = [Table(head, rows, caption, tuple(colors))] if rows else []
    return Section("Propensity calibration", text if measured else "", tables, panels, notes)


def _errors(found: Calibration) -> tuple[str, str, str, str]:
    """Returns both calibration errors, the median ratio predicted / exact, and the number of pairs."""
    errors = []
    for values in (found.predicted, found.exact):
        bins = [] if values is None else reliability(values, found.hits, found.num_draws)
        errors.append(f"{calibration_error(bins):.2g}" if bins else "–")
    ratio = "–"
    if found.predicted is not None and found.exact is not None:
        inside = (found.exact > _NOT_SATURATED[0]) & (found.exact < _NOT_SATURATED[1])
        if inside.any():
            ratio = f"{np.median(found.predicted[inside] / found.exact[inside]):.3g}"
    return errors[0], errors[1], ratio, f"{len(found.hits):,} × {found.num_draws:,} draws"


def exposure(runs: Sequence[ReportedRun]) -> Section:
    """Returns coverage, Gini coefficients and Lorenz curves."""
    measured = [(run, run.exposure) for run in runs if run.exposure is not None]
    having = [run for run, _ in measured]
    notes = _missing(runs, "exposure") + _without_rewards(having)
    if not having:
        return Section("Item exposure", notes=notes)
    rows = []
    for run, found in measured:
        figures = [
            "–" if counts is None else _over_seeds([measure(of_seed) for of_seed in counts])
            for counts, measures in zip(_counts(found), _MEASURES, strict=True)
            for measure in measures
        ]
        rows.append((run.name, f"{found.num_contexts:,}", *figures))
    head = (
        "run", "contexts", "coverage, candidates", "Gini, candidates", "coverage, shown",
        "Gini, shown", "Gini, drawn lists", "coverage, best K", "Gini, best K",
    )  # fmt: skip
    colors = tuple(pictures.color_of(run.index) for run in having)
    caption = (
        "Coverage: share of items with any exposure. Gini: 0 if exposure is equal, near 1 if a few items "
        "have all of it. Drawn lists: the exact expected exposure if candidates are drawn from the policy, "
        "in at most 200 contexts; it needs one expert and a re-ranker that sorts by a score. Best K: the K "
        "items of largest reward of each context, which an ideal retriever returns."
    )
    panels = [
        Panel(
            f"Lorenz curve of {title}",
            pictures.lorenz_curves(drawn),
            "The further a curve sags below the diagonal, the fewer items share the exposure. If the "
            f"Gini coefficient of {title} is far above that of the best K, the policy is too narrow: try a "
            "higher temperature, a smaller init_scale or shorter training.",
        )
        for title, counts in _LORENZ_COUNTS
        if (drawn := [(run, found) for run in having if (found := counts(run)) is not None])
    ]
    text = "Greedy candidates, and the greedy ranking of the re-ranker. The curves show the first seed."
    return Section("Item exposure", text, [Table(head, rows, caption, colors)], panels, notes)


_MEASURES = ((coverage, gini), (coverage, gini), (gini,), (coverage, gini))
"""Measures of each of `_counts`: every item has some expected exposure, so its coverage says nothing."""


def _counts(found: Exposure) -> tuple[np.ndarray | None, ...]:
    """Returns the exposure in candidates, shown, drawn lists and best K, each [seeds, N]; None if unknown."""
    best = None if found.best is None else found.best[None]
    return found.candidates, found.shown, found.expected, best


def _without_rewards(runs: Sequence[ReportedRun]) -> list[str]:
    """Returns a note for every run with unknown rewards."""
    return [
        f"{run.name}: {_NO_REWARDS if run.exposure.shown is None else _OF_LISTS}"
        for run in runs
        if run.exposure and run.exposure.best is None
    ]


def _candidates(run: ReportedRun) -> np.ndarray | None:
    """Returns how often each item is a candidate, for the first seed."""
    return None if run.exposure is None else run.exposure.candidates[0]


def _shown(run: ReportedRun) -> np.ndarray | None:
    """Returns how often each item is shown, for the first seed."""
    found = run.exposure
    return None if found is None or found.shown is None else found.shown[0]


_LORENZ_COUNTS: tuple[tuple[str, Callable[[ReportedRun], np.ndarray | None]], ...] = (
    ("the candidates", _candidates),
    ("the shown items", _shown),
)


def groups(runs: Sequence[ReportedRun]) -> Section:
    """Returns the exposure of every group and the fairness of the policy's ranking."""
    title = "Exposure by group"
    if all(run.groups is None and "groups" not in run.missing for run in runs):
        text = (
            "No groups were given. To compare groups of items, pass a csv, tsv or Parquet file of item id "
            "and group as the option groups."
        )
        return Section(title, text, notes=_missing(runs, "state"))
    notes = _missing(runs, "groups")
    having = [run for run in runs if run.group_fairness and run.exposure is not None]
    if not having:
        return Section(title, notes=notes)
    every = dict.fromkeys(row.group for run in having for row in run.group_fairness)
    names = list(every)[:MOST_GROUPS]
    notes += _without_rewards(having)
    notes += [
        f"{run.name}: only the largest of {count} groups are shown."
        for run in having
        if (count := len(np.unique(_groups_of(run)))) > len(names)
    ]
    panel = Panel(
        "Exposure of each group relative to its size",
        pictures.shares_of_groups(runs, names, [_ratios(run, names) for run in runs]),
        "At the dashed line, a group's share of the exposure equals its share of the catalogue. If a bar is "
        "well below the line, check first whether the group's rewards are lower (best K in the table). If "
        "they are not, change the rewards or reserve slots for the group.",
    )
    return Section(title, _FAIRNESS, [_group_table(having, names)], [panel], notes)


_FAIRNESS = (
    "Fairness of a ranking = 1/Z · Σ d(i) / log2(i) over cut-offs i, where c of the first i items and S of "
    "all N items are in the group. rND: d = |c/i − S/N|. rKL: d = Kullback-Leibler divergence of (c/i, 1 − "
    "c/i) from (S/N, 1 − S/N). rRD: d = |c/(i − c) − S/(N − S)|. Z is the largest sum of any ranking (Yang "
    "and Stoyanovich 2017)."
)


def _group_table(having: Sequence[ReportedRun], names: Sequence[str]) -> Table:
    """Returns a table with a row for every run and group."""
    rows = [(run.index, row) for run in having for row in _group_rows(run, names)]
    colors = tuple(pictures.color_of(index) for index, _ in rows)
    head = (
        "run", "group", "share of items", "of candidates", "of shown items", "of drawn lists", "of best K",
        *MEASURES,
    )  # fmt: skip
    steps = ", ".join(sorted({str(run.cutoff_step) for run in having}))
    caption = (
        "rND, rKL and rRD compare each group with all other items in the policy's ranking of the "
        "catalogue; mean over contexts. 0 is parity at every cut-off, 1 is the least fair ranking of these "
        f"items. Cut-offs every {steps} positions. rRD is meant for minorities."
    )
    return Table(head, [row for _, row in rows], caption, colors)


def _groups_of(run: ReportedRun) -> np.ndarray:
    """Returns the group of every item of a run that has groups."""
    assert run.groups is not None
    return run.groups


def _ratios(run: ReportedRun, names: Sequence[str]) -> list[float | None]:
    """Returns exposure share / item share of the named groups, for the first seed's candidates."""
    if run.exposure is None or run.groups is None:
        return [None] * len(names)
    shares = {s.group: s for s in group_shares(run.exposure.candidates[0], run.groups)}
    return [shares[name].ratio if name in shares else None for name in names]


def _group_rows(run: ReportedRun, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns a table row for each of the named groups."""
    found, group_of = run.exposure, _groups_of(run)
    assert found is not None
    shares = [
        [{s.group: s for s in group_shares(of_seed, group_of)} for of_seed in counts]
        if counts is not None
        else []
        for counts in _counts(found)
    ]
    rows = []
    for row in run.group_fairness:
        if row.group not in names:
            continue
        exposures = [
            _over_seeds([of_seed[row.group].exposure_share for of_seed in by_seed])
            if by_seed
            else "–"
            for by_seed in shares
        ]
        fairness = [_over_seeds(row.values[name]) if row.values else "–" for name in MEASURES]
        size = f"{shares[0][0][row.group].item_share:.3f}"
        rows.append((run.name, row.group, size, *exposures, *fairness))
    return rows


def item_maps(runs: Sequence[ReportedRun]) -> Section:
    """Returns a map of the item embeddings of every run."""
    panels = [
        Panel(
            run.name,
            pictures.item_map(run),
            "Nearby items have similar embeddings. If all candidates come from one corner, or a group forms "
            "a cluster of its own, the retriever separates items by little else: raise embedding_dim or add "
            "item features. If the axes explain little of the variance, the map hides most of the structure.",
        )
        for run in runs
        if run.item_map is not None
    ]
    text = "First two principal components of the first seed's item embeddings."
    return Section("Item map", text if panels else "", [], panels, _missing(runs, "item_map"))


def _over_seeds(values: Sequence[float]) -> str:
    """Returns the mean over seeds and half the width of the 95 % interval as text."""
    mean, half = mean_interval(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.2g}"


def _missing(runs: Sequence[ReportedRun], measurement: str) -> list[str]:
    """Returns a note for every run without this measurement."""
    reasons = [(run.name, run.missing.get(measurement) or run.missing.get("state")) for run in runs]
    return [f"{name}: not available: {reason}" for name, reason in reasons if reason]
