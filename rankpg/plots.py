"""Pictures (the extra `cli` brings matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankpg.summary import curve

__all__ = ["COLORS", "learning_curves", "pyplot"]

COLORS = {
    "v_pg": "tab:gray",
    "v_pg_swr": "tab:blue",
    "ca_pg": "tab:orange",
    "top1_pg": "tab:green",
    "ca_pg_swr": "tab:red",
    "ca_pg_threshold": "tab:purple",
}
"""estimator -> its colour in every picture that compares them."""


def learning_curves(
    runs: Mapping[str, list[dict[str, Any]]], path: Path, *, title: str = ""
) -> None:
    """Policy value against steps: the mean over seeds with its 95 % interval, and the optimum.

    Args:
      runs: label -> metrics rows.
      path: the PNG that is written.
      title: above the picture.

    Raises:
      ModuleNotFoundError: matplotlib is missing; names the extra.
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
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _mark_stopped(axes: Any, metrics: list[dict[str, Any]], color: Any) -> None:
    """A cross where a seed stopped before the end."""
    for row in metrics:
        if row.get("stopped_at_step") is not None and row["policy_value"] is not None:
            axes.plot(row["stopped_at_step"], row["policy_value"], "x", color=color, markersize=9)


def pyplot() -> Any:
    """matplotlib.pyplot without a display; ModuleNotFoundError names the extra where it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a picture needs matplotlib: pip install 'rankpg[cli]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
