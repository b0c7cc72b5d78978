"""P(a in S) for one expert, exactly: an integral over the time at which the item arrives.

Give item j the arrival time Exp(1) / w_j, w_j = exp(f_j). The K candidates are the first K arrivals, so

    P(a in S) = integral over t of w_a exp(-w_a t) P(fewer than K of the others have arrived by t) dt

(Aires 1999; Traat 2004; Vieira 2021). It is computed in log time s = log t. Left of s0 the tail probability
is 1 to within eps and the integral is closed, 1 - exp(-w_a e^{s0}); right of s1 what is left is below eps;
between them Gauss-Legendre. Both ends come from tail bounds and carry no gradient.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.numerics import cloglog_inverse, largest, log_add, log_sum_exp
from rankpg.poisson_binomial import tail_probability
from rankpg.types import Array, Bool, Float, Int, record

__all__ = [
    "ArrivalRule",
    "arrival_probabilities",
    "arrival_rule",
    "chernoff_above",
    "chernoff_below",
    "log_inclusion_exact",
    "log_integral",
    "masked_log",
]

_BISECTIONS = 24
_LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 in every float format


def log_inclusion_exact(
    logits: Float[Array, "N"],
    item: Int[Array, ""],
    num_candidates: int,
    num_nodes: int | None = None,
) -> Float[Array, ""]:
    """log P(a in S) for one expert, to quadrature error.

    Args:
      logits: f(a); -inf masks an item.
      item: the item's id.
      num_candidates: K.
      num_nodes: quadrature nodes T; by default 128 for N <= 64 and 64 above, where the tail is smoother.
        Time and memory grow as T * N * log K.

    >>> float(jnp.exp(log_inclusion_exact(jnp.array([1.0, 0.0, 0.0]), jnp.int32(0), 1)).round(4))  # softmax
    0.5761
    """
    num_items = logits.shape[0]
    if num_candidates >= num_items:
        return jnp.where(jnp.isneginf(logits[item]), -jnp.inf, 0 * _finite(logits[item]))
    rule = arrival_rule(logits, item, num_candidates, num_nodes)
    absent, present = arrival_probabilities(rule.others, rule.time)
    return log_integral(rule, masked_log(tail_probability(absent, present, num_candidates)))


@record
class ArrivalRule:
    """Quadrature over the log arrival time of one item; its origin is where the K-th other item arrives."""

    own: Float[Array, ""]
    """The item's logit against the origin; 0 where it is masked."""
    others: Float[Array, "N"]
    """The others' logits against the origin; -inf for masked items and for the item itself."""
    start: Float[Array, ""]
    """s0: before it fewer than K of the others have arrived, to within eps."""
    time: Float[Array, "T"]
    """The nodes between s0 and s1. They carry no gradient, and neither does s0."""
    log_measure: Float[Array, "T"]
    """Log of the node's weight times the item's own arrival density in log time."""
    certain: Bool[Array, ""]
    """Fewer than K of the others are eligible."""
    masked: Bool[Array, ""]
    """The item itself is not."""


def arrival_rule(
    logits: Float[Array, "N"],
    item: Int[Array, ""],
    num_candidates: int,
    num_nodes: int | None = None,
) -> ArrivalRule:
    """Nodes and weights for `log_integral`. Args: as `log_inclusion_exact`; K < N.

    >>> rule = arrival_rule(jnp.array([1.0, 0.0, 0.0]), jnp.int32(0), 1)
    >>> bool((jnp.diff(rule.time) > 0).all() & (rule.time[0] > rule.start))
    True
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
    return ArrivalRule(own, others, start, time, log_measure, certain, masked)


def log_integral(rule: ArrivalRule, log_tail: Float[Array, "T"]) -> Float[Array, ""]:
    """log P(a in S), given log P(fewer than K of the others have arrived) at the nodes.

    >>> rule = arrival_rule(jnp.array([1.0, 0.0, 0.0]), jnp.int32(0), 1)
    >>> float(jnp.exp(log_integral(rule, -2 * jnp.exp(rule.time))).round(4))  # both others are late
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
    """exp(-w_j t) and 1 - exp(-w_j t), that item j is late and that it has arrived, at each log time.

    >>> absent, present = arrival_probabilities(jnp.array([0.0, -jnp.inf]), jnp.zeros(1))
    >>> absent.ravel().round(4), present.ravel().round(4)
    (Array([0.3679, 1.    ], dtype=float32), Array([0.6321, 0.    ], dtype=float32))
    """
    masked = jnp.isneginf(logits)[:, None]
    log_hazard = jnp.where(masked, 0, logits[:, None]) + time[None, :]
    hazard = jnp.exp(jnp.minimum(log_hazard, _LARGEST_EXPONENT))
    absent = jnp.where(masked, 1, jnp.exp(-hazard))
    present = jnp.where(masked, 0, -jnp.expm1(-hazard))
    return absent, present


def masked_log(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log x, and -inf with gradient 0 where x is 0.

    >>> masked_log(jnp.array([1.0, 0.0]))
    Array([  0., -inf], dtype=float32)
    """
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def _bounds(
    others: Float[Array, "N"], own: Float[Array, ""], limit: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """[s0, s1] in log time: before it fewer than K have arrived, after it at least K have, to within eps.

    The outer brackets are union bounds: K arrivals need one from outside the K - 1 heaviest, and fewer
    than K mean that one of the K heaviest is missing. Chernoff bounds of the number of arrivals and of
    survivors, by bisection, tighten both ends. The item's own density ends where its hazard does.
    """
    dtype = others.dtype
    log_eps = math.log(1e-9 if dtype == jnp.float64 else 1e-6)
    outside = others.at[largest(others, limit)[1][: limit - 1]].set(-jnp.inf)
    lowest = jnp.minimum(log_eps - log_sum_exp(outside), 0)
    highest = jnp.asarray(math.log(math.log(limit) - log_eps), dtype)

    def log_bounds(time):
        """log P(at least K arrived) and log P(fewer than K arrived), bounded from above."""
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

    def halve(_, brackets):
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
    """log of a bound on P(X >= count), X a sum of independent indicators with this mean.

    >>> chernoff_above(jnp.array([1.0, 9.0]), jnp.array(8.0)).round(4)
    Array([-9.6355,  0.    ], dtype=float32)
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + count * jnp.log(ratio)
    return jnp.where((count > mean) & (mean > 0), bound, jnp.where(mean > 0, 0, -jnp.inf))


def chernoff_below(mean: Float[Array, "..."], count: Float[Array, ""]) -> Float[Array, "..."]:
    """log of a bound on P(X <= count), likewise.

    >>> chernoff_below(jnp.array([1.0, 9.0]), jnp.array(0.0))
    Array([-1., -9.], dtype=float32)
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + jnp.where(count > 0, count * jnp.log(ratio), 0)
    return jnp.where(count < mean, bound, 0)


def _finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(jnp.isneginf(x), 0, x)
