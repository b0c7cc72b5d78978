"""Exact moments of every estimator's gradient on small problems, with respect to logits[M, N].

All ordered draws of K out of N <= 7 items are enumerated. Only the scores that read the noise of the draw
(`ca_pg_threshold`, `ca_pg_swap`) are estimated by Monte Carlo. Rewards are without noise: noise of standard
deviation sigma would not change the means and would add sigma^2 E|grad score|^2 to every variance. L = 1.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.estimators import (
    NOISE_STATISTICS,
    Estimator,
    check_estimator,
    draw_candidates,
    score,
    swaps_of,
)
from rankpg.core.numerics import masked_log
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
"""name -> inverse temperature of a re-ranker that samples by softmax(inverse temperature * reward)."""

FAST_COMPILATION: dict[str, bool | int | str] = {"xla_backend_optimization_level": 0}
"""Options for `jax.jit(..., compiler_options=)`: LLVM optimises these programs longer than they run."""

_LARGEST_CATALOGUE = 7
_DRAWS_AT_A_TIME = 512


@record
class Problem:
    """A context with few items; under vmap every field has leading axes."""

    logits: Float[Array, "M N"]
    rewards: Float[Array, "N"]
    inverse_temperature: Float[Array, ""]
    """Inverse temperature of the re-ranker: +inf is optimal, 0 uniform, -inf anti."""


@record
class Moments:
    """Moments of one draw of (reward - baseline) * grad score; every field may have leading axes."""

    mean: Float[Array, "M N"]
    standard_error: Float[Array, "M N"]
    """Standard error of `mean`; 0 if it was enumerated."""
    variance: Float[Array, ""]
    """Trace of the covariance of one draw."""
    cosine: Float[Array, ""]
    """Mean cosine between one draw and the policy gradient; a draw that is 0 counts as 0."""


def shown_probabilities(
    rewards: Float[Array, "K"], inverse_temperature: Float[Array, ""]
) -> Float[Array, "K"]:
    """P(a shown | S) of a re-ranker that samples by softmax(inverse temperature * reward); ties share.

    >>> shown_probabilities(jnp.array([1.0, 3.0, 2.0]), jnp.array(-jnp.inf))
    Array([1., 0., 0.], dtype=float32)
    """
    steepness = jnp.nan_to_num(inverse_temperature)  # infinity becomes the largest float
    pinned = jnp.where(steepness > 0, jnp.max(rewards), jnp.min(rewards))  # its exponent is 0
    return jax.nn.softmax(steepness * (rewards - pinned))


def true_gradients(problem: Problem, quotas: Quotas) -> GradientParts:
    """The policy gradient, the credit-assigned gradient, and their difference (Theorem 3.1)."""
    return decompose_gradient(problem.logits, quotas, _reranker(problem), problem.rewards)


def policy_value(problem: Problem, quotas: Quotas) -> Float[Array, ""]:
    """Policy value V = sum_S P(S) sum_{a in S} P(a shown | S) q(a)."""
    draws = _draws(problem, quotas)
    weights, shown = _probabilities(problem, quotas, draws)
    return jnp.sum(weights * jnp.sum(shown * problem.rewards[draws], axis=1))


def expected_gradients(
    estimator: str, problem: Problem, quotas: Quotas, credits: Float[Array, "b N"]
) -> Float[Array, "b M N"]:
    """Expectation of credit(a) * grad score(a) over candidates and shown item, for several credits.

    Args, Raises: as `exact_moments`, whose credits are q(a) - baseline.
    """
    shown, gradients = _outcomes(estimator, problem, quotas)
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
      estimator: a name in `ESTIMATORS` whose score depends on the candidates alone.
      problem: logits, rewards and re-ranker of one context.
      quotas: number of slots per expert.
      baselines: constants to subtract from every reward.
      truth: the policy gradient, for the cosine.

    Returns:
      The moments of the gradient with respect to logits, with a leading axis of baselines.

    Raises:
      ValueError: the estimator is unknown, not defined for M experts, or depends on the noise of the draw;
        there are more than 7 items; as `log_prob`.

    >>> problem = Problem(jnp.zeros((1, 3)), jnp.array([1.0, 2.0, 3.0]), jnp.array(jnp.inf))
    >>> truth = jax.jit(true_gradients, static_argnums=1)(problem, (1,)).v_pg
    >>> moments = jax.jit(exact_moments, static_argnums=(0, 2))("v_pg", problem, (1,), jnp.zeros(1), truth)
    >>> jnp.abs(moments.mean[0]).round(3)
    Array([[0.333, 0.   , 0.333]], dtype=float32)
    """
    shown, gradients = _outcomes(estimator, problem, quotas)
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


class _Outcomes(NamedTuple):
    """The J outcomes that a score distinguishes, with their gradients."""

    shown: jax.Array
    """P(outcome j, and item a is shown), [J, N]."""
    gradients: jax.Array
    """grad score, [J, M, N]."""


def _outcomes(estimator: str, problem: Problem, quotas: Quotas) -> _Outcomes:
    """Enumerates shown items (credit-assigned scores) or candidate sets (the other scores)."""
    chosen = check_estimator(estimator, len(quotas))
    if chosen.statistics in NOISE_STATISTICS:
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
        return _Outcomes(jnp.diag(of_item), of_items(problem.logits))

    def of_set(logits, draw):
        return score(estimator, logits, draw, draw[:1], quotas)[0]

    gradients = jax.vmap(jax.grad(of_set), in_axes=(None, 0))(problem.logits, draws)
    zeros = jnp.zeros((draws.shape[0], num_items), shown.dtype)
    return _Outcomes(zeros.at[rows, draws].set(shown), gradients)


def sampled_moments(
    key: PRNGKey,
    estimator: str,
    problem: Problem,
    quotas: Quotas,
    baselines: Float[Array, "b"],
    truth: Float[Array, "M N"],
    num_draws: int,
) -> Moments:
    """Moments by Monte Carlo over the candidates, for any estimator; the re-ranker is still enumerated.

    For a score by swaps, second moment and cosine are those of one ranking of each set, with noise that all
    sets share; baselines have no effect on it.

    Args:
      key: consumed.
      estimator, problem, quotas, baselines, truth: as `exact_moments`.
      num_draws: number of candidate sets, at least 2.

    Returns:
      The moments; `standard_error` is that of `mean`, entry by entry.
    """
    chosen = check_estimator(estimator, len(quotas))
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws}; expected at least 2, for a standard error")

    def one(key):
        if chosen.by_swaps:
            found = _swap_draw(key, chosen, problem, quotas, truth)
            return tuple(jnp.broadcast_to(x, (len(baselines), *x.shape)) for x in found)
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


def _swap_draw(
    key: PRNGKey,
    estimator: Estimator,
    problem: Problem,
    quotas: Quotas,
    truth: Float[Array, "M N"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of one draw: its mean over rankings; and of one ranking, its square and cosine."""
    drawn = draw_candidates(key, problem.logits, quotas, "swaps")
    swaps, noise_key = swaps_of(drawn, quotas), jax.random.fold_in(key, len(quotas) + 1)
    noise = jax.random.gumbel(noise_key, drawn.items.shape, problem.rewards.dtype)

    def earned(items):
        """Expected reward of a set, and the reward of the ranking that the noise chooses."""
        rewards = problem.rewards[items]
        shown = shown_probabilities(rewards, problem.inverse_temperature)
        return jnp.stack([shown @ rewards, rewards[jnp.argmax(masked_log(shown) + noise)]])

    without = jax.vmap(lambda slot, into: earned(drawn.items.at[slot].set(into)))
    credit = earned(drawn.items)[None, :] - without(swaps.slot, swaps.into)

    def scores(logits):
        described = draw_candidates(key, logits, quotas, "swaps")
        return estimator.score(described, drawn.items, quotas)

    mean, gradient = jnp.einsum("kr,kmn->rmn", credit, jax.jacrev(scores)(problem.logits))
    return mean, _square(gradient), _cosines(gradient[None], truth)[0]


def _reranker(problem: Problem):
    return lambda draw: shown_probabilities(problem.rewards[draw], problem.inverse_temperature)


def _draws(problem: Problem, quotas: Quotas) -> jax.Array:
    """Returns all ordered K-tuples, int32[P, K]."""
    num_items = problem.rewards.shape[0]
    if num_items > _LARGEST_CATALOGUE:
        raise ValueError(
            f"the problem has N = {num_items} items; expected at most {_LARGEST_CATALOGUE}, for enumeration. "
            "Use gradient_noise for larger problems"
        )
    draws = list(itertools.permutations(range(num_items), sum(quotas)))
    return jnp.asarray(np.asarray(draws), jnp.int32)


def _probabilities(problem: Problem, quotas: Quotas, draws: jax.Array):
    """Returns P(S), [P], and P(a shown | S), [P, K]."""
    weights = jnp.exp(jax.vmap(lambda draw: log_prob(problem.logits, draw, quotas))(draws))
    return weights, jax.vmap(_reranker(problem))(draws)


def _square(gradients: jax.Array) -> jax.Array:
    return jnp.sum(gradients**2, axis=(-2, -1))


def _cosines(gradients: jax.Array, truth: jax.Array) -> jax.Array:
    """Cosine of every gradient [J, M, N] with the truth [M, N]; 0 where either vanishes."""
    length = jnp.sqrt(_square(gradients) * _square(truth))
    inner = jnp.einsum("jmn,mn->j", gradients, truth)
    return jnp.where(length > 0, inner / jnp.where(length > 0, length, 1), 0)
