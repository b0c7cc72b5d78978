"""Diagnostics against the estimator lab and against loops in NumPy."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.estimator_lab.noise import gradient_of, noise_from_draws
from rankpg import TrainConfig
from rankpg.environments.from_ratings import from_matrix
from rankpg.evaluation.diagnostics import diagnose, effective_sample_size, some_slots
from rankpg.evaluation.metrics import correlation
from rankpg.runs.evaluator import evaluate_run
from rankpg.runs.run import prepare
from rankpg.runs.storage.card import card
from rankpg.runs.train import train
from rankpg.training.update import update

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

REWARDS = np.random.default_rng(3).gamma(1.0, size=(20, 30)).astype(np.float32)
NAMES = (
    "gradient_variance", "gradient_signal_to_noise", "credit_ess", "saturated_candidates", "effective_items",
    "recall_reward_correlation", "gradient_norm",
)  # fmt: skip


def settings(**changes) -> TrainConfig:
    small = {
        "num_candidates": 3, "batch_size": 8, "embedding_dim": 4, "seeds": (0,), "num_steps": 200,
        "eval_every": 200,
    }  # fmt: skip
    return TrainConfig(**(small | changes))


def alone(run):
    return jax.tree.map(lambda leaf: leaf[0], run.state)


def diagnosed(run, draws: int = 4, state=None, seed: int = 7):
    compiled = jax.jit(diagnose, static_argnums=3)
    state = alone(run) if state is None else state
    return compiled(run.learner, state, jax.random.key(seed), draws)


def with_logits(run, logits: np.ndarray):
    """The state whose items have these logits, whatever the context."""
    state = alone(run)
    size = logits.shape[0]
    tables = {
        tuple(leaf.shape): leaf for leaf in jax.tree.leaves(state.params)
    }  # contexts [1, 20, D] and items [1, 30, D]
    assert {shape[1] for shape in tables} == {20, size}

    def one(leaf):
        first = jnp.asarray(logits) if leaf.shape[1] == size else jnp.ones(leaf.shape[1])
        return jnp.zeros_like(leaf).at[..., 0].set(first[None])

    return state.replace(params=jax.tree.map(one, state.params))


# The gradient.


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"num_experts": 2, "ranking_length": 2, "estimator": "ca_pg"}]
)
def test_signal_and_noise_equal_the_estimator_lab(changes):
    run = prepare(settings(**changes), from_matrix(REWARDS))
    found = diagnosed(run)
    draw = jax.jit(lambda key: gradient_of(run.learner, alone(run), key)[0])
    gradients = jnp.stack([draw(key) for key in jax.random.split(jax.random.key(7), 4)])
    products = (gradients @ gradients.T).trace()[None, None, None]
    noise = noise_from_draws(gradients.sum(0)[None, None], products, 4)
    np.testing.assert_allclose(found.gradient_variance, noise.variance[0], rtol=1e-4)
    ratio = noise.signal[0] / noise.variance[0]
    np.testing.assert_allclose(found.gradient_signal_to_noise, ratio, rtol=1e-3, atol=1e-5)


def test_a_single_draw_is_rejected():
    run = prepare(settings(), from_matrix(REWARDS))
    with pytest.raises(ValueError, match="num_draws=1; expected at least 2"):
        diagnosed(run, draws=1)


@pytest.mark.slow
def test_diagnostics_change_no_state(monkeypatch):
    world = from_matrix(REWARDS)
    looked = train(settings(num_steps=400), world)
    monkeypatch.setattr("rankpg.runs.evaluator.number_of_draws", lambda updates: 0)
    blind = train(settings(num_steps=400), world)
    assert jax.tree.all(jax.tree.map(np.array_equal, looked.state, blind.state))
    for row, other in zip(looked.metrics, blind.metrics, strict=True):
        assert row.keys() == other.keys()
        assert row["policy_value"] == other["policy_value"]
        assert (row["credit_ess"] is None, other["credit_ess"] is None) == (False, True)
    text = card(looked)
    assert all(f"- {name}: " in text.split("## Diagnostics")[1] for name in NAMES)
    assert "credit_ess" not in card(blind)


@pytest.mark.slow
def test_diagnostics_agree_between_retrievals():
    """Streamed and on a mesh the draws are the same; dense ones are others of the same law."""
    found = {}
    for name in ("dense", "streamed", "sharded"):
        mesh = {"mesh": (1, 1)} if name == "sharded" else {}
        run = prepare(settings(retrieval=name, **mesh), from_matrix(REWARDS))
        found[name] = diagnosed(run, draws=8)
    for value, other in zip(
        jax.tree.leaves(found["streamed"]), jax.tree.leaves(found["sharded"]), strict=True
    ):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6)
    for name, tolerance in (("gradient_variance", 0.5), ("credit_ess", 0.3)):
        one, other = (getattr(found[way], name) for way in ("dense", "streamed"))
        np.testing.assert_allclose(one, other, rtol=tolerance)


@pytest.mark.slow
def test_streamed_diagnostics_hold_no_logits_of_a_batch():
    """Read from the compiled program; dense retrieval is the negative control."""
    items, batch = 5003, 31
    rewards = np.ones((4, items), np.float32)
    rewards[:, 0] = 2

    def largest(retrieval):
        config = settings(retrieval=retrieval, batch_size=batch, num_candidates=2)
        run = prepare(config, from_matrix(rewards))
        program = jax.jit(diagnose, static_argnums=3)
        lowered = program.lower(run.learner, alone(run), jax.random.key(0), 2)
        text = lowered.compile().as_text()
        shapes = re.findall(r"[a-z]\w*\[([\d,]+)\]", text)
        return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)

    assert largest("dense") >= batch * items
    assert largest("streamed") < batch * items


# The credit.


def test_effective_sample_size_by_hand():
    credit = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    weights = np.abs(credit).sum(axis=1)
    expected = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(effective_sample_size(jnp.asarray(credit)), expected, rtol=1e-5)
    for size in (1e-30, 1e30):
        scaled = effective_sample_size(jnp.asarray(size * credit))
        np.testing.assert_allclose(scaled, expected, rtol=1e-4)
    assert effective_sample_size(jnp.ones((8, 1))) == 8
    assert effective_sample_size(jnp.zeros((8, 1)).at[3].set(-2.0)) == 1
    assert effective_sample_size(jnp.zeros((8, 1))) == 0


@pytest.mark.slow
def test_zero_rewards_give_zero_credit_and_gradient():
    world = from_matrix(np.ones((20, 30), np.float32)).environment  # a table of zeros is refused
    nothing = jax.tree.map(jnp.zeros_like, world)
    run = train(settings(num_steps=200), nothing)
    last = run.metrics[-1]
    assert (last["credit_ess"], last["gradient_variance"]) == (0.0, 0.0)
    assert last["gradient_signal_to_noise"] is None
    assert last["recall_reward_correlation"] is None


# Certainty.


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "num_candidates", "count"), [(128, 10, 4), (600, 7, 1)])
def test_some_slots_takes_every_slot_equally_often(batch_size, num_candidates, count):
    slots = np.asarray(
        jax.vmap(lambda k: some_slots(k, batch_size, num_candidates))(
            jax.random.split(jax.random.key(0), 200)
        )
    )
    assert slots.shape == (200, batch_size, count)
    assert all(len(set(row)) == count for row in slots.reshape(-1, count).tolist())
    looks = np.bincount(slots.reshape(-1), minlength=num_candidates)
    assert len(looks) == num_candidates
    expected = slots.size / num_candidates
    assert (abs(looks - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.slow
def test_saturated_candidates_are_counted():
    run = prepare(settings(estimator="top1_pg"), from_matrix(REWARDS))
    for certain in (0, 1, 2, 3):
        logits = np.zeros(30, np.float32)
        logits[:certain] = 40.0
        found = diagnosed(run, state=with_logits(run, logits))
        np.testing.assert_allclose(found.saturated_candidates, certain / 3, rtol=1e-6)


@pytest.mark.slow
def test_certainty_beside_the_other_candidates_equals_a_loop():
    """h = 1 - prod_k W_k / (W_k + w_a), the other candidates taken out one after the other."""
    from rankpg.core.estimators import draw_candidates
    from rankpg.evaluation.diagnostics import _saturated

    generator = np.random.default_rng(5)
    seen = set()
    for trial in range(40):
        logits = generator.normal(size=(1, 9)).astype(np.float32) * 4
        drawn = draw_candidates(jax.random.key(trial), jnp.asarray(logits), (4,), "candidates")
        weights, items = np.exp(logits[0].astype(np.float64)), np.asarray(drawn.items)
        for place, item in enumerate(items):
            left, missed = weights.sum() - weights[item], 1.0
            for other in [None, *np.delete(items, place)]:
                left -= 0 if other is None else weights[other]
                missed *= left / (left + weights[item])
            if abs((1 - missed) - 0.99) > 1e-3:
                said = bool(_saturated(drawn, (4,), jnp.arange(4))[place])
                assert said == (1 - missed > 0.99)
                seen.add(said)
    assert seen == {True, False}


# At an evaluation.


@pytest.mark.slow
def test_effective_items_of_flat_and_peaked_logits():
    flat = prepare(settings(init_scale=1e-6), from_matrix(REWARDS))
    assert evaluate_run(flat)[0]["effective_items"] == pytest.approx(30, rel=1e-4)
    logits = np.full(30, -50.0, np.float32)
    logits[[4, 9]] = 0
    state = with_logits(flat, logits)
    flat.state = jax.tree.map(lambda leaf: leaf[None], state)
    assert evaluate_run(flat)[0]["effective_items"] == pytest.approx(2, rel=1e-4)


def test_recall_reward_correlation_equals_numpy():
    run = prepare(settings(reranker="optimal"), from_matrix(REWARDS))
    tables = sorted(jax.tree.leaves(alone(run).params), key=lambda leaf: leaf.shape[1])
    contexts, items = (np.asarray(leaf[0], np.float64) for leaf in tables)
    recalls, values = [], []
    for context in range(20):
        chosen = set(np.argsort(-(contexts[context] @ items.T))[:3].tolist())
        best = set(np.argsort(-REWARDS[context])[:3].tolist())
        recalls.append(len(chosen & best) / 3)
        values.append(max(REWARDS[context][list(chosen)]) - REWARDS[context].max())
    expected = np.corrcoef(recalls, values)[0, 1]
    found = evaluate_run(run)[0]["recall_reward_correlation"]
    assert found == pytest.approx(expected, abs=1e-4)


def test_correlation_with_a_constant_is_nan():
    assert np.isnan(correlation(jnp.full(5, 0.1), jnp.arange(5.0)))
    one, other = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    found = correlation(jnp.asarray(one), jnp.asarray(other))
    np.testing.assert_allclose(found, np.corrcoef(one, other)[0, 1], atol=1e-6)


@pytest.mark.slow
def test_gradient_variance_is_that_of_single_updates():
    """The trace of the sample covariance, with n - 1, and the signal without bias."""
    run, draws = prepare(settings(), from_matrix(REWARDS)), 3
    found = diagnosed(run, draws)
    keys = jax.random.split(jax.random.key(7), draws)
    gradient = jax.jit(lambda key: update(run.learner, alone(run), run.learner.simulate(key))[1])
    each = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient(key).gradient)])
        for key in keys
    ]
    variance = np.var(np.asarray(each, np.float64), axis=0, ddof=1).sum()
    assert float(found.gradient_variance) == pytest.approx(variance, rel=1e-4)
    signal = np.sum(np.mean(np.asarray(each, np.float64), axis=0) ** 2) - variance / draws
    assert float(found.gradient_signal_to_noise) == pytest.approx(signal / variance, rel=1e-2)
