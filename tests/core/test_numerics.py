"""Logarithms of sums and differences, against exact arithmetic."""

from __future__ import annotations

import decimal
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.core import numerics

INF = np.inf
RTOL = {jnp.float64: 1e-13, jnp.float32: 1e-5}
by_dtype = pytest.mark.parametrize("dtype", RTOL)


@functools.cache
def value_and_slope(function):
    """Compiled value and derivative of a scalar function, for a batch."""
    return jax.jit(jax.vmap(jax.value_and_grad(function)))


# --- cloglog_inverse and log_softplus ---------------------------------------------------------------------

POINTS = [-90.0, -80.5, -79.5, -50.0, -20.0, -5.0, -1.0, -0.5, -0.37, 0.0, 0.3, 1.0, 2.0, 4.0]
POINTS += [20.0, 50.0, 79.0, 90.0]


def precise(formula, x: float) -> float:
    """Value of the formula in 120 digits."""
    with decimal.localcontext(decimal.Context(prec=120)):
        return float(formula(decimal.Decimal(float(x))))


def at_least_one(x):  # log(1 - exp(-exp(x)))
    return (1 - (-x.exp()).exp()).ln()


def at_least_one_slope(x):  # r / (exp(r) - 1), r = exp(x)
    return x.exp() / (x.exp().exp() - 1)


def softplus(x):  # log log(1 + exp(x))
    return (1 + x.exp()).ln().ln()


def softplus_slope(x):
    return x.exp() / (1 + x.exp()) / (1 + x.exp()).ln()


FORMULAS = {
    numerics.cloglog_inverse: (at_least_one, at_least_one_slope, 4.0),
    numerics.log_softplus: (softplus, softplus_slope, 90.0),
}


@by_dtype
@pytest.mark.parametrize("function", FORMULAS)
def test_values_and_slopes_to_machine_precision(function, dtype):
    value_formula, slope_formula, largest = FORMULAS[function]
    points = jnp.asarray([x for x in POINTS if x <= largest], dtype)
    values, slopes = value_and_slope(function)(points)
    assert values.dtype == slopes.dtype == dtype
    rounded = np.asarray(points, np.float64)
    truth = [precise(value_formula, x) for x in rounded]
    np.testing.assert_allclose(values, truth, rtol=RTOL[dtype], atol=1e-30)
    truth = [precise(slope_formula, x) for x in rounded]
    np.testing.assert_allclose(slopes, truth, rtol=RTOL[dtype], atol=1e-30)


@by_dtype
@pytest.mark.parametrize("function", FORMULAS)
def test_values_and_slopes_at_both_ends(function, dtype):
    """A tiny rate is the probability itself, a large one is certainty; no slope is NaN."""
    ends = jnp.asarray([-INF, -1e30, -1e4, 1e4, 1e30, INF], dtype)
    values, slopes = value_and_slope(function)(ends)
    np.testing.assert_array_equal(values[:3], ends[:3])
    np.testing.assert_array_equal(slopes[:3], [0, 1, 1])
    assert np.isfinite(slopes).all()
    if function is numerics.cloglog_inverse:
        np.testing.assert_array_equal(values[3:], 0)
        np.testing.assert_array_equal(slopes[3:], 0)
    else:
        np.testing.assert_allclose(values[3:5], np.log([1e4, 1e30]), rtol=1e-6)
        np.testing.assert_allclose(slopes[3:5], [1e-4, 1e-30], rtol=1e-6)


@pytest.mark.parametrize("function", FORMULAS)
def test_branches_meet(function):
    """The value neither jumps nor falls where one formula replaces another."""
    for end in (-80.0, np.log(0.69), 7.0, 80.0):
        x = jnp.linspace(end - 1e-3, end + 1e-3, 2001)
        values, slopes = value_and_slope(function)(x)
        steps = np.diff(values)
        assert (steps >= -1e-13).all()
        assert (steps <= 1.01e-6).all()
        assert (np.asarray(slopes) >= 0).all()


# --- sums -------------------------------------------------------------------------------------------------

ROWS = np.array(
    [
        [0.0, 1.0, 2.0, 3.0],
        [1e4, 1e4, -1e4, 0.0],
        [-1e4, -1e4 - 1, -1e4 + 1, -INF],
        [-INF, -INF, 5.0, -INF],
        [-INF, -INF, -INF, -INF],
        [-800.0, -900.0, -1000.0, -1000.0],
    ]
)
SHARES = {jnp.float64: 1e-11, jnp.float32: 2e-3}  # logits of 1e4 have a grid of 1e-3 in float32


def reference(row):
    """Log-sum-exp of a row and its gradient, the softmax."""
    if np.isneginf(row).all():
        return -INF, np.zeros(len(row))
    weights = np.exp(row - row.max())
    return row.max() + np.log(weights.sum()), weights / weights.sum()


@by_dtype
def test_log_sum_exp(dtype):
    values, gradients = value_and_slope(numerics.log_sum_exp)(jnp.asarray(ROWS, dtype))
    assert values.dtype == gradients.dtype == dtype
    truth = [reference(row) for row in ROWS]
    np.testing.assert_allclose(values, [v for v, _ in truth], rtol=RTOL[dtype])
    np.testing.assert_allclose(gradients, [g for _, g in truth], atol=SHARES[dtype])


def test_log_sum_exp_ignores_entries_outside_where():
    """A dropped entry has weight 0, however large, and gradient 0."""
    rows = jnp.asarray([[1e4, 1.0, 2.0], [-INF, 1.0, 2.0], [1.0, 2.0, 3.0]])
    where = jnp.asarray([[False, True, True], [True, True, False], [False, False, False]])
    one = jax.value_and_grad(lambda x, keep: numerics.log_sum_exp(x, where=keep))
    values, gradients = jax.jit(jax.vmap(one))(rows, where)
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(values, [np.log(np.exp(1) + np.exp(2)), 1, -INF], rtol=1e-12)
    truth = [[0, share, 1 - share], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(gradients, truth, atol=1e-12)


def test_log_sum_exp_over_another_axis():
    rows = jnp.asarray(ROWS[:2])
    found, truth = jax.jit(lambda x: (numerics.log_sum_exp(x, axis=0), numerics.log_sum_exp(x.T)))(
        rows
    )
    np.testing.assert_allclose(found, truth, rtol=1e-12)


@by_dtype
def test_log_add(dtype):
    values = [-INF, -1e4, -1.0, 0.0, 1.0, 1e4]
    pairs = np.array(list(itertools.product(values, values)))
    one = jax.value_and_grad(numerics.log_add, argnums=(0, 1))
    total, slopes = jax.jit(jax.vmap(one))(*jnp.asarray(pairs.T, dtype))
    truth = [reference(pair) for pair in pairs]
    np.testing.assert_allclose(total, [v for v, _ in truth], rtol=RTOL[dtype], atol=1e-7)
    np.testing.assert_allclose(np.stack(slopes, axis=1), [g for _, g in truth], atol=SHARES[dtype])


@by_dtype
def test_suffix_log_sum_exp(dtype):
    def finite_sum(x):  # of all suffixes, with a gradient through the finite ones only
        total = numerics.suffix_log_sum_exp(x)
        return jnp.sum(jnp.where(jnp.isneginf(total), 0, total)), total

    one = jax.value_and_grad(finite_sum, has_aux=True)
    (_, totals), gradients = jax.jit(jax.vmap(one))(jnp.asarray(ROWS, dtype))
    for row, total, gradient in zip(ROWS, totals, gradients, strict=True):
        suffixes = [reference(row[i:]) for i in range(len(row))]
        np.testing.assert_allclose(total, [v for v, _ in suffixes], rtol=RTOL[dtype])
        truth = sum(np.pad(g, (len(row) - len(g), 0)) for _, g in suffixes)
        np.testing.assert_allclose(gradient, truth, atol=SHARES[dtype])


@by_dtype
def test_a_suffix_of_very_small_weights_is_not_empty(dtype):
    x = jnp.asarray([1e30, -INF, -1e30, -3e38, -INF], dtype)
    total = numerics.suffix_log_sum_exp(x)
    np.testing.assert_array_equal(total, jnp.asarray([1e30, -1e30, -1e30, -3e38, -INF], dtype))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
def test_centre(dtype):
    """The largest logit becomes 0, gaps and masks stay, and the dtype is float32 at least."""
    logits = jnp.asarray([[100.0, 101.0, -INF], [-3.0, -INF, -5.0], [-INF, -INF, -INF]], dtype)
    centred = numerics.centre(logits)
    assert centred.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    truth = [[-1, 0, -INF], [0, -INF, -2], [-INF, -INF, -INF]]
    np.testing.assert_array_equal(centred, truth)
    pulled = jax.vjp(numerics.centre, logits)[1](jnp.ones_like(centred))[0]
    assert pulled.dtype == dtype
    np.testing.assert_array_equal(np.asarray(pulled, np.float64), 1)  # the shift has no gradient
