"""Pictures for a page: each is an address that holds the picture itself (`data:`), drawn by matplotlib.

A picture is as wide as a column of the page, so that its letters can be read on a phone. Colours are those
of Okabe and Ito, which tell apart for colour-blind readers; markers differ as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rankpg._utils.plots import curve, mean_interval
from rankpg.evaluation.calibration import reliability
from rankpg.evaluation.exposure import lorenz
from rankpg.report.gather import Subject

__all__ = [
    "against_recall",
    "color_of",
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


def color_of(place: int) -> str:
    """The colour of a run, by its place on the page."""
    return _COLORS[place % len(_COLORS)]


def _line(subject: Subject) -> Style:
    """Colour, marker, stroke and name of a run."""
    place = subject.place
    again = place // len(_COLORS)
    return {
        "color": color_of(place),
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": ("-", "--", ":")[again % 3],
        "label": label(subject.name),
    }


def label(text: str, length: int = 30) -> str:
    """Text as a picture can show it: what does not print is replaced, and long text cut in its middle.

    >>> label("_a\\nname")  # matplotlib leaves a name that begins with _ out of legends
    ' _a?name'
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(shown) > length:
        shown = f"{shown[: length // 2 - 1]}…{shown[1 - length // 2 :]}"
    return f" {shown}" if shown.startswith("_") else shown


@contextmanager
def _canvas(height: float = _HEIGHT) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes; text is taken as it is, and not as formulas."""
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


def _address(figure: Any, kind: str = "svg") -> str:
    """The picture as an address that holds it."""
    file = io.BytesIO()
    known: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
    figure.savefig(file, format=kind, **known)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(file.getvalue()).decode()}"


def _legend(figure: Any, axes: Any, columns: int = 2) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, names)) > 24 else columns
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


def over_steps(subjects: Sequence[Subject], name: str, title: str, limit: str | None = None) -> str:
    """A metric against steps, mean over seeds with its 95 % interval; a cross where a seed stopped.

    `limit` is the metric, the same for all, that is drawn as a dashed line.
    """
    with _canvas() as (figure, axes):
        for subject in subjects:
            style = _line(subject)
            steps, mean, half = curve(subject.metrics, name)
            axes.plot(steps, mean, **style)
            axes.fill_between(
                steps, mean - half, mean + half, color=style["color"], alpha=0.18, lw=0
            )
            for row in subject.last:
                if row.get("stopped_by") and row.get(name) is not None:
                    at = row["stopped_at_step"], row[name]
                    axes.plot(*at, "x", color=style["color"], ms=10, mew=2)
        limits = [value for s in subjects for value in (s.final(limit) if limit else [])]
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
        return _address(figure)


def against_recall(subjects: Sequence[Subject], name: str, title: str) -> str:
    """A metric at the end against candidate recall, a point a seed."""
    with _canvas() as (figure, axes):
        for subject in subjects:
            style = _line(subject) | {"linestyle": "none", "markersize": 7, "alpha": 0.85}
            rows = [row for row in subject.last if _has(row, name, "candidate_recall")]
            recall = [row["candidate_recall"] for row in rows]
            axes.plot(recall, [row[name] for row in rows], **style)
        axes.set(xlabel="candidate recall at the end", ylabel=f"{title} at the end")
        axes.margins(0.12)
        _legend(figure, axes)
        return _address(figure)


def _has(row: dict[str, Any], *names: str) -> bool:
    return all(row.get(name) is not None for name in names)


def regrets(subjects: Sequence[Subject]) -> str:
    """The share of the optimum that is lost at each stage at the end, stacked, with the sum's interval."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    parts = (
        ("retrieval_regret", "lost in retrieval", "#0072B2"),
        ("reranker_regret", "lost in the re-ranker", "#E69F00"),
    )
    names = [name for name, _, _ in parts]
    with _canvas(1.7 + 0.42 * len(subjects)) as (figure, axes):
        shares = [
            np.array([[row[name] / row["optimum"] for name in names] for row in subject.last
                      if _has(row, "optimum", *names)])
            for subject in subjects
        ]  # fmt: skip
        means = np.stack([of_run.mean(axis=0) for of_run in shares])
        left = np.zeros(len(subjects))
        for column, (_, words, color) in enumerate(parts):
            axes.barh(
                range(len(subjects)),
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
        _name_rows(axes, [s.name for s in subjects])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_xlabel("lost, of the optimum")
        _legend(figure, axes)
        return _address(figure)


def reliability_curve(subject: Subject) -> str:
    """Frequency in draws against the claimed and the exact probability, with binomial intervals."""
    from matplotlib.ticker import NullFormatter

    found = subject.calibration
    assert found is not None
    series = [
        (found.exact, "exact probability", {"color": "0.45", "marker": "s", "mfc": "none"}),
        (found.claimed, f"claimed by {found.method}", _line(subject)),
    ]
    with _canvas() as (figure, axes):
        lowest, highest = 1.0, 1.0
        for values, words, style in series:
            if values is None:
                continue
            bins = [b for b in reliability(values, found.hits, found.num_draws) if b.observed > 0]
            x, y = [b.claimed for b in bins], [b.observed for b in bins]
            error = [[b.observed - b.low for b in bins], [b.high - b.observed for b in bins]]
            axes.errorbar(x, y, yerr=error, capsize=2, **(style | {"label": words}))
            lowest, highest = min([lowest, *x, *y]), max([highest, *x])
        ends = [lowest / 1.5, highest * 1.15]
        axes.plot(ends, ends, "--", color="0.35", lw=1, label="perfect", zorder=0)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(ends[0], 1.3))
        for axis in (axes.xaxis, axes.yaxis):  # powers of ten would be formulas
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="probability to be a candidate", ylabel="frequency in real draws")
        _legend(figure, axes, 3)
        return _address(figure)


def lorenz_curves(subjects: Sequence[Subject], counts: Callable[[Subject], Any]) -> str:
    """Lorenz curves of the first seed, and the diagonal."""
    with _canvas() as (figure, axes):
        for subject in subjects:
            items, places = lorenz(counts(subject))
            some = np.unique(np.linspace(0, len(items) - 1, 301).round().astype(int))
            axes.plot(items[some], places[some], **(_line(subject) | {"marker": ""}))
        axes.plot([0, 1], [0, 1], "--", color="0.35", lw=1, label="all items the same")
        axes.set(xlabel="share of the items, rarest first", ylabel="share of the places")
        _legend(figure, axes)
        return _address(figure)


def shares_of_groups(
    subjects: Sequence[Subject], groups: Sequence[str], ratios: Sequence[Sequence[float | None]]
) -> str:
    """Places over items of every group, a bar a run."""
    with _canvas(1.6 + (0.2 + 0.2 * len(subjects)) * len(groups)) as (figure, axes):
        height = 0.8 / len(subjects)
        for place, (subject, of_run) in enumerate(zip(subjects, ratios, strict=True)):
            at = np.arange(len(groups)) + (place - (len(subjects) - 1) / 2) * height
            widths = [np.nan if value is None else value for value in of_run]
            style = _line(subject)
            axes.barh(at, widths, height=height, color=style["color"], label=style["label"])
        axes.axvline(1, color="0.35", ls="--", lw=1)
        _name_rows(axes, groups)
        axes.set_xlabel("share of the places / share of the items")
        _legend(figure, axes)
        return _address(figure)


def item_map(subject: Subject) -> str:
    """The map of items: coloured by group where there are groups, else by how often each is a candidate."""
    found = subject.item_map
    assert found is not None
    with _canvas(4.2) as (figure, axes):
        if subject.groups is not None:
            _paint_groups(axes, found.places, subject.groups[found.items])
            _legend(figure, axes)
        elif subject.exposure is not None:
            count = subject.exposure.candidates[0][found.items]
            order = np.argsort(count)  # those that are candidates on top
            dots = axes.scatter(
                *found.places[order].T, c=np.log10(1 + count[order]), s=9, cmap="cividis_r", lw=0
            )
            bar = figure.colorbar(dots, ax=axes, shrink=0.85, label="contexts it is a candidate in")
            most = int(count.max())
            ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick <= most]
            bar.set_ticks([np.log10(1 + t) for t in ticks], labels=[str(t) for t in ticks])
        else:
            axes.scatter(*found.places.T, s=9, color=_COLORS[0], lw=0)
        axes.set_xlabel(f"first component ({found.explained[0]:.0%} of the variance)")
        axes.set_ylabel(f"second component ({found.explained[1]:.0%})")
        axes.set_aspect("equal", adjustable="datalim")
        return _address(figure, "png")


def _paint_groups(axes: Any, places: np.ndarray, groups: np.ndarray) -> None:
    """The largest groups in colours of their own, the others in grey."""
    names, sizes = np.unique(groups, return_counts=True)
    largest = [str(name) for name in names[np.argsort(-sizes, kind="stable")][:_MOST_GROUPS]]
    others = ~np.isin(groups, largest)
    if others.any():
        axes.scatter(*places[others].T, s=9, color="0.75", lw=0, label="other groups")
    for number, name in enumerate(largest):
        axes.scatter(
            *places[groups == name].T, s=13, color=_COLORS[number], marker=_MARKERS[number], lw=0,
            label=label(name), alpha=0.85,
        )  # fmt: skip


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Horizontal bars from the top down, each row with its name."""
    axes.set_yticks(range(len(names)), [label(name, 22) for name in names])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
