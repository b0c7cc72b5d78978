"""bfloat16 tables and products: accumulation stays in float32, and so do the optimizer's moments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.streaming import Masks, random_towers

from rankpg import TrainConfig, train
from rankpg.core.estimators import ESTIMATORS
from rankpg.environments.from_ratings import from_matrix
from rankpg.retrieval.dense import Dense
from rankpg.retrieval.streamed import Streamed
from rankpg.training.optimizer import in_float32, make_optimizer, norm

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax


def in_bfloat16(towers):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), towers)


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", [Dense(), Streamed()], ids=lambda r: r.name)
def test_sums_over_bfloat16_embeddings_are_float32(key, retrieval):
    """Sparse logits are float32, with the digits of products that were rounded once."""
    towers = jax.tree.map(lambda x: x.astype(jnp.float32), random_towers(1, 2, 1, 50, 8))
    contexts, keys = jnp.arange(2, dtype=jnp.int32), jax.random.split(key, 2)

    def scores(towers):
        found = retrieval.sample(keys, towers, contexts, Masks(None), (5,), "greedy")
        score = jax.vmap(lambda c: ESTIMATORS["ca_pg"].score(c, c.items[:2], (5,)))(found)
        return jnp.sum(score), (score, found)

    rounded = in_bfloat16(towers)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    run = jax.jit(jax.grad(scores, has_aux=True))
    (slope, (narrow, found)), (expected_slope, (expected, same)) = run(rounded), run(wide)
    assert (
        found.sparse_logits.logits.dtype
        == found.sparse_logits.log_rest.dtype
        == narrow.dtype
        == jnp.float32
    )
    np.testing.assert_array_equal(found.items, same.items)
    np.testing.assert_allclose(narrow, expected, rtol=1e-5)
    assert slope.items.dtype == jnp.bfloat16
    error = jnp.linalg.norm(slope.items.astype(jnp.float32) - expected_slope.items)
    assert float(error / jnp.linalg.norm(expected_slope.items)) < 2e-2


def test_optimizer_moments_are_float32():
    params = {"x": jnp.ones(3, jnp.bfloat16)}
    slope = {"x": jnp.full(3, 0.5, jnp.bfloat16)}
    config = TrainConfig(optimizer="adam", learning_rate=1e-2, table_dtype="bfloat16")
    ours, theirs = make_optimizer(config), optax.adam(1e-2)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, slope))
    state, expected = ours.init(params), theirs.init(wide[0])
    for _ in range(3):
        updates, state = ours.update(slope, state, params)
        wanted, expected = theirs.update(wide[1], expected, wide[0])
    assert updates["x"].dtype == jnp.float32
    np.testing.assert_array_equal(updates["x"], wanted["x"])
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert in_float32(theirs).update(slope, ours.init(params))[0]["x"].dtype == jnp.float32


def test_norm_of_a_bfloat16_gradient_is_summed_in_float32():
    """A sum of ones in bfloat16 stops at 256."""
    assert float(norm({"x": jnp.ones(10_000, jnp.bfloat16)})) == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["dense", "streamed"])
def test_bfloat16_tables_learn(retrieval):
    rewards = np.random.default_rng(0).uniform(0, 1, (30, 40)).astype(np.float32)
    config = TrainConfig(
        num_candidates=4, batch_size=32, num_steps=600, eval_every=600, seeds=(0, 1), retrieval=retrieval,
        table_dtype="bfloat16", product_dtype="bfloat16",
    )  # fmt: skip
    run = train(config, from_matrix(rewards))
    assert {x.dtype for x in jax.tree.leaves(run.state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert np.mean([row["normalised_value"] for row in run.metrics[-2:]]) > 0.95
