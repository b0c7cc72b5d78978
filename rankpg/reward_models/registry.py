"""The reward models by name, and a reward model from the settings of a run."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import optax

from rankpg.encoders.two_tower import TOWERS
from rankpg.reward_models.base import REWARD_MODELS, RewardModel
from rankpg.reward_models.ensembles import ensemble
from rankpg.reward_models.perceptron import mlp
from rankpg.reward_models.regression import falling_adam, two_tower
from rankpg.reward_models.replay import Replay
from rankpg.types import Environment

__all__ = ["REWARD_MODELS", "RewardModelSettings", "reward_model_of"]


@runtime_checkable
class RewardModelSettings(Protocol):
    """Settings from which a reward model is built; a `TrainConfig` has these fields."""

    @property
    def reward_model(self) -> str: ...

    @property
    def reward_model_dim(self) -> int: ...

    @property
    def reward_model_learning_rate(self) -> float | None: ...

    @property
    def reward_model_penalty(self) -> float: ...

    @property
    def reward_model_memory(self) -> int: ...

    @property
    def reward_model_steps(self) -> int: ...

    @property
    def reward_model_members(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def context_tower(self) -> str: ...

    @property
    def item_tower(self) -> str: ...


def _two_tower(settings: RewardModelSettings, environment: Environment) -> RewardModel:
    """Two towers over features on the sides where those of the policy read features, else tables."""
    towers = [
        "features" if name in TOWERS and TOWERS[name].reads_features else "ids"
        for name in (settings.context_tower, settings.item_tower)
    ]
    return two_tower(
        environment,
        settings.reward_model_dim,
        _optimizer(settings),
        context_tower=towers[0],
        item_tower=towers[1],
        penalty=settings.reward_model_penalty,
        replay=_replay(settings),
    )


def _mlp(settings: RewardModelSettings, environment: Environment) -> RewardModel:
    dim, replay = settings.reward_model_dim, _replay(settings)
    return mlp(environment, dim, _optimizer(settings), replay=replay)


REWARD_MODELS.update(two_tower=_two_tower, mlp=_mlp)


def reward_model_of(settings: RewardModelSettings, environment: Environment) -> RewardModel | None:
    """Builds the reward model that the settings name; None for "none".

    Raises:
      ConfigError: the environment lacks what the model reads.

    >>> from rankpg import TrainConfig
    >>> from rankpg.environments import from_matrix
    >>> world = from_matrix([[0.0, 1.0]]).environment
    >>> reward_model_of(TrainConfig(), world) is None
    True
    """
    if settings.reward_model == "none":
        return None
    model = REWARD_MODELS[settings.reward_model](settings, environment)
    members = settings.reward_model_members
    return ensemble(model, members) if members > 1 else model


def _optimizer(settings: RewardModelSettings) -> optax.GradientTransformation | None:
    rate = settings.reward_model_learning_rate
    return None if rate is None else falling_adam(rate, _replay(settings))


def _replay(settings: RewardModelSettings) -> Replay | None:
    """Three remembered rewards for each new one; None without a memory."""
    if not settings.reward_model_memory:
        return None
    return Replay(
        settings.reward_model_memory, settings.reward_model_steps, 3 * settings.batch_size
    )
