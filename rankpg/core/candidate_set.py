"""Log-probability of the candidates as a set, without their order, for one expert."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from rankpg.core.numerics import accumulation_dtype, cloglog_inverse, log_sum_exp
from rankpg.core.validation import is_whole_number
from rankpg.types import Array, Float

__all__ = ["set_log_prob"]

_BISECTIONS = 40


def set_log_prob(
    logits: Float[Array, "K"], log_rest: Float[Array, ""], num_nodes: int = 64
) -> Float[Array, ""]:
    """Log-probability of a set of candidates, without their order.

        P(S) = integral over t of W exp(-W t) prod_{i in S} (1 - exp(-w_i t)) dt,  W the weight of the rest

    All of S has arrived when the first of the rest does (Ma et al. 2021). It is the sum of `log_prob` over
    all K! orders. The integrand is log-concave in log time, so its largest value and the ends, where it is
    negligible beside that value, are found by bisection: the relative error stays small for any set.

    Args:
      logits: f(a) of the candidates.
      log_rest: log-sum-exp of the logits of all other items; -inf if there are none.
      num_nodes: quadrature nodes.

    Returns:
      A scalar; -inf, with gradient 0, for a set with a masked item.

    Raises:
      ValueError: a wrong shape or dtype.

    >>> value = jax.jit(set_log_prob)(jnp.zeros(2), jnp.log(3.0))
    >>> round(math.exp(value), 4)  # one of the ten pairs of five items
    0.1
    """
    _check_arguments(logits, log_rest, num_nodes)
    dtype = accumulation_dtype(logits.dtype)
    logits, log_rest = logits.astype(dtype), log_rest.astype(dtype)
    impossible, certain = jnp.any(jnp.isneginf(logits)), jnp.isneginf(log_rest)
    simple = impossible | certain
    relative = jnp.where(simple, 0, logits) - jnp.where(simple, 0, log_rest)
    start, stop = _set_ends(lax.stop_gradient(relative))
    x, weight = np.polynomial.legendre.leggauss(num_nodes)
    half = (stop - start) / 2
    time = start + half * jnp.asarray(x + 1, dtype)
    # The rest's own hazard is exp(s) at log time s; its gradient enters by the shift of all other logits.
    terms = time - jnp.exp(time) + jnp.sum(cloglog_inverse(relative[:, None] + time[None, :]), 0)
    value = log_sum_exp(terms + jnp.log(half) + jnp.asarray(np.log(weight), dtype))
    value = jnp.where(simple, 0 * value, jnp.minimum(value, 0))
    return jnp.where(impossible, -jnp.inf, value)


def _set_ends(logits: Float[Array, "K"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Ends of log time for `set_log_prob`, for logits relative to the rest: h(s) is its log integrand.

    With p_i = 1 - exp(-r_i), r_i = w_i e^s, the slope is h' = 1 - e^s + sum r_i / (e^{r_i} - 1), so the mode
    lies in [0, log(K + 1)]. Since h'' <= -e^s, h falls by at least d - 1 + e^-d on the way down to mode - d,
    and by e^d - 1 - d on the way up to mode + d.
    """
    drop = 40.0 if logits.dtype == jnp.float64 else 20.0

    def height(time: Float[Array, ""]) -> Float[Array, ""]:
        return time - jnp.exp(time) + jnp.sum(cloglog_inverse(logits + time))

    def bisect(
        low: Float[Array, ""], high: Float[Array, ""], above: Callable[[Array], Array]
    ) -> Float[Array, ""]:
        def halve(_: int | Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (bracket[0] + bracket[1]) / 2
            right = above(middle)
            return jnp.where(right, middle, bracket[0]), jnp.where(right, bracket[1], middle)

        low, high = lax.fori_loop(0, _BISECTIONS, halve, (low, high))
        return (low + high) / 2

    zero = jnp.zeros((), logits.dtype)
    mode = bisect(zero, zero + math.log(logits.shape[0] + 1), lambda s: jax.grad(height)(s) > 0)
    least = height(mode) - drop
    start = bisect(mode - drop - 1, mode, lambda s: height(s) < least)
    return start, bisect(mode, mode + 4, lambda s: height(s) > least)


def _check_arguments(logits: ArrayLike, log_rest: ArrayLike, num_nodes: int) -> None:
    """Raises ValueError for arguments of `set_log_prob` of a wrong shape or dtype."""
    for name, array, dimensions, wanted in (
        ("logits", logits, 1, "[K], the logits of the candidates"),
        ("log_rest", log_rest, 0, "(), the log-sum-exp of the logits of all other items"),
    ):
        shape, dtype = jnp.shape(array), jnp.result_type(array)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(
                f"{name} has shape {shape}; expected {wanted}. For a batch use jax.vmap"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {dtype}; expected a float dtype such as float32")
    if not is_whole_number(num_nodes) or num_nodes < 1:
        raise ValueError(f"num_nodes={num_nodes!r}; expected a whole number of at least 1")
