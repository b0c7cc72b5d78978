"""Logarithms of sums, the Poisson-binomial tail and listings, against exact arithmetic."""

from __future__ import annotations

import decimal
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from rankpg.core import numerics
from rankpg.core.inclusion_exact import tail_probability
from rankpg.core.plackett_luce import full_logits, gather_logits

INF = np.inf
RTOL = {jnp.float64: 1e-13, jnp.float32: 1e-5}
by_dtype = pytest.mark.parametrize("dtype", RTOL)


def value_and_slope(function):
    return jax.jit(jax.vmap(jax.value_and_grad(function)))


# --- cloglog_inverse and log_softplus ---------------------------------------------------------------------

POINTS = [-90.0, -80.5, -79.5, -50.0, -20.0, -5.0, -1.0, -0.5, -0.37, 0.0, 0.3, 1.0, 2.0, 4.0]
POINTS += [20.0, 50.0, 79.0, 90.0]


def precise(formula, x: float) -> float:
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
def test_both_ends(function, dtype):
    """A tiny rate is the probability itself, a large one is certainty, and no slope is NaN."""
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
    """Where one formula takes over from another the value neither jumps nor falls."""
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
    """The log-sum-exp and its gradient, the softmax."""
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


def test_log_sum_exp_where():
    """An entry left out weighs nothing, however large, and receives no gradient."""
    rows = jnp.asarray([[1e4, 1.0, 2.0], [-INF, 1.0, 2.0], [1.0, 2.0, 3.0]])
    where = jnp.asarray([[False, True, True], [True, True, False], [False, False, False]])
    one = jax.value_and_grad(lambda x, keep: numerics.log_sum_exp(x, where=keep))
    values, gradients = jax.vmap(one)(rows, where)
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(values, [np.log(np.exp(1) + np.exp(2)), 1, -INF], rtol=1e-12)
    truth = [[0, share, 1 - share], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(gradients, truth, atol=1e-12)


def test_log_sum_exp_over_another_axis():
    rows = jnp.asarray(ROWS[:2])
    found = numerics.log_sum_exp(rows, axis=0)
    np.testing.assert_allclose(found, numerics.log_sum_exp(rows.T), rtol=1e-12)


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
    def finite_sum(x):  # all suffixes at once, and a gradient that enters at the finite ones only
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
    """The largest logit becomes 0, gaps and masks stay, and the sums begin in float32 at least."""
    logits = jnp.asarray([[100.0, 101.0, -INF], [-3.0, -INF, -5.0], [-INF, -INF, -INF]], dtype)
    centred = numerics.centre(logits)
    assert centred.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    truth = [[-1, 0, -INF], [0, -INF, -2], [-INF, -INF, -INF]]
    np.testing.assert_array_equal(centred, truth)
    pulled = jax.vjp(numerics.centre, logits)[1](jnp.ones_like(centred))[0]
    assert pulled.dtype == dtype
    np.testing.assert_array_equal(np.asarray(pulled, np.float64), 1)  # the shift has no gradient


# --- the Poisson-binomial tail ----------------------------------------------------------------------------


def brute_force_tail(present: np.ndarray, limit: int) -> float:
    return sum(
        np.prod(np.where(outcome, present, 1 - present))
        for outcome in itertools.product([False, True], repeat=len(present))
        if sum(outcome) < limit
    )


@pytest.mark.parametrize("n", [1, 6, 7])
def test_tail_probability(n):
    present = np.random.default_rng(n).uniform(size=(n, 3))
    for limit in (1, 3, 7):
        found = jax.jit(tail_probability, static_argnums=2)(
            jnp.asarray(1 - present), jnp.asarray(present), limit
        )
        truth = [brute_force_tail(column, limit) for column in present.T]
        np.testing.assert_allclose(found, truth, rtol=1e-12)


def test_tail_probability_keeps_its_relative_precision():
    """Fewer than 2 of 9 items, each absent with probability 1e-30: 1e-270 + 9e-240."""
    absent = jnp.full((9, 1), 1e-30)
    np.testing.assert_allclose(tail_probability(absent, 1 - absent, 2), 9e-240, rtol=1e-12)


def test_tail_probability_of_many_equal_items_is_binomial():
    n, limit, p = 300, 40, 0.1
    found = tail_probability(jnp.full((n, 1), 1 - p), jnp.full((n, 1), p), limit)
    np.testing.assert_allclose(found, stats.binom.cdf(limit - 1, n, p), rtol=1e-10)


@pytest.mark.parametrize("limit", [3, 6])
def test_tail_probability_gradient(limit):
    """The backward pass is written by hand: in both arguments, which need not add up to 1."""
    random = np.random.default_rng(0)
    absent, present = (jnp.asarray(random.uniform(size=(6, 2))) for _ in range(2))
    tail = jax.jit(lambda a, p: tail_probability(a, p, limit))
    check_grads(tail, (absent, present), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


# --- listings ---------------------------------------------------------------------------------------------


def test_a_listing_holds_the_whole_weight_whatever_is_listed():
    logits = np.random.default_rng(0).normal(size=(2, 6), scale=5)
    logits[1, 2] = -INF
    total = np.log(np.exp(logits).sum(axis=1))
    for ids in ([5, 2, 2], [3, 1, 3], [0, 4, 2]):
        items = jnp.asarray(ids, jnp.int32)
        sparse = gather_logits(jnp.asarray(logits), items)
        np.testing.assert_allclose(sparse.log_total(), total, rtol=1e-12)
        np.testing.assert_array_equal(sparse.items[sparse.positions(items)], ids)
        rest = [j for j in range(6) if j not in ids]
        weight = np.exp(logits)[:, rest].sum(axis=1)
        np.testing.assert_allclose(np.exp(sparse.log_rest), weight, rtol=1e-12)
    np.testing.assert_allclose(full_logits(jnp.asarray(logits)).log_total(), total, rtol=1e-12)


def test_a_repeated_id_counts_once_in_value_and_gradient():
    logits = jnp.asarray([[0.0, 1.0, 2.0]])
    items = jnp.array([1, 1, 0], jnp.int32)
    gradient = jax.grad(lambda f: gather_logits(f, items).log_total()[0])(logits)
    np.testing.assert_allclose(gradient, [reference(np.array([0.0, 1.0, 2.0]))[1]], rtol=1e-12)


def test_the_id_of_no_item_stands_past_the_end_of_a_listing():
    sparse = gather_logits(jnp.zeros((1, 5)), jnp.array([4, 1], jnp.int32))
    np.testing.assert_array_equal(sparse.positions(jnp.array([-1, 1, 4], jnp.int32)), [2, 0, 1])
