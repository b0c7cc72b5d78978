"""The order of moments: every one of them once in an epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.training.moment_sampler import MomentSampler, shuffled


def order(key, count):
    return np.asarray(
        jax.vmap(lambda index: shuffled(key, index, count))(jnp.arange(count, dtype=jnp.int32))
    )


def batches(sampler, steps, key):
    return np.asarray(
        jax.vmap(lambda step: sampler(key, step))(jnp.arange(*steps, dtype=jnp.int32))
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 64, 65, 1000, 70_001])
def test_an_order_holds_every_index_once(count):
    assert sorted(order(jax.random.key(count), count)) == list(range(count))


def test_orders_of_two_keys_have_nothing_in_common():
    one, other = (order(jax.random.key(seed), 4001) for seed in (0, 1))
    assert np.mean(one == other) < 0.002
    for x in (one, other):
        assert abs(np.corrcoef(x, np.arange(4001))[0, 1]) < 0.06
        # the mean distance of two uniform numbers is a third of their range
        assert np.mean(np.abs(np.diff(x))) / 4001 == pytest.approx(1 / 3, abs=0.02)


def test_every_pair_of_places_is_about_equally_likely():
    keys = jax.random.split(jax.random.key(5), 6000)
    found = np.asarray(
        jax.vmap(
            lambda key: jax.vmap(lambda i: shuffled(key, i, 5))(jnp.arange(2, dtype=jnp.int32))
        )(keys)
    )
    counts = np.bincount(found[:, 0] * 5 + found[:, 1], minlength=25).reshape(5, 5)
    assert (counts.diagonal() == 0).all()
    assert counts[~np.eye(5, dtype=bool)] == pytest.approx(300, rel=0.35)


def test_every_moment_comes_once_in_an_epoch():
    sampler = MomentSampler(4, (0, 12), (0, 12), switch=5)
    drawn = batches(sampler, (0, 6), jax.random.key(0)).reshape(2, 12)
    for epoch in drawn:
        assert sorted(epoch) == list(range(12))
    assert (drawn[0] != drawn[1]).any()


def test_what_is_left_over_differs_from_epoch_to_epoch():
    sampler = MomentSampler(4, (0, 11), (0, 11), switch=0)
    drawn = batches(sampler, (0, 80), jax.random.key(0)).reshape(40, 8)
    left = [set(range(11)) - set(epoch) for epoch in drawn]
    assert {len(some) for some in left} == {3}
    assert set().union(*left) == set(range(11))


def test_a_batch_that_is_wider_than_its_range_repeats_it():
    sampler = MomentSampler(500, (0, 5), (5, 7), 3)
    counts = np.bincount(sampler(jax.random.key(0), jnp.int32(2)), minlength=7)
    assert counts.tolist() == [100] * 5 + [0, 0]
    counts = np.bincount(sampler(jax.random.key(0), jnp.int32(3)), minlength=7)
    assert counts.tolist() == [0] * 5 + [250, 250]


@pytest.mark.slow
def test_the_later_range_begins_its_first_epoch_at_the_switch():
    sampler = MomentSampler(3, (0, 30), (30, 36), switch=5)
    drawn = batches(sampler, (5, 7), jax.random.key(0))
    assert sorted(drawn.ravel()) == list(range(30, 36))


def test_seeds_have_orders_of_their_own():
    sampler = MomentSampler(64, (0, 1000), (0, 1000), switch=0)
    one, other = (sampler(jax.random.key(seed), jnp.int32(0)) for seed in (0, 1))
    assert len(np.intersect1d(one, other)) < 20
