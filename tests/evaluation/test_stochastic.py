"""Expected value and exposure of a stochastic policy, against enumeration of its draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

import rankpg
from rankpg.environments import from_matrix
from rankpg.evaluation.metrics import TwoStage
from rankpg.evaluation.stochastic import expected_lists, has_exact_exposure
from rankpg.training import build_learner

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

REWARDS = np.array([[3.0, 1.0, 0.0, 2.0, 0.5], [0.0, 4.0, 1.0, -1.0, 2.0]])
MASK = np.array([[True, True, True, True, False], [True, True, True, True, True]])


def system(**changed) -> tuple[TwoStage, rankpg.Learner]:
    data = from_matrix(REWARDS, eligible=MASK)
    config = rankpg.TrainConfig(
        num_candidates=3, ranking_length=2, position_weights="1,0.5", batch_size=2, **changed
    )
    learner = build_learner(config, data.environment)
    return TwoStage(learner.policy, learner.reranker, learner.position_weights), learner


def test_value_and_exposure_are_sums_over_all_draws():
    two_stage, learner = system(reranker="optimal")
    params = learner.policy.init(jax.random.key(1))
    contexts = jnp.array([0, 1])
    found = jax.jit(lambda e, p, c: expected_lists(two_stage, e, p, c))(
        learner.environment, params, contexts
    )
    logits = learner.policy.logits(params, learner.environment, contexts)
    value, exposure = np.zeros(2), np.zeros(5)
    for context in range(2):
        f = np.where(MASK[context], np.asarray(logits[context, 0], float), -np.inf)
        chosen, probabilities = oracle.probabilities(f[None], (3,))
        for candidates, p in zip(chosen, probabilities, strict=True):
            shown = sorted(candidates, key=lambda a: -REWARDS[context, a])[:2]
            value[context] += p * (np.array([1, 0.5]) @ REWARDS[context, shown])
            exposure[shown] += p
    np.testing.assert_allclose(found.value, value, rtol=1e-5)
    np.testing.assert_allclose(found.exposure, exposure, atol=1e-5)


@pytest.mark.parametrize("changed", [{"reranker": "uniform"}, {"num_experts": 2}])
def test_refuses_what_has_no_exact_exposure(changed):
    two_stage, learner = system(**changed)
    assert not has_exact_exposure(two_stage, learner.environment)
    params = learner.policy.init(jax.random.key(1))
    with pytest.raises(ValueError, match="exact exposure needs one expert"):
        expected_lists(two_stage, learner.environment, params, jnp.array([0]))


def test_a_large_catalogue_is_refused():
    two_stage, learner = system(reranker="optimal")
    assert has_exact_exposure(two_stage, learner.environment)
    assert not has_exact_exposure(two_stage, from_matrix(np.ones((1, 5001))).environment)
