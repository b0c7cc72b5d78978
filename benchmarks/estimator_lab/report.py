"""Report of the estimator lab: a table, JSON and three pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.estimator_lab.baselines import BASELINES, expected_ascent, update_cosine
from benchmarks.estimator_lab.exact import FAST_COMPILATION, RERANKERS, Problem
from benchmarks.estimator_lab.noise import gradient_noise
from benchmarks.estimator_lab.sweep import Row, draw_problems, sweep
from benchmarks.sweeps.files import make_folder
from rankpg._utils.files import atomic_write_text
from rankpg._utils.plots import pyplot
from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.runs.run import Run
from rankpg.types import Quotas

__all__ = ["ascent_curves", "baseline_curves", "noise_rows", "plot_report", "report", "table"]

SIZES: tuple[tuple[int, Quotas], ...] = ((6, (2,)), (6, (1,)), (6, (4,)), (4, (2,)), (6, (1, 1)))
"""(N, quotas) of the problems; the table and the pictures show the first."""

_BASELINES_SHOWN = np.linspace(-1, 2, 25)
_NUM_STEPS, _LEARNING_RATE = 300, 0.03


def report(
    out: Path,
    *,
    sizes: Iterable[tuple[int, Quotas]] = SIZES,
    num_contexts: int = 32,
    num_draws: int = 1024,
    seed: int = 0,
    run: Run | None = None,
) -> str:
    """Measures all estimators on small problems and, optionally, at a run; writes JSON and pictures.

    Args:
      out: folder of `lab.json`, `estimators.png`, `baselines.png` and `ascent.png`.
      sizes, num_contexts, num_draws, seed: as `sweep`.
      run: run at whose parameters signal and noise of the gradient are measured as well.

    Returns:
      The table of the first size.

    Raises:
      ModuleNotFoundError: matplotlib is missing; the message names the extra.
      ConfigError: `num_contexts` is below 2, or `out` is not a writable folder; before anything is measured.
    """
    if num_contexts < 2:
        raise ConfigError(f"num_contexts={num_contexts}; expected at least 2")
    plt, sizes = pyplot(), tuple(sizes)
    make_folder(out)
    num_items, quotas = sizes[0]
    rows = sweep(sizes, num_contexts=num_contexts, num_draws=num_draws, seed=seed)
    body: dict[str, Any] = {
        "versions": versions(),
        "settings": {"num_contexts": num_contexts, "num_draws": num_draws, "seed": seed},
        "estimators": rows,
        "baselines": baseline_curves(num_items, quotas, num_contexts=num_contexts, seed=seed),
        "ascent": ascent_curves(seed=seed),
    }
    if run is not None:
        body["run"] = noise_rows(run)
    atomic_write_text(out / "lab.json", json.dumps(body, indent=1, allow_nan=False) + "\n")
    plot_report(body, out, plt)
    first = [r for r in rows if (r["N"], r["K"], r["M"]) == (num_items, sum(quotas), len(quotas))]
    lines = [table(first)]
    if run is not None:
        lines += ["", _noise_table(body["run"])]
    return "\n".join([*lines, "", f"All settings and the pictures: {out}"])


def table(rows: list[Row], scale: float = 1.0) -> str:
    """Text table of every re-ranker, estimator and baseline at one scale of the logits."""
    shown = [row for row in rows if row["scale"] == scale]
    columns = {
        "bias": "bias_to_policy",
        "to CA": "bias_to_credit",
        "variance": "variance",
        "cosine": "cosine_to_policy",
        "one draw": "cosine_of_draw",
        "progress": "progress",
    }
    lines = [["re-ranker", "estimator", "baseline", *columns]]
    lines += [
        [
            row["reranker"],
            row["estimator"],
            row["baseline"],
            *(_cell(row[c]) for c in columns.values()),
        ]
        for row in shown
    ]
    notes = [
        "bias, to CA: distance of the expected gradient from the policy gradient and from the",
        "credit-assigned gradient, in units of the policy gradient. variance: of one draw, in squared",
        "units. cosine: between the expected gradient and the policy gradient, averaged over contexts.",
        "progress: the same cosine over all contexts at once.",
    ]
    error = max(row["sampling_error"] for row in shown)
    if error:
        sampled = sorted({row["estimator"] for row in shown if row["sampling_error"]})
        notes += [
            f"{', '.join(sampled)}: estimated by sampling. The expected gradient has an error of up to",
            f"{_cell(error)} in the same units, so its cosine per context is too small.",
        ]
    return "\n".join([*_aligned(lines, words=3), *notes])


def baseline_curves(
    num_items: int, quotas: Quotas, *, num_contexts: int = 32, scale: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """Curves of the cosine between expected update and policy gradient against b / V, by re-ranker."""
    baselines = jnp.asarray(_BASELINES_SHOWN)
    curves: dict[str, Any] = {"baseline": _BASELINES_SHOWN.tolist()}
    exact = "ca_pg_exact" if len(quotas) == 1 else "ca_pg"
    for name in ("v_pg", "v_pg_swr", exact, "top1_pg"):

        def mean_cosine(problems: Problem, name=name):
            of_one = partial(update_cosine, name, quotas=quotas, baselines=baselines)
            return jnp.mean(jax.vmap(lambda problem: of_one(problem))(problems), axis=0)

        cosines = jax.jit(mean_cosine, compiler_options=FAST_COMPILATION)
        for reranker, steepness in RERANKERS.items():
            problems = draw_problems(
                jax.random.key(seed),
                num_contexts,
                num_items,
                len(quotas),
                jnp.asarray(scale),
                jnp.asarray(steepness),
            )
            curves.setdefault(reranker, {})[name] = np.asarray(cosines(problems)).tolist()
    return curves


def ascent_curves(
    estimators: Iterable[str] = ("ca_pg", "top1_pg"), *, seed: int = 0
) -> dict[str, Any]:
    """Curves of the share of the best reward along noiseless ascent, by re-ranker, estimator and baseline.

    K = 2, N = 6. Every context has its own logits, so contexts share only the batch mean. `all` is the mean
    over contexts, `poor` the mean over the quarter of them with the lowest best reward.
    """
    optimizer = optax.adam(_LEARNING_RATE)
    kinds = tuple(BASELINES.values())

    def ascend(name, steepness, kind):
        problems = draw_problems(jax.random.key(seed), 24, 6, 1, jnp.asarray(1.0), steepness)
        values = expected_ascent(
            name, problems, (2,), partial(jax.lax.switch, kind, kinds), optimizer, _NUM_STEPS,
            problems.logits, lambda logits: logits,
        )  # fmt: skip
        best = jnp.max(problems.rewards, axis=1)
        shares = values / best[None, :]
        return jnp.mean(shares, axis=1), jnp.mean(shares[:, jnp.argsort(best)[:6]], axis=1)

    curves: dict[str, Any] = {reranker: {} for reranker in RERANKERS}
    for name in estimators:
        steepness, index = jnp.asarray(list(RERANKERS.values())), jnp.arange(len(kinds))
        every = jax.vmap(jax.vmap(partial(ascend, name), (None, 0)), (0, None))
        program = jax.jit(every, compiler_options=FAST_COMPILATION)
        everywhere, poor = map(np.asarray, program(steepness, index))
        for i, reranker in enumerate(RERANKERS):
            curves[reranker][name] = {
                baseline: {"all": _rounded(everywhere[i, j]), "poor": _rounded(poor[i, j])}
                for j, baseline in enumerate(BASELINES)
            }
    return curves


def noise_rows(run: Run, **options: Any) -> list[Row]:
    """Returns `gradient_noise` as rows: one per estimator, with its cosine to every other."""
    found = gradient_noise(run, **options)
    names, noise = found["estimators"], found["noise"]
    cosine, ratio = np.asarray(noise.cosine), np.asarray(noise.signal_to_noise)
    numbers = {
        name: np.asarray(getattr(noise, name))
        for name in ("signal", "signal_error", "variance", "variance_error")
    }
    return [
        {"estimator": name}
        | {key: _finite(values[i]) for key, values in numbers.items()}
        | {"signal_to_noise": _finite(ratio[i])}
        | {"cosine": {other: _finite(cosine[i, j]) for j, other in enumerate(names)}}
        for i, name in enumerate(names)
    ]


def plot_report(body: dict[str, Any], out: Path, plt: Any) -> None:
    """Draws the three pictures of a report."""
    rows = body["estimators"]
    first = [r for r in rows if all(r[k] == rows[0][k] for k in "NKM") and r["baseline"] == "none"]
    scales = sorted({row["scale"] for row in first})
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, layout="constrained")
    for column, reranker in enumerate(RERANKERS):
        here = [row for row in first if row["reranker"] == reranker]
        for name in dict.fromkeys(row["estimator"] for row in here):
            own = [row for row in here if row["estimator"] == name]
            for axis, measure in zip(
                axes[:, column], ("cosine_to_policy", "variance"), strict=True
            ):
                axis.plot(
                    scales, [row[measure] for row in own], marker="o", markersize=3, label=name
                )
        axes[0, column].set(title=reranker, ylim=(-1.05, 1.05), xscale="log")
        axes[1, column].set(ylim=0, xlabel="standard deviation of the logits")
        axes[1, column].set_xticks(scales, [f"{scale:g}" for scale in scales], minor=False)
        axes[1, column].set_xticks([], minor=True)
    axes[0, 0].set_ylabel("cosine with the policy gradient")
    axes[1, 0].set_ylabel("variance of one draw")
    axes[0, 0].legend(frameon=False, fontsize=8)
    _save(figure, out / "estimators.png", plt)

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, reranker in zip(axes, RERANKERS, strict=True):
        for name, cosines in body["baselines"][reranker].items():
            axis.plot(body["baselines"]["baseline"], cosines, label=name)
        axis.axvline(1, color="0.6", linewidth=1, linestyle="--")
        axis.set(title=reranker, xlabel="baseline / policy value")
    axes[0].set_ylabel("cosine with the policy gradient")
    axes[0].legend(frameon=False, fontsize=8)
    _save(figure, out / "baselines.png", plt)

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, reranker in zip(axes, RERANKERS, strict=True):
        for baseline, colour in zip(BASELINES, ("C0", "C2", "C3"), strict=True):
            shares = body["ascent"][reranker]["top1_pg"][baseline]
            axis.plot(shares["all"], color=colour, label=f"{baseline}, all contexts")
            axis.plot(shares["poor"], color=colour, linestyle=":", label=f"{baseline}, poorest")
        axis.set(title=reranker, xlabel="noiseless steps of top1_pg")
    axes[0].set_ylabel("share of the best reward")
    axes[0].legend(frameon=False, fontsize=8)
    _save(figure, out / "ascent.png", plt)


def _save(figure: Any, path: Path, plt: Any) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _noise_table(rows: list[Row]) -> str:
    reference = "v_pg" if any(row["estimator"] == "v_pg" for row in rows) else rows[0]["estimator"]
    lines = [
        ["estimator", "signal", "±", "variance", "±", "signal/noise", f"cosine to {reference}"]
    ]
    measures = ("signal", "signal_error", "variance", "variance_error", "signal_to_noise")
    lines += [
        [row["estimator"], *(_cell(row[m]) for m in measures), _cell(row["cosine"][reference])]
        for row in rows
    ]
    return "\n".join(_aligned(lines, words=1))


def _aligned(lines: list[list[str]], words: int) -> list[str]:
    """Aligns columns: the first `words` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(w) if i < words else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return [text[0], "-" * len(text[0]), *text[1:], "-" * len(text[0])]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _rounded(values: np.ndarray) -> list[float]:
    """Rounds to four decimals, more than a picture shows."""
    return [round(float(value), 4) for value in values]


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
