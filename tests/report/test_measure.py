"""Measurements of a trained run against its own candidates, enumeration and NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.environments import from_matrix
from rankpg.report.measure import (
    measure_calibration,
    measure_exposure,
    project_items,
    rank_items,
)

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.slow
def test_exposure_counts_match_run_candidates(run):
    found = measure_exposure(run)
    assert found.num_contexts == 40
    for row, seed in enumerate(run.config.seeds):
        candidates = run.candidates(np.arange(40), seed=seed)
        expected = np.bincount(candidates.ravel(), minlength=30)
        np.testing.assert_array_equal(found.candidates[row], expected)
    assert found.shown.sum(axis=1).tolist() == [80, 80]
    assert np.all(found.shown <= found.candidates)  # the optimal re-ranker shows candidates
    rewards = np.stack(
        [
            run.environment.mean_rewards(jnp.int32(c), jnp.arange(30, dtype=jnp.int32))
            for c in range(40)
        ]
    )
    best = np.argsort(-rewards, axis=1)[:, :4]
    np.testing.assert_array_equal(found.best, np.bincount(best.ravel(), minlength=30))


@pytest.mark.slow
def test_ranking_begins_with_greedy_candidates(run):
    order = rank_items(run, 30)
    assert order.shape == (2, 40, 30)
    assert np.all(np.sort(order, axis=2) == np.arange(30))
    candidates = run.candidates(np.arange(40), seed=1)
    np.testing.assert_array_equal(order[1, :, :4], candidates)


@pytest.mark.slow
def test_exact_probability_is_calibrated_and_swr_is_not(run):
    """sum of squared z over the pairs has mean n or less; 1.3 n is more than 5 standard deviations above."""
    found = measure_calibration(run)
    assert found.method == "swr"
    assert found.exact is not None
    assert found.predicted is not None

    def mean_square(predicted):
        sure = (predicted > 0.02) & (predicted < 0.98)
        deviation = np.sqrt(found.num_draws * predicted * (1 - predicted))[sure]
        return np.mean(((found.hits - found.num_draws * predicted)[sure] / deviation) ** 2)

    assert mean_square(found.exact) < 1.3
    assert mean_square(found.predicted) > 3


@pytest.mark.slow
def test_item_map_has_the_variance_of_two_principal_components(run):
    found = project_items(run)
    context = jnp.zeros(1, jnp.int32)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    table = np.asarray(run.policy.encoder.encode(params, run.environment, context).items[0])
    eigenvalues = np.linalg.eigvalsh(np.cov(table.T))[::-1]
    np.testing.assert_allclose(
        found.explained_variance, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-4
    )
    np.testing.assert_allclose(found.coordinates.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-4)
    assert found.items.tolist() == list(range(30))


@pytest.mark.slow
def test_expected_exposure_is_what_drawn_lists_show():
    """Two contexts, N = 4, K = 2, L = 1, a sorting re-ranker: by all pairs of candidates."""
    rewards = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    config = rankpg.TrainConfig(
        num_candidates=2, ranking_length=1, num_steps=1, eval_every=1, seeds=(0,), batch_size=2
    )
    run = rankpg.train(config, from_matrix(rewards))
    found = measure_exposure(run).expected
    contexts = jnp.array([0, 1])
    logits = run.policy.logits(run.params(seed=0), run.environment, contexts)[:, 0]
    expected = np.zeros(4)
    for w, values in zip(np.exp(np.asarray(logits, float)), rewards, strict=True):
        for a, b in itertools.permutations(range(4), 2):
            p = w[a] / w.sum() * w[b] / (w.sum() - w[a])
            expected[a if values[a] > values[b] else b] += p
    np.testing.assert_allclose(found, expected[None], atol=1e-5)
