"""Ensembles of reward models, whose disagreement measures what was not learnt yet."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, PRNGKey, record

__all__ = ["Members", "ensemble"]


@record
class Members:
    """State of an ensemble; the members' states have a leading axis."""

    states: RewardModelState
    key_data: Array
    """Numbers of the key that draws the members' rewards."""


def ensemble(model: RewardModel, size: int) -> RewardModel:
    """Makes an ensemble of a reward model: the mean of its members predicts, their spread is the uncertainty.

    Members differ in their initialisation and in their data: each learns from a random half of the rewards,
    the double-or-nothing bootstrap (Owen and Eckles 2012).

    Args:
      model: any reward model; with replay, every member has a memory of its own half.
      size: number of members, at least 2.

    Raises:
      ValueError: fewer than two members.

    >>> from rankpg.environments import from_matrix
    >>> from rankpg.reward_models import two_tower
    >>> world = from_matrix(jnp.eye(3)).environment
    >>> several = ensemble(two_tower(world, dim=2), size=4)
    >>> state = several.init(jax.random.key(0))
    >>> bool((several.spread(state, world, jnp.array([1]), jnp.array([[0, 2]])) > 0).all())
    True
    """
    if size < 2:
        raise ValueError(f"size={size}; an ensemble needs at least 2 members")

    def init(key: PRNGKey) -> Members:
        own, key = jax.random.split(key)
        states = jax.vmap(model.init)(jax.random.split(own, size))
        return Members(states=states, key_data=jax.random.key_data(key))

    def of_members(
        state: Members,
        environment: Environment,
        contexts: Int[Array, "B"],
        items: Int[Array, "B n"],
    ) -> Float[Array, "size B n"]:
        predict = jax.vmap(model.predict, in_axes=(0, None, None, None))
        return predict(state.states, environment, contexts, items)

    def predict(
        state: Members,
        environment: Environment,
        contexts: Int[Array, "B"],
        items: Int[Array, "B n"],
    ) -> Float[Array, "B n"]:
        return jnp.mean(of_members(state, environment, contexts, items), axis=0)

    def spread(
        state: Members,
        environment: Environment,
        contexts: Int[Array, "B"],
        items: Int[Array, "B n"],
    ) -> Float[Array, "B n"]:
        return jnp.std(of_members(state, environment, contexts, items), axis=0, ddof=1)

    def learn(
        state: Members,
        environment: Environment,
        contexts: Int[Array, "B"],
        items: Int[Array, "B L"],
        rewards: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> Members:
        key, halves = jax.random.split(jax.random.wrap_key_data(state.key_data))
        half = jax.random.bernoulli(halves, 0.5, (size, *rewards.shape))
        seen = half if observed is None else half & observed[None]
        each = jax.vmap(model.learn, in_axes=(0, None, None, None, None, 0))
        states = each(state.states, environment, contexts, items, rewards, seen)
        return Members(states=states, key_data=jax.random.key_data(key))

    def embed(state: Members, environment: Environment, contexts: Int[Array, "B"]) -> Embeddings:
        assert model.embed is not None  # it is not offered otherwise
        each = jax.vmap(model.embed, in_axes=(0, None, None))(state.states, environment, contexts)
        return Embeddings(
            contexts=jnp.concatenate(list(each.contexts), axis=-1) / size,
            items=jnp.concatenate(list(each.items), axis=-1),
        )

    def unit(state: Members) -> Float[Array, ""]:
        assert model.unit is not None
        return jnp.mean(jax.vmap(model.unit)(state.states))

    return RewardModel(
        init,
        predict,
        learn,
        spread,
        None if model.embed is None else embed,
        None if model.unit is None else unit,
    )
