"""How many of many independent items have arrived: the Poisson-binomial tail, without cancellation.

The count's generating function is a product of (1 - p_j) + p_j x over the items. It is multiplied out as a
tree of polynomials truncated at x^K: every term is positive, so nothing cancels, pairs multiply in parallel,
and the backward pass needs the tree only.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Float

__all__ = ["count_distribution", "tail_probability"]


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
