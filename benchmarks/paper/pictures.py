"""Pictures of the reports; matplotlib comes with the extra `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankpg._utils.plots import COLORS, pyplot

__all__ = ["draw"]


def draw(report: dict[str, Any], file: Path) -> bool:
    """Draws a report; returns False if it has nothing to show.

    Raises:
      ModuleNotFoundError: matplotlib is missing; the message names the extra.
    """
    painter = {"figure3": _curves, "figure4": _bars, "table5": _errors}.get(
        report["table"], _values
    )
    if not (report.get("rows") or report.get("arms") or report.get("cells")):
        return False
    plt = pyplot()
    figure = painter(plt, report)
    figure.suptitle(report["title"] + _scale_words(report))
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return True


def _scale_words(report: dict[str, Any]) -> str:
    problem = " (a generated stand-in, not KuaiRec)" if report["stand_in"] else ""
    return f"{problem}, scale {report['scale']}"


def _values(plt: Any, report: dict[str, Any]) -> Any:
    """Last value of every trial with its interval, next to the paper's; one panel per ranking length."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"].values():
        panels.setdefault(row["labels"].get("L", ""), []).append(row)
    counts = [len(rows) for rows in panels.values()]
    figure, grid = plt.subplots(
        len(panels), 1, figsize=(8, 1 + 0.5 * len(panels) + 0.27 * sum(counts)), squeeze=False,
        height_ratios=counts, layout="constrained",
    )  # fmt: skip
    for axes, rows in zip(grid[:, 0], panels.values(), strict=True):
        for place, row in enumerate(rows):
            _value(axes, place, row)
        words = [", ".join([r["labels"]["estimator"], *_others(r["labels"])]) for r in rows]
        axes.set_yticks(range(len(rows)), words, fontsize=7)
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.grid(alpha=0.25)
    axes = grid[-1, 0]
    axes.set_xlabel("policy value")
    axes.plot([], [], "o", color="0.5", label="ours, at the step shown, 95 % interval")
    axes.plot([], [], "D", color="0.2", mfc="none", label="paper, 50,000 steps")
    axes.plot([], [], "s", color="0.2", mfc="none", label="paper, 500,000 steps")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def _value(axes: Any, place: int, row: dict[str, Any]) -> None:
    """Draws one trial of a panel."""
    value, color = row["at"][str(row["reached"])], COLORS[row["labels"]["estimator"]]
    if value["mean"] is not None:
        half = value["half_width_95"] or 0.0
        axes.errorbar(value["mean"], place, xerr=half, fmt="o", color=color, ms=4, capsize=2)
        axes.annotate(
            f"{row['reached']:,}", (value["mean"], place), xytext=(0, 3),
            textcoords="offset points", fontsize=6, color="0.4", ha="center",
        )  # fmt: skip
    for step, paper in row["published"].items():
        marker = "D" if int(step) < 500_000 else "s"
        axes.plot(paper, place, marker, color="0.2", ms=4, mfc="none")


def _others(labels: dict[str, str]) -> list[str]:
    return [
        f"{name} = {value}" if len(name) == 1 else value
        for name, value in labels.items()
        if name != "estimator"
    ]


def _curves(plt: Any, report: dict[str, Any]) -> Any:
    """Learning curves: one panel per K, one line per seed and estimator; a cross where a seed stopped."""
    rows = list(report["rows"].values())
    panels = sorted({int(row["labels"]["K"]) for row in rows})
    figure, grid = plt.subplots(
        1, len(panels), figsize=(1.5 + 3.6 * len(panels), 4), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, k in zip(grid[0], panels, strict=True):
        for row in rows:
            if row["labels"]["K"] != str(k):
                continue
            name = row["labels"]["estimator"]
            for index, (seed, values) in enumerate(row["policy_value"].items()):
                finite = [value if value is not None else float("nan") for value in values]
                label = name if index == 0 else None
                axes.plot(row["steps"], finite, color=COLORS[name], lw=0.9, alpha=0.8, label=label)
                for stop in row["stopped"]:
                    if str(stop["seed"]) == seed:
                        axes.plot(stop["step"], finite[-1], "x", color=COLORS[name], ms=9, mew=2)
        if rows[0]["optimum"] is not None:
            axes.axhline(rows[0]["optimum"], color="0.35", ls="--", lw=0.8)
        axes.set_title(f"K = {k}")
        axes.set_xlabel("training steps")
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("policy value")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _bars(plt: Any, report: dict[str, Any]) -> Any:
    """Bars of the seconds for 1000 steps: the paper's, ours, and ours without the environment."""
    arms = report["arms"]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.34 * len(arms)), layout="constrained")
    series = (
        ("paper, M1 laptop", "0.75", [arm["paper"] for arm in arms]),
        ("ours", "tab:blue", [arm["seconds"]["whole"]["median"] for arm in arms]),
        (
            "ours without the environment",
            "tab:cyan",
            [a["seconds"]["learner"]["median"] for a in arms],
        ),
    )
    for offset, (label, color, values) in enumerate(series):
        places = [place + 0.27 * (offset - 1) for place in range(len(arms))]
        axes.barh(places, [v or 0 for v in values], height=0.25, color=color, label=label)
    axes.set_yticks(range(len(arms)), [_arm(arm["settings"]) for arm in arms], fontsize=7)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set_xlabel("seconds for 1000 steps")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _arm(settings: dict[str, Any]) -> str:
    return (
        f"{settings['estimator']}, K = {settings['num_candidates']}, "
        f"L = {settings['ranking_length']}, M = {settings['num_experts']}"
    )


def _errors(plt: Any, report: dict[str, Any]) -> Any:
    """Error against K: one panel per temperature, one line per definition."""
    temperatures = list(dict.fromkeys(cell["temperature"] for cell in report["cells"]))
    figure, grid = plt.subplots(
        1, len(temperatures), figsize=(1.5 + 3.4 * len(temperatures), 4), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, temperature in zip(grid[0], temperatures, strict=True):
        cells = [cell for cell in report["cells"] if cell["temperature"] == temperature]
        k = [cell["num_candidates"] for cell in cells]
        for name in report["definitions"]:
            means = [cell["errors"][name]["mean"] for cell in cells]
            finite = [mean or float("nan") for mean in means]  # no zeros on a log axis
            axes.plot(k, finite, "o-", ms=3, lw=1, label=name)
        paper = [cell["paper"] or float("nan") for cell in cells]
        axes.plot(k, paper, "D--", color="0.2", mfc="none", label="paper")
        axes.set(title=f"temperature {temperature:g}", xlabel="K", xscale="log", yscale="log")
        axes.set_xticks(k, [str(number) for number in k])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("error of the greedy approximation")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
