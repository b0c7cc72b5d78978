"""Inclusion probability P(a in S) for one expert and a large catalogue, with a bound on its error.

Exact inclusion (inclusion_exact.py) multiplies out how many of N - 1 others have arrived by each of T times.
Here only the H heaviest others, the head, are multiplied out. The number of arrivals from the tail by log
time s is a sum of rare independent events, and is approximated by a Poisson variable:

    p_j(s) = 1 - exp(-w_j e^s),    lambda(s) = sum over the tail of p_j(s)
    P(fewer than K have arrived by s) ~ sum_{i < K} P(i of the head) P(Poisson(lambda(s)) <= K - 1 - i)

The total variation distance of the tail's count from the Poisson is at most min(1, 1/lambda) sum p_j^2
(Barbour & Hall 1984, after Le Cam 1960), and the error of a probability is at most its size. The integral of
that against the item's arrival density bounds the error of P. Both sums run over blocks of items: nothing of
size N x T is ever in memory.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.inclusion_exact import (
    arrival_probabilities,
    arrival_quadrature,
    chernoff_above,
    chernoff_below,
    count_distribution,
    log_integral,
)
from rankpg.core.numerics import centre, largest, log_sum_exp, masked_log
from rankpg.core.validation import check_items, check_logits, is_whole_number
from rankpg.types import Array, Float, Int, Quotas, record

__all__ = ["LargeInclusion", "log_inclusion_large", "poisson_cdf"]

_HEAD_PER_CANDIDATE = 4
_BLOCK = 512
"""Items in a block of the tail: its 512 x T numbers fit the cache of a CPU core."""


@record
class LargeInclusion:
    """An inclusion probability and a bound on its relative error."""

    log_probability: Float[Array, ""]
    """Log P(a in S): heavy items exactly, the rest as Poisson."""
    error_bound: Float[Array, ""]
    """e such that the true probability lies between P (1 - e) and P (1 + e), apart from the error of the
    quadrature. It carries no gradient."""


def log_inclusion_large(
    logits: Float[Array, "M N"],
    item: Int[Array, ""] | int,
    quotas: Quotas,
    head: int | None = None,
) -> LargeInclusion:
    """Log P(a in S) for one expert and a large catalogue, with a bound on its relative error.

        P(a in S) = integral over t of w_a exp(-w_a t) P(A(t) + B(t) < K) dt

    (Aires 1999; Traat 2004; Vieira 2021). A(t) is the number of the `head` heaviest others that have arrived
    by t, exactly. B(t) is Poisson with mean lambda(t), the sum of p_j(t) = 1 - exp(-w_j t) over all lighter
    others.

    The bound is the integral of w_a exp(-w_a t) min(min(1, 1/lambda) sum p_j^2, q, q') dt, divided by P. Its
    first term is the distance of B from its Poisson (Barbour & Hall 1984, after Le Cam 1960); q and q' are
    the larger of the true and the approximate P(A + B < K), and of P(A + B >= K), by Chernoff bounds where
    the truth is unknown. It is a worst case (docs/mathematics.md has measured errors) and does not cover the
    errors of quadrature and rounding, which are those of `exact`.

    Time grows as T * N for the tail and T * H * K for the head, memory as N + T * H, with T = 64 nodes.

    Args:
      logits: f(a), M = 1; -inf masks an item.
      item: the item's id, in the head or not.
      quotas: (K,).
      head: H, the number of heaviest others that are exact; None: 4 K. At N - 1 or more all are exact, and
        the bound is 0.

    Returns:
      log P and the bound: scalars. For a masked item they are -inf, with gradient 0, and 0.

    Raises:
      ValueError: several experts, a negative head, a wrong shape or dtype, quotas that do not fit, and,
        outside of jit, bad values.

    >>> found = jax.jit(lambda f: log_inclusion_large(f, 3, (5,)))(jnp.zeros((1, 1000)))
    >>> round(math.exp(found.log_probability), 4), float(found.error_bound) < 0.05  # K / N
    (0.005, True)
    """
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    if len(quotas) != 1:
        raise ValueError(
            f"log_inclusion_large is defined for one expert (M = 1), but quotas={quotas} has "
            f"{len(quotas)}; use log_inclusion with 'greedy', 'swr' or 'sum', or log_inclusion_threshold"
        )
    if head is not None and (not is_whole_number(head) or head < 0):
        raise ValueError(
            f"head={head!r}; expected a whole number of at least 0 (the number of heaviest items that are "
            "exact), or None for 4 K"
        )
    num_candidates, num_items = int(quotas[0]), logits.shape[1]
    head = _HEAD_PER_CANDIDATE * num_candidates if head is None else int(head)
    return _with_poisson_tail(
        centre(logits)[0],
        jnp.asarray(item, jnp.int32),
        num_candidates,
        min(head, num_items - 1),
    )


def _with_poisson_tail(
    logits: Float[Array, "N"], item: Int[Array, ""], num_candidates: int, head: int
) -> LargeInclusion:
    """Computes `log_inclusion_large` for validated arguments, with at most N - 1 items in the head."""
    if num_candidates == logits.shape[0]:
        value = jnp.where(jnp.isneginf(logits[item]), -jnp.inf, jnp.zeros((), logits.dtype))
        return LargeInclusion(value, jnp.zeros_like(value))
    rule = arrival_quadrature(logits, item, num_candidates)
    heaviest = largest(lax.stop_gradient(rule.others), head)[1]
    mean, squares = _tail_sums(rule.others.at[heaviest].set(-jnp.inf), rule.time)
    absent, present = arrival_probabilities(rule.others[heaviest], rule.time)
    few = count_distribution(absent, present, num_candidates)  # of the head
    rest = poisson_cdf(mean, num_candidates)[::-1][: few.shape[0]]  # at K - 1 - i, i of the head
    tail = jnp.sum(few * rest, axis=0)
    value = log_integral(rule, masked_log(tail))
    log_error = _log_error(mean, squares, jnp.sum(present, axis=0), tail, num_candidates)
    certain = rule.certain | rule.masked
    log_ratio = log_sum_exp(rule.log_measure + log_error) - jnp.where(certain, 0, value)
    bound = lax.stop_gradient(jnp.where(certain, 0, jnp.exp(log_ratio)))
    return LargeInclusion(value, bound)


def _log_error(
    mean: Float[Array, "T"],
    squares: Float[Array, "T"],
    head_mean: Float[Array, "T"],
    tail: Float[Array, "T"],
    limit: int,
) -> Float[Array, "T"]:
    """Log of a bound on |Q' - Q|, Q = P(fewer than `limit` have arrived) and Q' its approximation.

    The bound is the smallest of the total variation distance, the larger of Q and Q', and the larger of 1 - Q
    and 1 - Q'. Chernoff bounds replace the unknown Q. Without the last two the bound would grow with the
    length of the quadrature interval, although Q is nearly 1 or 0 at its ends.

    Args:
      mean: expected number of arrivals from the tail.
      squares: sum of p_j^2 over the tail.
      head_mean: expected number of arrivals from the head.
      tail: Q'.
      limit: K.
    """
    distance = masked_log(squares) - jnp.log(jnp.maximum(mean, 1))
    arrived = mean + head_mean
    below = chernoff_below(arrived, jnp.asarray(limit - 1, mean.dtype))
    above = chernoff_above(arrived, jnp.asarray(limit, mean.dtype))
    few = jnp.maximum(masked_log(tail), below)
    many = jnp.maximum(masked_log(1 - tail), above)
    return jnp.minimum(distance, jnp.minimum(few, many))


def _tail_sums(
    tail: Float[Array, "N"], time: Float[Array, "T"]
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """Returns sum_j p_j and sum_j p_j^2 at each log time; the second carries no gradient.

    The backward pass computes blocks again, so that it keeps none of their T numbers per item.
    """

    @jax.checkpoint
    def block_sums(logits: Float[Array, "n"]) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
        present = arrival_probabilities(logits, time)[1]
        squares = jnp.square(lax.stop_gradient(present))
        return jnp.sum(present, axis=0), jnp.sum(squares, axis=0)

    width = min(tail.shape[0], _BLOCK)
    padded = jnp.pad(tail, (0, -tail.shape[0] % width), constant_values=-jnp.inf)
    means, squares = lax.map(block_sums, padded.reshape(-1, width))
    return jnp.sum(means, axis=0), jnp.sum(squares, axis=0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def poisson_cdf(mean: Float[Array, "T"], limit: int) -> Float[Array, "limit T"]:
    """P(Poisson(mean) <= i) for i = 0, ..., limit - 1; a mean may be 0.

    The derivative in the mean is -P(Poisson(mean) = i), without a division.

    >>> np.round(jax.jit(poisson_cdf, static_argnums=1)(jnp.array([0.0, 1.0]), 2), 4).tolist()
    [[1.0, 0.3679], [1.0, 0.7358]]
    """
    return jnp.cumsum(_poisson_pmf(mean, limit), axis=0)


@poisson_cdf.defjvp
def _poisson_cdf_jvp(
    limit: int, primals: tuple[Float[Array, "T"]], tangents: tuple[Float[Array, "T"]]
) -> tuple[Float[Array, "limit T"], Float[Array, "limit T"]]:
    (mean,), (tangent,) = primals, tangents
    return poisson_cdf(mean, limit), -_poisson_pmf(mean, limit) * tangent[None, :]


def _poisson_pmf(mean: Float[Array, "T"], limit: int) -> Float[Array, "limit T"]:
    """P(Poisson(mean) = i) = exp(c_i - i (r - 1 - log r)), r = mean / i, c_i = i log i - i - log i!.

    The usual form, i log(mean) - mean - log i!, cancels large terms. Here the term that depends on the mean
    is small wherever the probability is not, and c_i is a constant.
    """
    counts = np.arange(1, limit)
    log_peak = [i * math.log(i) - i - math.lgamma(i + 1) for i in counts.tolist()]
    count, log_peak = (jnp.asarray(x, mean.dtype)[:, None] for x in (counts, log_peak))
    distance = (mean[None, :] - count) / count  # r - 1
    near = jnp.abs(distance) < 0.5
    log_ratio = jnp.where(
        near, jnp.log1p(jnp.where(near, distance, 0)), masked_log(mean[None, :] / count)
    )
    some = jnp.exp(log_peak - count * (distance - log_ratio))
    return jnp.concatenate([jnp.exp(-mean)[None, :], some])
