"""Encoders that start at given embeddings: their first logits are those of the embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_logs import ITEMS, USERS, log_data

from rankpg.data.ids import TableError
from rankpg.encoders import from_embeddings, history_of, starting_at, to_logits, towers_of
from rankpg.encoders.attention import attention_of
from rankpg.environments import from_matrix, paper_instance, with_embeddings
from rankpg.errors import ConfigError

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")
RNG = np.random.default_rng(0)
WIDTH = 6
VECTORS = RNG.normal(size=(ITEMS, WIDTH)).astype(np.float32)
TASTES = RNG.normal(size=(USERS, WIDTH)).astype(np.float32)
CONTEXTS = jnp.array([3, 0, 7], jnp.int32)


@pytest.fixture(scope="module")
def data():
    return log_data()


def given(data):
    """Embeddings in another order than that of the dataset, with their ids."""
    items, users = np.arange(ITEMS)[::-1], np.roll(np.arange(USERS), 5)
    return {
        "items": VECTORS[items],
        "item_ids": data.item_ids.ids[items],
        "users": TASTES[users],
        "user_ids": data.context_ids.ids[users],
    }


def first_logits(encoder, environment, contexts=CONTEXTS):
    params = encoder.init(jax.random.key(0))
    return np.asarray(to_logits(encoder.encode(params, environment, contexts)))


@pytest.mark.parametrize("experts", [1, 3])
def test_logits_of_tables_are_the_given_inner_products(data, experts):
    encoder = from_embeddings(data, given(data), num_experts=experts)
    found = first_logits(encoder, data.environment)
    assert found.shape == (3, experts, ITEMS)
    expected = TASTES[[3, 0, 7]] @ VECTORS.T
    expected = np.tile(expected[:, None], (1, experts, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_seed_starts_at_the_embeddings_under_jit(data):
    encoder = from_embeddings(data, given(data))
    params = jax.jit(jax.vmap(encoder.init))(jax.random.split(jax.random.key(1), 2))
    for leaf, rows in zip(jax.tree.leaves(params), (TASTES, VECTORS), strict=True):
        np.testing.assert_array_equal(leaf, np.tile(rows, (2, 1, 1, 1)))


def cosines(data, contexts, vectors, length=4):
    """Logits of the history tower at its start, by its formula."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    histories = np.asarray(data.environment.histories(contexts, length))
    weights = np.exp(np.linspace(-2, 0, length))
    logits = []
    for history in histories:
        own = history >= 0
        pooled = weights[own] @ vectors[history[own]]
        logits.append(np.exp(3) * unit @ pooled / np.linalg.norm(pooled))
    return np.array(logits)


@pytest.mark.slow
def test_history_tower_starts_at_the_items(data):
    encoder = from_embeddings(data, given(data), context_tower="history", history_length=4)
    expected = cosines(data, CONTEXTS, VECTORS)
    np.testing.assert_allclose(
        first_logits(encoder, data.environment)[:, 0], expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_tags_do_not_change_the_start():
    items = {"item": 100 + np.arange(ITEMS), "genre": np.arange(ITEMS) % 3}
    tagged = log_data(items=items)
    encoder = from_embeddings(tagged, given(tagged), context_tower="history", history_length=4)
    expected = cosines(tagged, CONTEXTS, VECTORS)
    found = first_logits(encoder, tagged.environment)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    random = history_of(tagged.environment, WIDTH, length=4)
    (tags,) = jax.tree.leaves(random.init(jax.random.key(0))["tags"])
    assert np.abs(tags).min() > 0  # without embeddings they are drawn


@pytest.mark.parametrize("item_tower", ["adapter", "given"])
def test_adapters_start_at_the_embeddings(data, item_tower):
    world = with_embeddings(data, given(data)).environment
    encoder = towers_of(world, context_tower="adapter", item_tower=item_tower)
    expected = TASTES[[3, 0, 7]] @ VECTORS.T
    np.testing.assert_allclose(first_logits(encoder, world)[:, 0], expected, rtol=1e-5, atol=1e-5)
    features = jax.tree.leaves(encoder.init(jax.random.key(0)))
    assert not any(leaf.shape[-2:] in (VECTORS.shape, TASTES.shape) for leaf in features)


@pytest.mark.parametrize("item_tower", ["adapter", "given"])
def test_history_over_an_adapter_starts_at_the_embeddings(data, item_tower):
    own = {name: rows for name, rows in given(data).items() if not name.startswith("user")}
    world = with_embeddings(data, own).environment
    assert world.context_features is None
    encoder = history_of(world, length=4, item_tower=item_tower, dropout=0.5)
    params = encoder.init(jax.random.key(0))
    names = {str(path[0].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names == {"place", "log_scale"} | ({"items"} if item_tower == "adapter" else set())
    expected = cosines(data, CONTEXTS, VECTORS)
    np.testing.assert_allclose(first_logits(encoder, world)[:, 0], expected, rtol=1e-4, atol=1e-4)
    noise = jax.random.key(1)
    noisy = to_logits(encoder.encode(params, world, CONTEXTS, noise))
    assert not np.allclose(noisy[:, 0], expected, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("item_tower", ["adapter", "given"])
def test_attention_over_an_adapter_starts_with_the_embeddings_of_items(data, item_tower):
    world = with_embeddings(data, given(data), sides=("item",)).environment
    encoder = attention_of(world, length=4, num_heads=2, item_tower=item_tower)
    params = encoder.init(jax.random.key(0))
    names = {str(path[0].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names == {"towers", "log_scale"} | ({"items"} if item_tower == "adapter" else set())
    found = encoder.encode(params, world, CONTEXTS)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(found.items[0], unit, rtol=1e-4, atol=1e-5)
    table = attention_of(world, WIDTH, length=4, num_heads=2)
    start = starting_at(table, {"table": VECTORS}).init(jax.random.key(0))
    start["towers"] = params["towers"]
    expected = table.encode(start, world, CONTEXTS).contexts
    np.testing.assert_allclose(found.contexts, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"width 6, with item_tower='.*attention_heads=4"):
        attention_of(world, 8, num_heads=4, item_tower=item_tower)


@pytest.mark.slow
@pytest.mark.parametrize("build", [history_of, attention_of])
def test_perceptron_of_a_history_has_the_given_width(data, build):
    world = with_embeddings(data, given(data), sides=("item",)).environment
    encoder = build(world, 5, length=4, item_tower="features")
    found = encoder.encode(encoder.init(jax.random.key(0)), world, CONTEXTS)
    assert (found.contexts.shape, found.items.shape) == ((3, 1, 5), (1, ITEMS, 5))


def test_rows_of_an_environment_are_their_ids():
    world = from_matrix(np.eye(4)).environment
    found = from_embeddings(world, np.eye(4, 2), np.ones((4, 2)))
    expected = np.tile(np.eye(4, 2).sum(axis=1), (2, 1))
    np.testing.assert_array_equal(first_logits(found, world, jnp.arange(2))[:, 0], expected)


def test_missing_contexts_are_named(data):
    items = {name: given(data)[name] for name in ("items", "item_ids")}
    with pytest.raises(ConfigError, match=r"has none of the contexts; .*context_tower='history'"):
        from_embeddings(data, items)


def test_missing_items_take_the_declared_policy(data):
    some = {**given(data), "items": VECTORS[:5], "item_ids": data.item_ids.ids[:5]}
    with pytest.raises(TableError, match="25 of 30 items have no embedding, such as 105, 106, 107"):
        from_embeddings(data, some)
    logits = first_logits(from_embeddings(data, some, init_missing="mean"), data.environment)
    expected = TASTES[[3, 0, 7]] @ VECTORS[:5].mean(axis=0)
    np.testing.assert_allclose(logits[:, 0, 5:], np.tile(expected[:, None], 25), rtol=1e-4)


def test_other_towers_and_shapes_are_refused(data):
    with pytest.raises(
        ConfigError, match=r"context_tower='adapter' .*environments.with_embeddings"
    ):
        from_embeddings(data, given(data), context_tower="adapter")
    encoder = towers_of(data.environment, 5)
    with pytest.raises(ConfigError, match=r"items.table have shape \[30, 6\]; expected \[30, 5\]"):
        starting_at(encoder, {"items.table": VECTORS})


def test_features_of_an_environment_are_not_replaced(data):
    with pytest.raises(ConfigError, match="Synthetic has item_features already"):
        with_embeddings(paper_instance(), np.ones((1000, 3)))
    with pytest.raises(ConfigError, match="has no item_features; add them"):
        history_of(data.environment, item_tower="adapter")
