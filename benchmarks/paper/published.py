"""The paper's own numbers, as data: Kiyohara et al. 2026, arXiv 2605.26385, means over 10 seeds.

Values are policy values by training step. Estimators have the paper's names here; `PAPER_NAMES` maps ours to
them.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "FIGURE4",
    "FIGURE4_EXPERTS",
    "PAPER_NAMES",
    "SOURCE",
    "TABLE2",
    "TABLE3",
    "TABLE4",
    "TABLE5",
    "TABLE6",
    "published_values",
]

SOURCE = "Kiyohara et al., Credit-assigned Policy Gradient, ICML 2026, arXiv 2605.26385"

PAPER_NAMES = {
    "v_pg": "V-PG",
    "v_pg_swr": "V-PG-SwR",
    "ca_pg": "CA-PG",
    "top1_pg": "CA-PG-SwR",
    "ca_pg_swr": "CA-PG-SwR",
}
"""Our name -> the paper's. Its CA-PG-SwR is grad log pi(a), our `top1_pg`. Our `ca_pg_swr` has no column in
the paper and is compared with the same numbers."""

_EARLY, _LATE = 50_000, 500_000


def _both(*pairs: tuple[float, float]) -> list[dict[int, float]]:
    return [{_EARLY: early, _LATE: late} for early, late in pairs]


TABLE2_COLUMNS = (
    (5, "optimal"),
    (10, "optimal"),
    (20, "optimal"),
    (10, "noisy"),
    (10, "uniform"),
    (10, "anti"),
)
"""(K, re-ranker); L = 1, M = 1."""

TABLE2 = {
    "V-PG": _both(
        (7.09, 7.22), (7.16, 7.17), (6.86, 6.86), (7.25, 7.25), (3.27, 3.28), (1.07, 1.07)
    ),
    "V-PG-SwR": _both(
        (7.68, 8.33), (7.80, 8.54), (7.88, 8.74), (7.86, 8.55), (3.80, 6.39), (1.05, 1.08)
    ),
    "CA-PG": _both(
        (7.39, 8.19), (7.99, 8.44), (8.39, 8.70), (8.14, 8.42), (5.64, 6.73), (1.00, 1.00)
    ),
    "CA-PG-SwR": _both(
        (7.37, 8.11), (7.94, 8.40), (8.33, 8.62), (8.11, 8.41), (5.79, 6.90), (1.00, 1.00)
    ),
}
"""Table 2, in the order of TABLE2_COLUMNS."""

TABLE3_COLUMNS = ((1, 1), (1, 5), (5, 1), (5, 5))
"""(L, M); K = 10, optimal re-ranker; values are sums over positions."""

TABLE3 = {
    name: [{_LATE: value} for value in values]
    for name, values in {
        "V-PG": (7.17, 7.63, 25.0, 26.5),
        "V-PG-SwR": (8.54, 8.58, 38.1, 37.2),
        "CA-PG": (8.44, 8.88, 36.2, 37.2),
        "CA-PG-SwR": (8.40, 8.82, 36.3, 37.6),
    }.items()
}
"""Table 3, in the order of TABLE3_COLUMNS."""

TABLE4_COLUMNS = (50, 100, 200)
"""K; KuaiRec, L = 1, M = 1, optimal re-ranker."""

TABLE4 = {
    "V-PG-SwR": _both((5.05, 7.91), (5.39, 8.22), (5.92, 8.26)),
    "CA-PG-SwR": _both((5.61, 7.19), (6.37, 7.82), (7.10, 8.32)),
}
"""Table 4, in the order of TABLE4_COLUMNS."""

TABLE5_COLUMNS = (5, 10, 20, 50)
"""K; N = 1000 standard normal logits."""

TABLE5 = {
    1.0: (2.3e-3, 9.2e-3, 2.7e-2, 5.7e-2),
    0.5: (4.2e-3, 1.4e-5, 5.0e-4, 4.2e-3),
    0.2: (0.0, 0.0, 0.0, 4.7e-6),
}
"""Table 5: temperature -> relative error of the greedy approximation, in the order of TABLE5_COLUMNS.

The assignment to temperatures and numbers of candidates is our reading of the table."""

TABLE6_COLUMNS = (20, 50, 100, 200)
"""K; M = 5, L = 1, group advantage with 16 contexts x 8 draws per batch, optimal re-ranker."""

TABLE6 = {
    "V-PG-SwR": _both((8.71, 8.88), (8.84, 8.98), (8.93, 9.02), (9.00, 9.06)),
    "CA-PG-SwR": _both((8.58, 8.97), (8.89, 9.07), (9.02, 9.10), (9.08, 9.11)),
}
"""Table 6, in the order of TABLE6_COLUMNS."""

FIGURE4_COLUMNS = ((5, 1), (10, 1), (20, 1), (20, 5))
"""(K, L); M = 1."""

FIGURE4 = {
    "V-PG": (28.9, 32.1, 38.3, 40.5),
    "CA-PG": (29.5, 33.3, 42.1, 56.7),
    "V-PG-SwR": (27.4, 27.4, 28.0, 27.5),
    "CA-PG-SwR": (26.8, 27.1, 27.3, 25.9),
}
"""Figure 4: seconds for 1000 steps on an M1 laptop, in the order of FIGURE4_COLUMNS."""

FIGURE4_EXPERTS = {"V-PG-SwR": 53.4, "CA-PG-SwR": 50.5}
"""Seconds for 1000 steps with M = 5, K = 200, L = 1; the assignment to these estimators is our reading."""


def published_values(
    table: dict[str, list[dict[int, float]]], columns: tuple[Any, ...], estimator: str, column: Any
) -> dict[int, float]:
    """Returns step -> the paper's value for one of our estimators; empty if the paper has none.

    >>> published_values(TABLE2, TABLE2_COLUMNS, "ca_pg", (20, "optimal"))
    {50000: 8.39, 500000: 8.7}
    """
    values = table.get(PAPER_NAMES[estimator])
    return dict(values[columns.index(column)]) if values else {}
