"""Effect of a baseline on the expected update of a score, by enumeration.

For any score, with b subtracted from the reward,

    E[(r - b) grad score] = Cov(r, grad score) + (V - b) E[grad score],        V = E[r].

For a log-probability of the whole draw (`v_pg`) the last expectation is 0 and a baseline changes no mean. For
log P(a in S) of the shown item a it is not 0. Write c(a) = P(a shown | a in S); with one expert

    E[grad log P(a in S)] = sum_a c(a) grad P(a in S),

which vanishes only where c is the same for all items (the uniform re-ranker), since sum_a P(a in S) = K. It
raises the inclusion probability of the items that the re-ranker prefers: the update *imitates the re-ranker*,
with weight V - b. Hence

- a good re-ranker and b < V: imitation helps, and a baseline removes that help;
- a good re-ranker and b > V (with the batch mean: every context poorer than average): imitation is reversed,
  and the re-ranker's favourite items are pushed out of the candidates;
- a misleading re-ranker: imitation harms, and a baseline of at least V corrects the direction.

Scores that are not log inclusion probabilities (`top1_pg`, `ca_pg_swr`) suffer most: grad log P(a in S)
vanishes as an item becomes a certain candidate, while grad log pi(a) continues until probability is spread
over several items. Their expectation is not 0 under the uniform re-ranker either: there a baseline removes
bias, and not only noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks.estimator_lab.exact import Problem, expected_gradients, policy_value, true_gradients
from rankpg.types import Array, Float, Params, Quotas

__all__ = ["BASELINES", "UpdateParts", "expected_ascent", "split_update", "update_cosine"]

Baseline = Callable[[Float[Array, "C"]], Float[Array, "C"]]

BASELINES: dict[str, Baseline] = {
    "none": jnp.zeros_like,
    "context": lambda values: values,
    "batch": lambda values: jnp.broadcast_to(jnp.mean(values), values.shape),
}
"""name -> function from the policy values of all contexts to the baseline of each."""


class UpdateParts(NamedTuple):
    """The two parts of E[(r - b) grad score] = covariance + (value - b) * imitation."""

    covariance: Float[Array, "M N"]
    """Cov(r, grad score): the update with the context's own value as the baseline."""
    imitation: Float[Array, "M N"]
    """E[grad score]: the update under a constant reward of 1."""
    value: Float[Array, ""]
    """V = E[r]."""


def split_update(estimator: str, problem: Problem, quotas: Quotas) -> UpdateParts:
    """Splits an expected update into the part that a baseline does not change and the part that it scales.

    Args:
      estimator: a name in `ESTIMATORS` whose score depends on the candidates alone.
      problem: logits, rewards and re-ranker of one context.
      quotas: number of slots per expert.

    >>> problem = Problem(jnp.zeros((1, 3)), jnp.array([1.0, 2.0, 3.0]), jnp.array(jnp.inf))
    >>> parts = jax.jit(split_update, static_argnums=(0, 2))("top1_pg", problem, (1,))
    >>> jnp.abs(parts.covariance).round(3)  # K = 1: pi (r - V), and no imitation
    Array([[0.333, 0.   , 0.333]], dtype=float32)
    """
    value = policy_value(problem, quotas)
    credits = jnp.stack([problem.rewards, jnp.ones_like(problem.rewards)])
    whole, imitation = expected_gradients(estimator, problem, quotas, credits)
    return UpdateParts(covariance=whole - value * imitation, imitation=imitation, value=value)


def update_cosine(
    estimator: str, problem: Problem, quotas: Quotas, baselines: Float[Array, "b"]
) -> Float[Array, "b"]:
    """Cosine between the expected update and the policy gradient, for baselines in units of V.

    Multiplied by the norm of the policy gradient it is the gain in value per unit length of the step.
    """
    parts = split_update(estimator, problem, quotas)
    truth = true_gradients(problem, quotas).v_pg

    def one(baseline):
        update = parts.covariance + (1 - baseline) * parts.value * parts.imitation
        length = jnp.sqrt(jnp.sum(update**2) * jnp.sum(truth**2))
        return jnp.where(length > 0, jnp.sum(update * truth) / jnp.where(length > 0, length, 1), 0)

    return jax.vmap(one)(baselines)


def expected_ascent(
    estimator: str,
    problems: Problem,
    quotas: Quotas,
    baseline: Baseline,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    params: Params,
    to_logits: Callable[[Params], Float[Array, "C M N"]],
) -> Float[Array, "steps C"]:
    """Follows the expected update without noise and returns the policy value of every context.

    Args:
      estimator: a name in `ESTIMATORS` whose score depends on the candidates alone.
      problems: C contexts; their `logits` are not used.
      quotas: number of slots per expert.
      baseline: function of the values of all contexts, applied before every step, such as one in `BASELINES`.
      optimizer: an optax optimizer.
      num_steps: number of updates.
      params: initial parameters.
      to_logits: function from parameters to the logits of all contexts; the identity, or two towers that
        share items.

    Returns:
      The value before every step and after the last, [num_steps + 1, C].
    """

    def at(logits):
        return Problem(logits, problems.rewards, problems.inverse_temperature)

    values_of = jax.vmap(partial(policy_value, quotas=quotas))

    def update_of(problem, baseline):
        credits = (problem.rewards - baseline)[None, :]
        return expected_gradients(estimator, problem, quotas, credits)[0]

    def step(carry, _):
        params, state = carry
        logits, pull = jax.vjp(to_logits, params)
        values = values_of(at(logits))
        (gradient,) = pull(-jax.vmap(update_of)(at(logits), baseline(values)))
        changes, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, changes), state), values

    (params, _), values = lax.scan(step, (params, optimizer.init(params)), length=num_steps)
    return jnp.concatenate([values, values_of(at(to_logits(params)))[None]])
