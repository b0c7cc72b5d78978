"""Every retrieval of the table implements the interface: sample, rescore, greedy, peak_bytes, sharding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.streaming import Masks, random_towers

from rankpg.core.estimators import Candidates
from rankpg.core.sampling import greedy_candidates
from rankpg.encoders import to_logits
from rankpg.retrieval import RETRIEVALS, Retrieval
from rankpg.retrieval.choice import SAME_DRAW, RetrievalSettings
from rankpg.retrieval.sharding import Sharding

BATCH, ITEMS, QUOTAS = 3, 37, (4, 2)
CONTEXTS = jnp.arange(BATCH, dtype=jnp.int32)


def built(name: str) -> Retrieval:
    mesh = (1, 1) if name == "sharded" else None
    return RETRIEVALS[name](RetrievalSettings(ITEMS, sum(QUOTAS), mesh), "a reason")


@pytest.fixture(params=RETRIEVALS)
def retrieval(request) -> Retrieval:
    return built(request.param)


@pytest.fixture(scope="module")
def world():
    where = np.random.default_rng(0).random((BATCH, ITEMS)) < 0.7
    return Masks(jnp.asarray(where))


@pytest.fixture(scope="module")
def towers():
    return random_towers(1, BATCH, len(QUOTAS), ITEMS, 4)


def sampled(retrieval, towers, world, keys, statistics="greedy") -> Candidates:
    sample = jax.jit(
        lambda keys: retrieval.sample(keys, towers, CONTEXTS, world, QUOTAS, statistics)
    )
    return sample(keys(BATCH))


def test_name_and_reason(retrieval):
    assert RETRIEVALS[retrieval.name] is not None
    assert type(built(retrieval.name)) is type(retrieval)
    assert retrieval.reason == "a reason"


@pytest.mark.slow
def test_sample_draws_distinct_eligible_items(retrieval, towers, world, keys):
    found = sampled(retrieval, towers, world, keys)
    assert found.items.shape == (BATCH, sum(QUOTAS))
    assert all(len(set(row)) == sum(QUOTAS) for row in found.items.tolist())
    assert np.take_along_axis(np.asarray(world.where), np.asarray(found.items), axis=1).all()
    assert found.sound.all()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RETRIEVALS))
def test_rescore_repeats_the_statistics_of_sample(name, towers, world, keys):
    retrieval = built(name)
    drawn = sampled(retrieval, towers, world, keys)
    again = jax.jit(
        lambda items: retrieval.rescore(items, towers, CONTEXTS, world, QUOTAS, "greedy")
    )(drawn.items)
    jax.tree.map(np.testing.assert_array_equal, again, drawn)


def test_rescore_rejects_statistics_of_the_noise(retrieval, towers, world):
    items = jnp.zeros((BATCH, sum(QUOTAS)), jnp.int32)
    with pytest.raises(ValueError, match="cannot be rescored"):
        retrieval.rescore(items, towers, CONTEXTS, world, QUOTAS, "arrivals")


def test_greedy_takes_the_most_probable_eligible_items(retrieval, towers, world):
    logits = to_logits(towers)
    further = jnp.arange(ITEMS) % 5 > 0

    def logits_of(context):
        return logits[context]

    items, available = jax.jit(
        lambda: retrieval.greedy(logits_of, CONTEXTS, world, QUOTAS, further)
    )()
    for context in range(BATCH):
        where = world.where[context] & further
        masked = jnp.where(where[None], logits[context], -jnp.inf)
        np.testing.assert_array_equal(items[context], greedy_candidates(masked, QUOTAS))
        assert int(available[context]) == int(where.sum())


def test_peak_bytes_grow_with_the_batch(retrieval):
    few, many = (retrieval.peak_bytes(b, len(QUOTAS), ITEMS, sum(QUOTAS)) for b in (8, 16))
    assert 0 < few < many


def test_sharding_keeps_a_state_of_n_items(retrieval):
    sharding = retrieval.sharding
    assert isinstance(sharding, Sharding)
    assert sharding.rows_per_device(ITEMS) >= ITEMS
    state = {"items": {"table": np.ones((1, ITEMS, 3))}, "step": np.zeros(1)}
    back = sharding.gather(sharding.put(state))
    jax.tree.map(np.testing.assert_array_equal, back, state)
    shapes = jax.tree.map(lambda x: x.shape, sharding.gathered_shapes(state))
    assert shapes == {"items": {"table": (1, ITEMS, 3)}, "step": (1,)}


@pytest.mark.slow
def test_same_draw_names_the_retrievals_that_draw_alike(towers, world, keys):
    drawn = {
        name: sampled(built(name), towers, world, keys, "candidates").items.tolist()
        for name in RETRIEVALS
    }
    for name, items in drawn.items():
        assert (items == drawn["streamed"]) == (name in SAME_DRAW)


def test_a_retrieval_without_peak_bytes_cannot_be_built():
    class Partial(Retrieval):
        def sample(self, *arguments):
            raise NotImplementedError

        rescore = sample

    with pytest.raises(TypeError, match="peak_bytes"):
        Partial()
