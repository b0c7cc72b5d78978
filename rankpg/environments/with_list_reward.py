"""Environments whose reward is that of the whole shown list."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from flax import struct

from rankpg.environments.dataset import Dataset
from rankpg.environments.list_reward import ListReward, function
from rankpg.types import (
    Array,
    Bool,
    Environment,
    Feedback,
    Float,
    Int,
    PRNGKey,
    check_environment,
    record,
)

__all__ = ["ListRewards", "items_alone", "with_list_reward"]

if TYPE_CHECKING:
    Reward = ListReward | Callable[..., Any]
else:  # checked here, with messages of our own
    Reward = Any

Given = TypeVar("Given", Environment, Dataset)

NOTE = "The reward is that of the whole shown list: {}."


@record
class ListRewards(Environment):
    """An environment whose rewards are what each position adds to the reward of the shown list.

    All else is that of `inner`; `relevance`, by which the built-in re-rankers sort, as well.
    """

    inner: Environment
    reward: ListReward
    item_weight: float = struct.field(pytree_node=False, default=0.0)
    """Weight of the rewards of `inner`, which are added at each position."""

    @property
    def rewards_interact(self) -> bool:
        return True

    @property
    def num_contexts(self) -> int:
        return self.inner.num_contexts

    @property
    def num_items(self) -> int:
        return self.inner.num_items

    @property
    def context_users(self) -> Int[Array, "num_contexts"] | None:
        return self.inner.context_users

    @property
    def num_users(self) -> int:
        return self.inner.num_users

    @property
    def context_features(self) -> Float[Array, "num_contexts F"] | None:
        return self.inner.context_features

    @property
    def item_features(self) -> Float[Array, "N G"] | None:
        return self.inner.item_features

    @property
    def item_tags(self) -> Int[Array, "N T"] | None:
        return self.inner.item_tags

    @property
    def item_scores(self) -> Float[Array, "num_users N"] | None:
        return self.inner.item_scores

    @property
    def where(self) -> Bool[Array, "num_contexts N"] | None:
        return self.inner.where

    @property
    def allowed(self) -> Bool[Array, "N"] | None:
        return self.inner.allowed

    @property
    def whole(
        self,
    ) -> Any:  # an Environment, whose check at run time reads `whole`
        """The environment before items were removed."""
        inner = self.inner.whole
        return self if inner is self.inner else dataclasses.replace(self, inner=inner)

    @property
    def knows_rewards(self) -> bool:
        """True where the rewards of `inner` are known, or do not count."""
        return self.item_weight == 0 or self.inner.knows_rewards

    @property
    def missing_share(self) -> float:
        return getattr(self.inner, "missing_share", 0.0)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the expected gain of each position of a list, best first."""
        gains = self.reward.gains(context, items)
        if self.item_weight == 0:
            return gains
        own = self.inner.mean_rewards(context, items)
        return gains.astype(own.dtype) + self.item_weight * own

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples the gain of each position of a list, best first."""
        if self.item_weight == 0:
            return self.reward.sample(key, context, items)
        list_key, item_key = jax.random.split(key)
        own = self.inner.sample_rewards(item_key, context, items)
        return (
            self.reward.sample(list_key, context, items).astype(own.dtype) + self.item_weight * own
        )

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the relevance in the inner environment."""
        return self.inner.relevance(context, items)

    def observed(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"]:
        """Returns the items that the inner environment has observed."""
        return self.inner.observed(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Returns the items that are eligible in the inner environment."""
        return self.inner.eligible(context, items)

    def eligible_run(
        self, contexts: Int[Array, "B"], first: Int[Array, ""], count: int
    ) -> Bool[Array, "count B"] | None:
        """Returns `eligible_run` of the inner environment."""
        return self.inner.eligible_run(contexts, first, count)

    def count_eligible(self) -> Int[Array, "num_contexts"] | None:
        """Counts the eligible items of the inner environment."""
        return self.inner.count_eligible()

    def mask_ineligible(
        self, context: Int[Array, ""], logits: Float[Array, "M N"]
    ) -> Float[Array, "M N"]:
        """Returns logits with -inf for items that are not eligible in the inner environment."""
        return self.inner.mask_ineligible(context, logits)

    def feedback(self, key: PRNGKey, contexts: Int[Array, "B"]) -> Feedback | None:
        """Returns the feedback of the inner environment, which is of single items."""
        return self.inner.feedback(key, contexts)

    def histories(self, contexts: Int[Array, "B"], length: int) -> Int[Array, "B length"] | None:
        """Returns the histories of the inner environment."""
        return self.inner.histories(contexts, length)

    def take_items(self, rows: np.ndarray) -> ListRewards:
        inner, reward = self._editable().take_items(rows), self.reward.take_items(rows)
        return dataclasses.replace(self, inner=inner, reward=reward)

    def append_items(self, features: np.ndarray) -> ListRewards:
        reward = self.reward.append_items(len(features))
        return dataclasses.replace(
            self, inner=self._editable().append_items(features), reward=reward
        )

    def append_contexts(self, features: np.ndarray) -> ListRewards:
        reward = self.reward.append_contexts(len(features))
        return dataclasses.replace(
            self, inner=self._editable().append_contexts(features), reward=reward
        )

    def _editable(self) -> Any:
        if not hasattr(self.inner, "take_items"):
            raise TypeError(
                f"the environment {type(self.inner).__name__} cannot change its items and contexts; expected "
                "one such as those of from_table"
            )
        return self.inner


def with_list_reward(data: Given, reward: Reward, *, item_weight: float | int = 0.0) -> Given:
    """Returns a dataset, or an environment, whose reward is that of the whole shown list.

    Contexts, items, features, eligibility and relevance stay as they are.

    Args:
      data: the dataset or environment.
      reward: one of `list_rewards`, or a function of (context, items [L]) that returns gains [L] or the
        reward of the list; see `list_rewards.function`.
      item_weight: weight of the rewards of `data` itself, which are added to the gains. With a penalty it is
        above 0, or else nothing but the penalty is learnt.

    Raises:
      TypeError: `data` is neither, has list rewards already, or holds interactions with a split; or `reward`
        is not callable.
      ValueError: a weight that is not finite.

    >>> import jax.numpy as jnp
    >>> from rankpg import environments
    >>> data = environments.from_matrix([[1.0, 2.0, 3.0]])
    >>> genres = np.array([[1, 0], [1, 0], [0, 1]])
    >>> diverse = with_list_reward(data, environments.list_rewards.subtopic_recall(genres), item_weight=0.1)
    >>> diverse.environment.mean_rewards(jnp.int32(0), jnp.array([2, 0])).round(3).tolist()
    [0.8, 0.6]
    """
    environment = data.environment if isinstance(data, Dataset) else data
    check_environment(environment)
    if environment.rewards_interact:
        raise TypeError(
            f"the environment {type(environment).__name__} has rewards of a list already; give its inner "
            "environment, and one function that returns the sum of both"
        )
    if isinstance(data, Dataset) and data.parts is not None:
        raise TypeError(
            "data holds interactions with a split, which are evaluated by held-out items and not by a list "
            "reward; read them as ratings: environments.from_file"
        )
    if not isinstance(reward, ListReward):
        if not callable(reward):
            raise TypeError(
                f"reward is a {type(reward).__name__}; expected one of environments.list_rewards, or a "
                "function of (context, items)"
            )
        reward = function(reward)
    if not np.isfinite(item_weight):
        raise ValueError(f"item_weight={item_weight}; expected a finite number")
    wrapped = ListRewards(environment, reward, float(item_weight))
    if not isinstance(data, Dataset):
        return wrapped
    notes = (*data.notes, NOTE.format(reward.name))
    return dataclasses.replace(data, environment=wrapped, notes=notes)


def items_alone(environment: Environment) -> Environment:
    """Returns the environment of single items that a list reward stands on; any other as it is.

    >>> from rankpg import environments
    >>> world = environments.paper_instance()
    >>> items_alone(with_list_reward(world, lambda context, items: items[0] / 2)) is world
    True
    """
    return environment.inner if isinstance(environment, ListRewards) else environment
