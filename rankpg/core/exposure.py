"""Exposure: P(a is shown at position l) under a stochastic policy, for one expert.

Item j arrives at the time T_j = Exp(1) / w_j, w_j = exp(f(j)), and the candidates S are the first K arrivals.

    exposure_exact    a re-ranker that sorts S by a fixed score, of equal scores the lower id first, and shows
                      the first L: item a is at position l if it is in S together with exactly l - 1 of the
                      better-scored items
    policy_value      the expected reward of the lists of such a re-ranker, with its gradient
    exposure_sampled  any re-ranker, from draws of the other items

Approximations for large catalogues are in exposure_fast.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rankpg.core.inclusion_exact import arrival_probabilities, chernoff_above, chernoff_below
from rankpg.core.numerics import accumulation_dtype, centre, largest, log_sum_exp, masked_log
from rankpg.core.sampling import arrivals
from rankpg.core.validation import check_items, check_logits, is_whole_number
from rankpg.types import Array, Bool, Float, Int, PRNGKey

__all__ = [
    "check_exposure",
    "check_position_weights",
    "check_value",
    "exposure_exact",
    "exposure_sampled",
    "log_exposure_exact",
    "order_by_score",
    "pad_items",
    "policy_value",
    "scan_items",
]

_BLOCK = 64
"""Items between two saved states of a recursion; the backward pass computes the states between again."""
_GRID = 128
"""Times at which the ends of the quadrature are searched for."""
_LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 in every float format

# --- exact ------------------------------------------------------------------------------------------------


def exposure_exact(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    num_candidates: int,
    ranking_length: int,
    num_nodes: int | None = None,
) -> Float[Array, "L N"]:
    """P(a is shown at position l) of every item and position, exact up to quadrature error.

    The state "a and exactly l - 1 better and K - l worse items have arrived" is entered by the arrival of a,
    of a better or of a worse item:

        P(a at l) = integral of f_a A_{l-1} B_{K-l} + F_a A'_{l-1} B_{K-l} + F_a A_{l-1} B'_{K-l} dt

    with f_a and F_a the density and distribution function of T_a, A_h(t) = P(exactly h of the better have
    arrived by t), A'_h(t) the density of the arrival of their h-th, and B for the worse. A and A' follow from
    those of the items before a in the order of the scores, B and B' from those after a, by sums of positive
    terms. The quadrature is that of `log_inclusion_exact`, over the log time of the K-th arrival
    (Aires 1999; Traat 2004).

    Time grows as T * N * K. Memory, also of the gradient, grows as T * (N L + K (N / 64 + 64)).

    Args:
      logits: f(a); -inf masks an item.
      scores: the re-ranker's scores, higher is better; of equal scores the lower id comes first.
      num_candidates: K.
      ranking_length: L, at most K.
      num_nodes: quadrature nodes T; None: 128 for N <= 64, and 64 above, where the integrand is smoother.

    Returns:
      Probabilities, float[L, N]. Each position's sum to 1, and an item's to P(it is shown). The absolute
      error is about 1e-9 in float64 and 1e-6 in float32.

    Raises:
      ValueError: a wrong shape or dtype, L > K > N, and, outside of jit, bad values.

    >>> shown = jax.jit(exposure_exact, static_argnums=(2, 3))
    >>> np.round(shown(jnp.zeros(4), jnp.array([4.0, 3.0, 2.0, 1.0]), 2, 2), 3).tolist()
    [[0.5, 0.333, 0.167, 0.0], [0.0, 0.167, 0.333, 0.5]]
    """
    check_exposure(logits, scores, num_candidates, ranking_length)
    if num_nodes is not None and (not is_whole_number(num_nodes) or num_nodes < 1):
        raise ValueError(
            f"num_nodes={num_nodes!r}; expected a whole number of at least 1, or None for the default"
        )
    best_first, rank = order_by_score(scores)
    by_score = logits.astype(accumulation_dtype(logits.dtype))[best_first]
    eligible = ~jnp.isneginf(by_score)
    certain = _certain_list(eligible, ranking_length).astype(by_score.dtype)
    if num_candidates == logits.shape[0]:
        return certain[:, rank]
    relative, time, weight = _arrival_nodes(by_score, num_candidates, num_nodes)
    shown = _integrate_exposure(relative, time, weight, num_candidates, ranking_length)
    return jnp.where(jnp.sum(eligible) <= num_candidates, certain, shown)[:, rank]


def log_exposure_exact(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    num_candidates: int,
    ranking_length: int,
    num_nodes: int | None = None,
) -> Float[Array, "L N"]:
    """Log P(a is shown at position l), the logarithm of `exposure_exact`.

    Args, Raises: as `exposure_exact`.

    Returns:
      Logarithms, float[L, N]; -inf, with gradient 0, where the probability is 0.

    >>> shown = jax.jit(log_exposure_exact, static_argnums=(2, 3))
    >>> np.round(shown(jnp.zeros(2), jnp.array([1.0, 2.0]), 1, 1), 4).tolist()
    [[-0.6931, -0.6931]]
    """
    return masked_log(exposure_exact(logits, scores, num_candidates, ranking_length, num_nodes))


def policy_value(
    logits: Float[Array, "N"],
    scores: Float[Array, "N"],
    rewards: Float[Array, "N"],
    num_candidates: int,
    position_weights: Float[ArrayLike, "L"],
    num_nodes: int | None = None,
) -> Float[Array, ""]:
    """Expected reward of the list that is shown, exact up to quadrature error.

        V = sum over a and l of alpha_l q(a) P(a is shown at position l)

    Its gradient in the logits is the policy gradient without any sampling, for a re-ranker that sorts by a
    fixed score and rewards that do not interact.

    Args:
      logits, scores, num_candidates, num_nodes: as `exposure_exact`.
      rewards: q(a), the mean reward of each item when it is shown.
      position_weights: alpha, one weight for each of the L positions, L at most K.

    Returns:
      A scalar, in units of the reward.

    Raises:
      ValueError: as `exposure_exact`, and rewards or weights of a wrong shape.

    >>> scores = rewards = jnp.array([4.0, 3.0, 2.0, 1.0])
    >>> value = jax.jit(policy_value, static_argnums=3)(jnp.zeros(4), scores, rewards, 2, jnp.ones(1))
    >>> round(float(value), 3)  # the better one of two items drawn at random
    3.333
    """
    check_value(logits, rewards, position_weights)
    weights = jnp.asarray(position_weights)
    shown = exposure_exact(logits, scores, num_candidates, weights.shape[0], num_nodes)
    exposed = weights.astype(shown.dtype) @ shown
    return jnp.sum(exposed * jnp.where(jnp.isneginf(logits), 0, rewards))


def order_by_score(scores: Float[Array, "N"]) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
    """Returns the items in the order of the re-ranker, best first, and every item's place in that order.

    >>> [x.tolist() for x in order_by_score(jnp.array([1.0, 3.0, 3.0]))]
    [[1, 2, 0], [2, 0, 1]]
    """
    best_first = jnp.argsort(lax.stop_gradient(scores), descending=True, stable=True)
    places = jnp.arange(scores.shape[0], dtype=best_first.dtype)
    return best_first, jnp.zeros_like(best_first).at[best_first].set(places)


def _certain_list(eligible: Bool[Array, "N"], ranking_length: int) -> Bool[Array, "L N"]:
    """Marks the item at each position if all eligible items are candidates."""
    position = jnp.cumsum(eligible, dtype=jnp.int32) - 1
    at = position[None, :] == jnp.arange(ranking_length, dtype=jnp.int32)[:, None]
    return at & eligible[None, :]


def _arrival_nodes(
    logits: Float[Array, "N"], num_candidates: int, num_nodes: int | None
) -> tuple[Float[Array, "N"], Float[Array, "T"], Float[Array, "T"]]:
    """Logits relative to the K-th largest, and nodes and weights over the log time of the K-th arrival.

    Outside of the nodes' interval lies at most eps of that time's distribution. Its outer ends are union
    bounds: K arrivals need one from outside the K - 1 heaviest, and fewer than K mean that one of the K
    heaviest is missing. Chernoff bounds of the numbers of arrivals and of survivors move both ends inwards.
    """
    nodes = num_nodes or (128 if logits.shape[0] <= 64 else 64)
    heavy, heaviest = largest(lax.stop_gradient(logits), num_candidates)
    relative = logits - jnp.where(jnp.isneginf(heavy[-1]), 0, heavy[-1])
    fixed = lax.stop_gradient(relative)
    log_eps = math.log(1e-9 if logits.dtype == jnp.float64 else 1e-7)
    outside = log_sum_exp(fixed.at[heaviest[:-1]].set(-jnp.inf))
    lowest = jnp.minimum(log_eps - outside, 0)
    highest = jnp.asarray(math.log(math.log(num_candidates) - log_eps), logits.dtype)
    grid = lowest + (highest - lowest) * jnp.linspace(0, 1, _GRID, dtype=logits.dtype)

    absent, present = arrival_probabilities(fixed, grid)
    eligible = ~jnp.isneginf(fixed)
    arrived, survived = jnp.sum(present, 0), jnp.sum(jnp.where(eligible[:, None], absent, 0), 0)
    count = jnp.sum(eligible).astype(logits.dtype)
    wanted = jnp.asarray(num_candidates, logits.dtype)
    many = jnp.minimum(chernoff_above(arrived, wanted), chernoff_below(survived, count - wanted))
    few = jnp.minimum(
        chernoff_below(arrived, wanted - 1), chernoff_above(survived, count - wanted + 1)
    )
    start = jnp.max(jnp.where(many < log_eps, grid, lowest))
    stop = jnp.min(jnp.where(few < log_eps, grid, highest))
    x, weight = np.polynomial.legendre.leggauss(nodes)
    half = (jnp.maximum(stop, start) - start) / 2
    time = start + half * jnp.asarray(x + 1, logits.dtype)
    return relative, time, half * jnp.asarray(weight, logits.dtype)


_Counts = tuple[Float[Array, "c T"], Float[Array, "c T"]]
"""P(exactly i of some items have arrived), and the density of the arrival of their i-th, i < c."""
_Item = tuple[Float[Array, "T"], Float[Array, "T"], Float[Array, "T"]]
"""Probabilities that an item is absent and that it has arrived, and the density of its arrival."""


def _integrate_exposure(
    logits: Float[Array, "N"],
    time: Float[Array, "T"],
    weight: Float[Array, "T"],
    num_candidates: int,
    ranking_length: int,
) -> Float[Array, "L N"]:
    """Computes the integral of `exposure_exact` for items in the order of the scores."""
    padded = pad_items(logits)
    absent, present = arrival_probabilities(padded, time)
    density = _hazards(padded, time) * absent
    items = (absent, present, density)

    def better_step(better: _Counts, item: _Item) -> tuple[_Counts, _Counts]:
        return _add_item(better, *item), better

    def worse_step(
        worse: _Counts, row: tuple[_Item, tuple[Float[Array, "L T"], Float[Array, "L T"]]]
    ) -> tuple[_Counts, Float[Array, "L"]]:
        item, (a, da) = row
        b, db = (x[num_candidates - ranking_length :][::-1] for x in worse)
        _, own, own_density = item
        entered = own_density[None] * a * b + own[None] * (da * b + a * db)
        return _add_item(worse, *item), entered @ weight

    _, better = scan_items(better_step, _no_items(ranking_length, time), items)
    start = _no_items(num_candidates, time)
    _, shown = scan_items(worse_step, start, (items, better), reverse=True)
    return shown.T[:, : logits.shape[0]]


def _hazards(logits: Float[Array, "N"], time: Float[Array, "T"]) -> Float[Array, "N T"]:
    """Hazards w_j t of the items, 0 where masked; limited where the survival probability is 0."""
    masked = jnp.isneginf(logits)[:, None]
    exponent = jnp.where(masked, 0, logits[:, None]) + time[None, :]
    return jnp.where(masked, 0, jnp.exp(jnp.minimum(exponent, _LARGEST_EXPONENT)))


def _no_items(count: int, time: Float[Array, "T"]) -> _Counts:
    """Counts of an empty set of items."""
    counts = jnp.zeros((count, time.shape[0]), time.dtype)
    return counts.at[0].set(1), counts


def _add_item(
    counts: _Counts,
    absent: Float[Array, "T"],
    present: Float[Array, "T"],
    density: Float[Array, "T"],
) -> _Counts:
    """Adds an item to a set of items: one step of the recursion, all of whose terms are positive."""
    exactly, arrival = counts
    exactly_before, arrival_before = (jnp.pad(x, ((1, 0), (0, 0)))[:-1] for x in counts)
    return (
        absent[None] * exactly + present[None] * exactly_before,
        absent[None] * arrival + present[None] * arrival_before + density[None] * exactly_before,
    )


State = TypeVar("State")
Rows = TypeVar("Rows")
Result = TypeVar("Result")


def scan_items(
    step: Callable[[State, Rows], tuple[State, Result]],
    state: State,
    rows: Rows,
    reverse: bool = False,
) -> tuple[State, Result]:
    """`lax.scan` over padded items, with a backward pass that keeps the state of every 64th item only.

    >>> scan_items(lambda total, x: (total + x, total), jnp.float32(0), jnp.ones(3), reverse=True)[1].tolist()
    [2.0, 1.0, 0.0]
    """
    num_items = jax.tree.leaves(rows)[0].shape[0]
    block = min(num_items, _BLOCK)
    blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows)
    body = jax.checkpoint(lambda carry, some: lax.scan(step, carry, some, reverse=reverse))
    state, results = lax.scan(body, state, blocks, reverse=reverse)
    return state, jax.tree.map(lambda x: x.reshape(num_items, *x.shape[2:]), results)


def pad_items(logits: Float[Array, "N"]) -> Float[Array, "padded"]:
    """Adds masked items, so that `scan_items` has whole blocks.

    >>> pad_items(jnp.zeros(65)).shape
    (128,)
    """
    padding = -logits.shape[0] % min(logits.shape[0], _BLOCK)
    return jnp.pad(logits, (0, padding), constant_values=-jnp.inf)


# --- sampled ----------------------------------------------------------------------------------------------


def exposure_sampled(
    key: PRNGKey,
    logits: Float[Array, "N"],
    items: Int[Array, "n"],
    rerank: Callable[[PRNGKey, Int[Array, "K"]], Int[Array, "L"]],
    num_candidates: int,
    num_draws: int = 1,
) -> Float[Array, "L n"]:
    """Unbiased estimate of P(a is shown at position l) under any re-ranker, by sampling the other items.

    Let A be the first K - 1 arrivals among the items other than a, and kappa the time of their K-th. Then

        P(a at l) = E[ (1 - exp(-w_a kappa)) P(the re-ranker shows a at l | A and a) ]

    The arrival of a itself is integrated out, so every draw counts for every item. One draw of K + 1 arrivals
    serves all items; each item calls the re-ranker once a draw.

    Args:
      key: consumed.
      logits: f(a); -inf masks an item.
      items: ids of the items whose exposure is wanted.
      rerank: `rerank(key, candidates) -> item ids [L]`, jit-able, best first; the order of the candidates
        must not matter to it.
      num_candidates: K.
      num_draws: draws to take the mean of.

    Returns:
      Probabilities, float[L, n]. They carry a gradient in the item's own logit only, with the others as
      they were drawn: d P(a at l) / d f(a), without bias.

    Raises:
      ValueError: a wrong shape or dtype, K > N, num_draws below 1, and, outside of jit, bad values.

    >>> best_first = lambda key, candidates: jnp.sort(candidates)[:1]  # the lower id is the better item
    >>> shown = exposure_sampled(jax.random.key(0), jnp.zeros(4), jnp.arange(4), best_first, 2, 2000)
    >>> np.round(shown, 1).tolist()
    [[0.5, 0.3, 0.2, 0.0]]
    """
    check_logits(logits[None], (num_candidates,))  # pyright: ignore[reportIndexIssue]
    check_items("items", items, logits.shape[0], (None,))
    if not is_whole_number(num_draws) or num_draws < 1:
        raise ValueError(f"num_draws={num_draws!r}; expected a whole number of at least 1")
    centred, items = centre(logits), jnp.asarray(items, jnp.int32)
    eligible = ~jnp.isneginf(centred[items])
    own = jnp.where(eligible, centred[items], 0)

    def draw(key: PRNGKey) -> Float[Array, "L n"]:
        drawn_by, ranked_by = jax.random.split(key)
        orders, times = arrivals(drawn_by, centred[None], (num_candidates,))
        order, log_rates = orders[0], jnp.pad(times[0], (0, 1), constant_values=-jnp.inf)

        def one(key: PRNGKey, item: Int[Array, ""], logit: Float[Array, ""]) -> Float[Array, "L"]:
            slot = jnp.argmax(jnp.append(order[:num_candidates] == item, True))
            inside = slot < num_candidates
            candidates = (
                order[:num_candidates]
                .at[-1]
                .set(jnp.where(inside, order[num_candidates - 1], item).astype(order.dtype))
            )
            next_arrival = jnp.where(
                inside, log_rates[num_candidates], log_rates[num_candidates - 1]
            )
            included = -jnp.expm1(-jnp.exp(jnp.minimum(logit - next_arrival, _LARGEST_EXPONENT)))
            shown = rerank(key, candidates).astype(jnp.int32)
            return jnp.where(shown == item, included, 0)

        return jax.vmap(one, out_axes=1)(jax.random.split(ranked_by, items.shape[0]), items, own)

    total = lax.map(draw, jax.random.split(key, num_draws))
    return jnp.where(eligible, jnp.mean(total, axis=0), 0)


# --- validation -------------------------------------------------------------------------------------------


def check_exposure(
    logits: ArrayLike, scores: ArrayLike, num_candidates: int, ranking_length: int
) -> None:
    """Raises ValueError for logits and scores that do not fit each other, and for K and L that do not fit.

    >>> check_exposure(jnp.zeros(5), jnp.zeros(5), 2, 3)
    Traceback (most recent call last):
    ...
    ValueError: ranking_length=3 exceeds num_candidates=2; the re-ranker shows candidates only, ...
    """
    shape = jnp.shape(logits)
    if len(shape) != 1:
        raise ValueError(
            f"logits has shape {shape}; expected [N], the logits of one expert. For logits [M, N] with "
            "M = 1 write logits[0]; for a batch use jax.vmap"
        )
    if jnp.shape(scores) != shape:
        raise ValueError(
            f"scores has shape {jnp.shape(scores)}; expected {shape}, one score per item as in logits"
        )
    if not jnp.issubdtype(jnp.result_type(scores), jnp.floating):
        raise ValueError(
            f"scores has dtype {jnp.result_type(scores)}; expected a float dtype such as float32"
        )
    for name, value in (("num_candidates", num_candidates), ("ranking_length", ranking_length)):
        if not is_whole_number(value) or value < 1:
            raise ValueError(f"{name}={value!r}; expected a whole number of at least 1")
    if ranking_length > num_candidates:
        raise ValueError(
            f"ranking_length={ranking_length} exceeds num_candidates={num_candidates}; the re-ranker shows "
            f"candidates only, so lower ranking_length to at most {num_candidates}"
        )
    check_logits(logits[None], (num_candidates,))  # pyright: ignore[reportIndexIssue]
    if not isinstance(scores, Tracer) and (bad := np.flatnonzero(np.isnan(scores))).size:
        raise ValueError(
            f"scores[{bad[0]}] is nan; every score must be a number, because the items are sorted by it"
        )


def check_value(logits: ArrayLike, rewards: ArrayLike, position_weights: ArrayLike) -> None:
    """Raises ValueError for rewards and position weights of a wrong shape.

    >>> check_value(jnp.zeros(5), jnp.zeros(4), jnp.ones(2))
    Traceback (most recent call last):
    ...
    ValueError: rewards has shape (4,); expected (5,), one for each item as in logits
    """
    check_position_weights(position_weights)
    if jnp.shape(rewards) != jnp.shape(logits):
        raise ValueError(
            f"rewards has shape {jnp.shape(rewards)}; expected {jnp.shape(logits)}, one for each item as in "
            "logits"
        )


def check_position_weights(position_weights: ArrayLike) -> None:
    """Raises ValueError for position weights that are not a vector.

    >>> check_position_weights(1.0)
    Traceback (most recent call last):
    ...
    ValueError: position_weights has shape (); expected [L], one weight for each position
    """
    if jnp.ndim(position_weights) != 1:
        raise ValueError(
            f"position_weights has shape {jnp.shape(position_weights)}; expected [L], one weight for each "
            "position"
        )
