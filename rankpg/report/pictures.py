"""Figures of the report as data URIs, drawn with matplotlib.

A figure is as wide as a column of the page, so that its text is legible on a phone. The palette is that of
Okabe and Ito, which colour-blind readers can distinguish; markers differ as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg._utils.plots import curve, mean_interval
from rankpg.evaluation.calibration import reliability
from rankpg.evaluation.exposure import lorenz
from rankpg.report.records import ReportedRun
from rankpg.types import Float, Int

if TYPE_CHECKING:  # matplotlib is an extra, and slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

__all__ = [
    "against_recall",
    "color_of",
    "dots",
    "item_map",
    "lorenz_curves",
    "over_steps",
    "regrets",
    "reliability_curve",
    "shares_of_groups",
]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_WIDTH, _HEIGHT = 5.2, 3.7
_MOST_GROUPS = 7

Style = dict[str, Any]


def color_of(index: int) -> str:
    """Returns the colour of a run, by its number on the page."""
    return _COLORS[index % len(_COLORS)]


def _line(run: ReportedRun) -> Style:
    """Returns colour, marker, line style and label of a run."""
    index = run.index
    return {
        "color": color_of(index),
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": ("-", "--", ":")[index // len(_COLORS) % 3],
        "label": label(run.name),
    }


def label(text: str, length: int = 30) -> str:
    r"""Shortens text in its middle and replaces characters that do not print.

    >>> label("_a\nname")  # matplotlib omits labels that begin with _ from legends
    ' _a?name'
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(shown) > length:
        shown = f"{shown[: length // 2 - 1]}…{shown[1 - length // 2 :]}"
    return f" {shown}" if shown.startswith("_") else shown


@contextmanager
def _canvas(height: float = _HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """Yields a figure and its axes, with mathematical markup in text turned off."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "text.parse_math": False, "font.size": 10, "svg.hashsalt": "rankpg", "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.6, "lines.markersize": 4,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def _data_uri(figure: Figure, kind: str = "svg") -> str:
    """Returns a figure as a data URI."""
    file = io.BytesIO()
    known: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
    figure.savefig(file, format=kind, **known)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(file.getvalue()).decode()}"


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Adds a legend below the axes."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, names)) > 24 else columns
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


def over_steps(runs: Sequence[ReportedRun], name: str, title: str, limit: str | None = None) -> str:
    """Plots a metric against steps: mean over seeds, 95 % interval, a cross where a seed stopped.

    Args:
      runs: runs that have the metric.
      name: name of the metric.
      title: label of the vertical axis.
      limit: metric that is drawn as a dashed line, such as the optimum.
    """
    with _canvas() as (figure, axes):
        for run in runs:
            style = _line(run)
            steps, mean, half = curve(run.metrics, name)
            axes.plot(steps, mean, **style)
            axes.fill_between(
                steps, mean - half, mean + half, color=style["color"], alpha=0.18, lw=0
            )
            for row in run.last:
                if row.get("stopped_by") and row.get(name) is not None:
                    at = row["stopped_at_step"], row[name]
                    axes.plot(*at, "x", color=style["color"], ms=10, mew=2)
        limits = [value for s in runs for value in (s.final(limit) if limit else [])]
        if limits:
            value = max(limits)
            axes.axhline(value, color="0.35", ls="--", lw=1)
            axes.annotate(
                f"{limit} {value:.4g}", (1, value), xycoords=("axes fraction", "data"), ha="right",
                textcoords="offset points", xytext=(-2, 4), color="0.35", fontsize=9,
            )  # fmt: skip
        axes.set(xlabel="training steps", ylabel=title)
        axes.margins(y=0.09)
        _legend(figure, axes)
        return _data_uri(figure)


def against_recall(runs: Sequence[ReportedRun], name: str, title: str) -> str:
    """Plots a metric of the last evaluation against candidate recall, one point per seed."""
    with _canvas() as (figure, axes):
        for run in runs:
            style = _line(run) | {"linestyle": "none", "markersize": 7, "alpha": 0.85}
            rows = [row for row in run.last if _has(row, name, "candidate_recall")]
            recall = [row["candidate_recall"] for row in rows]
            axes.plot(recall, [row[name] for row in rows], **style)
        axes.set(xlabel="candidate recall, last evaluation", ylabel=f"{title}, last evaluation")
        axes.margins(0.12)
        _legend(figure, axes)
        return _data_uri(figure)


def dots(
    names: Sequence[str], means: Sequence[float], ends: Sequence[tuple[float, float]], title: str
) -> str:
    """Plots a mean and its interval for each name, one below the other.

    Args:
      names: labels of the rows, from the top.
      means: one for each row.
      ends: lower and upper end of each interval.
      title: label of the horizontal axis.
    """
    with _canvas(1.2 + 0.32 * len(names)) as (figure, axes):
        # Rounding may put the ends of an interval without width on the other side of the mean.
        lows = [max(mean - low, 0) for mean, (low, _) in zip(means, ends, strict=True)]
        highs = [max(high - mean, 0) for mean, (_, high) in zip(means, ends, strict=True)]
        rows = range(len(names))
        axes.errorbar(means, rows, xerr=[lows, highs], color=color_of(0), fmt="o", capsize=3)
        axes.set_xlim(left=0)
        axes.set_xlabel(title)
        _name_rows(axes, names)
        return _data_uri(figure)


def _has(row: dict[str, Any], *names: str) -> bool:
    """Returns True if a row of metrics has all of these numbers."""
    return all(row.get(name) is not None for name in names)


def regrets(runs: Sequence[ReportedRun]) -> str:
    """Plots the share of the optimum that each stage loses, stacked, with the interval of the sum."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    parts = (
        ("retrieval_regret", "retrieval regret", "#0072B2"),
        ("reranker_regret", "re-ranker regret", "#E69F00"),
    )
    names = [name for name, _, _ in parts]
    with _canvas(1.7 + 0.42 * len(runs)) as (figure, axes):
        shares = [
            np.array([[row[name] / abs(row["optimum"]) for name in names] for row in run.last
                      if _has(row, "optimum", *names) and row["optimum"]] or [[0.0] * len(names)])
            for run in runs
        ]  # fmt: skip
        means = np.stack([of_run.mean(axis=0) for of_run in shares])
        left = np.zeros(len(runs))
        for column, (_, words, color) in enumerate(parts):
            axes.barh(
                range(len(runs)),
                means[:, column],
                left=left,
                color=color,
                height=0.6,
                label=words,
            )
            left += means[:, column]
        for row, of_run in enumerate(shares):
            half = mean_interval(of_run.sum(axis=1))[1]
            axes.errorbar(left[row], row, xerr=half, color="0.25", capsize=3, fmt="none")
        _name_rows(axes, [s.name for s in runs])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_xlabel("regret, share of the optimum")
        _legend(figure, axes)
        return _data_uri(figure)


def reliability_curve(run: ReportedRun) -> str:
    """Plots observed frequency against predicted and exact probability, with binomial intervals."""
    from matplotlib.ticker import NullFormatter

    found = run.calibration
    assert found is not None
    series = [
        (found.exact, "exact", {"color": "0.45", "marker": "s", "mfc": "none"}),
        (found.predicted, f"predicted ({found.method})", _line(run)),
    ]
    with _canvas() as (figure, axes):
        lowest, highest = 1.0, 1.0
        for values, words, style in series:
            if values is None:
                continue
            bins = [b for b in reliability(values, found.hits, found.num_draws) if b.observed > 0]
            x, y = [b.predicted for b in bins], [b.observed for b in bins]
            error = [[b.observed - b.low for b in bins], [b.high - b.observed for b in bins]]
            axes.errorbar(x, y, yerr=error, capsize=2, **(style | {"label": words}))
            lowest, highest = min([lowest, *x, *y]), max([highest, *x])
        ends = [lowest / 1.5, highest * 1.15]
        axes.plot(ends, ends, "--", color="0.35", lw=1, label="calibrated", zorder=0)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(ends[0], 1.3))
        for axis in (axes.xaxis, axes.yaxis):  # powers of ten would be formulas
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="inclusion probability", ylabel="observed frequency")
        _legend(figure, axes, 3)
        return _data_uri(figure)


def lorenz_curves(counts: Sequence[tuple[ReportedRun, Int[np.ndarray, "N"]]]) -> str:
    """Plots the Lorenz curve of each run's item counts, and the diagonal."""
    with _canvas() as (figure, axes):
        for run, of_run in counts:
            items, exposure = lorenz(of_run)
            some = np.unique(np.linspace(0, len(items) - 1, 301).round().astype(int))
            style: Style = _line(run) | {"marker": ""}
            axes.plot(items[some], exposure[some], **style)
        axes.plot([0, 1], [0, 1], "--", color="0.35", lw=1, label="equal exposure")
        axes.set(xlabel="share of items, least exposed first", ylabel="share of exposure")
        _legend(figure, axes)
        return _data_uri(figure)


def shares_of_groups(
    runs: Sequence[ReportedRun], groups: Sequence[str], ratios: Sequence[Sequence[float | None]]
) -> str:
    """Plots the exposure share over the item share of every group, one bar per run."""
    with _canvas(1.6 + (0.2 + 0.2 * len(runs)) * len(groups)) as (figure, axes):
        height = 0.8 / len(runs)
        for number, (run, of_run) in enumerate(zip(runs, ratios, strict=True)):
            at = np.arange(len(groups)) + (number - (len(runs) - 1) / 2) * height
            widths = [np.nan if value is None else value for value in of_run]
            style = _line(run)
            axes.barh(at, widths, height=height, color=style["color"], label=style["label"])
        axes.axvline(1, color="0.35", ls="--", lw=1)
        _name_rows(axes, groups)
        axes.set_xlabel("share of exposure / share of items")
        _legend(figure, axes)
        return _data_uri(figure)


def item_map(run: ReportedRun) -> str:
    """Plots the item map, coloured by group if there are groups, else by exposure."""
    found = run.item_map
    assert found is not None
    with _canvas(4.2) as (figure, axes):
        if run.groups is not None:
            _plot_groups(axes, found.coordinates, run.groups[found.items])
            _legend(figure, axes)
        elif run.exposure is not None:
            count = run.exposure.candidates[0][found.items]
            order = np.argsort(count)  # those that are candidates on top
            dots = axes.scatter(
                *found.coordinates[order].T,
                c=np.log10(1 + count[order]),
                s=9,
                cmap="cividis_r",
                lw=0,
            )
            bar = figure.colorbar(
                dots, ax=axes, shrink=0.85, label="contexts with the item as candidate"
            )
            most = int(count.max())
            ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick <= most]
            bar.set_ticks([np.log10(1 + t) for t in ticks], labels=[str(t) for t in ticks])
        else:
            axes.scatter(*found.coordinates.T, s=9, color=_COLORS[0], lw=0)
        axes.set_xlabel(f"first component ({found.explained_variance[0]:.0%} of the variance)")
        axes.set_ylabel(f"second component ({found.explained_variance[1]:.0%} of the variance)")
        axes.set_aspect("equal", adjustable="datalim")
        return _data_uri(figure, "png")


def _plot_groups(axes: Axes, coordinates: Float[np.ndarray, "items 2"], groups: np.ndarray) -> None:
    """Plots the largest groups in colours of their own and the others in grey."""
    names, sizes = np.unique(groups, return_counts=True)
    largest = [str(name) for name in names[np.argsort(-sizes, kind="stable")][:_MOST_GROUPS]]
    others = ~np.isin(groups, largest)
    if others.any():
        axes.scatter(*coordinates[others].T, s=9, color="0.75", lw=0, label="other groups")
    for number, name in enumerate(largest):
        axes.scatter(
            *coordinates[groups == name].T, s=13, color=_COLORS[number], marker=_MARKERS[number], lw=0,
            label=label(name), alpha=0.85,
        )  # fmt: skip


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Labels the rows of horizontal bars, from the top down."""
    axes.set_yticks(range(len(names)), [label(name, 22) for name in names])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
