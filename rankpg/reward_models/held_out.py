"""Assessment of a reward model on rewards that it has not learnt from yet: error and calibration.

Every reward is predicted before it is learnt from, so that no reward is spent on a test set (prequential
assessment; Dawid 1984). What is assessed are the items that were shown, not the whole catalogue.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.types import Array, Bool, Environment, Float, Int, record

__all__ = [
    "Assessment",
    "Reliability",
    "assess",
    "begin_assessment",
    "learn_and_assess",
    "reliability",
    "squared_error",
]


@record
class Assessment:
    """Sums over the rewards that were predicted before they were learnt from."""

    count: Float[Array, "bins"]
    """Number of rewards in each bin of the predictions."""
    predicted: Float[Array, "bins"]
    """Sum of the predictions."""
    rewards: Float[Array, "bins"]
    """Sum of the rewards."""
    squared_rewards: Float[Array, "bins"]
    squared_errors: Float[Array, "bins"]
    edges: Float[Array, "inner"]
    """Predictions between the bins, ascending; one fewer than bins."""


@dataclass(frozen=True)
class Reliability:
    """A bin of predictions: their mean, and that of the rewards that were observed."""

    count: int
    predicted: float
    """Mean prediction."""
    observed: float
    """Mean reward; of a calibrated model, near the mean prediction."""
    standard_error: float
    """Standard error of the mean reward."""


def begin_assessment(low: float, high: float, bins: int = 10) -> Assessment:
    """Starts an assessment with bins of equal width.

    Args:
      low: lower end of the first bin; smaller predictions belong to it as well.
      high: upper end of the last bin; larger predictions belong to it as well.
      bins: number of bins.

    Raises:
      ValueError: no bin, or no range.
    """
    if bins < 1 or not low < high:
        raise ValueError(
            f"low={low}, high={high}, bins={bins}; expected low < high and at least 1 bin"
        )
    zero = jnp.zeros(bins)
    edges = jnp.asarray(np.linspace(low, high, bins + 1)[1:-1], zero.dtype)
    return Assessment(zero, zero, zero, zero, zero, edges)


def assess(
    assessment: Assessment,
    predictions: Float[Array, "B L"],
    rewards: Float[Array, "B L"],
    observed: Bool[Array, "B L"] | None = None,
) -> Assessment:
    """Adds predictions and the rewards that were observed; None: all were.

    >>> done = assess(begin_assessment(0.0, 2.0, bins=2), jnp.array([[0.5, 1.5]]), jnp.array([[1.0, 1.0]]))
    >>> [(row.predicted, row.observed) for row in reliability(done)]
    [(0.5, 1.0), (1.5, 1.0)]
    """
    weights = jnp.ones(rewards.shape, rewards.dtype)
    if observed is not None:
        weights = observed.astype(rewards.dtype)
    bins = jnp.searchsorted(
        assessment.edges, predictions.astype(assessment.edges.dtype), side="right"
    )

    def added(total: Float[Array, "bins"], values: Float[Array, "B L"]) -> Float[Array, "bins"]:
        known = jnp.where(weights > 0, values, 0).astype(total.dtype)
        return total.at[bins].add(known)

    return dataclasses.replace(
        assessment,
        count=added(assessment.count, weights),
        predicted=added(assessment.predicted, predictions),
        rewards=added(assessment.rewards, rewards),
        squared_rewards=added(assessment.squared_rewards, rewards**2),
        squared_errors=added(assessment.squared_errors, (predictions - rewards) ** 2),
    )


def learn_and_assess(
    model: RewardModel,
    state: RewardModelState,
    assessment: Assessment,
    environment: Environment,
    contexts: Int[Array, "B"],
    items: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
    observed: Bool[Array, "B L"] | None = None,
) -> tuple[RewardModelState, Assessment]:
    """Predicts the rewards of a batch, adds them to the assessment, and then learns from them."""
    predictions = model.predict(state, environment, contexts, items)
    assessment = assess(assessment, jax.lax.stop_gradient(predictions), rewards, observed)
    return model.learn(state, environment, contexts, items, rewards, observed), assessment


def reliability(assessment: Assessment) -> list[Reliability]:
    """Returns the reliability table: the bins that are not empty, in ascending order."""
    sums = [np.asarray(x, np.float64) for x in (
        assessment.count, assessment.predicted, assessment.rewards, assessment.squared_rewards
    )]  # fmt: skip
    rows = []
    for count, predicted, rewards, squares in zip(*sums, strict=True):
        if count == 0:
            continue
        mean = rewards / count
        variance = max(0.0, squares / count - mean**2)
        error = float(np.sqrt(variance / (count - 1))) if count > 1 else float("nan")
        rows.append(Reliability(int(count), float(predicted / count), float(mean), error))
    return rows


def squared_error(assessment: Assessment) -> float:
    """Mean squared error of the predictions, the noise of the rewards included; NaN without rewards."""
    count = float(jnp.sum(assessment.count))
    return float(jnp.sum(assessment.squared_errors)) / count if count else float("nan")
