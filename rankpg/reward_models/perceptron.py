"""A reward model that is a perceptron on the features of both sides and their product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rankpg.errors import ConfigError
from rankpg.rerankers import NeuralScorer
from rankpg.reward_models.base import RewardModel
from rankpg.reward_models.regression import custom, falling_adam
from rankpg.reward_models.replay import Replay
from rankpg.types import Array, Environment, Float, Int, Params, PRNGKey

__all__ = ["mlp"]


def mlp(
    environment: Environment,
    dim: int = 32,
    optimizer: optax.GradientTransformation | None = None,
    *,
    hidden: tuple[int, int] = (64, 64),
    replay: Replay | None = None,
) -> RewardModel:
    """Builds a reward model that is a perceptron over the features x of contexts and e of items.

        g(x, e) = MLP([P x, Q e, P x * Q e])

    It predicts rewards of contexts and items that were never shown.

    Args:
      environment: has `context_features` [contexts, F] and `item_features` [N, G].
      dim: width of the projections P x and Q e.
      optimizer: any of optax; `falling_adam` from a learning rate of 0.003 by default.
      hidden: widths of the two hidden layers.
      replay: memory of earlier rewards, and steps on them; None for one step on every batch.

    Raises:
      ConfigError: the environment lacks features of a side.

    >>> from rankpg.environments import generate
    >>> world = generate(jax.random.key(0), num_contexts=4, num_items=6, num_features=3)
    >>> model = mlp(world, dim=2)
    >>> model.predict(model.init(jax.random.key(1)), world, jnp.array([1]), jnp.array([[0, 5]])).shape
    (1, 2)
    """
    for side in ("context", "item"):
        if getattr(environment, f"{side}_features") is None:
            raise ConfigError(
                f"reward_model='mlp' reads features, and the environment {type(environment).__name__} has no "
                f"{side}_features; add them, or give reward_model='two_tower'"
            )

    def build(key: PRNGKey) -> NeuralScorer:
        return NeuralScorer(environment, dim, hidden, rngs=nnx.Rngs(params=key))

    graph, _ = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))), nnx.Param)

    def apply(
        params: Params, world: Environment, contexts: Int[Array, "B"], items: Int[Array, "B n"]
    ) -> Float[Array, "B n"]:
        users = contexts if world.context_users is None else world.context_users[contexts]
        rows = jnp.repeat(users, items.shape[1])
        found = nnx.merge(graph, params)(world, rows, items.reshape(-1))
        return found.reshape(items.shape)

    return custom(
        lambda key: nnx.split(build(key), nnx.Param)[1],
        apply,
        falling_adam(3e-3, replay) if optimizer is None else optimizer,
        replay=replay,
    )
