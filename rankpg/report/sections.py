"""Sections of the report that are computed from metrics, and the table of all sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rankpg._utils.plots import mean_interval
from rankpg.report import pictures
from rankpg.report.page import Panel, Section, Table
from rankpg.report.records import ReportedRun
from rankpg.report.trained import calibration, exposure, groups, item_maps

__all__ = ["SECTIONS", "summary"]


_ROUNDING = 1e-6


def number(values: Iterable[float]) -> str:
    """Returns the mean over seeds and the 95 % interval as text; a dash without values."""
    found = list(values)
    if not found:
        return "–"
    mean, half = mean_interval(found)
    if abs(mean) < _ROUNDING and (half or 0) < _ROUNDING:
        return "0"
    same = half is None or half <= _ROUNDING * abs(mean)
    return f"{mean:.4g}" if same else f"{mean:.4g} ± {half:.2g}"


def summary(runs: Sequence[ReportedRun], unreadable: Sequence[str]) -> Section:
    """Returns a table with the settings and results of every run."""
    head = (
        "run", "estimator", "K", "M", "L", "steps", "seeds", "policy value", "normalised value",
        "candidate recall", "stopped seeds", "versions",
    )  # fmt: skip
    rows = [
        (
            run.name,
            run.config.estimator,
            str(run.config.num_candidates),
            str(run.config.num_experts),
            str(run.config.ranking_length),
            f"{run.step:,}",
            " ".join(str(row["seed"]) for row in run.last),
            number(run.final("policy_value")),
            number(run.final("normalised_value")),
            number(run.final("candidate_recall")),
            "; ".join(run.stopped()) or "none",
            _versions(run.versions),
        )
        for run in runs
    ]
    colors = tuple(pictures.color_of(run.index) for run in runs)
    caption = (
        "Last evaluation: mean over seeds ± half the width of the 95 % interval (Student's t). K candidates, "
        "M experts, L positions. Normalised value: policy value / optimum."
    )
    tables = [Table(head, rows, caption, colors), *_held_out(runs)]
    return Section("Summary", "", tables, [], [*unreadable, *_cautions(runs)])


def _held_out(runs: Sequence[ReportedRun]) -> list[Table]:
    """Returns a table of the metrics of held-out interactions, if a run has any."""
    of_log = [run for run in runs if any("ndcg@10" in row for row in run.last)]
    if not of_log:
        return []
    first = "recall@20", "recall@100", "ndcg@10"
    found = {name for run in of_log for row in run.last for name in row}
    final = sorted(name for name in found if name.startswith("final_"))
    names = [*first, *final, *(f"validation_{name}" for name in (*first, *final))]
    names = [name for name in names if name in found]
    rows = [
        (run.name, run.config.objective, *(number(run.final(name)) for name in names))
        for run in of_log
    ]
    caption = (
        "Interactions that are held out: of each user's items in the test part (validation_: in the "
        "validation part), ranked among all items that the user has not had. final_: the list that the "
        "re-ranker shows."
    )
    colors = tuple(pictures.color_of(run.index) for run in of_log)
    return [Table(("run", "objective", *names), rows, caption, colors)]


def _versions(versions: dict[str, str]) -> str:
    """Returns the main versions that a run was trained with."""
    names = ("rankpg", "jax", "python", "device")
    listed = [f"{name} {versions[name]}" for name in names if name in versions]
    return ", ".join(listed) or "unknown: no run card (RUN.md)"


def _cautions(runs: Sequence[ReportedRun]) -> list[str]:
    """Returns what limits a comparison of the rows."""
    notes = [
        f"{run.name}: one seed and therefore no interval. Train with several seeds to separate effects from "
        "noise."
        for run in runs
        if len(run.last) == 1
    ]
    tables = [
        run.name for run in runs if run.config.environment in ("ratings", "text", "subtopics")
    ]
    if tables and not any(run.config.held_out_contexts for run in runs):
        notes.append(
            f"{', '.join(tables)}: values, optimum and recall are in-sample, measured on the rewards that "
            "were trained on. Held-out measures need a log of interactions, or contexts that are held out."
        )
    optima = _optima(runs)
    if len(optima) > 1:
        listed = ", ".join(f"{optimum:g}" for optimum in sorted(optima))
        notes.append(
            f"The runs were evaluated on different problems (optimum {listed}). Compare normalised values, "
            "not policy values."
        )
    if len({run.step for run in runs}) > 1:
        notes.append(
            "The runs have different numbers of steps. Compare the curves at equal steps, not the last "
            "values."
        )
    return notes


def _optima(runs: Sequence[ReportedRun]) -> set[float]:
    """Returns the optima of the runs; more than one if they were evaluated on different problems."""
    return {round(float(np.mean(found)), 4) for run in runs if (found := run.final("optimum"))}


def _value(runs: Sequence[ReportedRun]) -> tuple[str, str, str | None]:
    """Returns the metric by which these runs are comparable, its title, and its upper limit."""
    if len(_optima(runs)) > 1:
        return "normalised_value", "normalised value", None
    return "policy_value", "policy value", "optimum"


def settings(runs: Sequence[ReportedRun]) -> Section:
    """Returns a table of the settings that differ between runs."""
    known = [run.config.to_dict() for run in runs]
    differing = [name for name in known[0] if len({repr(of_run[name]) for of_run in known}) > 1]
    rows = [(name, *(_setting(of_run[name]) for of_run in known)) for name in differing]
    if not rows:
        text = "There is only one run." if len(runs) == 1 else "All settings are the same."
        return Section("Settings that differ", text)
    table = Table(("setting", *(run.name for run in runs)), rows)
    same = len(known[0]) - len(rows)
    return Section("Settings that differ", f"The other {same} settings are the same.", [table])


def _setting(value: object) -> str:
    """Returns the value of a setting as text."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def learning(runs: Sequence[ReportedRun]) -> Section:
    """Returns the learning curves."""
    name, title, limit = _value(runs)
    having, notes = _having(runs, name)
    panels = []
    if having:
        panels.append(
            Panel(
                f"{title.capitalize()} against training steps",
                pictures.over_steps(having, name, title, limit),
                "Line: mean over seeds. Band: 95 % interval. Cross: a seed that stopped. If a curve still "
                "rises, train for more steps. If it is flat below the optimum, try another estimator, more "
                "candidates or another learning rate. If bands overlap, train more seeds before you "
                "prefer a run.",
            )
        )
    return Section("Learning curves", "", [], panels, notes)


def recall(runs: Sequence[ReportedRun]) -> Section:
    """Returns candidate recall against steps and against value."""
    name, title, _ = _value(runs)
    having, notes = _having(runs, "candidate_recall", name)
    if not having:
        return Section("Candidate recall", notes=notes)
    panels = [
        Panel(
            "Candidate recall against training steps",
            pictures.over_steps(having, "candidate_recall", "candidate recall"),
            "Candidate recall is the share of a context's best items that are among its candidates. If it "
            "rises, the retriever is still learning. If it falls while the value rises, only a few items "
            "matter for the reward; this is harmless unless the re-ranker changes.",
        ),
        Panel(
            f"{title.capitalize()} against candidate recall",
            pictures.against_recall(having, name, title),
            "One point per seed, from the last evaluation. If the points lie on a rising line, higher recall "
            "gives higher value: raise K. If recall is high and value is low, the re-ranker misses good "
            "candidates: improve the re-ranker.",
        ),
    ]
    return Section("Candidate recall", "", [], panels, notes)


def regret(runs: Sequence[ReportedRun]) -> Section:
    """Returns the regret of retrieval and of the re-ranker."""
    having, notes = _having(runs, "optimum", "retrieval_regret", "reranker_regret")
    if not having:
        return Section("Regret by stage", notes=notes)
    stages = ("retrieval_regret", "reranker_regret")
    rows = [
        (run.name, *(number(run.final(name)) for name in ("optimum", *stages))) for run in having
    ]
    panel = Panel(
        "Regret by stage",
        pictures.regrets(having),
        "The bar is the gap between policy value and optimum; the line is the 95 % interval of its length. "
        "Blue, retrieval regret: the best items are not among the candidates; improve the retriever or raise "
        "K. Orange, re-ranker regret: the best candidates are not shown first; improve the re-ranker.",
    )
    text = "Retrieval regret + re-ranker regret = optimum − policy value."
    head = ("run", "optimum", "retrieval regret", "re-ranker regret")
    return Section("Regret by stage", text, [Table(head, rows)], [panel], notes)


def _having(runs: Sequence[ReportedRun], *names: str) -> tuple[list[ReportedRun], list[str]]:
    """Returns the runs whose last evaluation has these metrics, and a note for each other run."""
    having = [run for run in runs if all(map(run.final, names))]
    notes = [
        f"{run.name}: the last evaluation has no value for {' and '.join(names)}.{_reason(run)}"
        for run in runs
        if run not in having
    ]
    return having, notes


def _reason(run: ReportedRun) -> str:
    """Returns why measures are missing: the rewards of a list interact, so far as the settings say."""
    if run.config.environment != "subtopics":
        return ""
    return " The rewards of its lists interact, so what needs the reward of a single item is not defined."


SECTIONS: tuple[Callable[[Sequence[ReportedRun]], Section], ...] = (
    settings, learning, recall, regret, calibration, exposure, groups, item_maps,
)  # fmt: skip
"""Sections after the summary, in order; a new section is one function and one entry."""
