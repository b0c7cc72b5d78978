"""Reward models: predictions of the reward of a shown item, fitted to the rewards that were observed.

A reward model is three pure functions, like an optax transformation: `init(key) -> state`,
`predict(state, environment, contexts, items) -> rewards`, and
`learn(state, environment, contexts, items, rewards, observed) -> state`, which learns from a batch.
"""

from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.reward_models.ensembles import Members, ensemble
from rankpg.reward_models.held_out import (
    Assessment,
    Reliability,
    assess,
    begin_assessment,
    learn_and_assess,
    reliability,
    squared_error,
)
from rankpg.reward_models.perceptron import mlp
from rankpg.reward_models.registry import REWARD_MODELS, RewardModelSettings, reward_model_of
from rankpg.reward_models.regression import Fitted, custom, falling_adam, two_tower
from rankpg.reward_models.replay import Memory, Observed, Replay

__all__ = [
    "REWARD_MODELS",
    "Assessment",
    "Fitted",
    "Members",
    "Memory",
    "Observed",
    "Reliability",
    "Replay",
    "RewardModel",
    "RewardModelSettings",
    "RewardModelState",
    "assess",
    "begin_assessment",
    "custom",
    "ensemble",
    "falling_adam",
    "learn_and_assess",
    "mlp",
    "reliability",
    "reward_model_of",
    "squared_error",
    "two_tower",
]
