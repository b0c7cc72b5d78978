"""The oracle of these tests: its gradients are those of its values, and it satisfies Theorem 3.1."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import oracle
from helpers.policies import normal

REWARDS = np.array([0.7, 3.1, 0.2, 1.9])
ALPHA = np.array([1.0, 0.5])


def differences(function, logits: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function."""
    gradient = np.zeros(logits.shape)
    for place in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("quotas", [(2,), (1, 1)])
def test_gradients_agree_with_differences(quotas):
    logits, rewards = normal(0, len(quotas), 4, sd=1.5), REWARDS
    noisy = oracle.plackett_luce_reranker(rewards, 2)
    truth = differences(lambda f: oracle.policy_value(f, quotas, noisy, rewards, ALPHA), logits)
    found = oracle.policy_gradient(logits, quotas, noisy, rewards, ALPHA)
    np.testing.assert_allclose(found, truth, atol=1e-8)
    for item in range(4):
        truth = differences(lambda f, a=item: oracle.inclusion(f, quotas)[a], logits)
        np.testing.assert_allclose(
            oracle.inclusion_gradients(logits, quotas)[item], truth, atol=1e-8
        )
        for value, gradient in (
            (oracle.greedy_inclusion, oracle.greedy_inclusion_gradient),
            (oracle.swr_inclusion, oracle.swr_inclusion_gradient),
            (oracle.sum_inclusion, oracle.sum_inclusion_gradient),
        ):
            truth = differences(lambda f, a=item, v=value: v(f, a, quotas), logits)
            np.testing.assert_allclose(gradient(logits, item, quotas), truth, atol=1e-8)


def test_theorem_3_1_holds():
    """V-PG = CA-PG + E[r grad log P(a shown | a in S)], each term from its own definition."""
    logits, quotas, rewards, alpha = normal(1, 1, 4, sd=1.5), (2,), REWARDS, np.ones(1)
    noisy = oracle.plackett_luce_reranker(rewards, 1)

    def shown(f):  # P(a shown), by item
        return oracle.probabilities(f, quotas)[1] @ oracle.shown_weights(f, quotas, noisy, alpha)

    remainder = sum(
        rewards[a]
        * shown(logits)[a]
        * differences(lambda f, a=a: np.log(shown(f)[a] / oracle.inclusion(f, quotas)[a]), logits)
        for a in range(4)
    )
    arguments = (logits, quotas, noisy, rewards, alpha)
    whole, credit = (
        oracle.policy_gradient(*arguments),
        oracle.credit_assigned_gradient(*arguments),
    )
    np.testing.assert_allclose(whole, credit + remainder, atol=1e-8)
    assert np.abs(remainder).max() > 0.05  # the two gradients differ
