"""A fitted model of the rewards that a log does not hold, as factors of users and items."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from rankpg.types import Array, Float, Int, record

__all__ = ["RewardModel"]


@record
class RewardModel:
    """Predicted rewards, an inner product of factors that is cut to the range of observed values.

        r(u, a) = min(high, max(low, <p_u, q_a>))

    `training.unobserved.fit_reward_model` fits one.

    >>> model = RewardModel(users=jnp.ones((1, 2)), items=jnp.array([[0.2, 0.1], [9.0, 9.0]]), high=5.0)
    >>> model(jnp.int32(0), jnp.array([0, 1])).round(2).tolist()
    [0.3, 5.0]
    """

    users: Float[Array, "num_users R"]
    items: Float[Array, "N R"]
    low: float = struct.field(pytree_node=False, default=0.0)
    high: float = struct.field(pytree_node=False, default=1.0)

    def __call__(self, user: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the predicted reward of each item for a user."""
        inner = jnp.sum(self.users[user][None] * self.items[items], axis=1)
        return jnp.clip(inner, self.low, self.high)

    def padded(self, num_users: int, num_items: int) -> RewardModel:
        """Returns the model with users and items added at the end, whose reward is `low` (0 by default)."""
        more_users, more_items = num_users - len(self.users), num_items - len(self.items)
        return RewardModel(
            users=jnp.pad(self.users, ((0, more_users), (0, 0))),
            items=jnp.pad(self.items, ((0, more_items), (0, 0))),
            low=self.low,
            high=self.high,
        )
