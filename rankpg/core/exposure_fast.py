"""Exposure under a re-ranker that sorts by a fixed score, in a large catalogue: two approximations.

The letters are those of exposure.py. Both give P(a is shown at position l) of some items, in log form, as

    P(a in S) P(exactly l - 1 of the better-scored items are in S)

and differ in the second factor:

    independent   Poisson-binomial: every item is in S independently of the others; N * L operations, in turn
    poisson       a Poisson variable of the same mean; a sort and N operations
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.exposure import check_exposure, order_by_score, pad_items, scan_items
from rankpg.core.inclusion_exact import arrival_probabilities
from rankpg.core.numerics import (
    centre,
    cloglog_inverse,
    largest,
    log_add,
    log_softplus,
    log_sum_exp,
    masked_log,
    suffix_log_sum_exp,
)
from rankpg.core.validation import check_items
from rankpg.types import Array, Float, Int

__all__ = [
    "EXPOSURE_INCLUSION",
    "log_exposure_independent",
    "log_exposure_poisson",
    "log_position_exposure_independent",
    "log_position_exposure_poisson",
]

_BISECTIONS = 50

# --- independent items ------------------------------------------------------------------------------------


def log_exposure_independent(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    ranking_length: int,
) -> Float[Array, "P"]:
    """Log P(a is shown), as if every item were a candidate independently of the others.

    The sum over the positions of `log_position_exposure_independent`, where the formula is.

    Args, Raises: as `log_position_exposure_independent`.

    Returns:
      float[P]; -inf, with gradient 0, for a masked item.

    >>> f, scores, items = jnp.zeros(100), jnp.arange(100.0), jnp.array([99, 90])
    >>> shown = jax.jit(log_exposure_independent, static_argnums=(3, 4))(f, scores, items, 10, 5)
    >>> jnp.exp(shown).tolist()  # K / N for the best item
    [0.100, 0.100]
    """
    terms = log_position_exposure_independent(logits, scores, items, num_candidates, ranking_length)
    return log_sum_exp(terms, axis=0)


def log_position_exposure_independent(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    ranking_length: int,
) -> Float[Array, "L P"]:
    """Log P(a is shown at position l), as if every item were a candidate independently of the others.

    At the time t at which K arrivals are expected, sum_j p_j = K, p_j = 1 - exp(-w_j t), the number of
    better-scored arrivals is Poisson-binomial:

        P(a at l) ~ p_a P(exactly l - 1 of the better-scored have arrived by t)

    This is one node of `exposure_exact` without the worse-scored items. It ignores that exactly K items
    arrive, so it is good for L well below K, and poor for L = K, where every candidate is shown.

    Args:
      logits: f(a); -inf masks an item.
      scores: the re-ranker's scores, higher is better; of equal scores the lower id comes first.
      items: ids of the items wanted.
      num_candidates: K.
      ranking_length: L, at most K.

    Returns:
      float[L, P]; -inf, with gradient 0, where the probability is 0.

    Raises:
      ValueError: a wrong shape or dtype, L > K > N, and, outside of jit, bad values.

    >>> f, scores, items = jnp.zeros(100), jnp.arange(100.0), jnp.array([99, 90])
    >>> shown = jax.jit(log_position_exposure_independent, static_argnums=(3, 4))
    >>> jnp.exp(shown(f, scores, items, 10, 2)).tolist()  # 0.1 of 0.9^9 and of 9 0.1 0.9^8
    [[0.100, 0.039], [0.0, 0.039]]
    """
    check_exposure(logits, scores, num_candidates, ranking_length)
    check_items("items", items, logits.shape[0], (None,))
    best_first, rank = order_by_score(scores)
    by_score = centre(logits)[best_first]
    log_rate = by_score + _expected_arrival(by_score, num_candidates)
    log_counts = _log_better_counts(log_rate, ranking_length)
    wanted = rank[items]
    return cloglog_inverse(log_rate)[wanted][None, :] + log_counts[wanted].T


def _expected_arrival(logits: Float[Array, "N"], num_candidates: int) -> Float[Array, ""]:
    """Log time at which K arrivals are expected; one by which all have arrived if no more than K can.

    By bisection. The gradient is that of the implicit function: a shift of the time that keeps the sum.
    """
    fixed = lax.stop_gradient(logits)
    kth = largest(fixed, num_candidates)[0][-1]
    few = jnp.sum(~jnp.isneginf(fixed)) <= num_candidates
    slowest = jnp.where(few, jnp.min(jnp.where(jnp.isneginf(fixed), 0, fixed)), kth)
    first = math.log(num_candidates) - log_sum_exp(fixed)  # sum p_j < e^s sum w_j = K
    last = math.log(logits.shape[0] + 1) + 7 - slowest  # the K heaviest have arrived

    def expected(logits: Float[Array, "N"], time: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum(jnp.exp(cloglog_inverse(logits + time)))

    def halve(_: int | Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bracket[0] + bracket[1]) / 2
        enough = expected(fixed, middle) >= num_candidates
        return jnp.where(enough, bracket[0], middle), jnp.where(enough, middle, bracket[1])

    found = lax.fori_loop(0, _BISECTIONS, halve, (first, last))[1]
    found = lax.stop_gradient(jnp.where(few, last, found))
    slope = jax.grad(expected, argnums=1)(fixed, found)
    total = expected(logits, found)
    shift = (total - lax.stop_gradient(total)) / jnp.where(slope > 0, slope, jnp.inf)
    return found - jnp.where(few, 0, shift)


_Scaled = tuple[Float[Array, "L"], Float[Array, ""]]
"""Probabilities of the counts, divided by their sum, and the log of that sum."""


def _log_better_counts(log_rate: Float[Array, "N"], ranking_length: int) -> Float[Array, "N L"]:
    """Log P(exactly h of the items before this one have arrived), h < L, for each item in order.

    Only the sum may be too small for a float format; dividing by it after every item avoids that.
    """
    now = jnp.zeros(1, log_rate.dtype)
    items = arrival_probabilities(pad_items(log_rate), now)

    def step(
        state: _Scaled, item: tuple[Float[Array, "1"], Float[Array, "1"]]
    ) -> tuple[_Scaled, Float[Array, "L"]]:
        counts, log_scale = state
        absent, present = item
        more = absent * counts + present * jnp.pad(counts, (1, 0))[:-1]
        total = jnp.sum(more)
        after = more / jnp.where(total > 0, total, 1), log_scale + masked_log(total)
        return after, masked_log(counts) + log_scale

    none = jnp.zeros(ranking_length, log_rate.dtype).at[0].set(1)
    start = (none, jnp.zeros((), log_rate.dtype))
    return scan_items(step, start, items)[1][: log_rate.shape[0]]


# --- Poisson counts ---------------------------------------------------------------------------------------


def log_exposure_poisson(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    ranking_length: int,
    inclusion: str = "swr",
) -> Float[Array, "P"]:
    """Log P(a in S) P(Poisson(lambda_a) < L), an approximation of log P(a is shown).

    lambda_a is the expected number of better-scored candidates; see `log_position_exposure_poisson`.

    Args, Raises: as `log_position_exposure_poisson`.

    Returns:
      float[P]; -inf, with gradient 0, for a masked item.

    >>> f, scores, items = jnp.zeros(100), jnp.arange(100.0), jnp.array([99, 90])
    >>> shown = jax.jit(log_exposure_poisson, static_argnums=(3, 4))(f, scores, items, 10, 5)
    >>> jnp.exp(shown).tolist()
    [0.096, 0.095]
    """
    log_in, log_mean = _log_means(logits, scores, items, num_candidates, ranking_length, inclusion)
    return log_in + _log_poisson_cdf(log_mean, ranking_length)


def log_position_exposure_poisson(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    ranking_length: int,
    inclusion: str = "swr",
) -> Float[Array, "L P"]:
    """Log P(a in S) P(Poisson(lambda_a) = l - 1), an approximation of log P(a is shown at position l).

        lambda_a = sum of P(b in S) over the items b that are scored above a

    A sum of rare independent events is nearly Poisson (Le Cam 1960). Candidates are such events only while
    every P(b in S) is small: the error grows with the largest of them. `swr` and `sum` also count a heavy
    item for several draws, so under a peaked policy the error is as large as the probabilities. Use
    `log_position_exposure_independent` there.

    Args:
      logits: f(a); -inf masks an item.
      scores: the re-ranker's scores, higher is better; of equal scores the lower id comes first.
      items: ids of the items wanted.
      num_candidates: K.
      ranking_length: L, at most K.
      inclusion: the form of P(b in S): "swr", 1 - (1 - pi_b)^K, or "sum", K pi_b, which may exceed 1.

    Returns:
      float[L, P]; -inf, with gradient 0, where the probability is 0.

    Raises:
      ValueError: an unknown form, a wrong shape or dtype, L > K > N, and, outside of jit, bad values.

    >>> f, scores, items = jnp.zeros(100), jnp.arange(100.0), jnp.array([99, 90])
    >>> shown = jax.jit(log_position_exposure_poisson, static_argnums=(3, 4))
    >>> jnp.exp(shown(f, scores, items, 10, 2)).tolist()
    [[0.096, 0.040], [0.0, 0.035]]
    """
    log_in, log_mean = _log_means(logits, scores, items, num_candidates, ranking_length, inclusion)
    return log_in[None, :] + _log_poisson(log_mean, ranking_length)


def _log_inclusion_swr(logits: Float[Array, "N"], num_candidates: int) -> Float[Array, "N"]:
    """log(1 - (1 - pi_a)^K) of all items, with log(1 - pi) = -softplus(f - log W), W that of all others.

    W is the total less the item's own weight, except for the heaviest item, which may be nearly all of it.
    """
    top = jnp.argmax(logits)
    heaviest = jnp.arange(logits.shape[0], dtype=top.dtype) == top
    log_rest = log_sum_exp(logits, where=~heaviest)
    masked, alone = jnp.isneginf(logits), jnp.isneginf(log_rest)
    log_total = log_add(logits[top], log_rest)
    share = jnp.exp(jnp.where(heaviest | masked, -1, logits - log_total))
    log_others = jnp.where(heaviest, jnp.where(alone, 0, log_rest), log_total + jnp.log1p(-share))
    log_rate = log_softplus(jnp.where(masked, 0, logits) - log_others)
    value = cloglog_inverse(math.log(num_candidates) + log_rate)
    value = jnp.where(heaviest & alone, 0, value)
    return jnp.where(masked, -jnp.inf, value)


def _log_inclusion_sum(logits: Float[Array, "N"], num_candidates: int) -> Float[Array, "N"]:
    """Log K pi_a of all items."""
    return math.log(num_candidates) + logits - log_sum_exp(logits)


EXPOSURE_INCLUSION: dict[str, Callable[[Float[Array, "N"], int], Float[Array, "N"]]] = {
    "swr": _log_inclusion_swr,
    "sum": _log_inclusion_sum,
}
"""name -> (centred logits, K) -> log P(a in S) of all items."""


def _log_means(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    ranking_length: int,
    inclusion: str,
) -> tuple[Float[Array, "P"], Float[Array, "P"]]:
    """Validates the arguments; returns log P(a in S) and log lambda_a of the items."""
    check_exposure(logits, scores, num_candidates, ranking_length)
    check_items("items", items, logits.shape[0], (None,))
    if inclusion not in EXPOSURE_INCLUSION:
        raise ValueError(
            f"inclusion={inclusion!r}; expected one of {', '.join(EXPOSURE_INCLUSION)}"
        )
    best_first, rank = order_by_score(scores)
    log_in = EXPOSURE_INCLUSION[inclusion](centre(logits), num_candidates)[best_first]
    up_to = suffix_log_sum_exp(log_in[::-1])[::-1]  # of an item and all better ones
    better = jnp.concatenate([jnp.full(1, -jnp.inf, up_to.dtype), up_to[:-1]])
    wanted = rank[items]
    return log_in[wanted], better[wanted]


def _log_poisson(log_mean: Float[Array, "P"], limit: int) -> Float[Array, "limit P"]:
    """Log P(Poisson = i), i < limit: c_i - i (r - 1 - log r), r = mean / i, c_i = i log i - i - log i!.

    Unlike i log(mean) - mean - log i!, it does not cancel large terms where the probability is not small.
    """
    none = jnp.isneginf(log_mean)
    counts = list(range(1, limit))
    log_peak = [i * math.log(i) - i - math.lgamma(i + 1) for i in counts]
    count, log_peak = (jnp.asarray(x, log_mean.dtype)[:, None] for x in (counts, log_peak))
    log_ratio = jnp.where(none, 0, log_mean)[None, :] - jnp.log(count)
    some = log_peak - count * (jnp.expm1(log_ratio) - log_ratio)
    some = jnp.where(none[None, :], -jnp.inf, some)
    return jnp.concatenate([-jnp.exp(log_mean)[None, :], some])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_poisson_cdf(log_mean: Float[Array, "P"], limit: int) -> Float[Array, "P"]:
    """Log P(Poisson < limit).

    The derivative in log lambda is -lambda P(Poisson = limit - 1) / P(Poisson < limit), right also where
    lambda is 0.
    """
    return jnp.minimum(log_sum_exp(_log_poisson(log_mean, limit), axis=0), 0)


@_log_poisson_cdf.defjvp
def _log_poisson_cdf_jvp(
    limit: int, primals: tuple[Float[Array, "P"]], tangents: tuple[Float[Array, "P"]]
) -> tuple[Float[Array, "P"], Float[Array, "P"]]:
    (log_mean,), (tangent,) = primals, tangents
    value = _log_poisson_cdf(log_mean, limit)
    slope = -jnp.exp(log_mean + _log_poisson(log_mean, limit)[-1] - value)
    return value, slope * tangent
