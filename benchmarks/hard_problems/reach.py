"""The attainable value of a problem: of the best candidates, and of the same encoder fitted to the rewards.

The limit is the value of the K items of largest mean reward under the problem's re-ranker. The reach is the
value of the encoder that policy gradients train, fitted with full information instead: by softmax
cross-entropy over the whole catalogue, to a target computed from the true mean rewards. No target suits every
problem, so several are fitted and the best one counts. Neither value needs sampled rewards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rankpg.config.train_config import TrainConfig
from rankpg.core.numerics import largest
from rankpg.encoders import Encoder
from rankpg.evaluation.metrics import TwoStage, evaluate
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Run, prepare
from rankpg.training.update import Learner
from rankpg.types import Array, Float

__all__ = ["TARGETS", "Reach", "find_limit", "find_reach", "targets"]

TARGETS = ("best L", "best K", "softmax")
"""Targets of the fit: uniform over the best L items, uniform over the best K, or softmax(2 reward)."""

_EVALUATIONS = 4


@dataclasses.dataclass(frozen=True)
class Reach:
    """Attainable value of a problem, in the units of its metric."""

    limit: float
    """value of the best candidates, from `find_limit`"""
    reach: float
    """value of the fitted policy, for the best target at its best evaluation"""
    by_target: dict[str, float]
    steps: int


def _truth(params, contexts, environment):
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
    return jax.vmap(lambda c: environment.mean_rewards(c, catalogue))(contexts)[:, None]


TRUTH = Encoder(init=lambda key: None, apply=_truth, reads=lambda environment: environment)
"""An encoder without parameters whose logits are the mean rewards."""


def find_limit(config: TrainConfig, measure: str) -> float:
    """Value of the K best items under the problem's re-ranker.

    It bounds the value of greedy candidates if the re-ranker shows the best candidate, the worst, or each
    with the same probability. If the re-ranker samples by reward it is a reference, not a bound: with few
    candidates, a good item and a poor one, which are easy to distinguish, may earn more than two good ones.
    It is evaluated as a policy is, with the same draws of the re-ranker.

    Args:
      config: the problem; its encoder, estimator, optimizer and seeds are not used.
      measure: name of a field of `Evaluation`.
    """
    run = prepare(dataclasses.replace(config, num_experts=1, seeds=(0,)))
    policy = dataclasses.replace(run.policy, encoder=TRUTH)
    knowing = dataclasses.replace(run.two_stage, policy=policy)
    return float(jax.jit(lambda: _value_of(knowing, None, run, measure))())


def find_reach(
    config: TrainConfig,
    measure: str,
    num_steps: int,
    on_progress: Callable[[], None] = lambda: None,
) -> Reach:
    """Fits the encoder of a config to the true mean rewards.

    Several experts are fitted as one: experts that agree return the candidates that one would.

    Args:
      config: the problem; its estimator, optimizer and seeds are not used.
      measure: name of a field of `Evaluation`.
      num_steps: steps of Adam on `batch_size` contexts, with a learning rate that decays from 1e-2 to 0 by
        a cosine.
      on_progress: called after every quarter of the steps; an exception from it ends the fit.
    """
    alone = dataclasses.replace(config, num_experts=1, seeds=(0,), init_scale=0.3)
    run = prepare(alone)
    learner = run.learner
    key = jax.random.key(0)
    one = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(TARGETS)), one)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))
    stage_steps = max(1, num_steps // _EVALUATIONS)
    fit = jax.jit(_fit(learner, optimizer, stage_steps))
    evaluator = jax.jit(
        lambda params: jax.lax.map(lambda p: _value_of(run.two_stage, p, run, measure), params)
    )
    state, best = jax.vmap(optimizer.init)(params), jnp.full(len(TARGETS), -jnp.inf)
    for index in range(_EVALUATIONS):
        params, state = fit(params, state, jax.random.fold_in(key, index))
        best = jax.block_until_ready(jnp.maximum(best, evaluator(params)))
        on_progress()
    by_target = {name: float(value) for name, value in zip(TARGETS, best, strict=True)}
    return Reach(
        find_limit(config, measure), max(by_target.values()), by_target, stage_steps * _EVALUATIONS
    )


def _value_of(system: TwoStage, params: Any, run: Run, measure: str) -> Float[Array, ""]:
    """Returns one metric of a policy, with the same random draws for every policy."""
    found = evaluate(system, run.environment, params, evaluation_contexts(run), jax.random.key(0))
    return getattr(found, measure)


def targets(
    rewards: Float[Array, "N"], ranking_length: int, num_candidates: int
) -> Float[Array, "targets N"]:
    """Returns the target distributions for one context's mean rewards, in the order of `TARGETS`.

    >>> targets(jnp.array([1.0, 4.0, 3.0, 2.0]), 1, 2)[:2]
    Array([[0. , 1. , 0. , 0. ],
           [0. , 0.5, 0.5, 0. ]], dtype=float32)
    """

    def best(count):
        return jnp.zeros_like(rewards).at[largest(rewards, count)[1]].set(1 / count)

    return jnp.stack([best(ranking_length), best(num_candidates), jax.nn.softmax(2 * rewards)])


def _fit(learner: Learner, optimizer: Any, num_steps: int) -> Any:
    """Returns `fit(params, state, key)`: `num_steps` steps of cross-entropy for all targets in parallel."""
    policy, environment = learner.policy, learner.environment
    training = jnp.asarray(learner.sampler.contexts)
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
    length, num_candidates = learner.reranker.ranking_length, policy.num_candidates

    def step(carry, key):
        params, state = carry
        contexts = jax.random.choice(key, training, (learner.sampler.batch_size,))
        wanted = jax.vmap(
            lambda c: targets(environment.mean_rewards(c, catalogue), length, num_candidates)
        )(contexts)  # [B, targets, N]

        def loss(params, wanted):
            log_probs = jax.nn.log_softmax(policy.logits(params, environment, contexts)[:, 0])
            return -jnp.mean(jnp.sum(wanted * log_probs, axis=-1))

        gradients = jax.vmap(jax.grad(loss), in_axes=(0, 1))(params, wanted)
        updates, state = jax.vmap(optimizer.update)(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    def fit(params, state, key):
        return jax.lax.scan(step, (params, state), jax.random.split(key, num_steps))[0]

    return fit
