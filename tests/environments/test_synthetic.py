"""The synthetic problem of the paper: the shipped instance, and generated ones."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg import TrainConfig
from rankpg.environments.synthetic import Synthetic, generate, paper_instance
from rankpg.training.build import make_environment
from rankpg.types import Environment

ENABLE_X64 = False


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(environment: Synthetic, context: int):
    """q, mean and standard deviation of every item, in float64, item by item, from the printed formulas."""
    arrays = {k: np.asarray(v, np.float64) for k, v in vars(environment).items() if np.ndim(v)}
    x, q, std = arrays["context_features"][context], [], []
    for e in arrays["item_features"]:
        eta = np.sqrt(
            sigmoid(sum(x * arrays["context_reactiveness"]) + 3)
            * sigmoid(sum(e * arrays["item_reactiveness"]) + 3)
        )
        mixed = (1 - eta) * arrays["projection"] + eta * arrays["latent_projection"]
        q.append(environment.scale * (x @ mixed @ e))
        std.append(environment.noise_scale * sigmoid(x @ arrays["noise_projection"] @ e + 1))
    return np.array(q), np.log1p(np.exp(q)) + 1, np.array(std)


@pytest.fixture(scope="module")
def paper():
    return paper_instance()


def test_shipped_instance_has_the_published_figures(paper):
    assert (paper.num_contexts, paper.num_items) == (1000, 1000)
    everything = jnp.arange(1000, dtype=jnp.int32)
    each = jax.jit(
        lambda e: jax.vmap(lambda c: (e.mean_rewards(c, everything), e.reward_std(c, everything)))(
            everything
        )
    )
    means, stds = (np.asarray(a, np.float64) for a in each(paper))
    assert round(means.mean(), 4) == 2.4458
    assert round(means.max(axis=1).mean(), 4) == 9.1088
    assert round(stds.mean(), 4) == 0.6954


def test_shipped_instance_has_equal_sides(paper):
    assert jnp.array_equal(paper.context_features, paper.item_features)
    assert jnp.array_equal(paper.projection, paper.latent_projection)
    assert jnp.array_equal(paper.context_reactiveness, paper.item_reactiveness)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "noise_scale"), [(10.0, 1.0), (3.0, 0.5)])
def test_rewards_follow_the_formulas(scale, noise_scale):
    environment = generate(jax.random.key(3), 4, 9, 5, scale=scale, noise_scale=noise_scale)
    for context in range(4):
        q, mean, std = by_hand(environment, context)
        items = jnp.array([8, 0, 3, 3], jnp.int32)  # in any order, and an item twice
        at = jnp.int32(context)
        np.testing.assert_allclose(environment.relevance(at, items), q[items], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(environment.mean_rewards(at, items), mean[items], rtol=1e-4)
        np.testing.assert_allclose(environment.reward_std(at, items), std[items], rtol=1e-4)


def test_shipped_instance_follows_the_formulas(paper):
    q, mean, std = by_hand(paper, 17)
    everything = jnp.arange(1000, dtype=jnp.int32)
    np.testing.assert_allclose(paper.relevance(jnp.int32(17), everything), q, atol=1e-4)
    np.testing.assert_allclose(paper.mean_rewards(jnp.int32(17), everything), mean, rtol=1e-4)
    np.testing.assert_allclose(paper.reward_std(jnp.int32(17), everything), std, rtol=1e-4)


def test_sampled_rewards_have_the_declared_mean_and_noise():
    environment, context, n = generate(jax.random.key(5), 3, 4, 6), jnp.int32(2), 20_000
    items = jnp.arange(4, dtype=jnp.int32)
    draw = jax.jit(jax.vmap(lambda key: environment.sample_rewards(key, context, items)))
    rewards = np.asarray(draw(jax.random.split(jax.random.key(6), n)), np.float64)
    _, mean, std = by_hand(environment, 2)
    assert np.all(np.abs(rewards.mean(axis=0) - mean) < 5 * std / np.sqrt(n))
    assert np.all(np.abs(rewards.std(axis=0) - std) < 5 * std / np.sqrt(2 * n))
    correlations = np.corrcoef(rewards.T)[np.triu_indices(4, 1)]
    assert np.all(np.abs(correlations) < 5 / np.sqrt(n))  # each item has noise of its own


def test_generated_arrays_have_keys_of_their_own():
    """Equal keys and shapes give equal bits, and whatever is made of them keeps the order within a row."""
    environment = generate(jax.random.key(0), 12, 12, 12)
    squares = {k: np.asarray(v) for k, v in vars(environment).items() if np.ndim(v) == 2}
    vectors = {k: np.asarray(v) for k, v in vars(environment).items() if np.ndim(v) == 1}
    assert (len(squares), len(vectors)) == (5, 2)
    for (one, a), (other, b) in itertools.combinations(squares.items(), 2):
        same = np.mean(np.argsort(a, axis=1) == np.argsort(b, axis=1))
        assert same < 0.5, (one, other)  # by chance 1 / 12
    assert not np.any(vectors["context_reactiveness"] == vectors["item_reactiveness"])


def test_features_and_projections_are_normalised():
    environment = generate(jax.random.key(1), 40, 50, 8)
    for name in ("context_features", "item_features", "projection", "latent_projection"):
        lengths = np.linalg.norm(getattr(environment, name), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5, err_msg=name)
    assert np.ptp(np.linalg.norm(environment.noise_projection, axis=1)) > 0.1
    assert environment.context_features.shape == (40, 8)
    assert environment.item_features.shape == (50, 8)


def test_seed_determines_the_instance():
    one, again, other = (generate(jax.random.key(s), 3, 4, 5) for s in (0, 0, 1))
    for name in ("context_features", "item_features", "projection", "noise_projection"):
        assert jnp.array_equal(getattr(one, name), getattr(again, name))
        assert not jnp.any(getattr(one, name) == getattr(other, name))


@pytest.mark.parametrize("name", ["num_contexts", "num_items", "num_features"])
def test_sizes_below_one_are_rejected(name):
    sizes = {"num_contexts": 3, "num_items": 3, "num_features": 3} | {name: 0}
    with pytest.raises(ValueError, match=rf"{name}=0; expected at least 1"):
        generate(jax.random.key(0), **sizes)


def test_instance_is_an_environment_and_a_pytree(paper):
    assert isinstance(paper, Environment)
    assert paper.eligible(jnp.int32(0), jnp.arange(3, dtype=jnp.int32)) is None
    assert len(jax.tree.leaves(paper)) == 7


@pytest.mark.slow
def test_config_names_the_instance(paper):
    made = make_environment(TrainConfig())
    assert jnp.array_equal(made.context_features, paper.context_features)
    for settings in ({"instance_seed": 0}, {"num_items": 999}, {"num_features": 9}):
        made = make_environment(TrainConfig(**settings))
        assert not jnp.array_equal(made.projection, made.latent_projection), settings
    sizes = {"num_contexts": 5, "num_items": 12}
    plain, seeded = (make_environment(TrainConfig(**sizes, instance_seed=s)) for s in (1, 2))
    assert plain.item_features.shape == (12, 10)
    assert not jnp.any(plain.item_features == seeded.item_features)
