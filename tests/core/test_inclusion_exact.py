"""Exact inclusion against enumeration, and the Poisson-binomial tail."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.inclusion import all_gradients, all_items, policies, relative_errors
from helpers.policies import slow
from scipy import stats

import rankpg
from rankpg.core.inclusion_exact import log_inclusion_exact, tail_probability


@pytest.mark.slow
@pytest.mark.parametrize("slots", range(1, 8))
def test_exact_is_the_sum_over_all_tuples(slots):
    """N = 8 and, by masks, 7, 6 and 5 eligible items; standard deviations up to 4."""
    logits = policies(1, 8, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits), (slots,), "exact")
    assert relative_errors(found, truth) < 1e-6


@pytest.mark.parametrize("slots", [slow(1), slow(2), slow(3), 4, slow(5), slow(6), slow(7)])
def test_exact_in_float32(slots):
    """Agrees with enumeration to three digits on these policies."""
    logits = policies(1, 8, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits, jnp.float32), (slots,), "exact")
    assert relative_errors(np.asarray(found, np.float64), truth) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("items", "slots"), [(n, k) for n in range(2, 8) for k in range(1, n)])
def test_exact_for_every_smaller_catalogue(items, slots):
    logits = policies(1, items, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits), (slots,), "exact")
    assert relative_errors(found, truth) < 1e-6


@pytest.mark.parametrize("slots", [slow(1), 4, slow(6)])
def test_exact_and_its_gradient_are_the_sum_over_all_tuples(slots):
    logits = policies(1, 7, fewest=slots)
    values, gradients = all_gradients(jnp.asarray(logits), (slots,), "exact")
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    assert relative_errors(values, truth) < 1e-6
    for f, value, gradient in zip(logits, values, gradients, strict=True):
        truth = oracle.inclusion_gradients(f, (slots,))  # of P = exp(value)
        p = np.exp(np.asarray(value))
        np.testing.assert_allclose(p[:, None, None] * gradient, truth, atol=1e-8)
    assert np.isfinite(gradients).all()


def catalogue(sd: float, distinct: int) -> np.ndarray:
    """1000 normal logits in groups of equal ones, so that `distinct` probabilities give the sum."""
    quantiles = sd * stats.norm.ppf((np.arange(distinct) + 0.5) / distinct)
    return np.repeat(quantiles, 1000 // distinct)[None]


@functools.partial(jax.jit, static_argnums=(1, 2))
def spaced_probabilities(logits, slots, stride):
    """P(a in S) of every `stride`-th item."""
    items = jnp.arange(0, logits.shape[1], stride, dtype=jnp.int32)
    one = lambda item: rankpg.log_inclusion(logits, item, (slots,))  # noqa: E731
    return jnp.exp(jax.lax.map(one, items, batch_size=5))


@pytest.mark.parametrize(
    ("dtype", "slots", "sd", "distinct"),
    [
        (jnp.float64, 10, 3.0, 20),
        *(
            slow(dtype, slots, sd, 50)
            for dtype in (jnp.float64, jnp.float32)
            for slots in (10, 50, 200)
            for sd in (1.0, 3.0)
        ),
    ],
)
def test_exact_adds_up_to_the_number_of_slots(dtype, slots, sd, distinct):
    repeats = 1000 // distinct
    p = spaced_probabilities(jnp.asarray(catalogue(sd, distinct), dtype), slots, repeats)
    assert p.dtype == dtype
    near = 1e-4 if dtype == jnp.float64 else 1e-3
    np.testing.assert_allclose(repeats * np.sum(p, dtype=np.float64), slots, rtol=near)
    assert (np.diff(p) > 0).all()  # P increases with the logit


@pytest.mark.slow
@pytest.mark.parametrize("slots", [10, 200])
def test_default_nodes_suffice(slots):
    """Against 16 times as many quadrature nodes, item by item, for peaked policies of 1000 items."""
    logits = jnp.asarray(4 * np.random.default_rng(0).normal(size=1000))
    items = jnp.asarray(np.argsort(-np.asarray(logits))[:: 1000 // 12], jnp.int32)
    few, many = (
        jax.lax.map(lambda a, n=nodes: log_inclusion_exact(logits, a, slots, n), items)
        for nodes in (None, 1024)
    )
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-6)


# --- the Poisson-binomial tail -----------------------------------------------------------------------------


def brute_force_tail(present: np.ndarray, limit: int) -> float:
    return sum(
        np.prod(np.where(outcome, present, 1 - present))
        for outcome in itertools.product([False, True], repeat=len(present))
        if sum(outcome) < limit
    )


TAIL = jax.jit(tail_probability, static_argnums=2)


@pytest.mark.parametrize(
    ("n", "limit"),
    [
        (6, 3),
        (7, 7),
        *(slow(n, limit) for n in (1, 6, 7) for limit in (1, 3, 7)),
    ],
)
def test_tail_probability_is_the_sum_over_all_outcomes(n, limit):
    present = np.random.default_rng(n).uniform(size=(n, 3))
    found = TAIL(jnp.asarray(1 - present), jnp.asarray(present), limit)
    truth = [brute_force_tail(column, limit) for column in present.T]
    np.testing.assert_allclose(found, truth, rtol=1e-12)


def test_tail_probability_keeps_its_relative_precision():
    """Fewer than 2 of 9 items, each absent with probability 1e-30: 1e-270 + 9e-240."""
    absent = np.full((9, 1), 1e-30)
    found = TAIL(jnp.asarray(absent), jnp.asarray(1 - absent), 2)
    np.testing.assert_allclose(found, 9e-240, rtol=1e-12)


def test_tail_probability_of_equal_items_is_binomial():
    n, limit, p = 300, 40, 0.1
    found = TAIL(jnp.full((n, 1), 1 - p), jnp.full((n, 1), p), limit)
    np.testing.assert_allclose(found, stats.binom.cdf(limit - 1, n, p), rtol=1e-10)


@pytest.mark.parametrize("limit", [3, slow(6)])
def test_tail_probability_gradient(limit):
    """The hand-written backward pass, in both arguments, which need not add up to 1."""
    both, step = np.random.default_rng(0).uniform(size=(2, 6, 3)), 1e-6
    total = jax.jit(jax.grad(lambda x: tail_probability(x[0], x[1], limit).sum()))
    gradient = np.asarray(total(jnp.asarray(both)))
    for place in np.ndindex(*both.shape):
        up, down = both.copy(), both.copy()
        up[place] += step
        down[place] -= step
        difference = np.sum(TAIL(*jnp.asarray(up), limit) - TAIL(*jnp.asarray(down), limit))
        np.testing.assert_allclose(gradient[place], difference / (2 * step), rtol=1e-6, atol=1e-8)
