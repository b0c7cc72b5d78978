"""The trials of the paper's tables: one for every cell, at three scales.

A trial is one config with several seeds. Tables share trials: equal configs have equal names, and therefore
the same run folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper import published
from benchmarks.paper.published import published_values
from benchmarks.sweeps.trials import Trial
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["SCALES", "TRAINED", "Scale", "table_trials", "trial_name"]


@dataclass(frozen=True)
class Scale:
    """Amount of training."""

    num_steps: int
    long_steps: int
    """steps of the trials of Table 2 whose estimator is in `LONG`"""
    eval_every: int
    seeds: tuple[int, ...]
    stand_in: tuple[int, int]
    """numbers of contexts and items of the generated problem that replaces KuaiRec"""


SCALES = {
    "smoke": Scale(200, 200, 100, (0, 1), (141, 333)),
    "laptop": Scale(20_000, 50_000, 1000, (0, 1, 2), (1411, 3327)),
    "full": Scale(500_000, 500_000, 2500, tuple(range(10)), (1411, 3327)),
}
"""smoke: a few cells of every table, to check that everything runs; laptop: every cell, hours on two cores;
full: the paper's number of steps, for a GPU."""

LONG = ("v_pg_swr", "ca_pg", "top1_pg")
"""Estimators trained for `long_steps` in Table 2, where the paper has values at 50,000 steps."""

RATES = {"optimal": 1e-2, "noisy": 2e-2, "uniform": 1e-1, "anti": 1e-2}
"""re-ranker -> learning rate of credit-assigned scores, from the paper (Eq. 9, fixed)."""

WHOLE_SET_RATE = 1e-1
"""Learning rate of `v_pg` and `v_pg_swr`, from the paper."""

_MAIN = ("v_pg_swr", "ca_pg", "top1_pg", "v_pg", "ca_pg_swr")


def table_trials(table: str, scale: str, path: str | None = None) -> list[Trial]:
    """Returns the trials of one table or figure, in the table's order.

    Args:
      table: a name in `TRAINED`.
      scale: a name in `SCALES`.
      path: KuaiRec's small_matrix.csv, for table4; None for the generated stand-in.

    Raises:
      ConfigError: an unknown table or scale.

    >>> [trial.name for trial in table_trials("table6", "smoke")]
    ['paper-K20-M5-group8-v_pg_swr', 'paper-K20-M5-group8-top1_pg']
    """
    if table not in TRAINED:
        raise ConfigError(f"table={table!r}; expected one of {', '.join(TRAINED)}")
    if scale not in SCALES:
        raise ConfigError(f"scale={scale!r}; expected one of {', '.join(SCALES)}")
    trials = _kuairec(scale, path) if table == "table4" else TRAINED[table](scale)
    return [t for t in trials if scale != "smoke" or t.name in SMOKE or table == "table4"]


def trial_name(config: TrainConfig) -> str:
    """Name of a trial: the settings in which it differs from the tables' defaults, joined by hyphens."""
    problem = "paper"
    if config.environment == "ratings":
        problem = "kuairec"
    elif config.instance_seed is not None:
        problem = f"standin{config.num_contexts}x{config.num_items}"
    parts = [problem, f"K{config.num_candidates}"]
    if config.ranking_length != 1:
        parts.append(f"L{config.ranking_length}")
    if config.num_experts != 1:
        parts.append(f"M{config.num_experts}")
    if config.reranker != "optimal":
        parts.append(config.reranker)
    if config.advantage not in (None, "none"):
        parts.append(f"{config.advantage}{config.draws_per_context}")
    return "-".join([*parts, config.estimator])


def _trial(
    scale: str,
    estimator: str,
    labels: dict[str, str],
    values: dict[int, float],
    importance: int,
    **changes: object,
) -> Trial:
    """Returns the trial of one cell: the paper's settings with the cell's changes."""
    sizes = SCALES[scale]
    reranker = str(changes.get("reranker", "optimal"))
    credit_assigned = ESTIMATORS[estimator].credit_assigned
    long = importance < 2
    config = TrainConfig.from_dict(
        {
            "estimator": estimator,
            "preset": "paper",
            "adaptive_learning_rate": False,
            "learning_rate": RATES[reranker] if credit_assigned else WHOLE_SET_RATE,
            "num_steps": sizes.long_steps if long else sizes.num_steps,
            "eval_every": sizes.eval_every,
            "seeds": sizes.seeds,
            **changes,
        }
    )
    return Trial(trial_name(config), config, {"estimator": estimator, **labels}, values, importance)


def _by_estimator(
    scale: str, candidates: int, reranker: str, labels: dict[str, str]
) -> Iterator[Trial]:
    """Yields the trials of one column of Table 2."""
    for estimator in _MAIN:
        column = (candidates, reranker)
        values = published_values(published.TABLE2, published.TABLE2_COLUMNS, estimator, column)
        importance = 6 if estimator == "ca_pg_swr" else 2
        if estimator in LONG:
            importance = 0 if column == (10, "optimal") else 1
        changes = {"num_candidates": candidates, "reranker": reranker}
        yield _trial(scale, estimator, labels, values, importance, **changes)


def _table2(scale: str) -> list[Trial]:
    return [
        trial
        for k, reranker in published.TABLE2_COLUMNS
        for trial in _by_estimator(scale, k, reranker, {"K": str(k), "re-ranker": reranker})
    ]


def _figure3(scale: str) -> list[Trial]:
    """Returns the trials of Table 2 with K = 5, 10, 20 and the optimal re-ranker."""
    return [
        trial for k in (5, 10, 20) for trial in _by_estimator(scale, k, "optimal", {"K": str(k)})
    ]


def _table3(scale: str) -> list[Trial]:
    trials = []
    for length, experts in published.TABLE3_COLUMNS:
        labels = {"L": str(length), "M": str(experts)}
        for estimator in _MAIN[:-1]:
            values = published_values(
                published.TABLE3, published.TABLE3_COLUMNS, estimator, (length, experts)
            )
            importance = 3
            if (length, experts) == (1, 1):  # shared with Table 2, so trained as long
                importance = 0 if estimator in LONG else 2
            changes = {"ranking_length": length, "num_experts": experts}
            trials.append(_trial(scale, estimator, labels, values, importance, **changes))
    return trials


def _table6(scale: str) -> list[Trial]:
    trials = []
    for k in published.TABLE6_COLUMNS:
        for estimator in ("v_pg_swr", "top1_pg"):
            values = published_values(published.TABLE6, published.TABLE6_COLUMNS, estimator, k)
            changes = {
                "num_candidates": k,
                "num_experts": 5,
                "advantage": "group",
                "draws_per_context": 8,
            }
            trials.append(_trial(scale, estimator, {"K": str(k)}, values, 4, **changes))
    return trials


def _kuairec(scale: str, path: str | None = None) -> list[Trial]:
    """Returns the trials of Table 4: on the user's file, or on a generated problem of the same size."""
    contexts, items = SCALES[scale].stand_in
    problem: dict[str, object] = {
        "num_contexts": contexts,
        "num_items": items,
        "instance_seed": 0,
    }
    if path is not None:
        problem = {"environment": "ratings", "path": str(Path(path).resolve())}
    columns = published.TABLE4_COLUMNS[:1] if scale == "smoke" else published.TABLE4_COLUMNS
    trials = []
    for k in columns:
        for estimator in ("v_pg_swr", "top1_pg"):
            values = published_values(published.TABLE4, published.TABLE4_COLUMNS, estimator, k)
            changes = {"num_candidates": k, **problem}
            trials.append(_trial(scale, estimator, {"K": str(k)}, values, 5, **changes))
    return trials


TRAINED = {
    "table2": _table2,
    "table3": _table3,
    "table4": _kuairec,
    "table6": _table6,
    "figure3": _figure3,
}
"""Table or figure that needs training -> its trials at a scale."""

SMOKE = (
    "paper-K10-v_pg",
    "paper-K10-v_pg_swr",
    "paper-K10-ca_pg",
    "paper-K10-top1_pg",
    "paper-K10-uniform-top1_pg",
    "paper-K10-M5-ca_pg",
    "paper-K10-L5-v_pg",
    "paper-K20-M5-group8-v_pg_swr",
    "paper-K20-M5-group8-top1_pg",
)
"""Names of the trials of the smoke scale, besides those of Table 4."""
