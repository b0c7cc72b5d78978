"""The state of training, and the results of one update."""

from __future__ import annotations

import optax

from rankpg.advantages import BaselineState
from rankpg.core.estimators import Candidates
from rankpg.reward_models.base import RewardModelState
from rankpg.types import Array, Float, Int, Params, record

__all__ = ["StepMetrics", "TrainState", "UpdateDetails"]


@record
class TrainState:
    """Everything that changes in training; nothing random: the key of a step is fold_in(root, step)."""

    params: Params
    optimizer_state: optax.OptState
    baseline_state: BaselineState
    """State of the advantage: running means, or a network and its optimizer."""
    step: Int[Array, ""]
    """Updates made so far."""
    fault: Int[Array, ""]
    """0 while training is sound; else the number of the `Fault` that stopped it."""
    reward_model_state: RewardModelState = ()
    """State of the learner's reward model; () without one."""


@record
class StepMetrics:
    """Diagnostics of one update."""

    loss: Float[Array, ""]
    """The surrogate: - mean over the batch of sum_l w_l * credit_l * score_l, w the importance weights."""
    reward: Float[Array, ""]
    """Mean over the batch of sum_l alpha_l r_l."""
    gradient_norm: Float[Array, ""]


@record
class UpdateDetails:
    """Results of one update besides the new state; records have a leading axis B."""

    metrics: StepMetrics
    gradient: Params
    candidates: Candidates
    credit: Float[Array, "B n"]
    """Factors of the scores, of as many as there are: L, or K and one more for an estimator by swaps."""
