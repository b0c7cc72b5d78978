"""Runs with a history tower by self-attention: what it learns, how it is kept and exported."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rankpg
from rankpg.config import ConfigError
from rankpg.encoders import history_of, to_logits
from rankpg.encoders.attention import attention_of
from rankpg.environments import from_interactions
from rankpg.environments.interactions import Moments
from rankpg.export.parts import take_parts
from rankpg.runs.run import prepare

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

NUM_ITEMS = 10
ATTENTION = {"context_tower": "history", "history_encoder": "attention", "attention_heads": 2}
SETTINGS = {
    "objective": "softmax",
    "num_candidates": 3,
    "embedding_dim": 8,
    "batch_size": 64,
    "history_length": 2,
    "dropout": 0.0,
    "num_steps": 4,
    "eval_every": 2,
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def data():
    """Sequences (x, a, next(a)) on a circle of items, for every a and every x but the neighbours of a."""
    rows = [
        (x % NUM_ITEMS, a, (a + 1) % NUM_ITEMS)
        for a in range(NUM_ITEMS)
        for x in range(a + 2, a + NUM_ITEMS - 1)
    ]
    log = {
        "user": np.repeat(np.arange(len(rows)), 3),
        "item": np.concatenate(rows),
        "timestamp": np.tile(np.arange(3), len(rows)),
    }
    return from_interactions(log, split="none")


def fitted(build, data):
    """First and last loss of the third items, and the share of them that have the best logit."""
    world = data.environment
    users = np.arange(world.num_users, dtype=np.int32)
    world = world.at(Moments(users, np.full_like(users, 2), np.full_like(users, 3)))
    contexts = jnp.arange(len(users))
    wanted = world.feedback(jax.random.key(0), contexts).items[:, 0]
    encoder, optimizer = build(world, 8, length=2, init_scale=0.1), optax.adam(1e-2)

    def loss(params):
        logits = to_logits(encoder.encode(params, world, contexts))
        logits = jax.vmap(world.mask_ineligible)(contexts, logits)[:, 0]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=1) == wanted)

    def step(carry, _):
        params, state = carry
        measured, gradient = jax.value_and_grad(loss, has_aux=True)(params)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, change), state), measured

    params = encoder.init(jax.random.key(0))
    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=300)[1])
    losses, shares = train((params, optimizer.init(params)))
    return float(losses[0]), float(losses[-1]), float(shares[-1])


@pytest.mark.slow
def test_attention_learns_an_order_that_pooling_cannot(data):
    """Cosines are symmetric: on a circle, the next item cannot be nearer than the previous one everywhere."""
    first, last, share = fitted(attention_of, data)
    _, last_of_pooled, share_of_pooled = fitted(history_of, data)
    assert share == 1.0
    assert share_of_pooled <= 0.9
    assert last < min(first, last_of_pooled) - 0.2


@pytest.mark.slow
def test_an_update_of_attention_is_the_same_dense_and_streamed_with_two_experts(data):
    settings = SETTINGS | ATTENTION | {"num_experts": 2, "dropout": 0.3, "attention_layers": 1}
    settings |= {
        "optimizer": "sgd",
        "learning_rate": 1.0,
    }  # Adam would enlarge gradients of rounding
    moved, losses = [], []
    for retrieval in ("dense", "streamed"):
        run = prepare(rankpg.TrainConfig(**settings, retrieval=retrieval), data)
        state = jax.tree.map(lambda leaf: leaf[0], run.state)
        update = jax.jit(type(run.learner).update)
        after, metrics = update(run.learner, state, jax.random.key(3))
        moved.append(jax.tree.map(lambda new, old: new - old, after.params, state.params))
        losses.append(metrics.loss)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for one, two in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)
    (kernels,) = jax.tree.leaves(moved[0]["towers"]["layer_0"]["outer"]["kernel"])
    assert np.abs(kernels).max(axis=(1, 2)).min() > 1e-3  # in each expert


@pytest.mark.slow
def test_a_run_with_attention_resumes_bit_by_bit_and_is_exported(data, tmp_path):
    settings = SETTINGS | ATTENTION | {"dropout": 0.3, "seeds": (0, 1), "first_share": 1.0}
    whole = rankpg.train(rankpg.TrainConfig(**settings), data)
    half = rankpg.TrainConfig(**settings | {"num_steps": 2})
    rankpg.train(half, data, out=tmp_path / "run")
    full = rankpg.TrainConfig(**settings)
    resumed = rankpg.train(full, data, out=tmp_path / "run", resume=True)
    for one, two in zip(*(jax.tree.leaves(run.params()) for run in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(one, two)
    loaded = rankpg.load_run(tmp_path / "run")
    parts = take_parts(loaded, seed=1, platforms=("cpu",))  # rejects a tower with other embeddings
    names = set(parts.tower.parameters)
    assert {"params.towers.place", "params.towers.layer_0.attention.query.kernel"} <= names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_heads": 3}, "attention_heads=3 has no effect with history_encoder='pooled'"),
        ({"attention_layers": 1}, "attention_layers=1 has no effect with history_encoder='pooled'"),
        (
            {"context_tower": "ids", "history_encoder": "attention", "history_length": 20},
            "history_encoder='attention' has no effect with context_tower='ids'",
        ),
        (
            ATTENTION | {"attention_heads": 3},
            "embedding_dim=8 does not divide among attention_heads=3; expected a multiple",
        ),
        (ATTENTION | {"attention_layers": 0}, "attention_layers=0; expected at least 1"),
        (ATTENTION | {"history_encoder": "mean"}, "expected one of pooled, attention"),
    ],
)
def test_settings_of_attention_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        rankpg.TrainConfig(**SETTINGS | settings)


@pytest.mark.parametrize("settings", [{"init_embeddings": "items.npy"}, {"item_tower": "adapter"}])
def test_heads_may_divide_a_width_that_is_read_from_a_file(settings):
    plain = {name: value for name, value in SETTINGS.items() if name != "embedding_dim"}
    several = ATTENTION | {"attention_heads": 4}
    assert rankpg.TrainConfig(**plain | several | settings).attention_heads == 4
    with pytest.raises(ConfigError, match="embedding_dim=10 does not divide among"):
        rankpg.TrainConfig(**plain | several)


def test_pooled_towers_have_the_parameters_that_they_had(data):
    run = prepare(rankpg.TrainConfig(**SETTINGS | {"context_tower": "history"}), data)
    assert set(run.params()) == {"table", "place", "log_scale"}
