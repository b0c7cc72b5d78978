"""Log-probability of an unordered set of candidates, against the sum over its orders."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, slow

from rankpg.core.candidate_set import set_log_prob

BATCH = jax.jit(jax.vmap(jax.value_and_grad(set_log_prob, argnums=(0, 1))))


def sets_of(f: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sets of K items, their probability as the sum over their orders, and the gradient of its log."""
    chosen, p = oracle.probabilities(f[None], (slots,))
    score = oracle.log_prob_gradients(f[None], (slots,), chosen)[:, 0]
    sets = np.array(list(itertools.combinations(range(len(f)), slots)))
    same = [(np.sort(chosen, axis=1) == one).all(axis=1) for one in sets]
    total = np.array([p[rows].sum() for rows in same])
    return sets, total, np.array([p[rows] @ score[rows] for rows in same]) / total[:, None]


def arguments(f: np.ndarray, sets: np.ndarray, dtype) -> tuple[jax.Array, jax.Array]:
    rest = [np.logaddexp.reduce(np.delete(f, one)) for one in sets]
    return jnp.asarray(f[sets], dtype), jnp.asarray(rest, dtype)


@pytest.mark.parametrize(
    ("dtype", "slots", "sd"),
    [
        (jnp.float64, 3, 3.0),
        (jnp.float32, 3, 3.0),
        *(
            slow(t, k, sd)
            for t in (jnp.float64, jnp.float32)
            for k in (1, 2, 5)
            for sd in (0, 2, 8)
        ),
    ],
)
def test_set_log_prob_is_the_sum_over_all_orders(dtype, slots, sd):
    f = sd * np.random.default_rng(slots).normal(size=6)
    sets, total, gradient = sets_of(f, slots)
    found, (to_members, to_rest) = BATCH(*arguments(f, sets, dtype))
    assert found.dtype == dtype
    error = 1e-8 if dtype == jnp.float64 else 1e-5
    np.testing.assert_allclose(
        found, np.log(total), atol=error
    )  # a relative error of the probability
    np.testing.assert_allclose(to_members, np.take_along_axis(gradient, sets, 1), atol=error)
    outside = gradient.sum(axis=1) - np.take_along_axis(gradient, sets, 1).sum(axis=1)
    np.testing.assert_allclose(to_rest, outside, atol=error)


def test_equal_items_have_the_probability_of_a_subset():
    """50 of 1000: one of C(1000, 50) sets."""
    found = jax.jit(set_log_prob)(jnp.zeros(50), jnp.log(950.0))
    expected = -sum(np.log(1000 - i) - np.log(i + 1) for i in range(50))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_extremes_are_finite():
    cases = np.array([[1e4, -1e4, 0], [1e4, 1e4, 1e4], [0, 0, -INF], [-1e4, -1e4, -1e4], [0, 1, 2]])
    rest = np.array([0.0, -1e4, 0.0, 1e4, -INF])
    found, gradients = BATCH(jnp.asarray(cases, jnp.float32), jnp.asarray(rest, jnp.float32))
    # Of two weights 1 and w = exp(-1e4): log(w / 2); three rare picks: log(3! w^3), w = exp(-2e4).
    expected = [-1e4 + np.log(0.5), 0, -INF, -6e4 + np.log(6), 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((np.ones((1, 3)), np.float64(0)), [r"logits has shape \(1, 3\)", r"\[K\]"]),
        ((np.ones(0), np.float64(0)), [r"logits has shape \(0,\)"]),
        ((np.ones(3), np.ones(1)), [r"log_rest has shape \(1,\)", "log-sum-exp"]),
        ((np.ones(3, int), np.float64(0)), ["logits has dtype int", "float"]),
        ((np.ones(3), np.float64(0), 0), ["num_nodes=0", "at least 1"]),
    ],
)
def test_bad_arguments_are_rejected(given, words):
    jaxtyping = pytest.importorskip("jaxtyping")
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
            set_log_prob(*given)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    for word in words:
        assert caught.match(word)
