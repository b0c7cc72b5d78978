"""How many of many independent items have arrived: the Poisson-binomial tail, without cancellation.

The count's generating function is a product of (1 - p_j) + p_j x over the items. It is multiplied out as a
tree of polynomials truncated at x^K: every term is positive, so nothing cancels, pairs multiply in parallel,
and the backward pass needs the tree only.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import (
    centre,
    cloglog_inverse,
    largest,
    log_add,
    log_softplus,
    log_sum_exp,
)
from rankpg.core.plackett_luce import (
    SparseLogits,
    full_logits,
    log_remaining_mass,
    ordered_log_prob_terms,
)
from rankpg.core.sampling import arrivals, fill_quotas, greedy_in_turn, slot_experts
from rankpg.core.validation import check_items, check_logits
from rankpg.types import Array, Bool, Float, Int, PRNGKey, Quotas, record

__all__ = [
    "INCLUSION_METHODS",
    "ArrivalRule",
    "arrival_probabilities",
    "arrival_rule",
    "chernoff_above",
    "chernoff_below",
    "count_distribution",
    "log_inclusion",
    "log_inclusion_exact",
    "log_inclusion_threshold",
    "log_integral",
    "masked_log",
    "tail_probability",
]


def tail_probability(
    absent: Float[Array, "n T"], present: Float[Array, "n T"], limit: int
) -> Float[Array, "T"]:
    """P(fewer than `limit` of n independent items are present), at T points at once.

    Args:
      absent: probability that item j is absent.
      present: probability that item j is present; both are given because either may be tiny.
      limit: K, at least 1.

    >>> tail_probability(jnp.full((2, 1), 0.5), jnp.full((2, 1), 0.5), 2)  # not both heads
    Array([0.75], dtype=float32)
    """
    return jnp.sum(count_distribution(absent, present, limit), axis=0)


def count_distribution(
    absent: Float[Array, "n T"], present: Float[Array, "n T"], limit: int
) -> Float[Array, "c T"]:
    """P(exactly i of n independent items are present), i = 0, 1, ..., c - 1, at T points at once.

    Args: as `tail_probability`. No more than `limit` rows are kept, and none that n items cannot reach
      but for those of a padded tree, which are 0.

    >>> count_distribution(jnp.full((2, 1), 0.5), jnp.full((2, 1), 0.5), 9).ravel()
    Array([0.25, 0.5 , 0.25], dtype=float32)
    """
    n, points = absent.shape
    factors = jnp.stack([absent, present], axis=1)[:, :limit]  # [n, coefficients, T]
    size = 1 << max(n - 1, 0).bit_length()
    one = jnp.zeros((size - n, factors.shape[1], points), absent.dtype).at[:, 0].set(1)
    factors = jnp.concatenate([factors, one])
    while factors.shape[0] > 1:
        factors = jnp.asarray(_truncated_product(limit, factors[0::2], factors[1::2]))
    return factors[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _truncated_product(limit, left, right):
    """Coefficients 0..limit-1 of the products of pairs of polynomials [pairs, coefficients, T]."""
    width = left.shape[1]
    length = min(2 * width - 1, limit)
    padded = jnp.pad(right, ((0, 0), (length - 1, max(length - width, 0)), (0, 0)))

    def add_term(i, total):
        shifted = lax.dynamic_slice_in_dim(padded, length - 1 - i, length, axis=1)
        return total + lax.dynamic_slice_in_dim(left, i, 1, axis=1) * shifted

    start = jnp.zeros((left.shape[0], length, left.shape[2]), left.dtype)
    return lax.fori_loop(0, width, add_term, start)


def _truncated_product_fwd(limit, left, right):
    return _truncated_product(limit, left, right), (left, right)


def _truncated_product_bwd(limit, saved, cotangent):
    left, right = saved
    return _correlate(cotangent, right), _correlate(cotangent, left)


def _correlate(cotangent, other):
    """sum_j cotangent[i + j] * other[j]: the transpose of multiplying by `other`."""
    width, length = other.shape[1], cotangent.shape[1]
    padded = jnp.pad(cotangent, ((0, 0), (0, max(2 * width - 1 - length, 0)), (0, 0)))

    def add_term(j, total):
        shifted = lax.dynamic_slice_in_dim(padded, j, width, axis=1)
        return total + lax.dynamic_slice_in_dim(other, j, 1, axis=1) * shifted

    return lax.fori_loop(0, width, add_term, jnp.zeros_like(other))


_truncated_product.defvjp(_truncated_product_fwd, _truncated_product_bwd)

_BISECTIONS = 24
_LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 in every float format


def log_inclusion_exact(
    logits: Float[Array, "N"],
    item: Int[Array, ""],
    num_candidates: int,
    num_nodes: int | None = None,
) -> Float[Array, ""]:
    """Log P(a in S) for one expert, to quadrature error.

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
    """Log P(a in S), given log P(fewer than K of the others have arrived) at the nodes.

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
    """Log x, and -inf with gradient 0 where x is 0.

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
        """Log P(at least K arrived) and log P(fewer than K arrived), bounded from above."""
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
    """Log of a bound on P(X >= count), X a sum of independent indicators with this mean.

    >>> chernoff_above(jnp.array([1.0, 9.0]), jnp.array(8.0)).round(4)
    Array([-9.6355,  0.    ], dtype=float32)
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + count * jnp.log(ratio)
    return jnp.where((count > mean) & (mean > 0), bound, jnp.where(mean > 0, 0, -jnp.inf))


def chernoff_below(mean: Float[Array, "..."], count: Float[Array, ""]) -> Float[Array, "..."]:
    """Log of a bound on P(X <= count), likewise.

    >>> chernoff_below(jnp.array([1.0, 9.0]), jnp.array(0.0))
    Array([-1., -9.], dtype=float32)
    """
    ratio = jnp.where((mean > 0) & (count > 0), mean / jnp.maximum(count, 1), 1)
    bound = count - mean + jnp.where(count > 0, count * jnp.log(ratio), 0)
    return jnp.where(count < mean, bound, 0)


def _finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(jnp.isneginf(x), 0, x)


_CERTAIN = (
    800.0  # exp(-exp(log 800)) is 0 in every float format: an item with this log odds is included
)


def log_odds(logit: Float[Array, "..."], log_others: Float[Array, "..."]) -> Float[Array, "..."]:
    """F - log W, with W = 0 read as certainty and a masked item as -inf; the gradient stays finite."""
    masked, certain = jnp.isneginf(logit), jnp.isneginf(log_others)
    inside = jnp.where(masked | certain, 0, logit) - jnp.where(masked | certain, 0, log_others)
    inside = jnp.minimum(inside, _CERTAIN)
    return jnp.where(masked, -jnp.inf, jnp.where(certain, _CERTAIN, inside))


def from_log_rates(log_rates: Float[Array, "n"]) -> Float[Array, ""]:
    """log(1 - exp(-sum of rates)): the log-probability of at least one arrival."""
    return cloglog_inverse(log_sum_exp(log_rates))


def prefix_quotas(quotas: Quotas) -> Quotas:
    """The quotas of the first K - 1 slots: the last slot's competitors are never picked."""
    last = max(m for m, quota in enumerate(quotas) if quota > 0)
    return tuple(quota - (m == last) for m, quota in enumerate(quotas))


def prefix_without(
    order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Int[Array, "P"]:
    """The first K - 1 picks of the catalogue without `item`, from every expert's order."""
    return fill_quotas(order, prefix_quotas(quotas), excluded=item)[0]


def log_hit(
    sparse: SparseLogits, position: Int[Array, ""], picks: Int[Array, "P"], quotas: Quotas
) -> Float[Array, ""]:
    """log(1 - prod_k (1 - p_k)): the item at `position` is drawn before or after these picks of the others.

    With greedy picks it is Eq. 8; with picks drawn from the policy its exponential is unbiased for P(a in S).
    """
    left = log_remaining_mass(sparse, picks, quotas, excluded=position)
    logits = sparse.logits[slot_experts(quotas), position]
    return from_log_rates(log_softplus(log_odds(logits, left)))


def log_inclusion_greedy(
    sparse: SparseLogits, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """`greedy`: Eq. 8, the picks from the noiseless order."""
    picks = sparse.positions(prefix_without(order, item, quotas))
    return log_hit(sparse, sparse.positions(item), picks, quotas)


def log_inclusion_swr(
    sparse: SparseLogits, item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """`swr`: log(1 - prod_m (1 - pi_m(a))^{K_m}), with log(1 - pi) = -softplus(f - log W_others)."""
    position, used = sparse.positions(item), _used_experts(quotas)
    others = jnp.broadcast_to(
        (jnp.arange(sparse.items.shape[0], dtype=jnp.int32) != position)[None, :],
        sparse.logits.shape,
    )
    log_others = log_add(sparse.log_rest, log_sum_exp(sparse.logits, where=others))
    odds = log_odds(sparse.logits[used, position], log_others[used])
    return from_log_rates(_log_quotas(quotas, odds.dtype) + log_softplus(odds))


def log_inclusion_sum(
    sparse: SparseLogits, item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """`sum`: log sum_m K_m pi_m(a)."""
    used = _used_experts(quotas)
    logits = sparse.logits[used, sparse.positions(item)]
    odds = log_odds(logits, sparse.log_total()[used])
    return log_sum_exp(_log_quotas(quotas, odds.dtype) + odds)


def log_inclusion_at_threshold(
    sparse: SparseLogits,
    order: Int[Array, "M depth"],
    perturbed: Float[Array, "M depth"],
    item: Int[Array, ""],
    quotas: Quotas,
) -> Float[Array, ""]:
    """`threshold`: log(1 - exp(-sum_m exp(f_m(a) - kappa_m))), with the pathwise gradient through kappa.

    kappa_m is the K_m-th largest perturbed logit that expert m sees when the item is not in the catalogue.
    It moves with the logit of the item that attains it.
    """
    picks, places = fill_quotas(order, quotas, excluded=item)
    last, used = np.cumsum(quotas)[_used_experts(quotas)] - 1, _used_experts(quotas)
    at = sparse.logits.at[used, sparse.positions(picks)[last]].get(mode="fill", fill_value=-jnp.inf)
    value = perturbed.at[used, places[last]].get(mode="fill", fill_value=-jnp.inf)
    noise = jnp.where(jnp.isneginf(at), 0, value - lax.stop_gradient(at))
    return from_log_rates(log_odds(sparse.logits[used, sparse.positions(item)], at + noise))


def log_inclusion_drawn(
    sparse: SparseLogits, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """Log h, h = 1 - prod_k W_k / (W_k + w_a) over the drawn picks of the others, and the gradient of P.

    h is the probability of the item given the others' picks, so E[h] = P(a in S) for any M. Its gradient is
    grad h + h grad log PL(picks): the second term enters with value 0.
    """
    picks = sparse.positions(prefix_without(order, item, quotas))
    position = sparse.positions(item)
    terms = ordered_log_prob_terms(sparse, picks, quotas, excluded=position)
    log_pl = jnp.sum(jnp.where(jnp.isfinite(terms), terms, 0))
    return log_hit(sparse, position, picks, quotas) + log_pl - lax.stop_gradient(log_pl)


def _used_experts(quotas: Quotas) -> np.ndarray:
    return np.flatnonzero(np.asarray(quotas))


def _log_quotas(quotas: Quotas, dtype) -> Float[Array, "m"]:
    return jnp.asarray(np.log([q for q in quotas if q > 0]), dtype)


def _by_exact(logits, item, quotas):
    if len(quotas) != 1:
        raise ValueError(
            f"method 'exact' is defined for one expert (M = 1), but quotas {quotas} has {len(quotas)}; "
            "use 'greedy', 'swr' or 'sum', or log_inclusion_threshold"
        )
    return log_inclusion_exact(logits[0], item, quotas[0])


def _by_greedy(logits, item, quotas):
    order = greedy_in_turn(logits, quotas)
    return log_inclusion_greedy(full_logits(logits), order, item, quotas)


INCLUSION_METHODS = {
    "exact": _by_exact,
    "greedy": _by_greedy,
    "swr": lambda logits, item, quotas: log_inclusion_swr(full_logits(logits), item, quotas),
    "sum": lambda logits, item, quotas: log_inclusion_sum(full_logits(logits), item, quotas),
}


def log_inclusion(
    logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas, method: str = "exact"
) -> Float[Array, ""]:
    """Log P(a in S): the log-probability that an item is among the K candidates, by one of four methods.

    See the table at the top of this module for the formulas; `exact` is the truth for M = 1
    (Aires 1999; Traat 2004; Vieira 2021), `greedy` is Eq. 8 of Kiyohara et al. 2026.

    Args:
      logits: f_m(a); -inf masks an item.
      item: the item's id.
      quotas: how many slots each expert fills.
      method: exact, greedy, swr or sum.

    Returns:
      A scalar; -inf, with gradient 0, for a masked item.

    Raises:
      ValueError: an unknown method, `exact` with several experts, a wrong shape or dtype, quotas that do
        not fit, and, outside of jit, bad values.

    >>> float(jnp.exp(log_inclusion(jnp.zeros((1, 5)), 3, (2,))).round(4))  # K / N
    0.4
    """
    if method not in INCLUSION_METHODS:
        raise ValueError(
            f"method is {method!r}; expected one of {', '.join(INCLUSION_METHODS)} "
            "(threshold needs a key: log_inclusion_threshold)"
        )
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    return INCLUSION_METHODS[method](centre(logits), jnp.asarray(item, jnp.int32), quotas)


def log_inclusion_threshold(
    key: PRNGKey, logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas
) -> Float[Array, ""]:
    """Log of an unbiased one-draw estimate of P(a in S): `threshold` (Kool et al. 2019, 2020).

    1 - exp(-sum_m exp(f_m(a) - kappa_m)), kappa_m from the noise of `sample_candidates(key, ...)`.
    The value is unbiased for any M. The gradient is pathwise through kappa: unbiased for M = 1; for M > 1 an
    earlier expert's picks jump, which it cannot see (`score("ca_pg_threshold", ...)` uses a form that can).

    Args, Raises: as `log_inclusion`; `key` is the one that draws the candidates.

    >>> import jax
    >>> key = jax.random.key(0)
    >>> bool(log_inclusion_threshold(key, jnp.zeros((1, 5)), 3, (2,)) < 0)
    True
    """
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    logits, item = centre(logits), jnp.asarray(item, jnp.int32)
    order, perturbed = arrivals(key, logits, quotas)
    return log_inclusion_at_threshold(full_logits(logits), order, perturbed, item, quotas)
