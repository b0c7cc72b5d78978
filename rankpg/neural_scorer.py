"""A re-ranker that is itself learned: a neural scorer of (context, item), fitted to sampled rewards.

It is trained before the retriever and stays fixed: the late stage that the user already has.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from rankpg.late_stage import Scorer
from rankpg.types import Array, Environment, Float, Int, PRNGKey

__all__ = ["NeuralScorer", "fit"]


class NeuralScorer(nnx.Module):
    """A perceptron over both sides' features (learned embeddings where there are none) and their product.

    score(context, item) = MLP([x, e, x * e])
    """

    def __init__(
        self,
        environment: Environment,
        dim: int = 16,
        hidden: tuple[int, ...] = (64, 64),
        *,
        rngs: nnx.Rngs,
    ):
        self.contexts, width = _side(environment, "context", environment.num_contexts, dim, rngs)
        self.project_context = nnx.Linear(width, dim, rngs=rngs)
        self.items, width = _side(environment, "item", environment.num_items, dim, rngs)
        self.project_item = nnx.Linear(width, dim, rngs=rngs)
        self.first = nnx.Linear(3 * dim, hidden[0], rngs=rngs)
        self.second = nnx.Linear(hidden[0], hidden[1], rngs=rngs)
        self.last = nnx.Linear(hidden[1], 1, rngs=rngs)

    def __call__(
        self, environment: Environment, contexts: Int[Array, "n"], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """One score per pair."""
        x = self.project_context(self.contexts(environment)[contexts])
        e = self.project_item(self.items(environment)[items])
        hidden = nnx.relu(self.first(jnp.concatenate([x, e, x * e], axis=-1)))
        return jnp.squeeze(self.last(nnx.relu(self.second(hidden))), axis=-1)


class _Given(nnx.Module):
    """Features that stay in the environment."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, environment: Environment) -> Float[Array, "rows F"]:
        return getattr(environment, self.name)


class _Table(nnx.Module):
    """Learned embeddings, one row an id."""

    def __init__(self, rows: int, dim: int, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (rows, dim)))

    def __call__(self, environment: Environment) -> Float[Array, "rows F"]:
        del environment
        return self.table[...]


def _side(environment: Environment, side: str, count: int, dim: int, rngs: nnx.Rngs):
    """What describes one side, and its width."""
    name = f"{side}_features"
    features = getattr(environment, name, None)
    if features is not None:
        return _Given(name), features.shape[1]
    return _Table(count, dim, rngs), dim


def fit(
    key: PRNGKey,
    environment: Environment,
    *,
    num_steps: int = 2000,
    batch_size: int = 1024,
    learning_rate: float = 3e-3,
) -> Scorer:
    """Fit a NeuralScorer to rewards of random pairs, by Adam on the squared error.

    Args:
      key: of the start and of the pairs drawn.
      environment: where the rewards come from; its features are used where it has them.
      num_steps: updates.
      batch_size: pairs per update.
      learning_rate: of Adam.

    Returns:
      A scorer for `late_stage.learned`.
    """
    init_key, data_key = jax.random.split(key)
    module = NeuralScorer(environment, rngs=nnx.Rngs(params=init_key))
    graphdef, params = nnx.split(module, nnx.Param)
    optimizer = optax.adam(learning_rate)

    def step(environment, carry, step_key):
        params, optimizer_state = carry
        context_key, item_key, reward_key = jax.random.split(step_key, 3)
        contexts = jax.random.randint(context_key, (batch_size,), 0, environment.num_contexts)
        items = jax.random.randint(item_key, (batch_size,), 0, environment.num_items)
        rewards = jax.vmap(lambda k, c, i: environment.sample_rewards(k, c, i[None])[0])(
            jax.random.split(reward_key, batch_size), contexts, items
        )

        def squared_error(params):
            predicted = nnx.merge(graphdef, params)(environment, contexts, items)
            return jnp.mean((predicted - rewards) ** 2)

        loss, gradient = jax.value_and_grad(squared_error)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    keys = jax.random.split(data_key, num_steps)

    @jax.jit
    def run(environment, params):
        return lax.scan(partial(step, environment), (params, optimizer.init(params)), keys)[0]

    params, _ = run(environment, params)

    def scorer(environment, context, candidates):
        contexts = jnp.broadcast_to(context, candidates.shape)
        return nnx.merge(graphdef, params)(environment, contexts, candidates)

    return scorer
