"""What is trained: one row for every cell of the paper's tables, at three scales.

A row is one config with several seeds. Tables share rows: the same config has the same name, and so the same
run folder, wherever it occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper import published
from benchmarks.paper.published import published_values
from benchmarks.sweeps.trials import Row
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["SCALES", "TRAINED", "Scale", "row_name", "table_rows"]


@dataclass(frozen=True)
class Scale:
    """How much of the paper's training is run."""

    num_steps: int
    long_steps: int
    """for the rows of Table 2 that `LONG` names"""
    eval_every: int
    seeds: tuple[int, ...]
    stand_in: tuple[int, int]
    """contexts and items of the problem that stands for KuaiRec"""


SCALES = {
    "smoke": Scale(200, 200, 100, (0, 1), (141, 333)),
    "laptop": Scale(20_000, 50_000, 1000, (0, 1, 2), (1411, 3327)),
    "full": Scale(500_000, 500_000, 2500, tuple(range(10)), (1411, 3327)),
}
"""smoke: a few cells of every table, to see that all of it runs; laptop: every cell, in hours on two cores;
full: as long as the paper, for a GPU."""

LONG = ("v_pg_swr", "ca_pg", "top1_pg")
"""Their rows of Table 2 are trained for `long_steps`: there the paper has a value at 50,000 steps."""

RATES = {"optimal": 1e-2, "noisy": 2e-2, "uniform": 1e-1, "anti": 1e-2}
"""Re-ranker -> learning rate of credit-assigned scores, as the paper states them (its Eq. 9, fixed)."""

WHOLE_SET_RATE = 1e-1
"""Learning rate of `v_pg` and `v_pg_swr`."""

_MAIN = ("v_pg_swr", "ca_pg", "top1_pg", "v_pg", "ca_pg_swr")


def table_rows(table: str, scale: str, path: str | None = None) -> list[Row]:
    """The rows of one table or figure, in the table's order.

    Args:
      table: a name of `TRAINED`.
      scale: a name of `SCALES`.
      path: KuaiRec's small_matrix.csv, for table4; its stand-in is taken where it is None.

    Raises:
      ConfigError: an unknown table or scale.

    >>> [row.name for row in table_rows("table6", "smoke")]
    ['paper-K20-M5-group8-v_pg_swr', 'paper-K20-M5-group8-top1_pg']
    """
    if table not in TRAINED:
        raise ConfigError(f"table is {table!r}; expected one of {', '.join(TRAINED)}")
    if scale not in SCALES:
        raise ConfigError(f"--scale is {scale!r}; expected one of {', '.join(SCALES)}")
    rows = _kuairec(scale, path) if table == "table4" else TRAINED[table](scale)
    return [row for row in rows if scale != "smoke" or row.name in SMOKE or table == "table4"]


def row_name(config: TrainConfig) -> str:
    """The settings that tell a row from the others, in one word; defaults of the tables are left out."""
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


def _row(
    scale: str,
    estimator: str,
    labels: dict[str, str],
    values: dict[int, float],
    importance: int,
    **changes: object,
) -> Row:
    """The paper's settings with what this cell changes."""
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
    return Row(row_name(config), config, {"estimator": estimator, **labels}, values, importance)


def _by_estimator(scale: str, candidates: int, reranker: str, labels: dict[str, str]):
    """The rows of one column of Table 2."""
    for estimator in _MAIN:
        column = (candidates, reranker)
        values = published_values(published.TABLE2, published.TABLE2_COLUMNS, estimator, column)
        importance = 6 if estimator == "ca_pg_swr" else 2
        if estimator in LONG:
            importance = 0 if column == (10, "optimal") else 1
        changes = {"num_candidates": candidates, "reranker": reranker}
        yield _row(scale, estimator, labels, values, importance, **changes)


def _table2(scale: str) -> list[Row]:
    return [
        row
        for k, reranker in published.TABLE2_COLUMNS
        for row in _by_estimator(scale, k, reranker, {"K": str(k), "re-ranker": reranker})
    ]


def _figure3(scale: str) -> list[Row]:
    """K = 5, 10, 20 of Table 2."""
    return [row for k in (5, 10, 20) for row in _by_estimator(scale, k, "optimal", {"K": str(k)})]


def _table3(scale: str) -> list[Row]:
    rows = []
    for length, experts in published.TABLE3_COLUMNS:
        labels = {"L": str(length), "M": str(experts)}
        for estimator in _MAIN[:-1]:
            values = published_values(
                published.TABLE3, published.TABLE3_COLUMNS, estimator, (length, experts)
            )
            importance = 3
            if (length, experts) == (1, 1):  # Table 2 trains it as long
                importance = 0 if estimator in LONG else 2
            changes = {"ranking_length": length, "num_experts": experts}
            rows.append(_row(scale, estimator, labels, values, importance, **changes))
    return rows


def _table6(scale: str) -> list[Row]:
    rows = []
    for k in published.TABLE6_COLUMNS:
        for estimator in ("v_pg_swr", "top1_pg"):
            values = published_values(published.TABLE6, published.TABLE6_COLUMNS, estimator, k)
            changes = {
                "num_candidates": k,
                "num_experts": 5,
                "advantage": "group",
                "draws_per_context": 8,
            }
            rows.append(_row(scale, estimator, {"K": str(k)}, values, 4, **changes))
    return rows


def _kuairec(scale: str, path: str | None = None) -> list[Row]:
    """Table 4 on the user's file, or on a generated problem of its size, to which no figure compares."""
    contexts, items = SCALES[scale].stand_in
    problem: dict[str, object] = {
        "num_contexts": contexts,
        "num_items": items,
        "instance_seed": 0,
    }
    if path is not None:
        problem = {"environment": "ratings", "path": str(Path(path).resolve())}
    columns = published.TABLE4_COLUMNS[:1] if scale == "smoke" else published.TABLE4_COLUMNS
    rows = []
    for k in columns:
        for estimator in ("v_pg_swr", "top1_pg"):
            values = published_values(published.TABLE4, published.TABLE4_COLUMNS, estimator, k)
            changes = {"num_candidates": k, **problem}
            rows.append(_row(scale, estimator, {"K": str(k)}, values, 5, **changes))
    return rows


TRAINED = {
    "table2": _table2,
    "table3": _table3,
    "table4": _kuairec,
    "table6": _table6,
    "figure3": _figure3,
}
"""The tables and figures that need training -> their rows at a scale."""

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
"""The rows of the smoke scale, and Table 4's."""
