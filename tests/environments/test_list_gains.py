"""Measures of one list: their gains against loops over positions in NumPy, and against definitions."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.environments import list_gains as gains

LENGTH, TOPICS = 5, 4


@pytest.fixture(params=range(3))
def random(request):
    return np.random.default_rng(request.param)


@pytest.fixture
def covers(random):
    return random.integers(0, 2, (LENGTH, TOPICS)).astype(float)


def prefix_values(measure, rows):
    """The measure of every beginning of a list."""
    return [measure(rows[:length]) for length in range(1, len(rows) + 1)]


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-12)


def alpha_dcg(rows, alpha):
    total, seen = 0.0, np.zeros(rows.shape[1])
    for place, row in enumerate(rows, start=1):
        total += sum(row[s] * (1 - alpha) ** seen[s] for s in range(len(row))) / np.log2(1 + place)
        seen += row
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_dcg_counts_subtopics_that_come_again(covers, alpha):
    found = gains.alpha_dcg_gains(jnp.asarray(covers), alpha)
    close(jnp.cumsum(found), prefix_values(lambda rows: alpha_dcg(rows, alpha), covers))
    normalised = gains.alpha_ndcg_gains(jnp.asarray(covers), jnp.asarray(4.0), alpha)
    close(normalised, found / 4)


def test_measures_are_zero_where_nothing_is_relevant():
    covers, none = jnp.zeros((LENGTH, TOPICS)), jnp.asarray(0.0)
    close(gains.alpha_ndcg_gains(covers, none), np.zeros(LENGTH))
    close(gains.trec_err_ia_gains(covers, none), np.zeros(LENGTH))
    close(gains.subtopic_recall_gains(covers, none), np.zeros(LENGTH))


def err_ia(rows, weights):
    total = 0.0
    for topic, weight in enumerate(weights):
        for place in range(len(rows)):
            unsatisfied = np.prod([1 - rows[before, topic] for before in range(place)])
            total += weight * rows[place, topic] * unsatisfied / (place + 1)
    return total


def test_err_ia_is_the_expected_reciprocal_rank(random):
    satisfies, weights = random.random((LENGTH, TOPICS)), random.dirichlet(np.ones(TOPICS))
    found = gains.err_ia_gains(jnp.asarray(satisfies), jnp.asarray(weights))
    close(jnp.cumsum(found), prefix_values(lambda rows: err_ia(rows, weights), satisfies))


def test_trec_err_ia_is_that_of_equal_weights_over_the_best_conceivable_list(covers):
    weights = np.full(TOPICS, 1 / TOPICS)
    best = err_ia(np.full((LENGTH, TOPICS), 0.5), weights)
    found = gains.trec_err_ia_gains(jnp.asarray(covers), jnp.asarray(float(TOPICS)))
    close(jnp.sum(found), err_ia(covers / 2, weights) / best)


def test_subtopic_recall_counts_each_subtopic_once(covers):
    found = gains.subtopic_recall_gains(jnp.asarray(covers), jnp.asarray(float(TOPICS)))
    close(jnp.cumsum(found), prefix_values(lambda rows: rows.any(axis=0).mean(), covers))


def test_coverage_is_the_probability_of_any_item(random):
    probabilities, weights = random.random((LENGTH, TOPICS)), random.random(TOPICS)
    found = gains.coverage_gains(jnp.asarray(probabilities), jnp.asarray(weights))
    close(
        jnp.cumsum(found),
        prefix_values(lambda rows: weights @ (1 - np.prod(1 - rows, axis=0)), probabilities),
    )


def test_diversity_is_the_mean_distance_of_a_pair(random):
    features = random.normal(size=(LENGTH, 3))
    distances = gains.cosine_distances(jnp.asarray(features))
    pairs = []
    for i, j in itertools.combinations(range(LENGTH), 2):
        lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
        pairs.append(1 - features[i] @ features[j] / lengths)
    found = gains.diversity_gains(distances)
    close(jnp.sum(found), np.mean(pairs))
    close(found[1], pairs[0] * 2 / (LENGTH * (LENGTH - 1)))
    close(gains.diversity_gains(distances[:1, :1]), [0.0])


def test_log_det_is_that_of_the_kernel(random):
    features = random.normal(size=(LENGTH, LENGTH + 2))
    kernel, ridge = features @ features.T, 1e-2
    found = gains.log_det_gains(jnp.asarray(kernel), ridge)
    dets = [np.linalg.slogdet(kernel[:n, :n] + ridge * np.eye(n))[1] for n in range(1, LENGTH + 1)]
    np.testing.assert_allclose(np.cumsum(found), dets, rtol=1e-9)


def test_log_det_of_equal_items_is_finite():
    rows = np.float32([[1.0, 0.0]] * 3)
    found = gains.log_det_gains(jnp.asarray(rows @ rows.T), 1e-3)
    assert np.isfinite(found).all()
    assert np.all(np.asarray(found)[1:] >= np.log(1e-3) - 1e-3)


def clicks_by_enumeration(attraction, continuation):
    """Expected clicks: every way in which the reader is attracted and goes on, with its probability."""
    expected = np.zeros(len(attraction))
    outcomes = itertools.product([0, 1], repeat=2 * len(attraction))
    for outcome in outcomes:
        likes, lasts = outcome[: len(attraction)], outcome[len(attraction) :]
        chance, clicks, reading = 1.0, np.zeros(len(attraction)), True
        for place, (a, lam) in enumerate(zip(attraction, continuation, strict=True)):
            chance *= a if likes[place] else 1 - a
            chance *= lam if lasts[place] else 1 - lam
            if reading and likes[place]:
                clicks[place] = 1
                reading = bool(lasts[place])
        expected += chance * clicks
    return expected


@pytest.mark.parametrize("model", ["cascade", "dependent clicks"])
def test_expected_clicks_are_the_mean_of_sampled_clicks(model, key):
    random = np.random.default_rng(3)
    attraction = random.uniform(0.2, 0.8, 4)
    continuation = np.zeros(4) if model == "cascade" else random.uniform(0.2, 0.9, 4)
    found = gains.expected_clicks(jnp.asarray(attraction), jnp.asarray(continuation))
    close(found, clicks_by_enumeration(attraction, continuation))
    sample = jax.vmap(gains.sampled_clicks, (0, None, None))
    clicks = np.asarray(
        sample(jax.random.split(key, 40_000), jnp.asarray(attraction), jnp.asarray(continuation))
    )
    error = 5 * clicks.std(axis=0) / np.sqrt(len(clicks))
    assert np.all(np.abs(clicks.mean(axis=0) - found) < error)
    if model == "cascade":
        assert clicks.sum(axis=1).max() == 1
        close(jnp.sum(found), 1 - np.prod(1 - attraction))


def test_exposure_share_is_the_deviation_from_the_targets(random):
    groups, targets = np.eye(3)[random.integers(0, 3, LENGTH)], random.dirichlet(np.ones(3))

    def deviation(rows):
        exposure = 1 / np.log2(np.arange(2, len(rows) + 2))
        return -np.abs(exposure @ rows / exposure.sum() - targets).sum() / 2

    found = gains.exposure_share_gains(jnp.asarray(groups), jnp.asarray(targets))
    close(jnp.cumsum(found), prefix_values(deviation, groups))


def test_gains_do_not_depend_on_what_comes_below(covers, random):
    """Another last item leaves the gains above it as they are."""
    other = covers.copy()
    other[-1] = 1 - other[-1]
    probabilities = jnp.asarray(random.random(TOPICS))
    measures = (
        gains.alpha_dcg_gains,
        lambda rows: gains.err_ia_gains(rows, probabilities),
        lambda rows: gains.coverage_gains(rows, probabilities),
        lambda rows: gains.diversity_gains(gains.cosine_distances(rows)),
        lambda rows: gains.log_det_gains(rows @ rows.T),
    )
    for measure in measures:
        one, two = measure(jnp.asarray(covers)), measure(jnp.asarray(other))
        close(one[:-1], two[:-1])


def test_cut_offs_beyond_the_list_are_rejected():
    with pytest.raises(ValueError, match="every=10; expected a number of positions from 2 to"):
        gains.rnd_gains(jnp.zeros(4, bool), 0.5, 1.0)


def test_gains_under_jit_and_vmap(random):
    lists = jnp.asarray(random.integers(0, 2, (3, LENGTH, TOPICS)).astype(float))
    mapped = jax.jit(jax.vmap(gains.alpha_dcg_gains))(lists)
    close(mapped, [gains.alpha_dcg_gains(rows) for rows in lists])
