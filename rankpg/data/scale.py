"""Features on a raw scale, such as times and prices: noticed, and standardised."""

from __future__ import annotations

import warnings

import numpy as np

from rankpg.data.features import Features, Featurizer
from rankpg.errors import DataWarning

__all__ = ["LARGEST_FEATURE", "column_names", "standardised"]

LARGEST_FEATURE = 100.0
"""Features beyond it ruin training: they outweigh all others, and the gradient overflows."""


def column_names(width: int) -> list[str]:
    """Returns the names of the columns of an array: feature 0, feature 1, ..."""
    return [f"feature {i}" for i in range(width)]


def standardised(rows: np.ndarray, name: str) -> tuple[np.ndarray, Featurizer | None]:
    """Returns features whose columns on a raw scale are standardised, (x - mean) / deviation.

    Args:
      rows: float32[n, F], finite.
      name: the argument, for the warning.

    Returns:
      The features, and a featurizer that does the same to later rows; None where no column is beyond 100.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True):
    ...     warnings.simplefilter("always")
    ...     rows, featurizer = standardised(np.array([[1, 1e9], [2, 3e9]], np.float32), "context_features")
    >>> rows.tolist()
    [[1.0, -1.0], [2.0, 1.0]]
    """
    largest = np.abs(rows).max(axis=0)
    raw = largest > LARGEST_FEATURE
    if not raw.any():
        return rows, None
    wide = rows.astype(np.float64)
    means = np.where(raw, wide.mean(axis=0), 0.0)
    deviations = np.where(raw, np.where(np.ptp(wide, axis=0) > 0, wide.std(axis=0), 0.0), 1.0)
    declared = Features(numeric=column_names(rows.shape[1]), scale="none")
    fitted = Featurizer(declared, tuple(means.tolist()), tuple(deviations.tolist()), (), 1.0)
    first = int(np.argmax(largest))
    warnings.warn(
        f"{name}: column {first} (counted from 0) has the scale {largest[first]:.3g}, and {int(raw.sum())} "
        f"of {len(raw)} columns have values beyond {LARGEST_FEATURE:g}, which ruin training; they are "
        "standardised, (x - mean) / deviation. Scale them yourself to choose otherwise",
        DataWarning,
        stacklevel=4,
    )
    columns = dict(zip(declared.numeric, wide.T, strict=True))
    return fitted.transform(columns), fitted
