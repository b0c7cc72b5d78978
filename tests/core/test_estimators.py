"""The scores: their expected gradients, and their values from sparse logits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, masked, normal, slow

import rankpg

REWARDS = np.array([0.7, 3.1, 0.2, 1.9, 2.3, 0.9])
ALPHA = np.array([1.0, 0.5])
METHOD = {"ca_pg": "greedy", "ca_pg_exact": "exact", "ca_pg_swr": "swr", "top1_pg": "sum"}


def rerankers(items: int) -> dict[str, oracle.Reranker]:
    relevance = REWARDS[:items]
    return {
        "optimal": oracle.optimal_reranker(relevance, 2),
        "noisy": oracle.plackett_luce_reranker(relevance, 2),
    }


# --- the expected gradient, by enumeration ----------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 3))
def gradients_by_tuple(estimator, logits, chosen, quotas):
    """Gradient of the score of every candidate of every tuple, [P, K, M, N]."""
    one = jax.jacrev(lambda f, s: rankpg.score(estimator, f, s, s, quotas))
    return jax.vmap(one, (None, 0))(logits, chosen)


def expected_surrogate(estimator, logits, quotas, reranker, rewards) -> np.ndarray:
    """sum_S P(S) sum_l alpha_l E[r(a_l) grad score(a_l)] with the library's scores."""
    chosen, p = oracle.probabilities(logits, quotas)
    gradients = gradients_by_tuple(
        estimator, jnp.asarray(logits), jnp.asarray(chosen, jnp.int32), quotas
    )
    weights = oracle.shown_weights(logits, quotas, reranker, ALPHA) * rewards
    weights = np.take_along_axis(weights, chosen, axis=1)  # of each candidate, by slot
    return np.einsum("p,pk,pkmn->mn", p, weights, gradients)


SMALL = {
    "one expert": (normal(2, 1, 5, sd=1.5), (3,)),
    "one expert, masked": (masked(normal(3, 1, 5, sd=1.5), (0, 3)), (3,)),
    "two experts": (normal(4, 2, 5, sd=1.5), (2, 1)),
    "three experts": (normal(5, 3, 5, sd=1.5), (1, 1, 1)),
}


@pytest.mark.parametrize("reranker", ["optimal", "noisy"])
@pytest.mark.parametrize("name", [*list(SMALL)[:3], slow("three experts")])
def test_v_pg_is_the_policy_gradient(name, reranker):
    logits, quotas = SMALL[name]
    reranker, rewards = rerankers(5)[reranker], REWARDS[:5]
    found = expected_surrogate("v_pg", logits, quotas, reranker, rewards)
    truth = oracle.policy_gradient(logits, quotas, reranker, rewards, ALPHA)
    np.testing.assert_allclose(found, truth, atol=1e-10)


@pytest.mark.parametrize("reranker", ["optimal", slow("noisy")])
@pytest.mark.parametrize("name", ["one expert", slow("one expert, masked")])
def test_v_pg_set_is_the_policy_gradient(name, reranker):
    logits, quotas = SMALL[name]
    reranker, rewards = rerankers(5)[reranker], REWARDS[:5]
    found = expected_surrogate("v_pg_set", logits, quotas, reranker, rewards)
    truth = oracle.policy_gradient(logits, quotas, reranker, rewards, ALPHA)
    np.testing.assert_allclose(found, truth, atol=1e-10)


def test_v_pg_set_is_the_same_in_every_order():
    """The sum of P over the six orders of three candidates."""
    logits, quotas = SMALL["one expert"]
    items = jnp.array([4, 0, 3], jnp.int32)
    score = jax.jit(lambda f: rankpg.score("v_pg_set", f, items, items[:1], quotas))
    value = score(jnp.asarray(logits))
    chosen, p = oracle.probabilities(logits, quotas)
    same = (np.sort(chosen, axis=1) == [0, 3, 4]).all(axis=1)
    assert same.sum() == 6
    np.testing.assert_allclose(value, np.log(p[same].sum()), rtol=1e-12)


@pytest.mark.parametrize("reranker", ["optimal", "noisy"])
@pytest.mark.parametrize("name", ["one expert", "one expert, masked"])
def test_ca_pg_exact_is_the_credit_assigned_gradient(name, reranker):
    logits, quotas = SMALL[name]
    reranker, rewards = rerankers(5)[reranker], REWARDS[:5]
    found = expected_surrogate("ca_pg_exact", logits, quotas, reranker, rewards)
    truth = oracle.credit_assigned_gradient(logits, quotas, reranker, rewards, ALPHA)
    np.testing.assert_allclose(found, truth, atol=1e-7)


def test_ca_pg_exact_has_the_gradient_of_inclusion_per_item():
    """E[1(a in S) grad score(a)] = grad P(a in S)."""
    logits, quotas = SMALL["one expert"]
    chosen, p = oracle.probabilities(logits, quotas)
    gradients = gradients_by_tuple(
        "ca_pg_exact", jnp.asarray(logits), jnp.asarray(chosen, jnp.int32), quotas
    )
    found = np.zeros((5, 1, 5))
    np.add.at(found, chosen, p[:, None, None, None] * np.asarray(gradients))
    np.testing.assert_allclose(found, oracle.inclusion_gradients(logits, quotas), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["v_pg_swr", "ca_pg", "ca_pg_swr", "top1_pg"])
def test_other_scores_are_biased(estimator):
    """Measured: none has the expected gradient of its target; `ca_pg` is the nearest credit-assigned one."""
    logits, quotas = SMALL["one expert"]
    reranker, rewards = rerankers(5)["noisy"], REWARDS[:5]
    target = oracle.policy_gradient if estimator == "v_pg_swr" else oracle.credit_assigned_gradient
    truth = target(logits, quotas, reranker, rewards, ALPHA)
    found = expected_surrogate(estimator, logits, quotas, reranker, rewards)
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    lowest, highest = {  # measured: 10.4, 0.10, 1.7, 1.5
        "v_pg_swr": (8, 13),
        "ca_pg": (0.05, 0.2),
        "ca_pg_swr": (1.2, 2.2),
        "top1_pg": (1.2, 2.2),
    }[estimator]
    assert lowest < error < highest


# --- the expected gradient of the score by sampling -------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def threshold_moments(key, logits, quotas, num_draws, score):
    """Mean and mean square of 1(a in S) grad score(a), [N, M, N]."""

    def one(k):
        items = rankpg.sample_candidates(k, logits, quotas)
        gradients = jax.jacrev(lambda f: score(k, f, items, quotas))(logits)
        return jnp.zeros((logits.shape[1], *logits.shape), logits.dtype).at[items].set(gradients)

    def batch(total, keys):
        found = jax.vmap(one)(keys)
        return (total[0] + found.sum(axis=0), total[1] + (found**2).sum(axis=0)), None

    keys = jax.random.split(key, num_draws).reshape(-1, 4000)
    zeros = jnp.zeros((logits.shape[1], *logits.shape), logits.dtype)
    (first, second), _ = jax.lax.scan(batch, (zeros, zeros), keys)
    return first / num_draws, second / num_draws


def own_noise(key, logits, items, quotas):
    return rankpg.score("ca_pg_threshold", logits, items, items, quotas, key=key)


def fresh_noise(key, logits, items, quotas):
    return own_noise(jax.random.fold_in(key, 1), logits, items, quotas)


def pathwise(key, logits, items, quotas):
    """Score with the gradient through the thresholds alone, for every M."""
    one = lambda a: rankpg.log_inclusion_threshold(key, logits, a, quotas)  # noqa: E731
    return jax.vmap(one)(items)


def worst_standard_error(key, logits, quotas, score, num_draws) -> float:
    mean, square = threshold_moments(key, jnp.asarray(logits), quotas, num_draws, score)
    truth = oracle.inclusion_gradients(logits, quotas)
    z = oracle.standard_errors(np.asarray(mean), np.asarray(square), num_draws, truth)
    return float(np.max(np.abs(z)))


THRESHOLD = {
    "one expert": (normal(6, 1, 5, sd=1.5), (2,)),
    "one expert, masked": (masked(normal(6, 1, 5, sd=1.5), (0, 3)), (2,)),
    "two experts": (normal(7, 2, 5, sd=1.5), (2, 1)),
    "three experts": (normal(8, 3, 5, sd=1.5), (1, 1, 1)),
    # expert 2 has exactly as many eligible items as it may need: without item 0 its order is exhausted
    "three experts, tight masks": (
        np.where(
            np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool),
            normal(9, 3, 4, sd=1.5),
            -INF,
        ),
        (1, 1, 1),
    ),
}


@pytest.mark.parametrize(
    "name",
    ["one expert, masked", slow("two experts"), slow("three experts, tight masks")],
)
def test_ca_pg_threshold_is_unbiased(key, name):
    """E[1(a in S) grad score(a)] = grad P(a in S) for every item and logit, one expert or several."""
    logits, quotas = THRESHOLD[name]
    assert worst_standard_error(key, logits, quotas, own_noise, 40_000) < 5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", THRESHOLD)
def test_ca_pg_threshold_is_unbiased_with_twenty_times_the_draws(key, name):
    logits, quotas = THRESHOLD[name]
    assert worst_standard_error(key, logits, quotas, own_noise, 800_000) < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one expert", "two experts"])
def test_fresh_noise_is_biased(key, name):
    """Negative control: the noise must be that of the draw."""
    logits, quotas = THRESHOLD[name]
    assert worst_standard_error(key, logits, quotas, fresh_noise, 40_000) > 8


@pytest.mark.slow
def test_pathwise_gradient_is_biased_for_several_experts(key):
    """Negative control: the path does not show that an earlier expert's picks jump."""
    logits, quotas = THRESHOLD["two experts"]
    assert worst_standard_error(key, logits, quotas, pathwise, 40_000) > 8


# --- from sparse logits -------------------------------------------------------------------------------------


def random_case(experts: int, seed: int):
    """12 items of which 2 are masked; a ranking of two candidates and two other items."""
    logits = normal(seed, experts, 12, sd=2)
    logits[:, [4, 9]] = -INF
    quotas = rankpg.expert_quotas(4, experts)
    random = np.random.default_rng(seed)
    ids = random.permutation([a for a in range(12) if a not in (4, 9)])
    ranking = random.permutation([*ids[:2], *ids[6:8]])
    return logits, jnp.asarray(ids[:4], jnp.int32), jnp.asarray(ranking, jnp.int32), quotas


def value_and_pullback(score, logits):
    """Scores, and the gradient of their sum with unequal weights."""

    def weighted(f):
        values = score(f)
        return jnp.sum(values * jnp.linspace(1, 2, len(values), dtype=values.dtype)), values

    gradient, values = jax.grad(weighted, has_aux=True)(logits)
    return values, gradient


@functools.partial(jax.jit, static_argnums=(0, 4))
def from_sparse_logits(estimator, logits, candidates, ranking, quotas):
    score = functools.partial(rankpg.score, estimator)
    return value_and_pullback(lambda f: score(f, candidates, ranking, quotas), logits)


@functools.partial(jax.jit, static_argnums=(0, 3))
def from_catalogue(method, logits, ranking, quotas):
    def score(f):
        return jax.vmap(lambda a: rankpg.log_inclusion(f, a, quotas, method))(ranking)

    return value_and_pullback(score, logits)


@pytest.mark.parametrize(
    ("estimator", "experts"),
    [
        ("ca_pg", 3),
        *(slow(e, 3) for e in ("ca_pg_swr", "top1_pg")),
        *(slow(e, 1) for e in ("ca_pg_exact", "ca_pg", "ca_pg_swr", "top1_pg")),
    ],
)
def test_credit_assigned_scores_are_log_inclusions(estimator, experts):
    """Sparse logits give the values and gradients of the whole catalogue, for candidates and other items."""
    for seed in range(3):
        logits, candidates, ranking, quotas = random_case(experts, seed)
        logits = jnp.asarray(logits)
        found = from_sparse_logits(estimator, logits, candidates, ranking, quotas)
        truth = from_catalogue(METHOD[estimator], logits, ranking, quotas)
        np.testing.assert_allclose(found[0], truth[0], rtol=1e-10)
        np.testing.assert_allclose(found[1], truth[1], atol=1e-10)
        assert (np.asarray(found[1])[..., [4, 9]] == 0).all()


@pytest.mark.parametrize(
    ("estimator", "function", "experts"),
    [
        ("v_pg", rankpg.log_prob, 3),
        slow("v_pg_swr", rankpg.log_prob_swr, 3),
        slow("v_pg", rankpg.log_prob, 1),
        slow("v_pg_swr", rankpg.log_prob_swr, 1),
    ],
)
def test_shared_scores_repeat_the_log_probability(estimator, function, experts):
    logits, candidates, ranking, quotas = random_case(experts, 0)
    logits = jnp.asarray(logits)
    found = from_sparse_logits(estimator, logits, candidates, ranking, quotas)
    truth = jax.jit(jax.value_and_grad(function), static_argnums=2)(logits, candidates, quotas)
    np.testing.assert_allclose(found[0], np.full(4, truth[0]), rtol=1e-12)
    np.testing.assert_allclose(found[1], (1 + 4 / 3 + 5 / 3 + 2) * truth[1], atol=1e-11)


@pytest.mark.slow
def test_ca_pg_threshold_is_the_log_inclusion_of_the_same_key(key):
    """Holds for one expert; for several the score is another unbiased estimate, equal in the mean only."""
    logits, _, ranking, quotas = random_case(1, 0)
    logits = jnp.asarray(logits)

    def score(f):
        candidates = rankpg.sample_candidates(key, f, quotas)
        return rankpg.score("ca_pg_threshold", f, candidates, ranking, quotas, key=key)

    def inclusion(f):
        return jax.vmap(lambda a: rankpg.log_inclusion_threshold(key, f, a, quotas))(ranking)

    found = jax.jit(lambda f: value_and_pullback(score, f))(logits)
    truth = jax.jit(lambda f: value_and_pullback(inclusion, f))(logits)
    np.testing.assert_allclose(found[0], truth[0], rtol=1e-10)
    np.testing.assert_allclose(found[1], truth[1], atol=1e-10)


@pytest.mark.slow
def test_ca_pg_threshold_for_several_experts_is_unbiased_in_value(key):
    """E[exp(score)] = P(a in S), for items that were drawn and for items that were not."""
    logits, quotas = THRESHOLD["two experts"]
    ranking = jnp.arange(5, dtype=jnp.int32)

    @jax.jit
    def values(keys):
        def one(k):
            items = rankpg.sample_candidates(k, jnp.asarray(logits), quotas)
            score = rankpg.score(
                "ca_pg_threshold", jnp.asarray(logits), items, ranking, quotas, key=k
            )
            return jnp.exp(score)

        p = jax.vmap(one)(keys)
        return p.mean(axis=0), (p**2).mean(axis=0)

    mean, square = values(jax.random.split(key, 40_000))
    z = oracle.standard_errors(mean, square, 40_000, oracle.inclusion(logits, quotas))
    assert np.max(np.abs(z)) < 5


# --- every estimator --------------------------------------------------------------------------------------

EXTREMES = np.array(
    [
        [1e4, 1e4 - 1, 1e4 + 1, 1e4, -1e4],
        [0, 1e4, 0, 1, 2],
        [0, -1e4, 0, 1, 2],
        [-INF, 1e4, 0, -1e4, 3],
        [0, 0, 0, 0, 0],
    ]
)


@functools.partial(jax.jit, static_argnums=0)
def batch_of_scores(estimator, key, logits):
    """Values and gradients for a batch, K = 3 of N = 5 with one expert."""

    def one(f):
        candidates = rankpg.sample_candidates(key, f, (3,))

        def score(g):
            return rankpg.score(estimator, g, candidates, candidates[:2], (3,), key=key)

        return value_and_pullback(score, f)

    return jax.vmap(one)(logits)


@pytest.mark.parametrize(
    "estimator",
    [  # the extremes of the others are those of test_plackett_luce.py and test_inclusion.py
        name if name == "ca_pg_threshold" else slow(name) for name in rankpg.ESTIMATORS
    ],
)
def test_extreme_logits_have_finite_scores_and_gradients(key, estimator):
    scores, gradients = batch_of_scores(estimator, key, jnp.asarray(EXTREMES, jnp.float32)[:, None])
    assert scores.dtype == gradients.dtype == jnp.float32
    assert np.isfinite(scores).all()
    assert np.isfinite(gradients).all()
    assert np.asarray(gradients)[3, 0, 0] == 0  # the masked logit
    if rankpg.ESTIMATORS[estimator].credit_assigned and estimator != "top1_pg":
        assert (np.asarray(scores) <= 0).all()


@pytest.mark.parametrize(
    ("estimator", "dtype"),
    [
        *((name, jnp.float32) for name in rankpg.ESTIMATORS),
        *(slow(name, jnp.float64) for name in rankpg.ESTIMATORS),
    ],
)
def test_scores_have_the_shape_of_the_ranking(key, estimator, dtype):
    items = jnp.array([0, 3, 1], jnp.int32)
    score = lambda f: rankpg.score(estimator, f, items, items[:2], (3,), key=key)  # noqa: E731
    found = jax.eval_shape(score, jax.ShapeDtypeStruct((1, 5), dtype))
    scored = 3 if rankpg.ESTIMATORS[estimator].by_swaps else 2
    assert (found.shape, found.dtype) == ((scored,), dtype)


@pytest.mark.slow
def test_eager_jit_and_vmap_agree(key):
    logits = jnp.asarray(normal(0, 2, 5, sd=1.5), jnp.float64)
    items = jnp.array([4, 0, 2], jnp.int32)
    score = lambda f: rankpg.score("top1_pg", f, items, items[:1], (2, 1))  # noqa: E731
    batch = jnp.stack([logits, -logits])
    np.testing.assert_allclose(jax.jit(jax.vmap(score))(batch)[0], score(logits), rtol=1e-12)


def test_one_trace_serves_all_values(keys):
    traces = []

    @functools.partial(jax.jit, static_argnames=("estimator", "quotas"))
    def step(key, logits, estimator, quotas):
        traces.append(estimator)
        candidates = rankpg.sample_candidates(key, logits, quotas)
        return rankpg.score(estimator, logits, candidates, candidates[:1], quotas, key=key)

    for seed, key in enumerate(keys(3)):
        step(key, jnp.asarray(normal(seed, 1, 5, sd=1.5)), estimator="ca_pg", quotas=(2,))
    assert traces == ["ca_pg"]
