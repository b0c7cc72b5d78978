"""The history encoder, against its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rankpg.encoders import HistoryEncoder, to_logits

HISTORIES = np.array([[-1, 2, 0], [-1, -1, -1], [3, 1, 4]], np.int32)
TAGS = np.array([[0, 1], [1, -1], [-1, -1], [2, 0], [0, -1]], np.int32)


def encoder(num_tags=0, dropout=0.0, experts=2):
    return HistoryEncoder(5, 4, experts, 3, 0.5, dropout, num_tags, rngs=nnx.Rngs(params=0))


def by_formula(module, tags):
    vectors = np.array(module.table[...])
    if tags is not None:
        own = np.array(module.tags[...])
        for item, row in enumerate(tags):
            if (kept := row[row >= 0]).size:
                vectors[:, item] += own[:, kept].mean(axis=1)
    logits = np.zeros((3, 2, 5))
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for context, history in enumerate(HISTORIES):
        kept = np.flatnonzero(history >= 0)
        for m in range(2):
            if not len(kept):
                continue
            weights = np.exp(np.array(module.place[...])[m, kept])
            pooled = weights / weights.sum() @ vectors[m, history[kept]]
            pooled /= np.linalg.norm(pooled)
            logits[context, m] = np.exp(np.array(module.log_scale[...])[m]) * unit[m] @ pooled
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("tags", [None, TAGS])
def test_logits_by_their_formula(tags):
    module = encoder(num_tags=0 if tags is None else 3)
    given = None if tags is None else jnp.asarray(tags)
    found = to_logits(module(jnp.asarray(HISTORIES), given))
    np.testing.assert_allclose(found, by_formula(module, tags), atol=1e-5)


@pytest.mark.slow
def test_empty_history_has_equal_logits_and_a_finite_gradient():
    module = encoder()
    graph, params = nnx.split(module, nnx.Param)

    def loss(params):
        return to_logits(nnx.merge(graph, params)(jnp.asarray(HISTORIES[1:2])))[0, 0, 2]

    assert float(loss(params)) == 0
    slopes = jax.tree.leaves(jax.grad(loss)(params))
    assert all(np.isfinite(np.asarray(slope)).all() for slope in slopes)


@pytest.mark.slow
def test_dropout_needs_a_key_and_keeps_the_mean():
    module = encoder(dropout=0.5, experts=1)
    histories = jnp.asarray(HISTORIES[2:])
    still = module(histories).contexts
    np.testing.assert_array_equal(still, module(histories).contexts)
    keys = jax.random.split(jax.random.key(0), 400)
    noisy = jax.vmap(lambda key: module(histories, None, key).contexts)(keys)
    assert np.std(noisy) > 0
    direction = np.mean(noisy, axis=0).ravel()
    cosine = direction @ np.asarray(still).ravel() / np.linalg.norm(direction)
    assert cosine / np.linalg.norm(still) > 0.95
