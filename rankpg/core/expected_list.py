"""Expected gain of wanted items in the final list of a re-ranker that sorts by a score, for one expert.

The first K arrivals are the candidates, the re-ranker sorts them by a score and shows the first L; the
letters are those of exposure.py. With the weights alpha_l of the positions, a wanted item a gains

    g_a = sum over l of alpha_l P(a is shown at position l)

so that sum over a of v_a g_a is the expected DCG of the final list for alpha_l = 1 / log2(1 + l), and the
expected number of wanted items in it for alpha_l = 1 (nDCG: Järvelin & Kekäläinen 2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rankpg.core.exposure import check_exposure, check_position_weights, exposure_exact
from rankpg.core.inclusion_exact import arrival_probabilities, count_distribution
from rankpg.core.numerics import centre, largest, log_sum_exp
from rankpg.core.validation import check_items
from rankpg.types import Array, Bool, Float, Int

__all__ = [
    "EXPECTED_GAINS",
    "expected_gain",
    "expected_gain_exact",
    "expected_gain_independent",
]

_STEPS = 50
"""Most steps of the search for the arrival time; Newton's method needs about six."""
_LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 in every float format

_Search = tuple[Array, Array, Array, Array, Array, Array]
"""Steps made, bracket, log time, expected arrivals by that time, and their derivative in it."""


def expected_gain(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    position_weights: Float[ArrayLike, "L"],
    method: str = "independent",
) -> Float[Array, "P"]:
    """Expected gain of each wanted item in the final list.

    All items that are not masked compete for the positions, the other wanted items too.

    Args:
      logits: f(a); -inf masks an item.
      scores: the re-ranker's scores, higher is better; of equal scores the lower id comes first.
      items: ids of the wanted items; repeats are allowed.
      num_candidates: K.
      position_weights: alpha, one weight for each of the L positions, L at most K.
      method: a name of `EXPECTED_GAINS`.

    Returns:
      float[P], at most the largest weight; 0, with gradient 0, for a masked item.

    Raises:
      ValueError: an unknown method, a wrong shape or dtype, L > K > N, and, outside of jit, bad values.

    >>> f, scores, items = jnp.zeros(4), jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([0, 3])
    >>> expected_gain(f, scores, items, 2, jnp.array([1.0, 0.5]), "exact").round(3).tolist()
    [0.5, 0.25]
    """
    if method not in EXPECTED_GAINS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(EXPECTED_GAINS)}")
    check_position_weights(position_weights)
    weights = jnp.asarray(position_weights)
    check_exposure(logits, scores, num_candidates, weights.shape[0])
    check_items("items", items, logits.shape[0], (None,))
    return EXPECTED_GAINS[method](logits, scores, items, num_candidates, weights)


def expected_gain_exact(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    position_weights: Float[Array, "L"],
) -> Float[Array, "P"]:
    """Expected gain by `exposure.exposure_exact`, for small catalogues: time grows as N * K.

    Args, Returns: as `expected_gain`.

    >>> f, scores, items = jnp.zeros(4), jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1])
    >>> expected_gain_exact(f, scores, items, 2, jnp.ones(1)).round(3).tolist()  # in, and the first not
    [0.333]
    """
    shown = exposure_exact(logits, scores, num_candidates, position_weights.shape[0])
    return position_weights.astype(shown.dtype) @ shown[:, items]


def expected_gain_independent(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    items: Int[Array, "P"],
    num_candidates: int,
    position_weights: Float[Array, "L"],
) -> Float[Array, "P"]:
    """Expected gain as if every item were a candidate independently of the others.

    The approximation of `exposure_fast.log_position_exposure_independent`, which gives all items; here the
    better-scored items of each wanted one are counted by a tree of polynomials, in log2(N) steps in place of
    N, so that it suits a few wanted items. Time and memory grow as P N L.

    Args, Returns: as `expected_gain`.

    >>> f, scores, items = jnp.zeros(100), jnp.arange(100.0), jnp.array([99, 90])
    >>> expected_gain_independent(f, scores, items, 10, jnp.array([1.0, 0.5])).round(3).tolist()
    [0.1, 0.058]
    """
    absent, present = _candidates(centre(logits), num_candidates)
    fixed, ids = lax.stop_gradient(scores), jnp.arange(logits.shape[0], dtype=items.dtype)
    equal = (fixed[:, None] == fixed[items][None]) & (ids[:, None] < items[None])
    better = (fixed[:, None] > fixed[items][None]) | equal  # [N, P]
    counts = count_distribution(
        jnp.where(better, absent[:, None], 1),
        jnp.where(better, present[:, None], 0),
        position_weights.shape[0],
    )  # [at most L, P]
    weights = position_weights[: counts.shape[0]].astype(counts.dtype)
    return present[items] * (weights @ counts)


EXPECTED_GAINS: dict[str, Callable[..., Float[Array, "P"]]] = {
    "independent": expected_gain_independent,
    "exact": expected_gain_exact,
}
"""name -> (logits, scores, items, K, position weights) -> gains."""


def _candidates(
    logits: Float[Array, "N"], num_candidates: int
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Probabilities that each item is not, and that it is, a candidate: they sum to K by one arrival time.

    The time carries a gradient, that of the implicit function: its shift keeps the sum.
    """
    fixed = lax.stop_gradient(logits)
    time, slope = _expected_arrival(fixed, num_candidates)
    total = jnp.sum(arrival_probabilities(logits, time[None])[1])
    time = time - (total - lax.stop_gradient(total)) / jnp.where(slope > 0, slope, jnp.inf)
    absent, present = arrival_probabilities(logits, time[None])
    eligible = ~jnp.isneginf(fixed)
    certain = jnp.sum(eligible) <= num_candidates  # then all of them are candidates
    return (
        jnp.where(certain, (~eligible).astype(logits.dtype), absent[:, 0]),
        jnp.where(certain, eligible.astype(logits.dtype), present[:, 0]),
    )


def _expected_arrival(
    logits: Float[Array, "N"], num_candidates: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log time at which K arrivals are expected, and the derivative of their number in it.

    By Newton's method in log time, which bisects where a step would leave the bracket.
    """
    kth = largest(logits, num_candidates)[0][-1]
    kth = jnp.where(jnp.isneginf(kth), 0, kth)
    low = math.log(num_candidates) - log_sum_exp(logits)  # sum p_j < e^s sum w_j = K
    high = math.log(logits.shape[0] + 1) + 7 - kth  # the K heaviest have arrived

    def count(time: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        hazard = jnp.exp(jnp.minimum(logits + time, _LARGEST_EXPONENT))
        present = -jnp.expm1(-hazard)
        return jnp.sum(present), jnp.sum(hazard * (1 - present))

    def unfinished(state: _Search) -> Bool[Array, ""]:
        return (state[0] < _STEPS) & (jnp.abs(state[4] - num_candidates) > tolerance)

    def step(state: _Search) -> _Search:
        done, low, high, time, total, slope = state
        low = jnp.where(total < num_candidates, time, low)
        high = jnp.where(total < num_candidates, high, time)
        newton = time + (num_candidates - total) / jnp.where(slope > 0, slope, 1)
        inside = (newton > low) & (newton < high) & (slope > 0)
        time = jnp.where(inside, newton, (low + high) / 2)
        return done + 1, low, high, time, *count(time)

    tolerance = num_candidates * 4 * jnp.finfo(logits.dtype).eps
    start = jnp.int32(0), low, high, low, *count(low)
    _, _, _, time, _, slope = lax.while_loop(unfinished, step, start)
    return time, slope
