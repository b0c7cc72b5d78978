"""Pictures of the reports: one function per measurement, from the report to a figure."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankpg._utils.plots import COLORS

__all__ = ["roofline", "scale", "throughput"]

_STYLES = {"streamed": "-", "dense": "--"}
_PARTS = {
    "products": "tab:blue",
    "exponentials": "tab:orange",
    "optimizer": "tab:green",
    "memory": "tab:green",
}


def throughput(plt: Any, report: dict[str, Any]) -> Any:
    """Bars of the steps per second, a pair per estimator."""
    rows = report["rows"]
    figure, axes = plt.subplots(figsize=(7.5, 1.8 + 0.5 * len(rows)), layout="constrained")
    series = {
        "update": [row["steps_per_second"] for row in rows.values()],
        "without the environment": [
            row["without_environment"]["steps_per_second"] for row in rows.values()
        ],
    }
    for offset, (label, values) in enumerate(series.items()):
        places = [place + 0.4 * (offset - 0.5) for place in range(len(rows))]
        bars = axes.barh(places, values, height=0.36, color=("tab:blue", "tab:cyan")[offset])
        bars.set_label(label)
        axes.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"steps per second ({_settings(report['settings'])})")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def scale(plt: Any, report: dict[str, Any]) -> Any:
    """Time and memory against N, log-log, with fitted power laws (pale) and their exponents."""
    figure, grid = plt.subplots(1, 2, figsize=(11.5, 6.4), layout="constrained")
    panels = (
        ("time", "milliseconds per step", 1e-3, lambda row: _medians(row["seconds_per_step"])),
        ("memory", "temporary memory, MiB", 2.0**20, lambda row: row["temporary_bytes"]),
    )
    for axes, (kind, label, unit, values_of) in zip(grid, panels, strict=True):
        for row in report["rows"]:
            points = {int(n): value / unit for n, value in values_of(row).items() if value > 0}
            if points:
                _curve(axes, row, kind, points, report["fit_from"], unit)
        axes.set(xscale="log", yscale="log", xlabel="N, items in the catalogue", ylabel=label)
        axes.grid(alpha=0.25)
        if axes.has_data():
            title = f"exponent of N (pale: the fit, from N = {report['fit_from']:,})"
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=7,
                title=title, title_fontsize=7,
            )  # fmt: skip
        axes.set_title(_settings(report["settings"]), fontsize=8)
    return figure


def _curve(
    axes: Any, row: dict[str, Any], kind: str, points: dict[int, float], fit_from: int, unit: float
) -> None:
    """Draws one curve: the measurements and the fitted power law."""
    color, style = COLORS.get(row["estimator"], "0.3"), _STYLES[row["retrieval"]]
    law = row["growth"][kind]
    words = f"{row['estimator']}, {row['retrieval']}"
    label = words if law is None else f"{words}: {law['exponent']:.2f}"
    axes.plot(
        list(points),
        list(points.values()),
        style,
        marker="o",
        ms=4,
        lw=1.2,
        color=color,
        label=label,
    )
    if law is not None:
        sizes = np.array([n for n in points if n >= fit_from], float)
        fitted = law["factor"] * sizes ** law["exponent"] / unit
        axes.plot(sizes, fitted, color=color, lw=3.5, alpha=0.25, solid_capstyle="round")


def roofline(plt: Any, report: dict[str, Any]) -> Any:
    """Bars of the parts of the limit next to the step (100 %); summed parts are stacked end to end."""
    rows = report["rows"]
    figure, axes = plt.subplots(figsize=(8.5, 1.9 + 0.9 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        step, left = row["seconds_per_step"]["median"], 0.0
        added = row["combined_by"] == "sum"
        height = 0.36 if added else 0.36 / len(row["parts"])
        axes.barh(
            place + 0.2, 1.0, height=0.36, color="0.75", label="_" * place + "a measured step"
        )
        axes.annotate(
            f"{1e3 * step:.3g} ms", (0.01, place + 0.2), va="center", fontsize=8, color="0.2"
        )
        for index, (name, timing) in enumerate(row["parts"].items()):
            share = timing["median"] / step
            offset = 0.0 if added else height * (index - (len(row["parts"]) - 1) / 2)
            axes.barh(
                place - 0.2 + offset, share, left=left, height=height, color=_PARTS[name],
                label="_" * place + name,
            )  # fmt: skip
            left += share if added else 0.0
        end = row["share_of_limit"]
        axes.annotate(
            f"limit: {end:.0%}", (end, place - 0.2), xytext=(4, 0), va="center", fontsize=8,
            textcoords="offset points",
        )  # fmt: skip
    axes.axvline(1.0, color="0.35", ls="--", lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['title']}\n{row['retrieval']}" for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.xaxis.set_major_formatter("{x:.0%}")
    shape = rows[0]["shape"]
    axes.set_xlabel(f"share of a step's time ({report['estimator']}, B = {shape['batch_size']})")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _medians(timings: dict[str, dict[str, float]]) -> dict[str, float]:
    return {n: timing["median"] for n, timing in timings.items()}


def _settings(settings: dict[str, int]) -> str:
    """Formats a shape in the letters of the legend."""
    letters = {
        "num_items": "N", "embedding_dim": "D", "num_candidates": "K", "batch_size": "B", "num_experts": "M",
    }  # fmt: skip
    return ", ".join(f"{letters[name]} = {value:,}" for name, value in settings.items())
