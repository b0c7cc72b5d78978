"""Means over seeds with intervals, and learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg._utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType

__all__ = ["COLORS", "curve", "learning_curves", "mean_interval", "pyplot"]


def mean_interval(values: Iterable[float]) -> tuple[float, float | None]:
    """Returns the mean and the half-width of its 95 % interval, t * s / sqrt(n) (None for one value).

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> f"{mean:.2f} +- {half:.2f}"  # t of 2 degrees of freedom is 4.303
    '2.00 +- 2.48'
    """
    from scipy.special import stdtrit  # slow to import

    sample = np.asarray(list(values), float)
    if sample.size < 2:
        return float(sample.mean()), None
    half = stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / np.sqrt(sample.size)
    return float(sample.mean()), float(half)


def curve(
    metrics: Iterable[dict[str, Any]], name: str = "policy_value"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the learning curve of a metric: steps, means over seeds, half-widths (0 for one seed)."""
    by_step: dict[int, list[float]] = {}
    for row in metrics:
        if row.get(name) is not None:
            by_step.setdefault(row["step"], []).append(row[name])
    steps = sorted(by_step)
    intervals = [mean_interval(by_step[step]) for step in steps]
    means = np.array([mean for mean, _ in intervals])
    return np.array(steps), means, np.array([half or 0.0 for _, half in intervals])


COLORS = {
    "v_pg": "tab:gray",
    "v_pg_swr": "tab:blue",
    "ca_pg": "tab:orange",
    "top1_pg": "tab:green",
    "ca_pg_swr": "tab:red",
    "ca_pg_threshold": "tab:purple",
    "v_pg_set": "tab:olive",
    "ca_pg_swap": "tab:cyan",
}
"""estimator -> its colour in every plot that compares estimators."""


def learning_curves(
    runs: Mapping[str, list[dict[str, Any]]], path: Path, *, title: str = ""
) -> None:
    """Plots the policy value against steps: the mean over seeds, its 95 % interval, and the optimum.

    Args:
      runs: label -> metrics rows.
      path: the PNG file to write.
      title: above the plot; the number of seeds if empty.

    Raises:
      ModuleNotFoundError: matplotlib is missing; the message names the extra.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    optimum = None
    for label, metrics in runs.items():
        steps, mean, half = curve(metrics)
        (line,) = axes.plot(steps, mean, marker="o", markersize=3, linewidth=1.8, label=label)
        axes.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.18, lw=0)
        _mark_stopped(axes, metrics, line.get_color())
        optimum = metrics[-1].get("optimum")
    if optimum is not None:
        axes.axhline(optimum, color="0.35", linestyle="--", linewidth=1)
        axes.annotate(
            f"optimum {optimum:.3f}", (0.01, optimum), xycoords=("axes fraction", "data"),
            textcoords="offset points", xytext=(2, 3), color="0.35", fontsize=9,
        )  # fmt: skip
        axes.margins(y=0.08)
    seeds = len({row["seed"] for metrics in runs.values() for row in metrics})
    axes.set_xlabel("training steps")
    axes.set_ylabel("policy value (mean reward)")
    axes.set_title(title or f"mean of {seeds} seeds, 95 % interval" * (seeds > 1))
    axes.grid(alpha=0.25)
    axes.legend(loc="best", frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    plt.close(figure)


def _mark_stopped(axes: Axes, metrics: list[dict[str, Any]], color: ColorType) -> None:
    """Marks with a cross where a seed stopped early."""
    for row in metrics:
        if row.get("stopped_at_step") is not None and row["policy_value"] is not None:
            axes.plot(row["stopped_at_step"], row["policy_value"], "x", color=color, markersize=9)


def pyplot() -> Any:
    """Returns matplotlib.pyplot for use without a display.

    Raises:
      ModuleNotFoundError: matplotlib is missing; the message names the extra.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a plot needs matplotlib: pip install 'rankpg[cli]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
