"""Exact exposure under a re-ranker that sorts by a score, against enumeration and sampling."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, slow

import rankpg
from rankpg.core.exposure import exposure_exact, log_exposure_exact

EXPOSURE = jax.jit(exposure_exact, static_argnums=(2, 3, 4))
BATCH = jax.jit(
    lambda f, s, k, n: jax.vmap(lambda x, y: exposure_exact(x, y, k, n))(f, s),
    static_argnums=(2, 3),
)
SCORES = np.array(
    [0.5, 2.0, -1.0, 2.0, 0.0, 2.0]
)  # three items tie, and the lower id is shown first


def shown_list(candidates, scores: np.ndarray, length: int) -> list[int]:
    """Items that the re-ranker shows, best first."""
    return sorted(candidates, key=lambda a: (-scores[a], a))[:length]


def enumerated(f: np.ndarray, scores: np.ndarray, num_candidates: int, length: int) -> np.ndarray:
    """P(a at l) as the sum over all ordered draws."""
    total = np.zeros((length, len(f)))
    chosen, probabilities = oracle.probabilities(f[None], (num_candidates,))
    for candidates, p in zip(chosen, probabilities, strict=True):
        total[range(length), shown_list(candidates, scores, length)] += p
    return total


def policies(fewest: int) -> np.ndarray:
    """Flat to peaked; then with masks, down to `fewest` eligible items."""
    random = np.random.default_rng(7)
    logits = np.array([0.0, 1.0, 3.0, 3.0, 2.0, 2.0])[:, None] * random.normal(size=(6, 6))
    for row, eligible in ((4, 5), (5, fewest)):
        logits[row, random.choice(6, size=6 - eligible, replace=False)] = -INF
    return logits


@pytest.mark.parametrize(
    ("slots", "length"), [slow(1, 1), slow(2, 1), slow(2, 2), (4, 2), slow(4, 4), slow(5, 5)]
)
def test_exposure_is_the_sum_over_all_draws(slots, length):
    logits, scores = policies(slots), np.tile(SCORES, (6, 1))
    truth = np.array([enumerated(f, SCORES, slots, length) for f in logits])
    found = np.asarray(BATCH(jnp.asarray(logits), jnp.asarray(scores), slots, length))
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found[truth == 0], 0)


def test_exposure_in_float32():
    logits, scores = (np.float32(x) for x in (policies(4), np.tile(SCORES, (6, 1))))
    truth = np.array([enumerated(f.astype(float), SCORES, 4, 2) for f in logits])
    found = BATCH(jnp.asarray(logits), jnp.asarray(scores), 4, 2)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-6)


def test_gradient_is_the_sum_over_all_draws():
    values = np.random.default_rng(1).normal(size=(2, 6))  # of item a at position l
    gradient = jax.jit(
        jax.vmap(jax.grad(lambda f: jnp.sum(values * exposure_exact(f, jnp.asarray(SCORES), 4, 2))))
    )
    logits = policies(4)
    found = gradient(jnp.asarray(logits))
    for f, one in zip(logits, found, strict=True):
        chosen, p = oracle.probabilities(f[None], (4,))
        score = oracle.log_prob_gradients(f[None], (4,), chosen)[:, 0]
        value = [values[range(2), shown_list(c, SCORES, 2)].sum() for c in chosen]
        np.testing.assert_allclose(one, (p * value) @ score, atol=1e-7)


def catalogue(seed: int, items: int, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Normal logits and scores with a correlation of 0.7."""
    random = np.random.default_rng(seed)
    f = sd * random.normal(size=items)
    return f, random.normal(size=items) + f / max(sd, 1e-9)


@pytest.mark.parametrize(
    ("dtype", "sd", "error"),
    [(jnp.float32, 2.0, 2e-5), slow(jnp.float64, 4.0, 1e-7), slow(jnp.float64, 0.0, 1e-7)],
)
def test_positions_sum_to_one(dtype, sd, error):
    """N = 150, which is not a multiple of the block."""
    f, scores = (jnp.asarray(x, dtype) for x in catalogue(2, 150, sd))
    shown = EXPOSURE(f, scores, 6, 6)
    assert shown.dtype == dtype
    np.testing.assert_allclose(np.sum(shown, axis=1), 1, atol=error)


@pytest.mark.slow
def test_items_sum_to_their_inclusion():
    """L = K, so every candidate is shown."""
    f, scores = (jnp.asarray(x) for x in catalogue(2, 150, 2.0))
    items = jnp.array([0, 70, 149], jnp.int32)
    inclusion = jax.jit(jax.vmap(lambda a: rankpg.log_inclusion(f[None], a, (6,))))(items)
    shown = np.sum(EXPOSURE(f, scores, 6, 6), axis=0)
    np.testing.assert_allclose(shown[items], np.exp(inclusion), atol=1e-7)


def test_exposure_is_what_sampling_finds():
    f, scores = catalogue(3, 50, 1.5)
    draws, slots, length = 60_000, 8, 3
    arrival = np.random.default_rng(4).exponential(size=(draws, 50)) / np.exp(f)
    candidates = np.argpartition(arrival, slots, axis=1)[:, :slots]
    order = np.argsort(-scores[candidates], axis=1)[:, :length]
    lists = np.take_along_axis(candidates, order, axis=1)
    mean = np.array([np.bincount(column, minlength=50) for column in lists.T]) / draws
    for given, fits in ((slots, True), (slots + 1, False)):  # the second is a control
        shown = np.asarray(EXPOSURE(jnp.asarray(f), jnp.asarray(scores), given, length))
        spread = np.sqrt(shown * (1 - shown) / draws)
        assert np.all(np.abs(mean - shown) <= 5 * spread + 1e-9) == fits


def test_one_candidate_is_softmax():
    f, scores = catalogue(5, 20, 1.0)
    shown = EXPOSURE(jnp.asarray(f), jnp.asarray(scores), 1, 1)
    np.testing.assert_allclose(shown[0], np.exp(f) / np.exp(f).sum(), rtol=1e-7)


def test_all_items_as_candidates_give_the_sorted_list():
    f = jnp.array([0.0, 9.0, -INF, 1.0, -5.0, 2.0])
    expected = np.eye(6)[[1, 3, 5, 0, 4]]
    many, gradient = jax.value_and_grad(lambda x: EXPOSURE(x, jnp.asarray(SCORES), 6, 6).sum())(f)
    found = EXPOSURE(f, jnp.asarray(SCORES), 6, 6)  # five are eligible: the last position is empty
    np.testing.assert_array_equal(found, np.vstack([expected, np.zeros((1, 6))]))
    np.testing.assert_array_equal(gradient, 0)
    assert many == 5


def test_too_few_eligible_items_give_the_sorted_list():
    f = jnp.array([0.0, 1.0, -INF, -INF, -5.0, -INF])  # passes under jit only
    np.testing.assert_array_equal(
        EXPOSURE(f, jnp.asarray(SCORES), 4, 4), np.vstack([np.eye(6)[[1, 0, 4]], np.zeros((1, 6))])
    )


@pytest.mark.parametrize("dtype", [jnp.float32, slow(jnp.float64)])
def test_extreme_logits_are_finite(dtype):
    rows = [[1e4, -1e4, 0, 0, -INF, 1e4], [1e4] * 6, [-1e4, 1e4, -1e4, -1e4, -1e4, -1e4]]
    rows += [[-INF, 2, -INF, -INF, -INF, -INF]]  # fewer eligible items than K
    found, gradients = jax.jit(
        jax.vmap(
            jax.value_and_grad(
                lambda f: log_exposure_exact(f, jnp.asarray(SCORES, dtype), 2, 2)[0, 1]
            )
        )
    )(jnp.asarray(rows, dtype))
    assert np.isneginf(found[0])
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(np.exp(found), [0, 1 / 3, 1, 1], atol=1e-5)


@pytest.mark.slow
def test_scores_and_logits_may_be_shifted():
    f, scores = (jnp.asarray(x) for x in catalogue(6, 20, 1.0))
    shown = EXPOSURE(f, scores, 4, 2)
    np.testing.assert_allclose(EXPOSURE(f + 50, 3 * scores - 7, 4, 2), shown, atol=1e-12)


# --- validation -------------------------------------------------------------------------------------------

ONES = functools.partial(np.ones, dtype=np.float32)
BAD = {  # name: logits, scores, K, L, nodes, patterns of the message
    "two dimensions": (ONES((1, 5)), ONES(5), 2, 1, None, [r"logits has shape \(1, 5\)", r"\[N\]"]),
    "integers": (ONES(5).astype(int), ONES(5), 2, 1, None, ["logits has dtype int", "float"]),
    "scores of others": (ONES(5), ONES(4), 2, 1, None, [r"scores has shape \(4,\)", r"\(5,\)"]),
    "integer scores": (ONES(5), ONES(5).astype(int), 2, 1, None, ["scores has dtype int", "float"]),
    "NaN": (np.float32([1, np.nan]), ONES(2), 1, 1, None, [r"logits\[0, 1\] is nan"]),
    "NaN score": (ONES(2), np.float32([1, np.nan]), 1, 1, None, [r"scores\[1\] is nan"]),
    "L above K": (ONES(5), ONES(5), 2, 3, None, ["ranking_length=3", "num_candidates=2"]),
    "K above N": (ONES(5), ONES(5), 6, 1, None, ["K = 6", "N = 5"]),
    "K of 0": (ONES(5), ONES(5), 0, 1, None, ["num_candidates=0", "at least 1"]),
    "a fraction": (ONES(5), ONES(5), 2, 1.0, None, ["ranking_length=1.0", "whole number"]),
    "too many masked": (np.float32([0, -INF, -INF]), ONES(3), 2, 1, None, ["1 eligible"]),
    "no nodes": (ONES(5), ONES(5), 2, 1, 0, ["num_nodes=0", "at least 1"]),
}


@pytest.fixture
def no_runtime_type_checks():
    """Disables the type checks of the other tests, which a user does not have: they would raise first."""
    jaxtyping = pytest.importorskip("jaxtyping")
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("no_runtime_type_checks")
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_rejected(case):
    *arguments, words = case
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
        exposure_exact(*arguments)
    for word in words:
        assert caught.match(word)
