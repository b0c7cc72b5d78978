"""Experts and their slots: choosing in turn from short orders is choosing from whole ones."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

from rankpg.core.sampling import (
    arrivals,
    block_width,
    drop_taken,
    fill_quotas,
    greedy_candidates,
    greedy_in_turn,
    greedy_order,
    order_depth,
    sample_candidates,
    take_quotas,
)

QUOTAS = [(3,), (2, 2), (1, 3), (3, 1, 2), (1, 1, 1, 1), (2, 0, 2), (4, 5), (9,)]


def choose(logits: np.ndarray, quotas, excluded=None) -> list[int]:
    """One pick after the other, -1 where nothing is left."""
    taken, picks = {excluded}, []
    for row, quota in zip(logits, quotas, strict=True):
        for _ in range(quota):
            left = [i for i in np.argsort(-row, kind="stable").tolist() if i not in taken]
            picks.append(left[0] if left else -1)
            taken.add(picks[-1])
    return picks


@pytest.mark.parametrize("quotas", QUOTAS, ids=str)
def test_short_orders_hold_the_quotas_without_any_one_item_too(quotas):
    """Nine items, every item left out, experts that agree wholly, nearly or not at all."""
    random, depth = np.random.default_rng(sum(quotas)), order_depth(9, quotas)

    @jax.jit
    def answers(logits):
        short = greedy_in_turn(logits, quotas)
        whole = greedy_order(logits, min(9, sum(quotas) + 1))
        left, places = drop_taken(whole, quotas, depth)
        filled = [
            (
                fill_quotas(order, quotas)[0],
                jax.vmap(lambda item, o=order: fill_quotas(o, quotas, item)[0])(jnp.arange(9)),
            )
            for order in (short, whole, left)
        ]
        return short, whole, left, places, filled

    common = random.permutation(9).astype(float)
    kinds = {
        "distinct": lambda: random.normal(size=(len(quotas), 9)),
        "alike": lambda: np.tile(common, (len(quotas), 1)),
        "close": lambda: common + random.normal(size=(len(quotas), 9)),
        "masked": lambda: np.where(random.random((len(quotas), 9)) < 0.3, -np.inf, common),
        "nearly all masked": lambda: np.where(
            random.random((len(quotas), 9)) < 0.8, -np.inf, common
        ),
    }
    for kind in 20 * list(kinds):
        logits = kinds[kind]()
        short, whole, left, places, filled = answers(logits)
        assert short.shape == (len(quotas), depth)
        assert take_quotas(short, quotas).tolist() == choose(logits, quotas), kind
        for picks, without in filled:
            assert picks.tolist() == choose(logits, quotas), kind
            assert without.tolist() == [choose(logits, quotas, item) for item in range(9)], kind
        there = np.asarray(places) < whole.shape[1]
        held = np.take_along_axis(np.asarray(whole), np.where(there, places, 0), axis=1)
        np.testing.assert_array_equal(np.where(there, held, -1), left)


def test_one_entry_less_would_not_do():
    """What the test above would notice."""
    logits = np.tile(np.arange(9.0), (2, 1))
    order = greedy_in_turn(jnp.asarray(logits), (2, 2))[:, :2]
    picks, _ = fill_quotas(order, (2, 2), excluded=jnp.int32(8))
    assert picks.tolist() != choose(logits, (2, 2), 8)


def test_very_small_logits_keep_their_order_and_come_before_masked_ones(key):
    masked = jnp.array([[0.0, -1, -2, -3], [0, -jnp.inf, -2e30, -1.5e30]])
    low = jnp.array([[-2e30, -1.5e30, -1.2e30], [-1.2e30, -1.5e30, -2e30]])
    assert greedy_candidates(masked, (1, 2)).tolist() == [0, 3, 2]
    assert greedy_candidates(low, (1, 1)).tolist() == [2, 0]
    assert sample_candidates(key, masked.at[0, 1:].set(-90.0), (1, 2)).tolist() == [0, 3, 2]


def test_an_arrival_is_never_of_a_masked_item_alone(key):
    """An item that weighs next to nothing has an arrival, late as it is; a masked one has none."""
    logits = jnp.array([[0.0, -1e30, -1.5e30, -jnp.inf]])
    for experts, quotas in ((1, (3,)), (2, (1, 3))):
        order, perturbed = arrivals(key, jnp.tile(logits, (experts, 1)), quotas)
        last = dict(zip(order[-1].tolist(), perturbed[-1].tolist(), strict=True))
        assert last[3] == -np.inf
        assert np.isfinite([last[1], last[2]]).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_where_too_few_are_eligible_none_is_taken_twice(dtype):
    logits = jnp.array([[0, -1, -jnp.inf, -jnp.inf]] * 2, dtype)
    taken = jax.jit(greedy_candidates, static_argnums=1)(logits, (2, 2))  # at compile time no door
    assert sorted(taken.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("quotas", [(1, 1), (0, 2)])
def test_experts_that_race_in_turn_have_the_law_of_one_pick_after_the_other(key, quotas):
    """60 items, so that the block race is taken."""
    logits = np.random.default_rng(0).normal(size=(2, 60), scale=2.0)
    logits[:, 5] = -np.inf
    assert block_width(60, order_depth(60, quotas)) > 1

    @jax.jit
    def draw(keys):
        return jax.vmap(
            lambda k: take_quotas(arrivals(k, jnp.asarray(logits, jnp.float32), quotas)[0], quotas)
        )(keys)

    drawn = np.asarray(draw(jax.random.split(key, 40_000)))
    _, expected = oracle.probabilities(logits, quotas)
    assert oracle.chi_square_p_value(drawn, 60, expected) > 1e-4
    _, wrong = oracle.probabilities(logits[::-1], quotas)
    assert oracle.chi_square_p_value(drawn, 60, wrong) < 1e-4


def test_the_noise_of_experts_is_their_own(key):
    """Experts of equal logits would agree wherever noise is shared."""
    order, _ = arrivals(key, jnp.zeros((2, 1000)), (4, 4))
    assert not set(order[0].tolist()) & set(order[1, :4].tolist())
    firsts = jax.vmap(lambda k: arrivals(k, jnp.zeros((2, 50)), (1, 1))[0][:, 0])(
        jax.random.split(key, 2000)
    )
    pairs = {tuple(pair) for pair in firsts.tolist()}
    assert len(pairs) > 1000
    assert all(a != b for a, b in pairs)


def test_every_pair_of_two_items_comes_up(key):
    drawn = jax.vmap(lambda k: take_quotas(arrivals(k, jnp.zeros((2, 3)), (1, 1))[0], (1, 1)))(
        jax.random.split(key, 500)
    )
    assert {tuple(pair) for pair in drawn.tolist()} == set(itertools.permutations(range(3), 2))
