"""The expected gain of wanted items in the final list: by enumeration, and against that of all items."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, slow

from rankpg.core.expected_list import EXPECTED_GAINS, expected_gain
from rankpg.core.exposure_fast import log_position_exposure_independent

DCG = 1 / np.log2(np.arange(2, 5))
LOGITS = np.array([0.3, 1.5, -0.7, 0.0, 2.0, -1.0])
SCORES = np.array([0.2, 0.1, 0.9, 0.9, -0.4, 0.5])
WANTED = jnp.array([3, 0, 3, 5])

gain = jax.jit(expected_gain, static_argnums=(3, 5))


def by_enumeration(f, scores, items, slots, weights) -> np.ndarray:
    """Every ordered draw of K items, sorted by the score, with its probability."""
    drawn = oracle.tuples(len(f), slots)
    chance = np.exp(oracle.log_probs(f[None], (slots,), drawn))
    gains = np.zeros(len(f))
    for p, candidates in zip(chance, drawn, strict=True):
        if p > 0:
            best_first = sorted(candidates, key=lambda a: (-scores[a], a))[: len(weights)]
            gains[best_first] += p * weights
    return gains[np.asarray(items)]


def slopes(function, f, step=1e-6) -> np.ndarray:
    """Central differences of a vector of numbers in every logit."""
    shifts = step * np.eye(len(f))
    return np.stack([(function(f + s) - function(f - s)) / (2 * step) for s in shifts], axis=-1)


@pytest.mark.parametrize(("slots", "masked"), [(3, (1,)), slow(3, ()), slow(4, ()), slow(4, (1,))])
def test_exact_gain_and_gradient_by_enumeration(slots, masked):
    f = LOGITS.copy()
    f[list(masked)] = -INF
    truth = functools.partial(by_enumeration, scores=SCORES, items=WANTED, slots=slots, weights=DCG)
    found = gain(f, SCORES, WANTED, slots, DCG, "exact")
    np.testing.assert_allclose(found, truth(f), atol=1e-8)
    slope = jax.jacobian(lambda f: gain(f, SCORES, WANTED, slots, DCG, "exact"))(jnp.asarray(f))
    free = np.isfinite(f)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(slope[:, free], slopes(truth, f)[:, free], atol=1e-7)
    assert not slope[:, ~free].any()


@pytest.mark.parametrize("sd", [1.0, 4.0])
def test_independent_gain_is_that_of_all_items(sd):
    random = np.random.default_rng(0)
    f, scores = sd * random.normal(size=70), random.normal(size=70).round(1)  # with ties
    f[[3, 40]] = -INF
    f, scores, items = jnp.asarray(f), jnp.asarray(scores), jnp.array([0, 17, 69])
    weights = 1 / np.log2(np.arange(2, 8))

    def of_all(f):
        shown = log_position_exposure_independent(f, scores, items, 20, 6)
        return weights @ jnp.exp(shown)

    np.testing.assert_allclose(gain(f, scores, items, 20, weights), of_all(f), atol=1e-9)


@pytest.mark.slow
def test_gradient_of_the_independent_gain_is_that_of_all_items():
    random = np.random.default_rng(1)
    f, scores = jnp.asarray(4 * random.normal(size=70)), jnp.asarray(random.normal(size=70))
    items, weights = jnp.array([0, 17, 69]), 1 / np.log2(np.arange(2, 8))
    ours = jax.jacobian(lambda f: gain(f, scores, items, 20, weights))(f)

    def of_all(f):
        return weights @ jnp.exp(log_position_exposure_independent(f, scores, items, 20, 6))

    truth = jax.jacobian(of_all)(f)
    np.testing.assert_allclose(ours, truth, atol=1e-8)
    assert np.abs(truth).max() > 1e-3


@pytest.mark.parametrize("method", ["independent", slow("exact")])
def test_all_items_are_candidates_where_no_more_are_eligible(method):
    f = np.array([0.0, -INF, 3.0, -INF, 1.0, -2.0])
    found = gain(f, SCORES, jnp.arange(6), 4, DCG, method)  # the order is 2, 5, 0, 4
    np.testing.assert_allclose(found, [DCG[2], 0, DCG[0], 0, 0, DCG[1]], atol=1e-12)


@pytest.mark.slow
def test_float32_is_finite_far_from_0():
    f = jnp.array([1e4, 1e4 - 30, -1e4, 0, 50, -50], jnp.float32)
    scores, weights = SCORES.astype(np.float32), DCG.astype(np.float32)
    for method in EXPECTED_GAINS:
        total = lambda f, m=method: jnp.sum(gain(f, scores, WANTED, 3, weights, m))  # noqa: E731
        value, slope = jax.value_and_grad(total)(f)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "best"}, "method='best'; expected one of independent, exact"),
        ({"num_candidates": 2}, "ranking_length=3 exceeds num_candidates=2"),
        ({"items": jnp.array([6])}, "items.*6"),
    ],
)
def test_refusals(changed, message):
    given = {
        "logits": jnp.asarray(LOGITS),
        "scores": jnp.asarray(SCORES),
        "items": WANTED,
        "num_candidates": 3,
        "position_weights": jnp.asarray(DCG),
    }
    with pytest.raises(ValueError, match=message):
        expected_gain(**given | changed)
