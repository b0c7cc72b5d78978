"""Logarithms of sums and differences that stay finite, in value and in gradient, for any input.

Every place of the library that takes the logarithm of a sum or of a difference of weights goes through
these functions. None of them adds an epsilon: they branch, mask and rearrange instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Bool, Float, Int

__all__ = [
    "accumulation_dtype",
    "centre",
    "cloglog_inverse",
    "finite_masks",
    "largest",
    "log_add",
    "log_softplus",
    "log_sum_exp",
    "scan_rows",
    "suffix_log_sum_exp",
]


def finite_masks(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same with the lowest number for -inf: it weighs 0 beside any other, and less itself it is not NaN.

    >>> finite_masks(jnp.array([1.0, -jnp.inf])) > -jnp.inf
    Array([ True,  True], dtype=bool)
    """
    return jnp.where(jnp.isneginf(x), jnp.finfo(x.dtype).min, x)


def log_sum_exp(
    x: Float[Array, "..."], *, axis: int = -1, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Log sum_i exp(x_i) over the entries that `where` keeps; -inf, with gradient 0, if none is left.

    Entries of -inf weigh nothing and receive gradient 0.

    Args:
      x: any shape.
      axis: the axis summed over.
      where: same shape as x; None keeps all.

    Returns:
      x's shape without `axis`.

    >>> log_sum_exp(jnp.array([0.0, 0.0, -jnp.inf]))
    Array(0.6931472, dtype=float32)
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    top = lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    top = jnp.where(jnp.isneginf(top), 0, top)
    total = jnp.sum(jnp.exp(x - top), axis=axis)
    empty = total == 0
    value = jnp.log(jnp.where(empty, 1, total)) + jnp.squeeze(top, axis)
    return jnp.where(empty, -jnp.inf, value)


def log_add(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(exp(x) + exp(y)), also where both are -inf: the value is -inf then and the gradient 0.

    >>> log_add(jnp.array([0.0, -jnp.inf]), jnp.array([0.0, -jnp.inf]))
    Array([0.6931472,      -inf], dtype=float32)
    """
    empty = jnp.isneginf(x) & jnp.isneginf(y)
    total = jnp.logaddexp(jnp.where(empty, 0, x), jnp.where(empty, 0, y))
    return jnp.where(empty, -jnp.inf, total)


def suffix_log_sum_exp(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Log sum_{j >= i} exp(x_j) for every i; an all -inf suffix is -inf, with gradient 0.

    >>> [round(float(v), 4) for v in jnp.exp(suffix_log_sum_exp(jnp.log(jnp.array([3.0, 2.0, 1.0]))))]
    [6.0, 3.0, 1.0]
    """
    last = x.ndim - 1
    empty = jnp.isneginf(lax.cummax(lax.stop_gradient(x), axis=last, reverse=True))
    return jnp.where(empty, -jnp.inf, lax.cumlogsumexp(finite_masks(x), axis=last, reverse=True))


@jax.custom_jvp
def cloglog_inverse(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(-exp(x))), exact from x = -inf (-inf) to x = +inf (0).

    It turns the log of a rate into the log-probability of at least one arrival.

    >>> [round(float(v), 4) for v in cloglog_inverse(jnp.array([-50.0, 0.0, 50.0]))]
    [-50.0, -0.4587, 0.0]
    """
    small = x < -80.0  # there 1 - exp(-r) = r, and r is about to underflow
    large = x > 7.0  # there exp(-r) is 0 in every float format
    rate = jnp.exp(jnp.where(small | large, 0, x))
    likely = rate > 0.69
    unlikely_value = jnp.log(-jnp.expm1(-jnp.where(likely, 1, rate)))
    inside = jnp.where(likely, jnp.log1p(-jnp.exp(-rate)), unlikely_value)
    return jnp.where(small, x, jnp.where(large, 0, inside))


@cloglog_inverse.defjvp
def _cloglog_inverse_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    value = cloglog_inverse(x)
    small, large = x < -80.0, x > 7.0
    rate = jnp.exp(jnp.where(small | large, 0, x))
    slope = jnp.where(small, 1, jnp.where(large, 0, rate / jnp.expm1(rate)))
    return value, jnp.where(jnp.isinf(x), 0, slope) * dx


@jax.custom_jvp
def log_softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log log(1 + exp(x)), finite for every finite x.

    With x = f(a) - log W, W the weight of all others, it is the log of -log(1 - pi(a)): the log of the rate
    at which item a is drawn.

    >>> [round(float(v), 4) for v in log_softplus(jnp.array([-1e4, 0.0, 1e4]))]
    [-10000.0, -0.3665, 9.2103]
    """
    small = x < -80.0
    return jnp.where(small, x, jnp.log(jax.nn.softplus(jnp.where(small, 0, x))))


@log_softplus.defjvp
def _log_softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    value = log_softplus(x)
    small, infinite = x < -80.0, jnp.isinf(x)
    inside = jnp.where(small | infinite, 0, x)
    slope = jnp.where(small, 1, jax.nn.sigmoid(inside) / jax.nn.softplus(inside))
    return value, jnp.where(infinite, 0, slope) * dx


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype in which products of this dtype are added up.

    >>> accumulation_dtype(jnp.bfloat16).__name__
    'float32'
    """
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def centre(logits: Float[Array, "... N"]) -> Float[Array, "... N"]:
    """Shift logits so that the largest is 0: the policy is the same, the rounding of +-1e4 is not.

    What is left of rounding grows with the distance from the largest logit, not with the logits.

    bfloat16 and float16 become float32 here, where the sums begin.
    """
    if logits.dtype in (jnp.bfloat16, jnp.float16):
        logits = logits.astype(jnp.float32)
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return logits - jnp.where(jnp.isfinite(top), top, 0)


def largest(
    x: Float[Array, "... N"], count: int
) -> tuple[Float[Array, "... count"], Int[Array, "... count"]]:
    """The `count` largest entries along the last axis, in descending order, and where they stand.

    The barrier keeps later slices away from XLA's top-k: merged with it, they would make it sort whole rows.

    >>> largest(jnp.array([3.0, 9.0, 5.0]), 2)[1]
    Array([1, 2], dtype=int32)
    """
    values, places = lax.top_k(x, count)
    # Two barriers: XLA's decomposition of a top-k falls over one that takes both of its answers.
    return lax.optimization_barrier(values), lax.optimization_barrier(places)


def scan_rows(
    body: Callable[[Any, Int[Array, ""], Float[Array, "M rows D"]], tuple[Any, Any]],
    carry: Any,
    table: Float[Array, "M n D"],
    size: int,
) -> tuple[Any, Any]:
    """`carry, answer = body(carry, first row, some rows)` for every `size` rows, in order, and for the rest.

    Args:
      body: answers a tree of arrays [M, ...], or None.
      carry: what the first call is given.
      table: all rows.
      size: rows at a time; the last call gets what is left.

    Returns:
      The last carry, and the answers of all calls, put together along their second axis.

    >>> scan_rows(lambda total, start, rows: (total + rows.sum(), 2 * rows), 0.0, jnp.ones((1, 5, 1)), 2)[0]
    Array(5., dtype=float32)
    """
    whole, rest = divmod(table.shape[1], size)

    def step(carry, number):
        start = number * size
        return body(carry, start, lax.dynamic_slice_in_dim(table, start, size, axis=1))

    answers = []
    if whole:
        carry, stacked = lax.scan(step, carry, jnp.arange(whole, dtype=jnp.int32))
        answers.append(jax.tree.map(_join, stacked))
    if rest:
        carry, last = body(carry, jnp.int32(whole * size), table[:, whole * size :])
        answers.append(last)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *answers)


def _join(x: Float[Array, "calls M rows ..."]) -> Float[Array, "M n ..."]:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
