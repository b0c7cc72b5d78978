"""The interface of a reward model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, PRNGKey

__all__ = ["REWARD_MODELS", "RewardModel", "RewardModelState"]

RewardModelState: TypeAlias = Any
"""A pytree of arrays: parameters, and the state of their optimizer."""


class RewardModel(NamedTuple):
    """A model of the mean reward of each item when it is shown to a context."""

    init: Callable[[PRNGKey], RewardModelState]
    predict: Callable[
        [RewardModelState, Environment, Int[Array, "B"], Int[Array, "B n"]], Float[Array, "B n"]
    ]
    """Predicted mean rewards of n items for each context; differentiable in the state's parameters."""
    learn: Callable[
        [
            RewardModelState,
            Environment,
            Int[Array, "B"],
            Int[Array, "B L"],
            Float[Array, "B L"],
            Bool[Array, "B L"] | None,
        ],
        RewardModelState,
    ]
    """Makes one step on shown items and their rewards; the mask names those observed, None: all."""
    spread: (
        Callable[
            [RewardModelState, Environment, Int[Array, "B"], Int[Array, "B n"]],
            Float[Array, "B n"],
        ]
        | None
    ) = None
    """Uncertainty of the predictions, in units of the reward; None: the model does not say."""
    embed: Callable[[RewardModelState, Environment, Int[Array, "B"]], Embeddings] | None = None
    """Embeddings, M = 1, whose inner products are the predictions up to a constant of each context, so that
    the best items can be searched for; None: predictions are made item by item."""
    unit: Callable[[RewardModelState], Float[Array, ""]] | None = None
    """Typical size of differences between rewards; None: 1."""


REWARD_MODELS: dict[str, Callable[[Any, Environment], RewardModel]] = {}
"""name -> builder from settings and environment; the values of the setting `reward_model` besides "none".
Filled in registry.py."""
