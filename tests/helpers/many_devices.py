"""Checks that `test_sharded.py` runs on several devices: `python many_devices.py NAME ARGUMENT...`.

The number of devices is fixed when JAX starts, so each check is a process; XLA_FLAGS says how many.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from streaming import Masks

from rankpg import TrainConfig
from rankpg._utils.distributed import is_writer, join_processes
from rankpg.core.estimators import ESTIMATORS, swaps_of
from rankpg.core.quotas import expert_quotas
from rankpg.retrieval.layout import Layout
from rankpg.retrieval.sharded import Sharded
from rankpg.retrieval.sharding import MeshSharding, shard_of
from rankpg.retrieval.streamed import Streamed
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare
from rankpg.runs.storage.folder import RunFolder
from rankpg.training.update import seed_keys, train_chunk
from rankpg.types import Embeddings

BATCH, CANDIDATES = 8, 7


def equal(batch: int, items: int, cases: list) -> None:
    """Sharded and streamed return the same items, orders, scores and gradients. 37 is a prime."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_enable_x64", True)
    grid = np.array(jax.devices()[: batch * items]).reshape(batch, items)
    for estimator, experts, masked, eligible in cases:
        _equal(Mesh(grid, ("batch", "items")), estimator, experts, masked, eligible)


def _equal(mesh, name, experts, masked, eligible):
    layout, rng, estimator = Layout(37, 12, 3), np.random.default_rng(1), ESTIMATORS[name]
    towers = Embeddings(
        contexts=jnp.asarray(2 * rng.normal(size=(BATCH, experts, 4))),
        items=jnp.asarray(rng.normal(size=(experts, 37, 4))),
    )
    where = rng.permuted(np.arange(37) < eligible + np.zeros((BATCH, 1)), axis=1)
    world = Masks(jnp.asarray(where) if masked else None)
    quotas, keys = (
        expert_quotas(CANDIDATES, experts),
        jax.random.split(jax.random.key(3), BATCH),
    )
    contexts = jnp.arange(BATCH, dtype=jnp.int32)
    weights = jnp.asarray(rng.normal(size=(BATCH, CANDIDATES if estimator.by_swaps else 2)))
    shard = shard_of(mesh, 37, CANDIDATES, layout)

    def run(retrieval):
        def loss(towers):
            found = retrieval.sample(keys, towers, contexts, world, quotas, estimator.statistics)
            shown = found.items[:, jnp.array([0, 5])]
            scores = jax.vmap(lambda c, s: estimator.score(c, s, quotas))(found, shown)
            return jnp.sum(weights * scores), (scores, found)

        return jax.jit(jax.grad(loss, has_aux=True))(towers)

    (gradient, (scores, found)), (wanted, (expected, known)) = (
        run(retrieval) for retrieval in (Sharded(MeshSharding(mesh, shard)), Streamed(layout))
    )
    for field in ("items", "order", "sound"):
        np.testing.assert_array_equal(getattr(found, field), getattr(known, field), err_msg=field)
    np.testing.assert_array_equal(found.sparse_logits.items, known.sparse_logits.items)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(found.sparse_logits.log_rest, known.sparse_logits.log_rest, **close)
    np.testing.assert_allclose(found.perturbed, known.perturbed, **close)
    np.testing.assert_allclose(scores, expected, **close)
    if estimator.by_swaps:
        swaps, wanted_swaps = (
            jax.vmap(lambda c: swaps_of(c, quotas))(each) for each in (found, known)
        )
        for ours, theirs in zip(*map(jax.tree.leaves, (swaps, wanted_swaps)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(gradient.items, wanted.items, **close)
    np.testing.assert_allclose(gradient.contexts, wanted.contexts, **close)


def unsound(batch: int, items: int) -> None:
    """A NaN on one device makes the candidates of every context unsound."""
    mesh = Mesh(np.array(jax.devices()[: batch * items]).reshape(batch, items), ("batch", "items"))
    logits = jnp.zeros((1, 37, 1)).at[0, 30].set(jnp.nan)
    towers = Embeddings(contexts=jnp.ones((BATCH, 1, 1)), items=logits)
    keys = jax.random.split(jax.random.key(0), BATCH)
    shard = shard_of(mesh, 37, 3, Layout(37, 12, 3))
    given = keys, towers, jnp.arange(BATCH, dtype=jnp.int32), Masks(None), (3,), "candidates"
    retrieval = Sharded(MeshSharding(mesh, shard))
    assert not jax.jit(lambda: retrieval.sample(*given).sound)().any()


def train(out: str, settings: dict, *place: str) -> None:
    """Trains into a folder, or goes on with its checkpoint, and saves the final state as NumPy arrays."""
    if place:
        join_processes(place)
    fixed = {
        "num_items": 37, "num_contexts": 6, "num_candidates": 4, "batch_size": 8, "eval_every": 10,
        "seeds": (0,),
    }  # fmt: skip
    run, folder = prepare(TrainConfig(**{**fixed, **settings})), RunFolder(out)
    (folder.resume if (folder.path / "checkpoint").exists() else folder.open)(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
    folder.close(run)
    rows = run.policy.retrieval.sharding.rows_per_device(37)
    held = {
        shard.data.shape[-2]
        for path, leaf in jax.tree_util.tree_flatten_with_path(run.state)[0]
        if "['items']['table']" in jax.tree_util.keystr(path)
        for shard in leaf.addressable_shards
    }
    assert held <= {rows}, (held, rows)
    # NumPy writes no bfloat16.
    state = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(run.state_of_hosts())]
    if is_writer():
        np.savez(Path(out) / "state.npz", *state)


def spread(batch: int, items: int) -> None:
    """The compiled training step holds a whole item table on no device."""
    config = TrainConfig(
        num_items=10_001, embedding_dim=64, num_contexts=20, num_candidates=5, batch_size=8, seeds=(0,),
        estimator="ca_pg", retrieval="sharded", mesh=(batch, items),
    )  # fmt: skip
    run = prepare(config)
    roots = run.copies(seed_keys(run.config.seeds, "steps"))
    chunk = train_chunk(run.learner, 2).lower(run.learner, run.state, roots).compile()
    rows = [int(n) for n in re.findall(r"f32\[(?:\d+,)*(\d+),64\]", chunk.as_text())]
    shard = run.policy.retrieval.sharding.shard
    assert max(rows) == shard.rows < 10_001 / items + 64, max(rows)


if __name__ == "__main__":
    globals()[sys.argv[1]](*(json.loads(word) for word in sys.argv[2:]))
