"""The compiled halves of an update. Parameters have an axis of seeds, of length 1, as in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from rankpg.online.update import (
    FeedbackBatch,
    Importance,
    LoggedDraw,
    UpdateMetrics,
    act,
    keys_of_draw,
    sample_rewards,
    training_contexts,
    update_from_feedback,
)
from rankpg.training.logged import among
from rankpg.training.update import Learner, TrainState
from rankpg.types import Array, Bool, Float, Int, Params, PRNGKey, UInt

__all__ = ["Programs", "compile_programs"]

Tree = TypeVar("Tree")


class Programs(NamedTuple):
    """Compiled functions; each takes the learner first."""

    contexts: Callable[..., Any]
    """(root, serial) -> training contexts of a batch"""
    draw: Callable[..., Any]
    """(params, root, serial, contexts, allowed) -> `LoggedDraw`"""
    count: Callable[..., Any]
    """(contexts, allowed) -> number of eligible items"""
    rewards: Callable[..., Any]
    """(root, serial, contexts, ranking) -> rewards of the environment"""
    update: Callable[..., Any]
    """(state, feedback) -> next state and `UpdateMetrics`"""


def compile_programs(importance: Importance, clip: float) -> Programs:
    """Prepares the programs; each is compiled when it is first called.

    No argument is donated: other threads may read the parameters while an update runs.
    """

    def draw(
        learner: Learner,
        params: Params,
        root: PRNGKey,
        serial: UInt[Array, ""],
        contexts: Int[Array, "B"],
        allowed: Bool[Array, "B N"] | None,
    ) -> LoggedDraw:
        keys = keys_of_draw(root, serial, len(contexts)).candidates
        return act(learner, _only(params), keys, contexts, allowed)

    def rewards(
        learner: Learner,
        root: PRNGKey,
        serial: UInt[Array, ""],
        contexts: Int[Array, "B"],
        ranking: Int[Array, "B L"],
    ) -> Float[Array, "B L"]:
        keys = keys_of_draw(root, serial, len(contexts)).rewards
        return sample_rewards(learner, keys, contexts, ranking)

    def update(
        learner: Learner, state: TrainState, batch: FeedbackBatch
    ) -> tuple[TrainState, UpdateMetrics]:
        state, metrics = update_from_feedback(learner, importance, clip, _only(state), batch)
        return jax.tree.map(lambda x: x[None], state), metrics

    return Programs(
        contexts=jax.jit(training_contexts),
        draw=jax.jit(draw),
        count=jax.jit(_count),
        rewards=jax.jit(rewards),
        update=jax.jit(update),
    )


def _only(tree: Tree) -> Tree:
    """Takes the only seed."""
    return jax.tree.map(lambda x: x[0], tree)


def _count(
    learner: Learner, contexts: Int[Array, "B"], allowed: Bool[Array, "B N"]
) -> Int[Array, "B"]:
    """Number of items that each row can choose from."""

    def one(context: Int[Array, ""], allowed: Bool[Array, "N"]) -> Int[Array, ""]:
        world = among(learner.environment, allowed)
        logits = world.mask_ineligible(context, jnp.zeros((1, allowed.shape[0])))
        return jnp.sum(logits == 0, dtype=jnp.int32)

    return jax.vmap(one)(contexts, allowed)
