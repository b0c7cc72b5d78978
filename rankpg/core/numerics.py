"""Logarithms of sums and differences, finite in value and gradient for every input.

All code in the library that takes the logarithm of a sum or of a difference of weights calls these
functions. None of them adds an epsilon: they branch, mask and rearrange instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

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
    "masked_log",
    "scan_rows",
    "suffix_log_sum_exp",
]

Carry = TypeVar("Carry")
Output = TypeVar("Output")
"""A tree of arrays with two leading axes, [M, rows, ...], or None."""


def finite_masks(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replaces -inf by the lowest finite number of the dtype.

    Beside any other logit it still has weight 0, and its difference from itself is 0 and not NaN.

    >>> finite_masks(jnp.array([1.0, -jnp.inf])) > -jnp.inf
    Array([ True,  True], dtype=bool)
    """
    return jnp.where(jnp.isneginf(x), jnp.finfo(x.dtype).min, x)


def log_sum_exp(
    x: Float[Array, "..."], *, axis: int = -1, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Log-sum-exp of the entries that `where` keeps: log sum_i exp(x_i).

    Without any entry the value is -inf and the gradient 0. Entries of -inf have weight 0 and gradient 0.

    Args:
      x: any shape.
      axis: the axis to reduce.
      where: entries to keep, of x's shape; None keeps all.

    Returns:
      x's shape without `axis`.

    >>> jax.jit(log_sum_exp)(jnp.array([0.0, 0.0, -jnp.inf]))
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
    """log(exp(x) + exp(y)); where both are -inf the value is -inf and the gradient 0.

    >>> jax.jit(log_add)(jnp.array([0.0, -jnp.inf]), jnp.array([0.0, -jnp.inf]))
    Array([0.6931472,      -inf], dtype=float32)
    """
    empty = jnp.isneginf(x) & jnp.isneginf(y)
    total = jnp.logaddexp(jnp.where(empty, 0, x), jnp.where(empty, 0, y))
    return jnp.where(empty, -jnp.inf, total)


def suffix_log_sum_exp(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Log-sum-exp of every suffix: log sum_{j >= i} exp(x_j) for every i.

    A suffix of nothing but -inf has value -inf and gradient 0.

    >>> import numpy as np
    >>> suffixes = jax.jit(suffix_log_sum_exp)(np.log(np.float32([3, 2, 1])))
    >>> np.exp(suffixes).round(4).tolist()
    [6.0, 3.0, 1.0]
    """
    last = x.ndim - 1
    empty = jnp.isneginf(lax.cummax(lax.stop_gradient(x), axis=last, reverse=True))
    return jnp.where(empty, -jnp.inf, lax.cumlogsumexp(finite_masks(x), axis=last, reverse=True))


@jax.custom_jvp
def cloglog_inverse(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(-exp(x))): the log-probability of at least one arrival, from the log of the rate.

    Exact over the whole range, from x = -inf (value -inf) to x = +inf (value 0).

    >>> [round(v, 4) for v in jax.jit(cloglog_inverse)(jnp.array([-50.0, 0.0, 50.0])).tolist()]
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
def _cloglog_inverse_jvp(
    primals: tuple[Float[Array, "..."]], tangents: tuple[Float[Array, "..."]]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    (x,), (dx,) = primals, tangents
    value = cloglog_inverse(x)
    small, large = x < -80.0, x > 7.0
    rate = jnp.exp(jnp.where(small | large, 0, x))
    slope = jnp.where(small, 1, jnp.where(large, 0, rate / jnp.expm1(rate)))
    return value, jnp.where(jnp.isinf(x), 0, slope) * dx


@jax.custom_jvp
def log_softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log log(1 + exp(x)), finite for every finite x.

    With x = f(a) - log W, W the total weight of all other items, this is the log of -log(1 - pi(a)): the log
    of the rate at which item a is drawn.

    >>> [round(v, 4) for v in jax.jit(log_softplus)(jnp.array([-1e4, 0.0, 1e4])).tolist()]
    [-10000.0, -0.3665, 9.2103]
    """
    small = x < -80.0
    return jnp.where(small, x, jnp.log(jax.nn.softplus(jnp.where(small, 0, x))))


@log_softplus.defjvp
def _log_softplus_jvp(
    primals: tuple[Float[Array, "..."]], tangents: tuple[Float[Array, "..."]]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    (x,), (dx,) = primals, tangents
    value = log_softplus(x)
    small, infinite = x < -80.0, jnp.isinf(x)
    inside = jnp.where(small | infinite, 0, x)
    slope = jnp.where(small, 1, jax.nn.sigmoid(inside) / jax.nn.softplus(inside))
    return value, jnp.where(infinite, 0, slope) * dx


def masked_log(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log x; where x is 0 the value is -inf and the gradient 0.

    >>> masked_log(jnp.array([1.0, 0.0]))
    Array([  0., -inf], dtype=float32)
    """
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def accumulation_dtype(dtype: DTypeLike) -> DTypeLike:
    """Dtype in which products of this dtype are accumulated: float32 for the 16-bit formats, else itself.

    >>> accumulation_dtype(jnp.bfloat16).__name__
    'float32'
    """
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def centre(logits: Float[Array, "... N"]) -> Float[Array, "... N"]:
    """Shifts logits so that the largest is 0; bfloat16 and float16 become float32.

    The policy does not change. Rounding errors then grow with an item's distance from the largest logit and
    not with the size of the logits, which may be +-1e4.
    """
    if logits.dtype in (jnp.bfloat16, jnp.float16):
        logits = logits.astype(jnp.float32)
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return logits - jnp.where(jnp.isfinite(top), top, 0)


def largest(
    x: Float[Array, "... N"], count: int
) -> tuple[Float[Array, "... count"], Int[Array, "... count"]]:
    """Returns the `count` largest entries along the last axis, in descending order, and their indices.

    The barriers keep XLA from merging later slices with its top-k, which would then sort whole rows.

    >>> largest(jnp.array([3.0, 9.0, 5.0]), 2)[1]
    Array([1, 2], dtype=int32)
    """
    values, indices = lax.top_k(x, count)
    # Two barriers: XLA's decomposition of a top-k fails on one barrier that takes both of its outputs.
    return lax.optimization_barrier(values), lax.optimization_barrier(indices)


def scan_rows(
    body: Callable[[Carry, Int[Array, ""], Float[Array, "M rows D"]], tuple[Carry, Output]],
    carry: Carry,
    table: Float[Array, "M n D"],
    size: int,
) -> tuple[Carry, Output]:
    """Calls `carry, output = body(carry, start, rows)` for `size` rows of a table at a time, in order.

    Args:
      body: receives the carry, the index of the first row, and the rows; its output is a tree of arrays
        [M, rows, ...], or None.
      carry: the carry of the first call.
      table: all rows.
      size: rows in a call; the last call receives the n % size remaining rows, if any.

    Returns:
      The last carry, and the outputs of all calls, concatenated along their second axis.

    >>> scan_rows(lambda total, start, rows: (total + rows.sum(), 2 * rows), 0.0, jnp.ones((1, 5, 1)), 2)[0]
    Array(5., dtype=float32)
    """
    full_calls, remainder = divmod(table.shape[1], size)

    def step(carry: Carry, call: Int[Array, ""]) -> tuple[Carry, Output]:
        start = call * size
        return body(carry, start, lax.dynamic_slice_in_dim(table, start, size, axis=1))

    outputs = []
    if full_calls:
        carry, stacked = lax.scan(step, carry, jnp.arange(full_calls, dtype=jnp.int32))
        outputs.append(jax.tree.map(_merge_calls, stacked))
    if remainder:
        carry, last = body(carry, jnp.int32(full_calls * size), table[:, full_calls * size :])
        outputs.append(last)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *outputs)


def _merge_calls(x: Float[Array, "calls M rows ..."]) -> Float[Array, "M n ..."]:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
