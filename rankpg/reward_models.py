"""Reward models: predictions of the reward of an item that is shown, fitted to the rewards that were observed.

A reward model is three pure functions, like an optax transformation: `init(key) -> state`,
`predict(state, environment, contexts, items) -> rewards`, and
`learn(state, environment, contexts, items, rewards) -> state`, one step on a batch of observed rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey

__all__ = ["RewardModel", "RewardModelState"]

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
