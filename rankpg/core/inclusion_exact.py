"""Exact inclusion probability P(a in S) for one expert, by quadrature over arrival times.

Item j arrives at the time Exp(1) / w_j, w_j = exp(f(j)), and the candidates are the first K arrivals. Then

    P(a in S) = integral over t of w_a exp(-w_a t) P(fewer than K of the others have arrived by t) dt

(Aires 1999; Traat 2004; Vieira 2021). The number of others that have arrived is Poisson-binomial: its
generating function is a product of (1 - p_j) + p_j x over the items. It is multiplied out as a tree of
polynomials truncated at x^K: every term is positive, so nothing cancels, pairs multiply in parallel, and the
backward pass needs the tree only.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import cloglog_inverse, largest, log_add, log_sum_exp, masked_log
from rankpg.types import Array, Bool, Float, Int, record

__all__ = [
    "ArrivalQuadrature",
    "arrival_probabilities",
    "arrival_quadrature",
    "chernoff_above",
    "chernoff_below",
    "count_distribution",
    "log_inclusion_exact",
    "log_integral",
    "tail_probability",
]

_BISECTIONS = 24
_LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 in every float format


def log_inclusion_exact(
    logits: Float[Array, "N"],
    item: Int[Array, ""],
    num_candidates: int,
    num_nodes: int | None = None,
) -> Float[Array, ""]:
    """Log P(a in S) for one expert, exact up to quadrature error (Aires 1999; Vieira 2021).

    Args:
      logits: f(a); -inf masks an item.
      item: the item's id.
      num_candidates: K.
      num_nodes: quadrature nodes T; None: 128 for N <= 64, and 64 above, where the tail is smoother. Time
        and memory grow as T * N * log K.

    Returns:
      A scalar; -inf, with gradient 0, for a masked item.

    >>> value = jax.jit(log_inclusion_exact, static_argnums=2)(jnp.array([1.0, 0.0, 0.0]), jnp.int32(0), 1)
    >>> round(math.exp(value), 4)  # softmax
    0.5761
    """
    num_items = logits.shape[0]
    if num_candidates >= num_items:
        return jnp.where(jnp.isneginf(logits[item]), -jnp.inf, 0 * _finite(logits[item]))
    rule = arrival_quadrature(logits, item, num_candidates, num_nodes)
    absent, present = arrival_probabilities(rule.others, rule.time)
    return log_integral(rule, masked_log(tail_probability(absent, present, num_candidates)))


@record
class ArrivalQuadrature:
    """Quadrature over the log arrival time of one item.

    The origin of log time is where the K-th other item arrives.
    """

    own: Float[Array, ""]
    """The item's logit relative to the origin; 0 where it is masked."""
    others: Float[Array, "N"]
    """The others' logits relative to the origin; -inf for masked items and for the item itself."""
    start: Float[Array, ""]
    """s0: before it fewer than K of the others have arrived, to within eps."""
    time: Float[Array, "T"]
    """The nodes between s0 and s1. Neither they nor s0 carry a gradient."""
    log_measure: Float[Array, "T"]
    """Log of a node's weight times the item's own arrival density in log time."""
    certain: Bool[Array, ""]
    """True where fewer than K of the others are eligible: the item is included."""
    masked: Bool[Array, ""]
    """True where the item itself is masked."""


def arrival_quadrature(
    logits: Float[Array, "N"],
    item: Int[Array, ""],
    num_candidates: int,
    num_nodes: int | None = None,
) -> ArrivalQuadrature:
    """Nodes and weights for `log_integral`.

    Args: as `log_inclusion_exact`, with K < N.

    >>> build = jax.jit(arrival_quadrature, static_argnums=2)
    >>> rule = build(jnp.array([1.0, 0.0, 0.0]), jnp.int32(0), 1)
    >>> bool((np.diff(rule.time) > 0).all()), float(rule.time[0]) > float(rule.start)
    (True, True)
    """
    nodes = num_nodes or (128 if logits.shape[0] <= 64 else 64)
    # The K-th largest other logit is when the K-th other arrives: the origin of log time.
    origin = largest(lax.stop_gradient(logits.at[item].set(-jnp.inf)), num_candidates)[0][-1]
    certain, masked = jnp.isneginf(origin), jnp.isneginf(logits[item])
    relative = logits - jnp.where(certain, 0, origin)
    others = relative.at[item].set(-jnp.inf)
    own = _finite(relative[item])
    start, stop = _bounds(lax.stop_gradient(others), lax.stop_gradient(own), num_candidates)
    x, weight = np.polynomial.legendre.leggauss(nodes)
    half = (stop - start) / 2
    time = start + half * jnp.asarray(x + 1, logits.dtype)
    log_weight = masked_log(half) + jnp.asarray(np.log(weight), logits.dtype)
    exponent = jnp.minimum(own + time, _LARGEST_EXPONENT)
    log_measure = log_weight + exponent - jnp.exp(exponent)
    return ArrivalQuadrature(own, others, start, time, log_measure, certain, masked)


def log_integral(rule: ArrivalQuadrature, log_tail: Float[Array, "T"]) -> Float[Array, ""]:
    """Log P(a in S), from log P(fewer than K of the others have arrived) at the nodes.

    >>> @jax.jit
    ... def softmax_of_first(logits):
    ...     rule = arrival_quadrature(logits, jnp.int32(0), 1)
    ...     return log_integral(rule, -2 * jnp.exp(rule.time))  # neither of two others has arrived
    >>> round(math.exp(softmax_of_first(jnp.array([1.0, 0.0, 0.0]))), 4)
    0.5761
    """
    value = log_add(
        cloglog_inverse(rule.own + rule.start), log_sum_exp(rule.log_measure + log_tail)
    )
    value = jnp.where(rule.certain, 0 * rule.own, value)
    return jnp.where(rule.masked, -jnp.inf, jnp.minimum(value, 0))


def arrival_probabilities(
    logits: Float[Array, "n"], time: Float[Array, "T"]
) -> tuple[Float[Array, "n T"], Float[Array, "n T"]]:
    """Probability that item j is absent, exp(-w_j t), or has arrived, 1 - exp(-w_j t), at each log time.

    >>> pair = jax.jit(arrival_probabilities)(np.float32([0, -np.inf]), np.zeros(1, np.float32))
    >>> [np.round(x.ravel(), 4).tolist() for x in jax.device_get(pair)]
    [[0.3679, 1.0], [0.6321, 0.0]]
    """
    masked = jnp.isneginf(logits)[:, None]
    log_hazard = jnp.where(masked, 0, logits[:, None]) + time[None, :]
    hazard = jnp.exp(jnp.minimum(log_hazard, _LARGEST_EXPONENT))
    absent = jnp.where(masked, 1, jnp.exp(-hazard))
    present = jnp.where(masked, 0, -jnp.expm1(-hazard))
    return absent, present


_Brackets = tuple[tuple[Array, Array], tuple[Array, Array]]


def _bounds(
    others: Float[Array, "N"], own: Float[Array, ""], limit: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Interval [s0, s1] of log time that holds all but eps of the integral.

    Before s0 fewer than K others have arrived, after s1 at least K have, each to within eps. The outer
    brackets are union bounds: K arrivals need one from outside the K - 1 heaviest, and fewer than K mean that
    one of the K heaviest is missing. Chernoff bounds of the number of arrivals and of survivors, by
    bisection, tighten both ends. The item's own density ends where its hazard does.
    """
    dtype = others.dtype
    log_eps = math.log(1e-9 if dtype == jnp.float64 else 1e-6)
    outside = others.at[largest(others, limit)[1][: limit - 1]].set(-jnp.inf)
    lowest = jnp.minimum(log_eps - log_sum_exp(outside), 0)
    highest = jnp.asarray(math.log(math.log(limit) - log_eps), dtype)

    def log_bounds(time: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Upper bounds of log P(at least K have arrived) and log P(fewer than K have arrived)."""
        hazard = jnp.exp(jnp.minimum(others + time, _LARGEST_EXPONENT))
        arrived = jnp.sum(-jnp.expm1(-hazard))
        survived = jnp.sum(jnp.where(jnp.isneginf(others), 0, jnp.exp(-hazard)))
        eligible = jnp.sum(~jnp.isneginf(others)).astype(dtype)
        many = jnp.minimum(
            chernoff_above(arrived, jnp.asarray(limit, dtype)),
            chernoff_below(survived, eligible - limit),
        )
        few = jnp.minimum(
            chernoff_below(arrived, jnp.asarray(limit - 1, dtype)),
            chernoff_above(survived, eligible - limit + 1),
        )
        return many, few

    def halve(_: int | Array, brackets: _Brackets) -> _Brackets:
        (a, b), (c, d) = brackets
        left, right = (a + b) / 2, (c + d) / 2
        safe_left = log_bounds(left)[0] < log_eps  # s0 may move right to here
        safe_right = log_bounds(right)[1] < log_eps  # s1 may move left to here
        return (
            (jnp.where(safe_left, left, a), jnp.where(safe_left, b, left)),
            (jnp.where(safe_right, c, right), jnp.where(safe_right, right, d)),
        )

    brackets = ((lowest, highest), (lowest, highest))
    (start, _), (_, stop) = lax.fori_loop(0, _BISECTIONS, halve, brackets)
    own_end = math.log(2 - log_eps) - own
    return start, jnp.clip(stop, start, jnp.maximum(own_end, start))


def chernoff_above(mean: Float[Array, "..."], count: Float[Array, ""]) -> Float[Array, "..."]:
    """Log of a Chernoff bound on P(X >= count), X a sum of independent indicators with this mean.

    >>> [round(x, 4) for x in jax.jit(chernoff_above)(jnp.array([1.0, 9.0]), jnp.array(8.0)).tolist()]
    [-9.6355, 0.0]
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + count * jnp.log(ratio)
    return jnp.where((count > mean) & (mean > 0), bound, jnp.where(mean > 0, 0, -jnp.inf))


def chernoff_below(mean: Float[Array, "..."], count: Float[Array, ""]) -> Float[Array, "..."]:
    """Log of a Chernoff bound on P(X <= count), X a sum of independent indicators with this mean.

    >>> jax.jit(chernoff_below)(jnp.array([1.0, 9.0]), jnp.array(0.0))
    Array([-1., -9.], dtype=float32)
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + jnp.where(count > 0, count * jnp.log(ratio), 0)
    return jnp.where(count < mean, bound, 0)


def _finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replaces -inf by 0."""
    return jnp.where(jnp.isneginf(x), 0, x)


# --- the Poisson-binomial tail ----------------------------------------------------------------------------


def tail_probability(
    absent: Float[Array, "n T"], present: Float[Array, "n T"], limit: int
) -> Float[Array, "T"]:
    """P(fewer than `limit` of n independent items are present), at T points.

    Args:
      absent: probability that item j is absent.
      present: probability that item j is present. Both are arguments, because either may be tiny.
      limit: K, at least 1.

    >>> half = np.full((2, 1), 0.5, np.float32)
    >>> jax.jit(tail_probability, static_argnums=2)(half, half, 2)  # not both heads
    Array([0.75], dtype=float32)
    """
    return jnp.sum(count_distribution(absent, present, limit), axis=0)


def count_distribution(
    absent: Float[Array, "n T"], present: Float[Array, "n T"], limit: int
) -> Float[Array, "c T"]:
    """P(exactly i of n independent items are present) for i = 0, 1, ..., c - 1, at T points.

    Args: as `tail_probability`.

    Returns:
      At most `limit` rows. Rows that n items cannot reach are 0; they occur where the tree is padded.

    >>> half = np.full((2, 1), 0.5, np.float32)
    >>> jax.jit(count_distribution, static_argnums=2)(half, half, 9).tolist()
    [[0.25], [0.5], [0.25]]
    """
    n, points = absent.shape
    factors = jnp.stack([absent, present], axis=1)[:, :limit]  # [n, coefficients, T]
    size = 1 << max(n - 1, 0).bit_length()
    one = jnp.zeros((size - n, factors.shape[1], points), absent.dtype).at[:, 0].set(1)
    factors = jnp.concatenate([factors, one])
    while factors.shape[0] > 1:
        factors = jnp.asarray(_truncated_product(limit, factors[0::2], factors[1::2]))
    return factors[0]


_Polynomials = Float[Array, "pairs coefficients T"]
_Product = Float[Array, "pairs length T"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _truncated_product(limit: int, left: _Polynomials, right: _Polynomials) -> _Product:
    """Coefficients 0, ..., limit - 1 of the products of pairs of polynomials."""
    width = left.shape[1]
    length = min(2 * width - 1, limit)
    padded = jnp.pad(right, ((0, 0), (length - 1, max(length - width, 0)), (0, 0)))

    def add_term(i: Int[Array, ""], total: _Product) -> _Product:
        shifted = lax.dynamic_slice_in_dim(padded, length - 1 - i, length, axis=1)
        return total + lax.dynamic_slice_in_dim(left, i, 1, axis=1) * shifted

    start = jnp.zeros((left.shape[0], length, left.shape[2]), left.dtype)
    return lax.fori_loop(0, width, add_term, start)


def _truncated_product_fwd(
    limit: int, left: _Polynomials, right: _Polynomials
) -> tuple[_Product, tuple[_Polynomials, _Polynomials]]:
    return _truncated_product(limit, left, right), (left, right)


def _truncated_product_bwd(
    limit: int, saved: tuple[_Polynomials, _Polynomials], cotangent: _Product
) -> tuple[_Polynomials, _Polynomials]:
    left, right = saved
    return _correlate(cotangent, right), _correlate(cotangent, left)


def _correlate(cotangent: _Product, other: _Polynomials) -> _Polynomials:
    """Transpose of the multiplication by `other`: sum_j cotangent[i + j] * other[j]."""
    width, length = other.shape[1], cotangent.shape[1]
    padded = jnp.pad(cotangent, ((0, 0), (0, max(2 * width - 1 - length, 0)), (0, 0)))

    def add_term(j: Int[Array, ""], total: _Polynomials) -> _Polynomials:
        shifted = lax.dynamic_slice_in_dim(padded, j, width, axis=1)
        return total + lax.dynamic_slice_in_dim(other, j, 1, axis=1) * shifted

    return lax.fori_loop(0, width, add_term, jnp.zeros_like(other))


_truncated_product.defvjp(_truncated_product_fwd, _truncated_product_bwd)
