"""Exact moments of every estimator's gradient on small problems, with respect to logits[M, N].

All ordered draws of K out of N <= 7 items are enumerated, so nothing here is estimated but for the one score
that reads the noise of the draw (`ca_pg_threshold`). Rewards are without noise: noise of standard deviation
sigma would leave every mean as it is and add sigma^2 E|grad score|^2 to every variance. L = 1.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.estimators import check_estimator, score
from rankpg.core.plackett_luce import log_prob
from rankpg.core.sampling import sample_candidates
from rankpg.core.theory import GradientParts, decompose_gradient
from rankpg.types import Array, Float, PRNGKey, Quotas, record

__all__ = [
    "FAST_COMPILATION",
    "RERANKERS",
    "Moments",
    "Problem",
    "exact_moments",
    "expected_gradients",
    "policy_value",
    "sampled_moments",
    "shown_probabilities",
    "true_gradients",
]

RERANKERS = {"optimal": np.inf, "noisy": 1.0, "uniform": 0.0, "anti": -np.inf}
"""name -> inverse temperature: each shows one candidate, drawn by softmax(inverse temperature * reward)."""

FAST_COMPILATION: dict[str, bool | int | str] = {"xla_backend_optimization_level": 0}
"""For `jax.jit(..., compiler_options=)`: LLVM takes longer to optimize these programs than they run."""

_LARGEST_CATALOGUE = 7
_DRAWS_AT_A_TIME = 512


@record
class Problem:
    """One context with few items. Under vmap every field has leading axes."""

    logits: Float[Array, "M N"]
    rewards: Float[Array, "N"]
    inverse_temperature: Float[Array, ""]
    """Of the re-ranker; +inf is the optimal one, 0 the uniform, -inf the anti."""


@record
class Moments:
    """What one draw of (reward - baseline) * grad score is like; every field may have leading axes."""

    mean: Float[Array, "M N"]
    standard_error: Float[Array, "M N"]
    """Of `mean`; 0 where it was enumerated."""
    variance: Float[Array, ""]
    """Trace of the covariance of one draw."""
    cosine: Float[Array, ""]
    """Mean cosine between one draw and the policy gradient; a draw that is 0 counts as 0."""


def shown_probabilities(
    rewards: Float[Array, "K"], inverse_temperature: Float[Array, ""]
) -> Float[Array, "K"]:
    """P_LSR(a | S) of the re-ranker that draws by softmax(inverse temperature * reward); ties share.

    >>> shown_probabilities(jnp.array([1.0, 3.0, 2.0]), jnp.array(-jnp.inf))
    Array([1., 0., 0.], dtype=float32)
    """
    steepness = jnp.nan_to_num(inverse_temperature)  # infinity becomes the largest float
    pinned = jnp.where(steepness > 0, jnp.max(rewards), jnp.min(rewards))  # its exponent is 0
    return jax.nn.softmax(steepness * (rewards - pinned))


def true_gradients(problem: Problem, quotas: Quotas) -> GradientParts:
    """The policy gradient, the credit-assigned one and what is between them (Theorem 3.1)."""
    return decompose_gradient(problem.logits, quotas, _reranker(problem), problem.rewards)


def policy_value(problem: Problem, quotas: Quotas) -> Float[Array, ""]:
    """V = sum over S of P(S) sum over a in S of P_LSR(a | S) q(a)."""
    draws = _draws(problem, quotas)
    weights, shown = _probabilities(problem, quotas, draws)
    return jnp.sum(weights * jnp.sum(shown * problem.rewards[draws], axis=1))


def expected_gradients(
    estimator: str, problem: Problem, quotas: Quotas, credits: Float[Array, "b N"]
) -> Float[Array, "b M N"]:
    """E[credit(a) * grad score(a)] over candidates and shown item, for several credits at once.

    Args, Raises: as `exact_moments`; credits are q(a) - baseline there.
    """
    shown, gradients = _happenings(estimator, problem, quotas)
    return jnp.einsum("ja,ba,jmn->bmn", shown, credits, gradients)


def exact_moments(
    estimator: str,
    problem: Problem,
    quotas: Quotas,
    baselines: Float[Array, "b"],
    truth: Float[Array, "M N"],
) -> Moments:
    """Mean, variance and cosine of one draw (q(a) - baseline) * grad score, by enumeration.

    Args:
      estimator: a name of `ESTIMATORS` whose score depends on the candidates alone.
      problem: logits, rewards and re-ranker of one context.
      quotas: how many slots each expert fills.
      baselines: what is subtracted from every reward, one answer for each.
      truth: the policy gradient, for the cosine.

    Returns:
      The moments of the gradient with respect to logits, with a leading axis of baselines.

    Raises:
      ValueError: an estimator that is unknown, not defined for M experts or read from the noise of the
        draw; more than 7 items; as `log_prob`.

    >>> problem = Problem(jnp.zeros((1, 3)), jnp.array([1.0, 2.0, 3.0]), jnp.array(jnp.inf))
    >>> truth = jax.jit(true_gradients, static_argnums=1)(problem, (1,)).v_pg
    >>> moments = jax.jit(exact_moments, static_argnums=(0, 2))("v_pg", problem, (1,), jnp.zeros(1), truth)
    >>> jnp.abs(moments.mean[0]).round(3)
    Array([[0.333, 0.   , 0.333]], dtype=float32)
    """
    shown, gradients = _happenings(estimator, problem, quotas)
    credits = problem.rewards[None, :] - baselines[:, None]
    mean = jnp.einsum("ja,ba,jmn->bmn", shown, credits, gradients)
    second = jnp.einsum("ja,ba,j->b", shown, credits**2, _square(gradients))
    cosine = jnp.einsum("ja,ba,j->b", shown, jnp.sign(credits), _cosines(gradients, truth))
    return Moments(
        mean=mean,
        standard_error=jnp.zeros_like(mean),
        variance=second - _square(mean),
        cosine=cosine,
    )


class _Happenings(NamedTuple):
    """All that can happen, as far as a score can tell: J of them, with a gradient each."""

    shown: jax.Array
    """P(it happens and item a is shown), [J, N]."""
    gradients: jax.Array
    """grad score, [J, M, N]."""


def _happenings(estimator: str, problem: Problem, quotas: Quotas) -> _Happenings:
    """An item is shown (credit-assigned scores), or a candidate set is drawn (the others)."""
    chosen = check_estimator(estimator, len(quotas))
    if chosen.statistics == "arrivals":
        raise ValueError(
            f"the score of {estimator!r} depends on the noise of the draw and cannot be enumerated; "
            "use sampled_moments"
        )
    draws = _draws(problem, quotas)
    weights, choice = _probabilities(problem, quotas, draws)
    shown, rows = weights[:, None] * choice, jnp.arange(draws.shape[0])[:, None]
    num_items = problem.rewards.shape[0]
    if chosen.credit_assigned:
        items = jnp.arange(num_items, dtype=jnp.int32)
        of_items = jax.jacrev(lambda f: score(estimator, f, draws[0], items, quotas))
        of_item = jnp.zeros(num_items, shown.dtype).at[draws].add(shown)
        return _Happenings(jnp.diag(of_item), of_items(problem.logits))

    def of_set(logits, draw):
        return score(estimator, logits, draw, draw[:1], quotas)[0]

    gradients = jax.vmap(jax.grad(of_set), in_axes=(None, 0))(problem.logits, draws)
    zeros = jnp.zeros((draws.shape[0], num_items), shown.dtype)
    return _Happenings(zeros.at[rows, draws].set(shown), gradients)


def sampled_moments(
    key: PRNGKey,
    estimator: str,
    problem: Problem,
    quotas: Quotas,
    baselines: Float[Array, "b"],
    truth: Float[Array, "M N"],
    num_draws: int,
) -> Moments:
    """The same by Monte Carlo over the candidates, for any estimator; the re-ranker is still summed over.

    Args:
      key: consumed.
      estimator, problem, quotas, baselines, truth: as `exact_moments`.
      num_draws: candidate sets drawn, at least 2.

    Returns:
      The moments; `standard_error` is that of `mean`, entry by entry.
    """
    check_estimator(estimator, len(quotas))
    if num_draws < 2:
        raise ValueError(f"num_draws is {num_draws}; expected at least 2, for a standard error")

    def one(key):
        draw = sample_candidates(key, problem.logits, quotas)
        gradients = jax.jacrev(lambda f: score(estimator, f, draw, draw, quotas, key=key))(
            problem.logits
        )
        shown = shown_probabilities(problem.rewards[draw], problem.inverse_temperature)
        credits = problem.rewards[draw][None, :] - baselines[:, None]
        mean = jnp.einsum("k,bk,kmn->bmn", shown, credits, gradients)
        second = jnp.einsum("k,bk,k->b", shown, credits**2, _square(gradients))
        cosines = _cosines(gradients, truth)
        return mean, second, jnp.einsum("k,bk,k->b", shown, jnp.sign(credits), cosines)

    keys = jax.random.split(key, num_draws)
    means, seconds, cosines = lax.map(one, keys, batch_size=min(num_draws, _DRAWS_AT_A_TIME))
    mean = jnp.mean(means, axis=0)
    return Moments(
        mean=mean,
        standard_error=jnp.std(means, axis=0, ddof=1) / np.sqrt(num_draws).astype(means.dtype),
        variance=jnp.mean(seconds, axis=0) - _square(mean),
        cosine=jnp.mean(cosines, axis=0),
    )


def _reranker(problem: Problem):
    return lambda draw: shown_probabilities(problem.rewards[draw], problem.inverse_temperature)


def _draws(problem: Problem, quotas: Quotas) -> jax.Array:
    """All ordered K-tuples, int32[P, K]."""
    num_items = problem.rewards.shape[0]
    if num_items > _LARGEST_CATALOGUE:
        raise ValueError(
            f"the problem has N = {num_items} items; the laboratory enumerates at most "
            f"{_LARGEST_CATALOGUE}. For larger ones: laboratory.gradient_noise"
        )
    draws = list(itertools.permutations(range(num_items), sum(quotas)))
    return jnp.asarray(np.asarray(draws), jnp.int32)


def _probabilities(problem: Problem, quotas: Quotas, draws: jax.Array):
    """P(S), [P], and P_LSR(a | S), [P, K]."""
    weights = jnp.exp(jax.vmap(lambda draw: log_prob(problem.logits, draw, quotas))(draws))
    return weights, jax.vmap(_reranker(problem))(draws)


def _square(gradients: jax.Array) -> jax.Array:
    return jnp.sum(gradients**2, axis=(-2, -1))


def _cosines(gradients: jax.Array, truth: jax.Array) -> jax.Array:
    """Of every gradient [J, M, N] with the truth [M, N]; 0 where either vanishes."""
    length = jnp.sqrt(_square(gradients) * _square(truth))
    inner = jnp.einsum("jmn,mn->j", gradients, truth)
    return jnp.where(length > 0, inner / jnp.where(length > 0, length, 1), 0)
