"""How good could it get? The best candidates there are, and the same kind of policy fitted to the rewards.

The first is what a re-ranker makes of the K items of largest mean reward. The second takes the very encoder
that is trained by policy gradient and fits it with full information: softmax cross-entropy over the whole
catalogue to a target made of the true mean rewards. No target is right for every problem, so several are
tried, and the best counts. Neither needs a reward to be drawn.
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
"""What the policy is fitted to: uniform over the best L items, over the best K, or softmax(2 reward)."""

_EVALUATIONS = 4


@dataclasses.dataclass(frozen=True)
class Reach:
    """What could be had, in the units of the measure."""

    limit: float
    """of `find_limit`"""
    reach: float
    """of the fitted policy, the best target at its best evaluation"""
    by_target: dict[str, float]
    steps: int


def _truth(params, contexts, environment):
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
    return jax.vmap(lambda c: environment.mean_rewards(c, catalogue))(contexts)[:, None]


TRUTH = Encoder(init=lambda key: None, apply=_truth, reads=lambda environment: environment)
"""An encoder without parameters whose logits are the mean rewards."""


def find_limit(config: TrainConfig, measure: str) -> float:
    """What greedy candidates could earn at most: what the re-ranker makes of the K best items.

    No candidates earn more where the re-ranker shows the best of them, the worst, or any of them alike. One
    that draws by reward may do better with a good item and a hopeless one than with two good ones, if few
    are handed over and it tells them apart: then this is a yardstick, and no bound. Measured as a policy is
    measured, so with the same draws of a re-ranker that draws.

    Args:
      config: the problem; its encoder, estimator, optimizer and seeds play no part.
      measure: a field of `Evaluation`.
    """
    run = prepare(dataclasses.replace(config, num_experts=1, seeds=(0,)))
    policy = dataclasses.replace(run.policy, encoder=TRUTH)
    knowing = dataclasses.replace(run.two_stage, policy=policy)
    return float(jax.jit(lambda: _judged(knowing, None, run, measure))())


def find_reach(
    config: TrainConfig,
    measure: str,
    num_steps: int,
    on_stretch: Callable[[], None] = lambda: None,
) -> Reach:
    """Fit the encoder of a config to the true rewards.

    Several experts are fitted as one: experts that agree hand over what one would.

    Args:
      config: the problem; its estimator, optimizer and seeds play no part.
      measure: a field of `Evaluation`.
      num_steps: of Adam, step size 1e-2 falling to 0 along a cosine, on `batch_size` contexts each.
      on_stretch: called after every quarter of the steps; what it raises ends the fit.
    """
    alone = dataclasses.replace(config, num_experts=1, seeds=(0,), init_scale=0.3)
    run = prepare(alone)
    learner = run.learner
    key = jax.random.key(0)
    one = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(TARGETS)), one)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))
    accumulator = max(1, num_steps // _EVALUATIONS)
    fit = jax.jit(_fit(learner, optimizer, accumulator))
    evaluator = jax.jit(
        lambda params: jax.lax.map(lambda p: _judged(run.two_stage, p, run, measure), params)
    )
    state, best = jax.vmap(optimizer.init)(params), jnp.full(len(TARGETS), -jnp.inf)
    for index in range(_EVALUATIONS):
        params, state = fit(params, state, jax.random.fold_in(key, index))
        best = jax.block_until_ready(jnp.maximum(best, evaluator(params)))
        on_stretch()
    by_target = {name: float(value) for name, value in zip(TARGETS, best, strict=True)}
    return Reach(
        find_limit(config, measure), max(by_target.values()), by_target, accumulator * _EVALUATIONS
    )


def _judged(system: TwoStage, params: Any, run: Run, measure: str) -> Float[Array, ""]:
    """One field of an evaluation, with the same draws every time: policies compare."""
    found = evaluate(system, run.environment, params, evaluation_contexts(run), jax.random.key(0))
    return getattr(found, measure)


def targets(
    rewards: Float[Array, "N"], ranking_length: int, num_candidates: int
) -> Float[Array, "targets N"]:
    """The probabilities of `TARGETS`, in their order, for one context's mean rewards.

    >>> targets(jnp.array([1.0, 4.0, 3.0, 2.0]), 1, 2)[:2]
    Array([[0. , 1. , 0. , 0. ],
           [0. , 0.5, 0.5, 0. ]], dtype=float32)
    """

    def best(count):
        return jnp.zeros_like(rewards).at[largest(rewards, count)[1]].set(1 / count)

    return jnp.stack([best(ranking_length), best(num_candidates), jax.nn.softmax(2 * rewards)])


def _fit(learner: Learner, optimizer: Any, num_steps: int) -> Any:
    """`fit(params, state, key)`: so many steps of cross-entropy, every target's policy side by side."""
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
