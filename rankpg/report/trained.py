"""The parts of the page that ask a trained policy: calibration, exposure, groups, item maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rankpg._utils.plots import mean_interval
from rankpg.evaluation.calibration import calibration_error, reliability
from rankpg.evaluation.exposure import coverage, gini, group_shares
from rankpg.evaluation.fairness import MEASURES
from rankpg.report import pictures
from rankpg.report.gather import MOST_GROUPS, Subject
from rankpg.report.measure import Exposure
from rankpg.report.page import Panel, Section, Table

__all__ = ["calibration", "exposure", "groups", "item_maps"]

_MIDDLING = (0.02, 0.98)

_CLAIMED = (
    "A point above the dashed line is claimed too small and one below too large (bars: 95 % binomial "
    "intervals): where claims leave the line the score's gradient is biased, so if that is where your items "
    "are, try ca_pg_threshold, which has no such bias, or a smaller K."
)
_EXACT_ONLY = (
    "The estimator approximates nothing, so this is the exact probability alone (bars: 95 % binomial "
    "intervals): it should stay on the dashed line, and if it does not, the draws are not those of the "
    "policy, which is a fault to report."
)


_NO_REWARDS = (
    "what is shown and the best K are not known, because nothing is known of what items earn: a run folder "
    "keeps no rewards that were in memory, and items that came later have none; report the run that was "
    "trained, while it is in memory: rankpg.report.report([run], out)"
)


def calibration(subjects: Sequence[Subject]) -> Section:
    """Claimed and exact inclusion probabilities against real draws."""
    having = [subject for subject in subjects if subject.calibration is not None]
    notes = _lacking(subjects, "calibration")
    panels, rows, colors = [], [], []
    for subject in subjects:
        found = subject.calibration
        if found is None:
            continue
        if found.method is None:
            notes.append(
                f"{subject.name}: the score of {subject.config.estimator} approximates no inclusion "
                "probability, so there is no claim to test"
            )
        if found.exact is None:
            notes.append(
                f"{subject.name}: no exact probability, which is for one expert and at most 5000 items"
            )
        if found.method is None and found.exact is None:
            continue
        rows.append((subject.name, found.method or "none", *_errors(subject)))
        colors.append(pictures.color_of(subject.place))
        panels.append(
            Panel(
                subject.name,
                pictures.reliability_curve(subject),
                _CLAIMED if found.method else _EXACT_ONLY,
            )
        )
    words = (
        "How often an item really is a candidate in draws of the policy (the first seed's), against the "
        "probability that the estimator's own approximation claims; greedy is Eq. 8 of the paper, swr is "
        "with replacement, sum is the expected number of draws."
    )
    head = (
        "run", "claimed by", "error of the claim", "error of the exact", "claimed / exact", "pairs",
    )  # fmt: skip
    told = (
        "Errors: mean |claimed − observed| over pairs claimed to be at least 0.001. Claimed / exact: median "
        "over pairs of exact probability 0.02 to 0.98."
    )
    tables = [Table(head, rows, told, tuple(colors))] if rows else []
    return Section("Propensity calibration", words if having else "", tables, panels, notes)


def _errors(subject: Subject) -> tuple[str, str, str, str]:
    """Calibration errors of claim and exact, their ratio where it is middling, and the number of pairs."""
    found = subject.calibration
    assert found is not None
    errors = []
    for values in (found.claimed, found.exact):
        bins = [] if values is None else reliability(values, found.hits, found.num_draws)
        errors.append(f"{calibration_error(bins):.2g}" if bins else "–")
    ratio = "–"
    if found.claimed is not None and found.exact is not None:
        middling = (found.exact > _MIDDLING[0]) & (found.exact < _MIDDLING[1])
        if middling.any():
            ratio = f"{np.median(found.claimed[middling] / found.exact[middling]):.3g}"
    return errors[0], errors[1], ratio, f"{len(found.hits):,} x {found.num_draws:,} draws"


def exposure(subjects: Sequence[Subject]) -> Section:
    """Coverage, Gini, Lorenz curves."""
    having = [subject for subject in subjects if subject.exposure is not None]
    notes = _lacking(subjects, "exposure") + _unrewarded(having)
    if not having:
        return Section("Item exposure", notes=notes)
    rows = []
    for subject in having:
        found = subject.exposure
        assert found is not None
        figures = [
            "–" if side is None else _over_seeds([measure(of_seed) for of_seed in side])
            for side in _sides(found)
            for measure in (coverage, gini)
        ]
        rows.append((subject.name, f"{found.num_contexts:,}", *figures))
    head = (
        "run", "contexts", "coverage, candidates", "Gini, candidates", "coverage, shown",
        "Gini, shown", "coverage, best K", "Gini, best K",
    )  # fmt: skip
    colors = tuple(pictures.color_of(subject.place) for subject in having)
    told = (
        "Coverage: share of the items that ever have a place. Gini: 0 all items the same, towards 1 a few "
        "have all. Best K: the K items of largest reward of each context, what a perfect retriever would "
        "hand over."
    )
    panels = [
        Panel(
            f"Lorenz curve of {what}",
            pictures.lorenz_curves(drawn, counts),
            f"The further a curve sags below the diagonal, the fewer items share the places among {what}: if "
            "it sags far more than the best K of the table do, the policy has narrowed without need, so try "
            "a higher temperature, a smaller init_scale or shorter training.",
        )
        for what, counts in _SIDES
        if (drawn := [subject for subject in having if counts(subject) is not None])
    ]
    words = "Of greedy candidates and of the re-ranker's greedy ranking; the curves are of the first seed."
    return Section("Item exposure", words, [Table(head, rows, told, colors)], panels, notes)


def _sides(found: Exposure) -> tuple[np.ndarray | None, ...]:
    """Counts of candidates, of what is shown, of the best K, each [seeds, N]; None where unknown."""
    return found.candidates, found.shown, None if found.best is None else found.best[None]


def _unrewarded(subjects: Sequence[Subject]) -> list[str]:
    """Why a dash stands for what is shown and the best."""
    return [f"{s.name}: {_NO_REWARDS}" for s in subjects if s.exposure and s.exposure.best is None]


def _candidates(subject: Subject) -> np.ndarray | None:
    return None if subject.exposure is None else subject.exposure.candidates[0]


def _shown(subject: Subject) -> np.ndarray | None:
    found = subject.exposure
    return None if found is None or found.shown is None else found.shown[0]


_SIDES: tuple[tuple[str, Callable[[Subject], np.ndarray | None]], ...] = (
    ("the candidates", _candidates),
    ("what is shown", _shown),
)


def groups(subjects: Sequence[Subject]) -> Section:
    """What each group of items gets, and the fairness measures of the policy's order."""
    title = "Exposure by group"
    if all(subject.groups is None and "groups" not in subject.lacks for subject in subjects):
        words = "No groups were given: --groups FILE, a csv or parquet of item id and group, adds this part."
        return Section(title, words, notes=_lacking(subjects, "state"))
    notes = _lacking(subjects, "groups")
    having = [s for s in subjects if s.group_rows and s.exposure is not None]
    if not having:
        return Section(title, notes=notes)
    every = dict.fromkeys(row.group for subject in having for row in subject.group_rows)
    names = list(every)[:MOST_GROUPS]
    notes += _unrewarded(having)
    notes += [
        f"{subject.name}: {count} groups, of which the largest are here"
        for subject in having
        if (count := len(np.unique(_groups_of(subject)))) > len(names)
    ]
    ratios = [_ratios(subject, names) for subject in subjects]
    panel = Panel(
        "What each group gets of the candidates, for its size",
        pictures.shares_of_groups(subjects, names, ratios),
        "At the dashed line a group has as many places as its share of the catalogue: a bar well below it "
        "says that the group is passed over, so ask whether its rewards really are lower (the best K of the "
        "table) before you correct it by rewards or by a quota of experts.",
    )
    told_apart = [(s.place, row) for s in having for row in _group_rows(s, names)]
    rows = [row for _, row in told_apart]
    colors = tuple(pictures.color_of(place) for place, _ in told_apart)
    head = (
        "run", "group", "share of items", "of candidates", "of what is shown", "of the best K", *MEASURES,
    )  # fmt: skip
    told = (
        f"rND, rKL and rRD of the policy's order of the catalogue, each group against all others, mean over "
        f"contexts: 0 is parity at every cut-off, 1 the least fair order of these items. Cut-offs every "
        f"{', '.join(sorted({str(s.every) for s in having}))} positions. rRD is meant for minorities."
    )
    words = (
        "measure = 1/Z · Σ d(i) / log2(i) over the cut-offs i, with c of the first i and S of all N items in "
        "the group: rND d = |c/i − S/N|; rKL d = Kullback-Leibler divergence of (c/i, 1 − c/i) from "
        "(S/N, 1 − S/N); rRD d = |c/(i − c) − S/(N − S)|; Z the largest sum that any order has "
        "(Yang and Stoyanovich 2017)."
    )
    return Section(title, words, [Table(head, rows, told, colors)], [panel], notes)


def _groups_of(subject: Subject) -> np.ndarray:
    assert subject.groups is not None
    return subject.groups


def _ratios(subject: Subject, names: Sequence[str]) -> list[float | None]:
    """Places over items among the first seed's candidates, of the named groups."""
    if subject.exposure is None or subject.groups is None:
        return [None] * len(names)
    shares = {s.group: s for s in group_shares(subject.exposure.candidates[0], subject.groups)}
    return [shares[name].ratio if name in shares else None for name in names]


def _group_rows(subject: Subject, names: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each of the named groups."""
    found, of_item = subject.exposure, _groups_of(subject)
    assert found is not None
    places = [
        [{s.group: s for s in group_shares(x, of_item)} for x in side] if side is not None else []
        for side in _sides(found)
    ]
    rows = []
    for row in subject.group_rows:
        if row.group not in names:
            continue
        shares = [
            _over_seeds([of_seed[row.group].places for of_seed in side]) if side else "–"
            for side in places
        ]
        parity = [_over_seeds(row.parity[name]) if row.parity else "–" for name in MEASURES]
        size = f"{places[0][0][row.group].items:.3f}"
        rows.append((subject.name, row.group, size, *shares, *parity))
    return rows


def item_maps(subjects: Sequence[Subject]) -> Section:
    """A map a run."""
    panels = [
        Panel(
            subject.name,
            pictures.item_map(subject),
            "Near items have like embeddings: candidates from one corner only, or a group in a clump of its "
            "own, say that the retriever tells items apart by little else, so widen embedding_dim or add "
            "item features; little of the variance on the axes says that the map hides most.",
        )
        for subject in subjects
        if subject.item_map is not None
    ]
    words = "The first two principal components of the first seed's item embeddings."
    return Section("Item map", words if panels else "", [], panels, _lacking(subjects, "item_map"))


def _over_seeds(values: Sequence[float]) -> str:
    mean, half = mean_interval(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.2g}"


def _lacking(subjects: Sequence[Subject], part: str) -> list[str]:
    """Why runs have nothing in a part of the page."""
    reasons = [(s.name, s.lacks.get(part) or s.lacks.get("state")) for s in subjects]
    return [f"{name}: nothing here: {reason}" for name, reason in reasons if reason]
