"""The estimators that learn through predicted rewards, by an objective of their own, from the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rankpg.config.train_config import TrainConfig
from rankpg.training.exploration import Exploration
from rankpg.training.model_guided import ModelGuided
from rankpg.training.update import Objective
from rankpg.training.value_based import ValueBased

__all__ = ["REWARD_OBJECTIVES", "reward_objective", "with_reward_model"]

_GUIDED_STEPS = 400
_IMITATED = 0.1
"""Temperature of the imitated candidates, in standard deviations of the first batch of rewards."""


def _value_based(config: TrainConfig) -> Objective:
    first, last = config.exploration_temperatures or (1.0, 0.1)
    return ValueBased(Exploration(first, last, config.exploration_steps or config.num_steps))


def _model_guided(config: TrainConfig) -> Objective:
    first, last = config.exploration_temperatures or (2.0, 0.1)
    exploration = Exploration(first, last, config.exploration_steps or _GUIDED_STEPS)
    return ModelGuided(exploration, min(_IMITATED, last))


REWARD_OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "value_based": _value_based,
    "model_guided": _model_guided,
}
"""name of an estimator -> builder of its objective."""
_NEED_MODELS = ("model_guided",)


def reward_objective(config: TrainConfig) -> Objective | None:
    """Builds the objective of the estimator; None for a policy gradient."""
    build = REWARD_OBJECTIVES.get(config.estimator)
    return None if build is None else build(config)


def with_reward_model(config: TrainConfig) -> TrainConfig:
    """Returns the config with two towers as its reward model, if the estimator needs one and none is named.

    >>> with_reward_model(TrainConfig(estimator="model_guided")).reward_model
    'two_tower'
    """
    if config.reward_model != "none" or config.estimator not in _NEED_MODELS:
        return config
    return dataclasses.replace(config, reward_model="two_tower")
