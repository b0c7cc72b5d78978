"""`python -m rankpg demo`: four estimators on the paper's instance, and a log of interactions."""

from __future__ import annotations

from pathlib import Path

from rankpg._utils.paths import expanded
from rankpg._utils.plots import learning_curves, mean_interval
from rankpg.compare.command import compare
from rankpg.config.train_config import TrainConfig
from rankpg.environments import from_interactions, generate_log
from rankpg.runs.progress import progress_bar
from rankpg.runs.run import Run
from rankpg.runs.train import train

__all__ = ["DEMO_ESTIMATORS", "demo"]

DEMO_ESTIMATORS = ("v_pg_swr", "top1_pg", "ca_pg", "ca_pg_swr")
_COMPARED = ("popular", "item_knn", "ease", "inclusion")


def demo(out: Path, num_steps: int) -> str:
    """Trains four estimators on the paper's instance, compares recommenders on a log, and returns two tables.

    Args:
      out: the folder; gets a number if it exists.
      num_steps: number of updates of each estimator and seed.
    """
    folder = _unused(expanded(out))
    runs: dict[str, Run] = {}
    with progress_bar(num_steps * len(DEMO_ESTIMATORS)) as bar:
        for name in DEMO_ESTIMATORS:
            bar.start(name)
            config = TrainConfig(
                estimator=name, num_steps=num_steps, eval_every=max(num_steps // 8, 1)
            )
            runs[name] = train(config, out=folder / name, on_progress=bar.update)
            bar.finish(runs[name])
    picture = folder / "learning_curves.png"
    learning_curves({name: run.metrics for name, run in runs.items()}, picture)
    compared = _compare_on_a_log(folder / "comparison")
    return f"{table(runs)}\n\n{compared}\n\n{_what_next(folder, picture)}"


def _compare_on_a_log(out: Path) -> str:
    """Compares recommenders on a generated log, saves a page, and returns table and verdict."""
    log, items = generate_log()
    data = from_interactions(log, items=items, validation_share=0.1)
    settings = {"trials": 1, "seeds": (0,), "minutes_per_trial": 0.2, "reranker": "none"}
    comparison = compare(data, methods=_COMPARED, out=out, **settings)
    page = out / "comparison.html"
    heading = f"A generated log of {len(log['user'])} interactions, its last fifth held out:"
    return f"{heading}\n\n{comparison.markdown}\n\n{comparison.verdict}\n{page}"


def table(runs: dict[str, Run]) -> str:
    """Returns a table of the value at several steps, mean and 95 % interval over seeds, and of the speed."""
    any_run = next(iter(runs.values()))
    steps = sorted({row["step"] for row in any_run.metrics})
    shown = [steps[round(i * (len(steps) - 1) / 4)] for i in range(5)] if len(steps) > 5 else steps
    headings = ["estimator", *(f"step {s}" for s in shown), "of optimum", "steps/s"]
    lines = [headings]
    for name, run in runs.items():
        cells = [name]
        for step in shown:
            mean, half = mean_interval(_at(run, step, "policy_value"))
            cells.append(f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}")
        normalised, _ = mean_interval(_at(run, run.step, "normalised_value"))
        speeds = [row["steps_per_second"] for row in run.metrics if row["steps_per_second"]]
        lines.append([*cells, f"{normalised:.1%}", f"{mean_interval(speeds)[0]:,.0f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = "-" * len(text[0])
    optimum = any_run.metrics[-1]["optimum"]
    seeds = len(any_run.config.seeds)
    notes = [
        f"Policy value: mean reward of the shown item, greedy candidates (K = "
        f"{any_run.config.num_candidates} of {any_run.environment.num_items}); optimum {optimum:.3f}.",
        f"Mean of {seeds} seeds ± 95 % interval. Steps/s counts updates of all {seeds} seeds at once.",
        *(f"{name}: {s}" for name, run in runs.items() for s in run.stopped()),
    ]
    return "\n".join([text[0], rule, *text[1:], rule, *notes])


def _at(run: Run, step: int, name: str) -> list[float]:
    return [row[name] for row in run.metrics if row["step"] == step]


def _what_next(folder: Path, picture: Path) -> str:
    return "\n".join(
        [
            f"Learning curves  {picture}",
            f"Run folders      {folder}/<estimator>",
            "",
            "Next:",
            f"  python -m rankpg evaluate {folder / 'ca_pg_swr'}",
            "  python -m rankpg train --estimator ca_pg --num-candidates 20 --out runs/k20",
            "  python -m rankpg train --environment ratings --path YOURS.csv --out runs/mine",
        ]
    )


def _unused(folder: Path) -> Path:
    """Returns the folder, with a number if it exists."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate
