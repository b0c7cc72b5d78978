"""The softmax over a sample: exact with all items, unbiased in the weight, and what does not count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.config import ConfigError
from rankpg.encoders import Encoder
from rankpg.environments import from_interactions
from rankpg.runs.run import prepare
from rankpg.training.sampled_softmax import draw_negatives, sampled_logits
from rankpg.training.update import Learner
from rankpg.types import Embeddings

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

USERS, ITEMS, LENGTH = 5, 6, 5
RANDOM = np.random.default_rng(2)
LOG = {
    "user": np.repeat(np.arange(USERS), LENGTH),
    "item": np.concatenate([RANDOM.permutation(ITEMS)[:LENGTH] for _ in range(USERS)]),
    "timestamp": np.tile(np.arange(LENGTH), USERS),
}
SETTINGS = {
    "objective": "softmax",
    "num_candidates": 2,
    "embedding_dim": 3,
    "batch_size": 4,
    "num_steps": 4,
    "eval_every": 4,
    "seeds": (0,),
    "init_scale": 1.0,
    "optimizer": "sgd",
}
WORLD = from_interactions(LOG, test_count=2).environment
CONTEXTS, WANTED = jnp.array([0, 3]), jnp.array(LOG["item"].reshape(USERS, LENGTH)[[0, 3], 3:])
EMBEDDINGS = Embeddings(
    contexts=jnp.asarray(RANDOM.normal(size=(2, 1, 3)), jnp.float32),
    items=jnp.asarray(RANDOM.normal(size=(1, ITEMS, 3)), jnp.float32),
)


def update(data, step=0, **settings):
    run = prepare(rankpg.TrainConfig(**SETTINGS | settings), data)
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    state = state.replace(step=jnp.int32(step))
    return jax.jit(Learner.update)(run.learner, state, jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_positives": False, "forward_share": 0.7, "retrieval": "streamed"},
        {"context_tower": "history", "next_items": 2, "num_experts": 2, "temperature": 0.5},
    ],
)
def test_all_items_are_the_full_softmax(settings):
    data = from_interactions(LOG, test_count=1)
    settings = {"softmax_samples": ITEMS, **settings}
    sampled, full = update(data, **settings), update(data, **settings | {"softmax_samples": None})
    assert sampled[1].loss == pytest.approx(float(full[1].loss), rel=1e-5)
    assert sampled[1].reward == pytest.approx(float(full[1].reward), rel=1e-5)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5),
        sampled[0].params, full[0].params,
    )  # fmt: skip
    assert int(sampled[0].fault) == 0


@pytest.mark.slow
def test_start_of_inclusion_is_sampled_and_the_rest_is_not():
    data = from_interactions(LOG, test_count=1)
    settings = {"objective": "inclusion", "inclusion_at": (2,), "first_share": 0.5}
    for step, same in ((0, False), (2, True)):
        sampled = update(data, step, softmax_samples=1, **settings)[1].loss
        full = update(data, step, **settings)[1].loss
        assert (abs(float(sampled) - float(full)) < 1e-6) == same


def rest(items, key, num_samples, in_batch):
    """The sampled weight of the catalogue without the wanted items, for two contexts."""
    sample = draw_negatives(key, in_batch, num_samples, ITEMS)
    embeddings = Embeddings(contexts=EMBEDDINGS.contexts, items=items)
    return jnp.exp(sampled_logits(embeddings, WANTED, sample, CONTEXTS, WORLD)[0].log_rest)[:, 0]


def rest_by_hand(items):
    """The weight of the items that a context has neither seen nor wants."""
    logits = np.asarray(EMBEDDINGS.contexts)[:, 0] @ np.asarray(items)[0].T
    rows = LOG["item"].reshape(USERS, LENGTH)[[0, 3]]
    return np.array(
        [np.exp(np.delete(own, row)).sum() for own, row in zip(logits, rows, strict=True)]
    )


@pytest.mark.slow
def test_sampled_weight_and_its_gradient_are_unbiased():
    in_batch = jnp.array([int(LOG["item"][3]), int(LOG["item"][18])])
    keys = jax.random.split(jax.random.key(7), 4000)
    values = jax.jit(jax.vmap(lambda key: rest(EMBEDDINGS.items, key, 2, in_batch)))(keys)
    wanted = rest_by_hand(EMBEDDINGS.items)
    error = np.std(values, axis=0) / np.sqrt(len(keys))
    assert (np.abs(np.mean(values, axis=0) - wanted) < 4 * error + 1e-5).all()
    slope = jax.grad(lambda items, key, n: jnp.sum(rest(items, key, n, in_batch)))
    slopes = jax.jit(jax.vmap(lambda key: slope(EMBEDDINGS.items, key, 2)))(keys)
    exact = slope(EMBEDDINGS.items, keys[0], ITEMS)
    error = np.std(slopes, axis=0) / np.sqrt(len(keys))
    assert (np.abs(np.mean(slopes, axis=0) - exact) < 4.5 * error + 1e-5).all()


@pytest.mark.slow
def test_gradient_of_the_loss_converges_with_the_sample():
    in_batch, keys = jnp.array([0, 0]), jax.random.split(jax.random.key(8), 2000)
    world = from_interactions({name: column[::2] for name, column in LOG.items()}).environment

    def loss(items, key, number):
        sample = draw_negatives(key, in_batch, number, ITEMS)
        embeddings = Embeddings(contexts=EMBEDDINGS.contexts, items=items)
        contexts = jnp.array([0, 1])
        sparse, _ = sampled_logits(embeddings, WANTED[:, :1], sample, contexts, world)
        return jnp.sum(jax.vmap(lambda own: own.log_total()[0] - own.logits[0, 0])(sparse))

    mean = {}
    for number in (2, 4, ITEMS):
        slope = jax.vmap(lambda key, n=number: jax.grad(loss)(EMBEDDINGS.items, key, n))
        mean[number] = np.mean(jax.jit(slope)(keys), axis=0)
    errors = [np.abs(mean[number] - mean[ITEMS]).max() for number in (2, 4)]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.slow
def test_every_item_of_a_sample_counts_once():
    in_batch = jnp.array([4, 1, 4])
    for key in jax.random.split(jax.random.key(0), 20):
        sample = draw_negatives(key, in_batch, 3, ITEMS)
        counted = np.asarray(sample.items)[np.asarray(sample.log_weights) > -np.inf].tolist()
        assert len(counted) == len({*counted})
        assert {1, 4} <= {*counted}
        drawn = np.asarray(sample.log_weights)[3:]
        np.testing.assert_allclose(drawn[drawn > -np.inf], np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"softmax_samples": 0}, "softmax_samples=0; expected at least 1"),
        ({"retrieval": "sharded"}, "softmax_samples=3 with retrieval='sharded'"),
        ({"objective": "policy_gradient"}, "softmax_samples=3 has no effect with"),
    ],
)
def test_settings_that_cannot_be_sampled_are_refused(settings, message):
    data = from_interactions(LOG, test_count=1)
    with pytest.raises(ConfigError, match=message):
        prepare(rankpg.TrainConfig(**SETTINGS | {"softmax_samples": 3} | settings), data)


def test_encoder_of_logits_is_refused():
    encoder = Encoder(
        init=lambda key: jnp.zeros((USERS, ITEMS)),
        apply=lambda params, contexts: params[contexts][:, None],
    )
    config = rankpg.TrainConfig(**SETTINGS, softmax_samples=3, retrieval="dense")
    with pytest.raises(
        ConfigError, match="softmax_samples=3 computes logits from the items' embed"
    ):
        prepare(config, from_interactions(LOG, test_count=1), encoder=encoder)
