"""The encoder by causal self-attention, against its formula in NumPy, and what it may depend on."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from rankpg.encoders import to_logits
from rankpg.encoders.attention import AttentionEncoder

NUM_ITEMS, DIM, EXPERTS, LENGTH, LAYERS, HEADS = 5, 4, 2, 3, 2, 2
HISTORIES = np.array([[-1, 2, 0], [-1, -1, -1], [3, 1, 4], [-1, -1, 1]], np.int32)
TAGS = np.array([[0, 1], [1, -1], [-1, -1], [2, 0], [0, -1]], np.int32)


def encoder(num_tags=0, dropout=0.0, experts=EXPERTS, dtype=jnp.float32):
    """An encoder of which no parameter is 0 or 1 in all its entries, as biases and norms are at first."""
    module = AttentionEncoder(
        NUM_ITEMS,
        DIM,
        experts,
        LENGTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        init_scale=0.5,
        dropout=dropout,
        num_tags=num_tags,
        dtype=dtype,
        rngs=nnx.Rngs(params=0),
    )
    graph, params = nnx.split(module, nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + (0.3 * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(structure, moved))


@pytest.fixture(scope="module")
def module():
    return encoder()


@partial(jax.jit, static_argnums=0)
def compiled(graph, params, *given):
    return nnx.merge(graph, params)(*given)


def encode(module, histories, *given):
    return compiled(*nnx.split(module, nnx.Param), jnp.asarray(histories), *given)


def norm(layer, x):
    scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    return scaled * layer["scale"] + layer["bias"]


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def attention(layer, rows):
    """The outputs at all places, by loops over heads, places and earlier places."""
    found = np.zeros((len(rows), DIM))
    for head in range(HEADS):
        queries, keys, values = (
            [row @ layer[name]["kernel"][:, head] + layer[name]["bias"][head] for row in rows]
            for name in ("query", "key", "value")
        )
        for place, query in enumerate(queries):
            weights = [np.exp(query @ keys[j] / np.sqrt(DIM / HEADS)) for j in range(place + 1)]
            mixed = sum(w * values[j] for j, w in enumerate(weights)) / sum(weights)
            found[place] += mixed @ layer["out"]["kernel"][head]
    return found + layer["out"]["bias"]


def output(tower, vectors):
    """The output at the last item of a history without padding."""
    hidden = [
        np.sqrt(DIM) * vector + tower["place"][LENGTH - len(vectors) + j]
        for j, vector in enumerate(vectors)
    ]
    for number in range(LAYERS):
        layer = tower[f"layer_{number}"]
        found = attention(layer["attention"], [norm(layer["norm"], row) for row in hidden])
        hidden = [row + more for row, more in zip(hidden, found, strict=True)]
        for place, row in enumerate(hidden):
            inner = np.maximum(affine(layer["inner"], norm(layer["norm_of_places"], row)), 0)
            hidden[place] = row + affine(layer["outer"], inner)
    return norm(tower["norm"], hidden[-1])


def by_formula(module, tags):
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    vectors = params["table"].copy()
    if tags is not None:
        for item, row in enumerate(tags):
            if (kept := row[row >= 0]).size:
                vectors[:, item] += params["tags"][:, kept].mean(axis=1)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    logits = np.zeros((len(HISTORIES), EXPERTS, NUM_ITEMS))
    for m in range(EXPERTS):
        tower = jax.tree.map(lambda leaf, m=m: leaf[m], params["towers"])
        for context, history in enumerate(HISTORIES):
            if not (items := history[history >= 0]).size:
                continue
            found = output(tower, vectors[m, items])
            scale = np.exp(params["log_scale"][m])
            logits[context, m] = scale * unit[m] @ found / np.linalg.norm(found)
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("tags", [None, TAGS])
def test_logits_by_the_formula_of_self_attention(tags):
    module = encoder(num_tags=0 if tags is None else 3)
    given = None if tags is None else jnp.asarray(tags)
    found = to_logits(encode(module, HISTORIES, given))
    np.testing.assert_allclose(found, by_formula(module, tags), atol=2e-4)


@pytest.mark.slow
def test_padding_changes_nothing(module):
    short, padded = jnp.array([[4, 2]]), jnp.array([[-1, 4, 2]])
    found = encode(module, padded).contexts
    np.testing.assert_allclose(encode(module, short).contexts, found, rtol=1e-4, atol=1e-4)
    outputs = module.at_places(padded)[:, :, 1:]
    np.testing.assert_allclose(module.at_places(short), outputs, rtol=1e-4, atol=1e-5)
    among_others = encode(module, [[3, 0, 1], [-1, 4, 2], [-1, -1, -1]]).contexts
    np.testing.assert_allclose(among_others[1:2], found, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_later_items_change_no_earlier_output(module):
    before, after = (module.at_places(jnp.array([[3, 1, last]])) for last in (4, 0))
    np.testing.assert_array_equal(before[:, :, :2], after[:, :, :2])
    assert np.abs(np.asarray(before[:, :, 2] - after[:, :, 2])).max(axis=-1).min() > 1e-2


@pytest.mark.slow
def test_the_last_place_alone_is_that_of_all_places(module):
    histories = jnp.asarray(HISTORIES[2:])
    last = module.at_places(histories)[:, :, -1]
    unit = np.asarray(last) / np.linalg.norm(last, axis=-1, keepdims=True)
    scale = np.exp(np.asarray(module.log_scale[...]))[:, None, None]
    found = np.swapaxes(encode(module, histories).contexts, 0, 1)
    np.testing.assert_allclose(found, scale * unit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("history", [[1, 3, 4], [3, 4, 1]])
def test_order_of_items_changes_the_embedding(module, history):
    first, second = (encode(module, [items]).contexts for items in ([3, 1, 4], history))
    cosine = jnp.sum(first * second, axis=-1) / jnp.sum(first * first, axis=-1)
    assert float(jnp.max(cosine)) < 0.999


@pytest.mark.slow
def test_empty_history_has_equal_logits_and_finite_gradients_of_attention(module):
    graph, params = nnx.split(module, nnx.Param)

    def loss(params, histories):
        return jnp.sum(to_logits(nnx.merge(graph, params)(histories))[..., 2])

    descend = jax.jit(jax.value_and_grad(loss))
    empty, slopes = descend(params, jnp.asarray(HISTORIES[1:2]))
    assert float(empty) == 0
    assert all(np.isfinite(np.asarray(slope)).all() for slope in jax.tree.leaves(slopes))
    # Beside a history of one item it adds nothing, so no NaN passes through a mask.
    gradients = (descend(params, jnp.asarray(HISTORIES[rows]))[1] for rows in ([3, 1], [3]))
    for both, alone in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(both, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_gradients_of_attention_by_differences():
    module = encoder(experts=1, dtype=jnp.float64)
    graph, params = nnx.split(module, nnx.Param)

    @jax.jit
    def logits(params):
        return to_logits(nnx.merge(graph, params)(jnp.asarray(HISTORIES)))

    # The layer norm sums in float32: with smaller steps, its rounding outgrows the difference.
    check_grads(logits, (params,), order=1, modes=["rev"], eps=1e-4, rtol=5e-4, atol=5e-4)


def test_dropout_of_attention_depends_on_its_key_alone():
    module = encoder(dropout=0.5)
    histories = jnp.asarray(HISTORIES[2:])
    still = encode(module, histories).contexts
    keys = map(jax.random.key, (0, 0, 1))
    one, again, other = (encode(module, histories, None, key).contexts for key in keys)
    np.testing.assert_array_equal(one, again)
    for different in (still, other):  # in every history and expert
        assert np.abs(np.asarray(one - different)).max(axis=-1).min() > 1e-2


def test_experts_are_towers_of_their_own(module):
    place = np.asarray(module.towers.place[...])
    kernel = np.asarray(module.towers.layer_0.attention.query.kernel[...])
    assert place.shape == (EXPERTS, LENGTH, DIM)
    assert kernel.shape == (EXPERTS, DIM, HEADS, DIM // HEADS)
    assert np.abs(kernel[0] - kernel[1]).min() > 0


@pytest.mark.slow
def test_bfloat16_parameters_give_finite_embeddings():
    embedded = encode(encoder(dtype=jnp.bfloat16), HISTORIES)
    assert embedded.contexts.dtype == embedded.items.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(embedded.contexts, np.float32)).all()


def test_more_heads_than_divide_the_embedding_are_refused():
    with pytest.raises(ValueError, match="divisible by 'num_heads'"):
        AttentionEncoder(5, 4, 1, 3, num_heads=3, rngs=nnx.Rngs(params=0))
