"""Reports as markdown tables: the paper's numbers in one column, ours in the next."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.markdown import grid

__all__ = ["TITLES", "markdown"]

TITLES = {
    "table2": "Table 2: number of candidates and re-ranker",
    "table3": "Table 3: positions and experts",
    "table4": "Table 4: KuaiRec",
    "table5": "Table 5: relative error of the greedy approximation",
    "table6": "Table 6: five experts and group normalisation",
    "figure3": "Figure 3: policy value against steps",
    "figure4": "Figure 4: seconds for 1000 steps",
}

SHOWN = ("all items", "P > 0.02", "0.04 < P < 0.4", "largest", "weighted by P", "excess of the sum")
"""Errors shown in Table 5; the report holds more."""

STAND_IN = (
    "**Not KuaiRec.** These rows were trained on a generated problem of the same size, because KuaiRec's "
    "file was not available. The paper's numbers are shown for orientation only; they do not compare."
)


def markdown(report: dict[str, Any]) -> str:
    """Returns a report as markdown: table, missing trials, hardware and versions."""
    body = {"figure3": _figure3, "table5": _table5, "figure4": _figure4}.get(
        report["table"], _values
    )(report)
    parts = [grid(body), *_notes(report), _hardware(report)]
    return "\n\n".join(
        ([STAND_IN] if report["stand_in"] else []) + [part for part in parts if part]
    )


def _values(report: dict[str, Any]) -> list[list[str]]:
    """Table of one row per cell of the paper's table: its value and ours at the steps that both have."""
    rows = list(report["rows"].values())
    if not rows:
        return [["estimator"], ["no trial has begun"]]
    given = sorted({int(step) for row in rows for step in row["published"]})
    furthest = max(row["reached"] for row in rows)
    steps = [step for step in given if step <= furthest] or given[:1]
    labels = list(rows[0]["labels"])
    head = labels + [f"{who}, {step:,} steps" for step in steps for who in ("paper", "ours")]
    lines = [[*head, "difference"]]
    for row in rows:
        cells = [_label(name, row["labels"][name]) for name in labels]
        difference = "—"
        for step in steps:
            paper, ours = row["published"].get(str(step)), row["at"].get(str(step))
            cells += ["—" if paper is None else f"{paper:.2f}", _ours(row, step, step == steps[0])]
            if paper is not None and ours and ours["mean"] is not None:
                difference = f"{ours['mean'] - paper:+.2f}"
        lines.append([*cells, difference])
    return lines


def _ours(row: dict[str, Any], step: int, first: bool) -> str:
    """Our value at a step; in the first column the last value, if training has not reached the step."""
    if str(step) in row["at"]:
        return interval(row["at"][str(step)])
    if first and row["reached"] < step:
        return f"{interval(row['at'][str(row['reached'])])} at {row['reached']:,}"
    return "—"


def interval(value: dict[str, Any], digits: int = 2) -> str:
    """Formats mean ± half-width.

    >>> interval({"mean": 7.4, "half_width_95": 0.125})
    '7.40 ± 0.12'
    """
    if value["mean"] is None:
        return "not finite"
    half = value["half_width_95"]
    text = f"{value['mean']:.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def _figure3(report: dict[str, Any]) -> list[list[str]]:
    lines = [
        ["estimator", "K", "last value", "at step", "steps to 95 % of `v_pg_swr`'s", "by seed"]
    ]
    needed = {entry["row"]: entry for entry in report["learning_speed"]}
    for name, row in report["rows"].items():
        entry = needed.get(name, {"steps": None, "steps_by_seed": []})
        seeds = ", ".join(_step(step) for step in entry["steps_by_seed"])
        lines.append(
            [
                f"`{row['labels']['estimator']}`",
                row["labels"]["K"],
                interval(row["at"][str(row["reached"])]),
                f"{row['reached']:,}",
                _step(entry["steps"]),
                seeds or "—",
            ]
        )
    return lines


def _step(step: int | None) -> str:
    return "not reached" if step is None else f"{step:,}"


def _table5(report: dict[str, Any]) -> list[list[str]]:
    """Table of one row per temperature and K: the paper's number and ours by each definition."""
    lines = [["temperature", "K", "paper", *(f"ours: {name}" for name in SHOWN)]]
    for cell in report["cells"]:
        errors = [_scientific(cell["errors"][name]) for name in SHOWN]
        paper = "—" if cell["paper"] is None else f"{cell['paper']:.1e}"
        lines.append([f"{cell['temperature']:g}", str(cell["num_candidates"]), paper, *errors])
    return lines


def _distances(report: dict[str, Any]) -> str:
    """Sentence with the distance of each definition from the paper's positive numbers, in powers of ten."""
    distances = {}
    for name in report["definitions"]:
        ratios = [
            math.log10(cell["errors"][name]["mean"] / cell["paper"])
            for cell in report["cells"]
            if cell["paper"] and cell["errors"][name]["mean"]
        ]
        if ratios:
            distances[name] = math.sqrt(sum(r * r for r in ratios) / len(ratios))
    words = [f"{name} {d:.1f}" for name, d in sorted(distances.items(), key=lambda pair: pair[1])]
    return (
        "Distance of each definition from the paper's positive numbers, as the root mean square of "
        f"log10(ours / paper): {', '.join(words)}."
        if words
        else ""
    )


def _scientific(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "no such item"
    half = value["half_width_95"]
    return f"{value['mean']:.1e}" + ("" if half is None else f" ± {half:.0e}")


def _figure4(report: dict[str, Any]) -> list[list[str]]:
    lines = [
        [
            "estimator",
            "K",
            "L",
            "M",
            "paper, M1 laptop",
            "ours",
            "without the environment",
            "fastest",
        ]
    ]
    for arm in report["arms"]:
        settings, paper = arm["settings"], arm["paper"]
        whole, learner = arm["seconds"]["whole"], arm["seconds"]["learner"]
        lines.append(
            [
                f"`{settings['estimator']}`",
                *(str(settings[n]) for n in ("num_candidates", "ranking_length", "num_experts")),
                "—" if paper is None else f"{paper:.1f} s",
                f"{whole['median']:.2f} s",
                f"{learner['median']:.2f} s",
                f"{whole['min']:.2f} / {learner['min']:.2f} s",
            ]
        )
    return lines


def _label(name: str, value: str) -> str:
    return f"`{value}`" if name == "estimator" else value


def _notes(report: dict[str, Any]) -> list[str]:
    """Notes on seeds that stopped and on missing trials."""
    rows = report.get("rows", {})
    notes = [
        f"- `{name}`: seed {stop['seed']} stopped at step {stop['step']:,} by {stop['by']}"
        for name, row in rows.items()
        for stop in row["stopped"]
    ]
    for key, words in (("not_begun", "Not begun yet"), ("unfinished", "Not finished yet")):
        if report.get(key):
            notes.append(f"- {words}: " + ", ".join(f"`{name}`" for name in report[key]))
    if report["table"] == "table5":
        notes.append(_distances(report))
    if rows and not any(row["stopped"] for row in rows.values()):
        notes.append("- No seed stopped at a non-finite value.")
    return ["\n".join(filter(None, notes))]


def _hardware(report: dict[str, Any]) -> str:
    """Footer with the number of seeds, the hardware and the versions."""
    found = [row["versions"] for row in report.get("rows", {}).values()] or [report.get("versions")]
    lines = {
        f"{v['machine']}; {v['device']}; jax {v['jax']}, python {v['python']}" for v in found if v
    }
    seeds = {len(row["config"]["seeds"]) for row in report.get("rows", {}).values()}
    words = (
        [f"Mean of {' or '.join(map(str, sorted(seeds)))} seeds ± 95 % interval."] if seeds else []
    )
    parts = [*words, *(f"{line}." for line in sorted(lines))]
    return f"*{' '.join(parts)}*" if parts else ""
