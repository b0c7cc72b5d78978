"""Compiled training: a scan over updates, a vmap over seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.training.update import Learner, StepMetrics, TrainState
from rankpg.types import Array, Key

__all__ = ["over_seeds", "seed_keys", "train_chunk"]

Result = TypeVar("Result")

_STREAMS = ("init", "steps", "evaluation", "diagnostics")
"""The order is part of every run: the index of a stream is folded into its keys."""


def train_chunk(learner: Learner, length: int) -> Any:
    """Compiles `chunk(learner, states, roots) -> (states, metrics)`: `length` updates of every seed.

    States and root keys have a leading axis of seeds; the states are donated. Metrics [seeds, length] are
    those of every update, so that no mean depends on where a chunk ends.
    """
    sharding = learner.policy.retrieval.sharding

    def chunk(learner, state, root):
        def body(state, _):
            state, metrics = learner.update(state, jax.random.fold_in(root, state.step))
            return sharding.constrain(state), metrics

        return lax.scan(body, state, length=length)

    def chunks(
        learner: Learner, states: TrainState, roots: Key[Array, "seeds"]
    ) -> tuple[TrainState, StepMetrics]:
        states, metrics = over_seeds(chunk)(learner, states, roots)
        return sharding.constrain(states), sharding.replicated(metrics)

    return jax.jit(chunks, donate_argnums=1)


def over_seeds(function: Callable[[Learner, TrainState, Any], Result]) -> Callable[..., Result]:
    """Maps `function(learner, state, key)` over seeds: states and keys have a leading axis.

    Under vmap a condition becomes a selection, which holds both of its results; so one seed goes alone.
    """

    def of_all(learner, states, keys):
        if len(keys) > 1:
            return jax.vmap(function, in_axes=(None, 0, 0))(learner, states, keys)
        only = function(learner, *jax.tree.map(lambda x: x[0], (states, keys)))
        return jax.tree.map(lambda x: x[None], only)

    return of_all


def seed_keys(
    seeds: tuple[int, ...], stream: Literal["init", "steps", "evaluation", "diagnostics"]
) -> Key[Array, "seeds"]:
    """One key for each seed, in a random stream of its own."""
    values = jnp.asarray(seeds, jnp.uint32)
    index = _STREAMS.index(stream)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), index))(values)
