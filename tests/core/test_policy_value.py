"""The exact value of a stochastic policy, and exposure by sampling the other items, against enumeration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF

from rankpg.core.exposure import check_value, exposure_sampled, policy_value

LOGITS = np.array([0.3, -1.0, 1.5, -INF, 0.0, 0.8])
SCORES = np.array([0.5, 2.0, -1.0, 2.0, 0.0, 2.0])  # of equal scores the lower id is shown first
REWARDS = np.array([1.0, -2.0, 0.5, np.nan, 3.0, 0.25])  # that of a masked item may be unknown
ALPHA = np.array([1.0, 0.5])


def draws(num_candidates: int) -> tuple[list[list[int]], np.ndarray]:
    """All ordered draws of candidates, and their probabilities."""
    chosen, p = oracle.probabilities(LOGITS[None], (num_candidates,))
    return [list(one) for one, q in zip(chosen, p, strict=True) if q > 0], p[p > 0]


def shown(candidates: list[int]) -> list[int]:
    return sorted(candidates, key=lambda a: (-SCORES[a], a))[: len(ALPHA)]


def test_value_and_gradient_are_sums_over_all_draws():
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda f: policy_value(f, jnp.asarray(SCORES), jnp.asarray(REWARDS), 3, ALPHA)
        )
    )(jnp.asarray(LOGITS))
    candidates, p = draws(3)
    earned = np.array([ALPHA @ REWARDS[shown(c)] for c in candidates])
    scores = oracle.log_prob_gradients(LOGITS[None], (3,), np.array(candidates))[:, 0]
    np.testing.assert_allclose(value, p @ earned, rtol=1e-7)
    np.testing.assert_allclose(gradient, (p * earned) @ scores, atol=1e-7)


def by_score(key, candidates):
    return candidates[jnp.lexsort((candidates, -jnp.asarray(SCORES)[candidates]))[: len(ALPHA)]]


def at_random(key, candidates):
    return jax.random.permutation(key, candidates)[: len(ALPHA)]


@pytest.mark.parametrize(("rerank", "is_random"), [(by_score, False), (at_random, True)])
@pytest.mark.parametrize("num_candidates", [2, 5])
def test_sampled_exposure_is_right_on_average(rerank, is_random, num_candidates):
    """K = 5 takes all eligible items: then nothing is random but the re-ranker."""
    keys = jax.random.split(jax.random.key(2), 2000)
    sample = jax.jit(
        jax.vmap(
            lambda key: exposure_sampled(
                key, jnp.asarray(LOGITS), jnp.arange(6), rerank, num_candidates
            )
        )
    )
    found = np.asarray(sample(keys))
    truth = np.zeros((2, 6))
    for candidates, p in zip(*draws(num_candidates), strict=True):
        if is_random:
            truth[:, candidates] += p / num_candidates
        else:
            truth[range(2), shown(candidates)] += p
    error = found.std(axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(found.mean(axis=0) - truth) <= 4 * error + 1e-12)
    assert np.all(found[:, :, 3] == 0)
    if not is_random:
        assert found[:, 0, 1].min() > 0  # the best item: every draw gives it a probability


def test_derivative_in_the_own_logit():
    def own(f, item):
        return policy_value(
            f, jnp.asarray(SCORES), jnp.asarray(np.eye(6)[item]), 2, jnp.asarray([1.0, 0.0])
        )

    keys = jax.random.split(jax.random.key(3), 2000)
    item = 5
    found = jax.jit(
        jax.vmap(
            jax.grad(lambda f, key: exposure_sampled(key, f, jnp.array([item]), by_score, 2)[0, 0]),
            in_axes=(None, 0),
        )
    )(jnp.asarray(LOGITS), keys)
    truth = jax.jit(jax.grad(own), static_argnums=1)(jnp.asarray(LOGITS), item)[item]
    mean, error = found[:, item].mean(), found[:, item].std() / np.sqrt(len(keys))
    assert abs(mean - truth) < 4 * error
    assert abs(mean - truth) < 0.05 * abs(truth)


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        (np.zeros(5), np.ones(2), r"rewards has shape \(5,\); expected \(6,\)"),
        (np.zeros(6), np.ones(()), r"position_weights has shape \(\); expected \[L\]"),
    ],
)
def test_bad_rewards_and_weights(rewards, weights, message):
    with pytest.raises(ValueError, match=message):
        check_value(np.zeros(6), rewards, weights)


def test_a_list_longer_than_the_candidates():
    with pytest.raises(ValueError, match="ranking_length=4 exceeds num_candidates=3"):
        policy_value(jnp.zeros(6), jnp.zeros(6), jnp.zeros(6), 3, np.ones(4))


def test_bad_number_of_draws():
    with pytest.raises(ValueError, match="num_draws=0; expected a whole number of at least 1"):
        exposure_sampled(jax.random.key(0), jnp.zeros(6), jnp.arange(2), by_score, 2, 0)
