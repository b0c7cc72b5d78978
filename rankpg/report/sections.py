"""What stands on the page, part by part: tables, pictures, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rankpg._utils.plots import mean_interval
from rankpg.report import pictures
from rankpg.report.gather import Subject
from rankpg.report.page import Panel, Section, Table
from rankpg.report.trained import calibration, exposure, groups, item_maps

__all__ = ["SECTIONS", "summary"]


_ROUNDING = 1e-6


def number(values: Iterable[float]) -> str:
    """Mean over seeds and 95 % interval, without what rounding left; a dash where there is nothing."""
    found = list(values)
    if not found:
        return "–"
    mean, half = mean_interval(found)
    if abs(mean) < _ROUNDING and (half or 0) < _ROUNDING:
        return "0"
    same = half is None or half <= _ROUNDING * abs(mean)
    return f"{mean:.4g}" if same else f"{mean:.4g} ± {half:.2g}"


def summary(subjects: Sequence[Subject], unreadable: Sequence[str]) -> Section:
    """One row a run: what it was, how it ended."""
    head = (
        "run", "estimator", "K", "M", "L", "steps", "seeds", "policy value", "share of optimum",
        "candidate recall", "stopped seeds", "versions",
    )  # fmt: skip
    rows = [
        (
            subject.name,
            subject.config.estimator,
            str(subject.config.num_candidates),
            str(subject.config.num_experts),
            str(subject.config.ranking_length),
            f"{subject.step:,}",
            " ".join(str(row["seed"]) for row in subject.last),
            number(subject.final("policy_value")),
            number(subject.final("normalised_value")),
            number(subject.final("candidate_recall")),
            "; ".join(subject.stopped()) or "none",
            _versions(subject.versions),
        )
        for subject in subjects
    ]
    colors = tuple(pictures.color_of(subject.place) for subject in subjects)
    words = "Mean over seeds ± half of the 95 % interval (Student's t), after the last evaluation."
    return Section(
        "Summary", "", [Table(head, rows, words, colors)], [], [*unreadable, *_cautions(subjects)]
    )


def _versions(found: dict[str, str]) -> str:
    names = ("rankpg", "jax", "python", "device")
    told = [f"{name} {found[name]}" for name in names if name in found]
    return ", ".join(told) or "not known: no run card (RUN.md)"


def _cautions(subjects: Sequence[Subject]) -> list[str]:
    """What to keep in mind when the rows are compared."""
    notes = [
        f"{subject.name}: one seed, so it has no interval; train with several --seeds to tell luck from skill"
        for subject in subjects
        if len(subject.last) == 1
    ]
    optima = _optima(subjects)
    if len(optima) > 1:
        listed = ", ".join(f"{optimum:g}" for optimum in sorted(optima))
        notes.append(
            f"the runs were judged on different problems (optimum {listed}): compare shares of the optimum, "
            "not values"
        )
    steps = {subject.step for subject in subjects}
    if len(steps) > 1:
        notes.append(
            "the runs have different numbers of steps: compare the curves at equal steps, not the ends"
        )
    return notes


def _optima(subjects: Sequence[Subject]) -> set[float]:
    """What could be had; more than one where the runs had different problems."""
    return {round(float(np.mean(found)), 4) for s in subjects if (found := s.final("optimum"))}


def _value(subjects: Sequence[Subject]) -> tuple[str, str, str | None]:
    """Metric, its name and its limit, by which these runs can be compared."""
    if len(_optima(subjects)) > 1:
        return "normalised_value", "share of the optimum", None
    return "policy_value", "policy value", "optimum"


def settings(subjects: Sequence[Subject]) -> Section:
    """The settings that differ, and nothing else."""
    known = [subject.config.to_dict() for subject in subjects]
    differing = [name for name in known[0] if len({repr(of_run[name]) for of_run in known}) > 1]
    rows = [(name, *(_setting(of_run[name]) for of_run in known)) for name in differing]
    if not rows:
        alone = "There is one run." if len(subjects) == 1 else "The runs have the same settings."
        return Section("Settings that differ", alone)
    table = Table(("setting", *(subject.name for subject in subjects)), rows)
    same = len(known[0]) - len(rows)
    return Section("Settings that differ", f"The other {same} settings are the same.", [table])


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def learning(subjects: Sequence[Subject]) -> Section:
    """Value against steps."""
    name, title, limit = _value(subjects)
    having, notes = _having(subjects, name)
    panels = []
    if having:
        panels.append(
            Panel(
                f"{title.capitalize()} against training steps",
                pictures.over_steps(having, name, title, limit),
                "The line is the mean over seeds and the band its 95 % interval: a curve that still rises "
                "wants more steps, one that is flat below the optimum wants another estimator, more "
                "candidates or another step size, and bands that overlap tell no winner (more seeds do); a "
                "cross marks a seed that stopped.",
            )
        )
    return Section("Learning curves", "", [], panels, notes)


def recall(subjects: Sequence[Subject]) -> Section:
    """Candidate recall against steps and against value."""
    name, title, _ = _value(subjects)
    having, notes = _having(subjects, "candidate_recall", name)
    if not having:
        return Section("Candidate recall", notes=notes)
    panels = [
        Panel(
            "Candidate recall against training steps",
            pictures.over_steps(having, "candidate_recall", "candidate recall"),
            "The share of each context's best items that are among the candidates: while it rises the "
            "retriever still learns whom to hand over; if it falls while the value rises, the reward pays "
            "for a few items only, which is fine unless the re-ranker changes.",
        ),
        Panel(
            f"{title.capitalize()} against candidate recall",
            pictures.against_recall(having, name, title),
            "Each point is a seed at the end: points on one rising line say that recall buys value, so raise "
            "K; high recall beside low value says that the re-ranker wastes good candidates, so mend it.",
        ),
    ]
    return Section("Candidate recall", "", [], panels, notes)


def regret(subjects: Sequence[Subject]) -> Section:
    """What is lost at each stage."""
    having, notes = _having(subjects, "optimum", "retrieval_regret", "reranker_regret")
    if not having:
        return Section("Regret by stage", notes=notes)
    stages = ("retrieval_regret", "reranker_regret")
    rows = [
        (subject.name, *(number(subject.final(name)) for name in ("optimum", *stages)))
        for subject in having
    ]
    panel = Panel(
        "Reward lost at each stage",
        pictures.regrets(having),
        "The bar is what is missing to the optimum, split by who lost it (the line is the 95 % interval of "
        "the sum): blue, the best items were not handed over, asks for a better retriever or more "
        "candidates; orange, the best candidates were not shown first, asks for a better re-ranker.",
    )
    words = "Retrieval regret + re-ranker regret = optimum − policy value."
    head = ("run", "optimum", "retrieval regret", "re-ranker regret")
    return Section("Regret by stage", words, [Table(head, rows)], [panel], notes)


def _having(subjects: Sequence[Subject], *names: str) -> tuple[list[Subject], list[str]]:
    """The runs whose last evaluation has these metrics, and a note for each that has not."""
    having = [subject for subject in subjects if all(map(subject.final, names))]
    notes = [
        f"{subject.name}: the last evaluation has no {' and '.join(names)} that is a number"
        for subject in subjects
        if subject not in having
    ]
    return having, notes


SECTIONS: tuple[Callable[[Sequence[Subject]], Section], ...] = (
    settings, learning, recall, regret, calibration, exposure, groups, item_maps,
)  # fmt: skip
"""The parts after the summary, in order."""
