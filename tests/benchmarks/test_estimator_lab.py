"""The estimator lab against brute force: expected gradients, variances, effects of a baseline."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import oracle

from benchmarks import estimator_lab as lab
from benchmarks.estimator_lab.exact import Moments
from benchmarks.estimator_lab.sweep import _summarise
from rankpg import ESTIMATORS, TrainConfig, environments
from rankpg.core.estimators import NOISE_STATISTICS
from rankpg.core.theory import GradientParts
from rankpg.encoders import Encoder
from rankpg.runs.run import prepare

REWARDS = np.array([0.7, 3.1, 1.2, 2.3])
LOGITS = np.array([[0.3, -0.8, 1.2, 0.1], [1.0, 0.2, -0.5, 0.4]])
QUOTAS = {"one expert": (2,), "two experts": (1, 1)}
BASELINES = np.array([0.0, 1.7])
GRADIENTS = [name for name, e in ESTIMATORS.items() if not e.by_predictions]
ENUMERABLE = [name for name in GRADIENTS if ESTIMATORS[name].statistics not in NOISE_STATISTICS]


def problem(reranker_name: str, experts: int = 1) -> lab.Problem:
    return lab.Problem(
        logits=jnp.asarray(LOGITS[:experts]),
        rewards=jnp.asarray(REWARDS),
        inverse_temperature=jnp.asarray(lab.RERANKERS[reranker_name]),
    )


def reranker(reranker_name: str) -> oracle.Reranker:
    """Returns the re-ranker for the oracle."""
    if reranker_name in ("optimal", "anti"):
        return oracle.optimal_reranker(REWARDS if reranker_name == "optimal" else -REWARDS, 1)
    return oracle.plackett_luce_reranker(REWARDS * (reranker_name == "noisy"), 1)


@partial(jax.jit, static_argnums=1)
def moments(problem, quotas):
    """Returns the true gradients and the moments of every enumerable estimator, as one program."""
    truth = lab.true_gradients(problem, quotas)
    names = [n for n in ENUMERABLE if len(quotas) <= (ESTIMATORS[n].max_experts or 9)]
    baselines = jnp.asarray(BASELINES)
    return truth, {
        name: lab.exact_moments(name, problem, quotas, baselines, truth.v_pg) for name in names
    }


def brute_force(name: str, logits, quotas, reranker_name: str, baseline: float):
    """Mean, trace of the covariance and mean cosine of a draw, over every (candidates, shown item)."""
    chosen, p = oracle.probabilities(logits, quotas)
    truth = oracle.policy_gradient(logits, quotas, reranker(reranker_name), REWARDS, np.ones(1))
    included = oracle.inclusion(logits, quotas)
    included_gradients = oracle.inclusion_gradients(logits, quotas)
    of_set = oracle.log_prob_gradients(logits, quotas, chosen)
    by_item = {
        "ca_pg": lambda a: (
            oracle.greedy_inclusion_gradient(logits, a, quotas)
            / oracle.greedy_inclusion(logits, a, quotas)
        ),
        "ca_pg_exact": lambda a: included_gradients[a] / included[a],
        "ca_pg_swr": lambda a: (
            oracle.swr_inclusion_gradient(logits, a, quotas)
            / oracle.swr_inclusion(logits, a, quotas)
        ),
        "top1_pg": lambda a: (
            oracle.sum_inclusion_gradient(logits, a, quotas)
            / oracle.sum_inclusion(logits, a, quotas)
        ),
    }
    weights, draws, cosines = [], [], []
    for index, candidates in enumerate(chosen):
        for item, shown in enumerate(reranker(reranker_name)(candidates)[0]):
            if name == "v_pg":
                score = of_set[index]
            elif name == "v_pg_set":
                same = (np.sort(chosen, axis=1) == np.sort(candidates)).all(axis=1)
                score = np.einsum("p,pmn->mn", p[same], of_set[same]) / p[same].sum()
            elif name == "v_pg_swr":
                score = oracle.swr_log_prob_gradient(logits, quotas, candidates)
            else:
                score = by_item[name](item)
            draw = (REWARDS[item] - baseline) * score
            weights.append(p[index] * shown)
            draws.append(draw)
            cosines.append((draw * truth).sum() / np.sqrt((draw**2).sum() * (truth**2).sum()))
    weights, draws = np.array(weights), np.array(draws)
    mean = np.einsum("j,jmn->mn", weights, draws)
    return mean, weights @ ((draws - mean) ** 2).sum(axis=(1, 2)), weights @ np.array(cosines)


@pytest.mark.slow
@pytest.mark.parametrize("reranker_name", lab.RERANKERS)
@pytest.mark.parametrize("quotas", [pytest.param(q, id=name) for name, q in QUOTAS.items()])
def test_moments_equal_brute_force(quotas, reranker_name):
    _, found = moments(problem(reranker_name, len(quotas)), quotas)
    for name, of_baselines in found.items():
        for i, baseline in enumerate(BASELINES):
            mean, variance, cosine = brute_force(
                name, LOGITS[: len(quotas)], quotas, reranker_name, baseline
            )
            np.testing.assert_allclose(of_baselines.mean[i], mean, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(of_baselines.variance[i], variance, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(of_baselines.cosine[i], cosine, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("reranker_name", lab.RERANKERS)
def test_v_pg_and_ca_pg_exact_are_unbiased(reranker_name):
    """v_pg for the policy gradient under any baseline, ca_pg_exact for its own; top1_pg for neither."""
    truth, found = moments(problem(reranker_name), (2,))
    arguments = LOGITS[:1], (2,), reranker(reranker_name), REWARDS, np.ones(1)
    policy, credit = oracle.policy_gradient(*arguments), oracle.credit_assigned_gradient(*arguments)
    np.testing.assert_allclose(truth.v_pg, policy, atol=1e-6)
    for i in range(len(BASELINES)):
        np.testing.assert_allclose(found["v_pg"].mean[i], policy, atol=1e-6)
    np.testing.assert_allclose(found["ca_pg_exact"].mean[0], credit, atol=1e-6)
    biased = np.asarray(found["top1_pg"].mean[0])
    assert min(np.abs(biased - policy).max(), np.abs(biased - credit).max()) > 0.01


@partial(jax.jit, static_argnums=(1, 4))
def sampled(key, name, problem, truth, num_draws=20_000):
    return lab.sampled_moments(key, name, problem, (2,), jnp.asarray(BASELINES), truth, num_draws)


@pytest.mark.slow
@pytest.mark.parametrize("reranker_name", lab.RERANKERS)
def test_ca_pg_swap_is_the_policy_gradient_and_has_less_noise_than_v_pg(key, reranker_name):
    given = problem(reranker_name)
    truth, others = moments(given, (2,))
    found = sampled(key, "ca_pg_swap", given, truth.v_pg)
    z = np.abs(found.mean - truth.v_pg[None]) / np.maximum(found.standard_error, 1e-9)
    assert np.max(z) < 4.5
    np.testing.assert_array_equal(found.mean[0], found.mean[1])
    assert float(found.variance[0]) < float(others["v_pg"].variance.min())


@pytest.mark.slow
def test_ca_pg_threshold_is_unbiased_under_the_uniform_reranker(key):
    """Control: under the optimal re-ranker it is biased, since the score depends on the other candidates."""
    worst = {}
    for reranker_name in ("uniform", "optimal"):
        given = problem(reranker_name)
        found = sampled(key, "ca_pg_threshold", given, moments(given, (2,))[0].v_pg)
        target = oracle.credit_assigned_gradient(
            LOGITS[:1], (2,), reranker(reranker_name), REWARDS, np.ones(1)
        )
        worst[reranker_name] = np.max(np.abs(found.mean[0] - target) / found.standard_error[0])
    assert worst["uniform"] < 5 < worst["optimal"]


@pytest.mark.slow
def test_sampled_moments_equal_exact_moments(key):
    given = problem("noisy")
    truth, exact = moments(given, (2,))
    found = sampled(key, "v_pg_swr", given, truth.v_pg)
    exact = exact["v_pg_swr"]
    assert np.max(np.abs(found.mean - exact.mean) / found.standard_error) < 5
    np.testing.assert_allclose(found.variance, exact.variance, rtol=0.03)
    np.testing.assert_allclose(found.cosine, exact.cosine, atol=0.02)


def test_progress_is_corrected_for_sampling_error(key):
    """Noise as large as the means does not change the cosine with the truth."""
    contexts, (mean_key, noise_key) = 4096, jax.random.split(key)
    truth = jax.random.normal(mean_key, (contexts, 1, 5))
    mean = truth + 0.5  # not quite its direction
    size = jnp.sqrt(jnp.mean(mean**2))

    def progress(error):
        nothing = jnp.zeros(contexts)
        found = mean + error * jax.random.normal(noise_key, mean.shape)
        moments = Moments(found, jnp.full(mean.shape, error), nothing, nothing)
        return _summarise(moments, GradientParts(truth, truth, truth))["progress"]

    assert progress(size) == pytest.approx(float(progress(0.0)), abs=0.02)
    assert progress(0.0) < 0.95


# Signal and noise from independent draws.


def table_run(batch_size: int):
    """Returns a run of one context: its logits are the parameters, its rewards have no noise."""
    encoder = Encoder(
        init=lambda key: jnp.asarray(LOGITS[None, :1], jnp.float32),
        apply=lambda params, contexts: params[contexts],
    )
    data = environments.from_matrix(REWARDS[None], noise_std=0.0)
    config = TrainConfig(
        num_candidates=2, batch_size=batch_size, seeds=(3,), optimizer="sgd", learning_rate=0.1
    )
    return prepare(config, data, encoder=encoder)


@pytest.mark.slow
def test_gradient_noise_of_a_run_equals_enumeration():
    """Batches of 4 have a quarter of a draw's variance; another estimator's variance fails the check."""
    names = ("v_pg", "top1_pg")
    found = lab.gradient_noise(table_run(4), names, num_rounds=20, num_draws=100)
    noise = found["noise"]
    exact = moments(problem("optimal"), (2,))[1]
    for i, name in enumerate(names):
        variance, signal = (
            float(exact[name].variance[0]) / 4,
            float(np.sum(exact[name].mean[0] ** 2)),
        )
        assert abs(noise.variance[i] - variance) < 5 * noise.variance_error[i]
        assert abs(noise.signal[i] - signal) < 5 * noise.signal_error[i]
        other = float(exact[names[1 - i]].variance[0]) / 4
        assert abs(noise.variance[i] - other) > 5 * noise.variance_error[i]
    means = [np.asarray(exact[name].mean[0]).ravel() for name in names]
    cosine = means[0] @ means[1] / np.sqrt((means[0] @ means[0]) * (means[1] @ means[1]))
    np.testing.assert_allclose(noise.cosine[0, 1], cosine, atol=0.1)


def test_noise_from_draws_averages_all_pairs():
    """Averages of g . g' and of |g - g'|^2 / 2 over every pair of five draws."""
    draws = np.random.default_rng(0).normal(size=(5, 2, 3))  # five draws of two gradients
    noise = lab.noise_from_draws(
        jnp.asarray(draws.sum(axis=0)[None]),
        jnp.asarray(np.einsum("dip,djp->ij", draws, draws)[None]),
        5,
    )
    pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
    signal = np.mean([(draws[a] * draws[b]).sum(axis=1) for a, b in pairs], axis=0)
    variance = np.mean([((draws[a] - draws[b]) ** 2).sum(axis=1) / 2 for a, b in pairs], axis=0)
    inner = np.mean([draws[a] @ draws[b].T for a, b in pairs], axis=0)
    np.testing.assert_allclose(noise.signal, signal)
    np.testing.assert_allclose(noise.variance, variance)
    np.testing.assert_allclose(noise.inner, inner)
    assert np.isnan(noise.variance_error).all()  # one round has no standard error


# Effects of a baseline.


@jax.jit
def split(problem):
    names = "v_pg", "ca_pg_exact", "top1_pg"
    return {name: lab.split_update(name, problem, (2,)) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("reranker_name", lab.RERANKERS)
def test_constant_reward_imitates_the_reranker(reranker_name):
    """E[grad log P(a in S)] = sum_a P(a shown | a in S) grad P(a in S).

    It points along the policy gradient if the re-ranker is right, against it if the re-ranker is wrong, and
    is 0 for the uniform re-ranker. For the log-probability of the draw it is always 0.
    """
    parts = split(problem(reranker_name))
    _, p = oracle.probabilities(LOGITS[:1], (2,))
    shown = p @ oracle.shown_weights(LOGITS[:1], (2,), reranker(reranker_name), np.ones(1))
    conditional = shown / oracle.inclusion(LOGITS[:1], (2,))
    drift = np.einsum("a,amn->mn", conditional, oracle.inclusion_gradients(LOGITS[:1], (2,)))
    np.testing.assert_allclose(parts["ca_pg_exact"].imitation, drift, atol=1e-6)
    np.testing.assert_allclose(parts["v_pg"].imitation, 0, atol=1e-6)
    truth = moments(problem(reranker_name), (2,))[0].v_pg
    along = float(np.sum(parts["ca_pg_exact"].imitation * truth))
    if reranker_name == "uniform":
        np.testing.assert_allclose(parts["ca_pg_exact"].imitation, 0, atol=1e-6)
        assert np.abs(parts["top1_pg"].imitation).max() > 0.01  # not a log inclusion probability
    else:
        assert along < -0.01 if reranker_name == "anti" else along > 0.01


def test_batch_mean_holds_poor_contexts_back():
    """Two contexts differ by a constant reward: where b is above V, the shown items are pushed away."""
    rewards = jnp.stack([jnp.asarray(REWARDS), jnp.asarray(REWARDS + 4)])
    kinds = tuple(lab.BASELINES.values())

    @jax.jit
    def ascend(steepness, kind):
        problems = lab.Problem(
            jnp.broadcast_to(jnp.asarray(LOGITS[:1]), (2, 1, 4)),
            rewards,
            jnp.broadcast_to(steepness, (2,)),
        )
        values = lab.expected_ascent(
            "ca_pg_swr", problems, (2,), partial(jax.lax.switch, kind, kinds), optax.sgd(0.1), 300,
            problems.logits, lambda logits: logits,
        )  # fmt: skip
        return values[-1] - values[0]

    gain = {
        (reranker_name, name): np.asarray(ascend(jnp.asarray(lab.RERANKERS[reranker_name]), i))
        for reranker_name in ("optimal", "anti")
        for i, name in enumerate(lab.BASELINES)
    }
    assert (gain["optimal", "none"] > 1).all()
    assert (gain["optimal", "context"] > 1).all()
    poor, rich = gain["optimal", "batch"]
    assert poor < 0.5 < 1 < rich
    assert (gain["anti", "none"] < 0).all()
    assert (gain["anti", "context"] > 0.1).all()


# Invalid arguments and the report.


@pytest.mark.slow
def test_invalid_arguments_are_refused():
    given, one = problem("optimal"), jnp.zeros(1)
    truth = jnp.zeros((1, 4))
    with pytest.raises(
        ValueError, match=r"'ca_pg_threshold' depends on the noise .* sampled_moments"
    ):
        lab.exact_moments("ca_pg_threshold", given, (2,), one, truth)
    with pytest.raises(ValueError, match="num_draws=1"):
        lab.sampled_moments(jax.random.key(0), "v_pg", given, (2,), one, truth, 1)
    large = lab.Problem(jnp.zeros((1, 8)), jnp.ones(8), jnp.asarray(0.0))
    with pytest.raises(ValueError, match=r"N = 8 items.* at most 7"):
        lab.policy_value(large, (2,))
    with pytest.raises(ValueError, match="seed=5 was not trained"):
        lab.gradient_noise(table_run(4), seed=5)
    with pytest.raises(ValueError, match="num_draws=1"):
        lab.gradient_noise(table_run(4), ("v_pg",), num_rounds=1, num_draws=1)


@pytest.mark.slow
@pytest.mark.long
def test_report_writes_json_and_pictures(tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # optax.adam counts its steps in integers
        text = lab.report(
            tmp_path / "lab", sizes=((3, (2,)),), num_contexts=4, num_draws=16, run=table_run(4)
        )
    body = json.loads((tmp_path / "lab" / "lab.json").read_text())
    settings = len(lab.RERANKERS) * 3 * len(lab.BASELINES)
    assert len(body["estimators"]) == settings * len(GRADIENTS)
    for picture in ("estimators", "baselines", "ascent"):
        assert (tmp_path / "lab" / f"{picture}.png").stat().st_size > 10_000
    for name in GRADIENTS:
        assert name in text
    of_v_pg = [row for row in body["estimators"] if row["estimator"] == "v_pg"]
    assert max(row["bias_to_policy"] for row in of_v_pg) < 1e-4
