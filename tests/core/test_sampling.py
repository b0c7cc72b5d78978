"""Candidates: drawn with the probabilities of the policy, greedily, and expert after expert."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, LEVEL, masked, normal, p_value, slow

import rankpg
from rankpg.core.sampling import (
    arrivals,
    block_width,
    drop_taken,
    fill_quotas,
    greedy_in_turn,
    greedy_order,
    order_depth,
    take_quotas,
)

POLICIES = {
    "one expert": (normal(0, 1, 5), (3,)),
    "one expert, peaked": (normal(1, 1, 5, sd=4), (3,)),
    "one expert, masked": (masked(normal(2, 1, 5), (0, 1)), (3,)),
    "one expert, ties": (np.zeros((1, 5)), (3,)),
    "one expert, all items": (normal(3, 1, 4), (4,)),
    "two experts": (normal(4, 2, 5), (2, 1)),
    "two experts, peaked": (normal(5, 2, 5, sd=4), (2, 1)),
    "two experts, masked apart": (masked(normal(6, 2, 5), (0, 1), (1, 3)), (2, 1)),
    "two experts, the first idle": (normal(7, 2, 5), (0, 2)),
    "three experts": (normal(8, 3, 6), (2, 1, 2)),
    "three experts, the middle one idle": (normal(9, 3, 4), (1, 0, 1)),
    "three experts, masked, peaked": (masked(normal(10, 3, 5, sd=4), (0, 2), (1, 2)), (1, 1, 1)),
}
SLOW = ("two experts, the first idle", "three experts")
BATCH = 20_000


# --- the law of a draw ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=2)
def draw_batch(keys, logits, quotas):
    return jax.vmap(lambda k: rankpg.sample_candidates(k, logits, quotas))(keys)


def draw(key, logits, quotas, num_draws) -> np.ndarray:
    """Draws int[n, K], n >= num_draws, by one compiled program for every number."""
    batches = -(-num_draws // BATCH)
    keys = jax.random.split(key, (batches, BATCH))
    return np.concatenate([draw_batch(some, logits, quotas) for some in keys])


def draws_needed(logits, quotas) -> int:
    """Enough to detect a temperature that is off by 10 %; 50,000 where it has no effect."""
    if not logits.any():
        return 50_000
    _, expected = oracle.probabilities(logits, quotas)
    _, warmer = oracle.probabilities(logits / 1.1, quotas)
    return oracle.draws_for_power(expected, warmer, LEVEL)


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in POLICIES])
def test_draws_have_the_probabilities_of_the_policy(key, name):
    logits, quotas = POLICIES[name]
    drawn = draw(key, jnp.asarray(logits, jnp.float32), quotas, draws_needed(logits, quotas))
    assert drawn.dtype == np.int32
    assert drawn.shape[1] == sum(quotas)
    assert p_value(drawn, logits, quotas) > LEVEL


def gumbel(key, shape) -> np.ndarray:
    return np.asarray(jax.random.gumbel(key, shape, jnp.float64))


def with_replacement(key, logits, num_draws):
    noise = gumbel(key, (num_draws, 3, logits.shape[1]))
    return np.argmax(logits[0] + noise, axis=-1)


def without_repeats(drawn):
    return drawn[[len(set(row)) == len(row) for row in drawn.tolist()]]


def plain_gumbel_top_k(key, logits, num_draws, temperature=1.0):
    noise = gumbel(key, (num_draws, logits.shape[1]))
    return np.argsort(-(logits[0] / temperature + noise), axis=-1)[:, :3]


WRONG_SAMPLERS = {
    "with replacement": with_replacement,
    "with replacement, repeats rejected": lambda *a: without_repeats(with_replacement(*a)),
    "the first two swapped": lambda *a: plain_gumbel_top_k(*a)[:, [1, 0, 2]],
    "ten per cent too cold": lambda *a: plain_gumbel_top_k(*a, temperature=1 / 1.1),
    "ten per cent too warm": lambda *a: plain_gumbel_top_k(*a, temperature=1.1),
}


@pytest.mark.parametrize("sampler", WRONG_SAMPLERS.values(), ids=WRONG_SAMPLERS.keys())
def test_chi_square_rejects_a_wrong_sampler(key, sampler):
    logits, quotas = POLICIES["one expert"]
    drawn = sampler(key, logits, draws_needed(logits, quotas))
    assert p_value(drawn, logits, quotas) < LEVEL


def test_chi_square_accepts_a_right_sampler(key):
    logits, quotas = POLICIES["one expert"]
    drawn = plain_gumbel_top_k(key, logits, draws_needed(logits, quotas))
    assert p_value(drawn, logits, quotas) > LEVEL


def test_chi_square_rejects_experts_with_shared_noise(key):
    logits, quotas = POLICIES["two experts"]
    noise = gumbel(key, (draws_needed(logits, quotas), 1, 5))
    perturbed = logits + noise
    first = np.argsort(-perturbed[:, 0], axis=-1)[:, :2]
    np.put_along_axis(perturbed[:, 1], first, -INF, axis=-1)
    second = np.argmax(perturbed[:, 1], axis=-1)
    assert p_value(np.column_stack([first, second]), logits, quotas) < LEVEL


def test_chi_square_rejects_another_order_of_the_experts(key):
    logits, quotas = POLICIES["two experts"]
    num_draws = draws_needed(logits, quotas)
    other = draw(key, jnp.asarray(logits[::-1], jnp.float32), quotas, num_draws)
    assert p_value(other, logits, quotas) < LEVEL


def test_a_key_determines_the_draw(key):
    logits = jnp.asarray(normal(0, 2, 50), jnp.float32)
    sample = jax.jit(rankpg.sample_candidates, static_argnums=2)
    first = sample(key, logits, (3, 2))
    np.testing.assert_array_equal(first, sample(key, logits, (3, 2)))
    other = sample(jax.random.fold_in(key, 1), logits, (3, 2))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_extreme_logits_decide_the_draw(key, shift):
    """Gaps of 1e4 leave nothing to chance, at any level of the logits."""
    ranks = np.array([[3, 0, 4, 1, 2]])
    logits = jnp.asarray(-1e4 * ranks + shift, jnp.float32)
    drawn = draw(key, logits, (3,), 100)
    np.testing.assert_array_equal(drawn, np.tile(np.argsort(ranks[0])[:3], (BATCH, 1)))


def test_masked_items_are_never_drawn(key):
    logits = jnp.asarray([[0, -INF, 0, -INF, 0]], jnp.float32)  # as many eligible items as slots
    drawn = draw(key, logits, (3,), 500)
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile([0, 2, 4], (BATCH, 1)))


def test_bfloat16_logits_are_drawn_like_their_float32_values(key):
    """The noise is float32: on bfloat16's grid of 8 bits nearly all draws would be ties."""
    logits = jnp.asarray(normal(0, 1, 5), jnp.bfloat16)
    drawn = draw(key, logits, (3,), 40_000)
    assert p_value(drawn, np.asarray(logits, np.float64), (3,)) > LEVEL


# --- greedy candidates ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def greedy_batch(logits, quotas):
    return jax.vmap(lambda one: rankpg.greedy_candidates(one, quotas))(logits)


GREEDY = {
    # each expert prefers items of earlier experts and takes its next best
    "a cascade of picks": ([[4, 3, 2, 1, 0], [4, 3, 2, 1, 0], [4, 3, 2, 1, 0]], (2, 1, 2)),
    "ties go to the lower id": ([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]], (2, 2)),
    "ties with a taken item": ([[0, 2, 2, 0, 0], [0, 2, 2, 2, 0]], (1, 3)),
    "the first expert idle": ([[9, 0, 0, 0, 0], [0, 1, 2, 3, 4]], (0, 2)),
    "a mask in one expert only": ([[-INF, 1, 0, 0, 0], [5, 4, 3, 2, 1]], (1, 2)),
    "far apart": ([[1e4, -1e4, 0, 1e3, -1e3]], (5,)),
}


@pytest.mark.parametrize(("logits", "quotas"), GREEDY.values(), ids=GREEDY.keys())
def test_greedy_candidates_by_hand(logits, quotas):
    logits = np.array(logits, float)
    found = greedy_batch(jnp.asarray(logits, jnp.float32)[None], quotas)
    assert found.dtype == jnp.int32
    assert found.tolist() == [oracle.greedy_candidates(logits, quotas)]


@pytest.mark.parametrize("quotas", [slow((4,)), slow((2, 2)), (1, 0, 3)])
def test_greedy_candidates_of_many_policies_with_ties(quotas):
    random = np.random.default_rng(0)
    logits = random.integers(0, 4, size=(300, len(quotas), 6)).astype(float)
    logits[:150, -1, random.integers(0, 6, 150)] = -INF
    found = greedy_batch(jnp.asarray(logits), quotas)
    assert found.tolist() == [oracle.greedy_candidates(one, quotas) for one in logits]


def test_greedy_candidates_are_the_likeliest_tuple_of_one_expert():
    logits, quotas = POLICIES["one expert, peaked"]
    chosen, p = oracle.probabilities(logits, quotas)
    found = greedy_batch(jnp.asarray(logits)[None], quotas)[0]
    np.testing.assert_array_equal(found, chosen[np.argmax(p)])


GREEDY_ORDER = jax.jit(greedy_order, static_argnums=1)


@pytest.mark.parametrize(("num_items", "depth"), [(997, 6), (40, 20), slow(1000, 11), slow(333, 5)])
@pytest.mark.parametrize("kind", ["distinct", "many ties", "all alike", "nearly all masked"])
def test_greedy_order_by_blocks_is_that_of_the_whole_row(num_items, depth, kind):
    """Ties go to the lower id, across blocks too."""
    random = np.random.default_rng(num_items)
    logits = {
        "distinct": random.normal(size=(2, num_items)),
        "many ties": random.integers(0, 3, (2, num_items)).astype(float),
        "all alike": np.zeros((2, num_items)),
        "nearly all masked": np.where(random.random((2, num_items)) < 0.98, -INF, 1.0),
    }[kind]
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :depth]
    np.testing.assert_array_equal(GREEDY_ORDER(jnp.asarray(logits), depth), expected)


# --- experts in turn --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slots", "experts", "quotas"),
    [(10, 1, (10,)), (10, 4, (3, 3, 2, 2)), (3, 3, (1, 1, 1)), (2, 3, (1, 1, 0)), (1, 1, (1,))],
)
def test_expert_quotas(slots, experts, quotas):
    assert rankpg.expert_quotas(slots, experts) == quotas


def choose(logits: np.ndarray, quotas, excluded=None) -> list[int]:
    """One pick after the other; -1 where no item remains."""
    taken, picks = {excluded}, []
    for row, quota in zip(logits, quotas, strict=True):
        for _ in range(quota):
            remaining = [i for i in np.argsort(-row, kind="stable").tolist() if i not in taken]
            picks.append(remaining[0] if remaining else -1)
            taken.add(picks[-1])
    return picks


QUOTAS = [(3,), (2, 2), (1, 3), (3, 1, 2), (1, 1, 1, 1), (2, 0, 2), (4, 5), (9,)]
FAST_QUOTAS = ((3, 1, 2),)


@pytest.mark.parametrize(
    "quotas",
    [q if q in FAST_QUOTAS else slow(q) for q in QUOTAS],
    ids=str,
)
def test_short_orders_fill_the_quotas_without_any_one_item(quotas):
    """Nine items, every item excluded in turn; experts agree wholly, nearly or not at all."""
    random, depth = np.random.default_rng(sum(quotas)), order_depth(9, quotas)

    @jax.jit
    @jax.vmap
    def picks_by_order(logits):
        short = greedy_in_turn(logits, quotas)
        whole = greedy_order(logits, min(9, sum(quotas) + 1))
        dropped, indices = drop_taken(whole, quotas, depth)
        filled = [
            (
                fill_quotas(order, quotas)[0],
                jax.vmap(lambda item, o=order: fill_quotas(o, quotas, item)[0])(jnp.arange(9)),
            )
            for order in (short, whole, dropped)
        ]
        return short, whole, dropped, indices, take_quotas(short, quotas), filled

    common = random.permutation(9).astype(float)
    kinds = [
        lambda: random.normal(size=(len(quotas), 9)),
        lambda: np.tile(common, (len(quotas), 1)),
        lambda: common + random.normal(size=(len(quotas), 9)),
        lambda: np.where(random.random((len(quotas), 9)) < 0.3, -INF, common),
        lambda: np.where(random.random((len(quotas), 9)) < 0.8, -INF, common),
    ]
    policies = np.stack([kind() for kind in 20 * kinds])
    short, whole, dropped, indices, taken, filled = picks_by_order(jnp.asarray(policies))
    assert short.shape[1:] == (len(quotas), depth)
    truth = [choose(logits, quotas) for logits in policies]
    without = [[choose(logits, quotas, item) for item in range(9)] for logits in policies]
    np.testing.assert_array_equal(taken, truth)
    for picks, picks_without in filled:
        np.testing.assert_array_equal(picks, truth)
        np.testing.assert_array_equal(picks_without, without)
    found = np.asarray(indices) < whole.shape[2]
    held = np.take_along_axis(np.asarray(whole), np.where(found, indices, 0), axis=2)
    np.testing.assert_array_equal(np.where(found, held, -1), dropped)


def test_orders_of_one_item_less_do_not_suffice():
    """Negative control of the test above."""
    logits = np.tile(np.arange(9.0), (2, 1))

    @jax.jit
    def picks(logits):
        order = greedy_in_turn(logits, (2, 2))[:, :2]
        return fill_quotas(order, (2, 2), excluded=jnp.int32(8))[0]

    assert picks(jnp.asarray(logits)).tolist() != choose(logits, (2, 2), 8)


def test_very_small_logits_keep_their_order_before_masked_ones(key):
    logits = jnp.array([[0.0, -1, -2, -3], [0, -INF, -2e30, -1.5e30]])
    low = jnp.array([[-2e30, -1.5e30, -1.2e30, -INF], [-1.2e30, -1.5e30, -2e30, -INF]])
    found = greedy_batch(jnp.stack([logits, low]), (1, 2))
    assert found.tolist() == [[0, 3, 2], [2, 0, 1]]
    drawn = draw(key, logits.at[0, 1:].set(-90.0), (1, 2), 1)
    assert drawn[0].tolist() == [0, 3, 2]


@pytest.mark.parametrize(("experts", "quotas"), [(2, (1, 3)), slow(1, (3,))])
def test_only_masked_items_never_arrive(key, experts, quotas):
    """An item of nearly no weight has a finite arrival time; a masked one has none."""
    logits = jnp.tile(jnp.array([[0.0, -1e30, -1.5e30, -INF]]), (experts, 1))
    order, perturbed = jax.jit(arrivals, static_argnums=2)(key, logits, quotas)
    last = dict(zip(order[-1].tolist(), perturbed[-1].tolist(), strict=True))
    assert last[3] == -INF
    assert np.isfinite([last[1], last[2]]).all()


@pytest.mark.parametrize("dtype", [jnp.float16, slow(jnp.bfloat16), slow(jnp.float32)])
def test_too_few_eligible_items_are_taken_once(dtype):
    logits = jnp.array([[0, -1, -INF, -INF]] * 2, dtype)
    taken = greedy_batch(logits[None], (2, 2))[0]  # traced, so that the values are not validated
    assert sorted(taken.tolist()) == [0, 1, 2, 3]


# --- noise of the experts ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=2)
def many_arrivals(keys, logits, quotas):
    """Candidates and whole orders, for every key."""
    order = jax.vmap(lambda k: arrivals(k, logits, quotas)[0])(keys)
    return jax.vmap(lambda one: take_quotas(one, quotas))(order), order


RACING = masked(normal(0, 2, 60, sd=2.0), (slice(None), 5))
"""60 items, so that `arrivals` uses the block race."""


@pytest.mark.parametrize("quotas", [(1, 1), slow((0, 2))])
def test_experts_that_race_have_the_law_of_one_pick_after_the_other(keys, quotas):
    assert block_width(60, order_depth(60, quotas)) > 1
    drawn, _ = many_arrivals(keys(40_000), jnp.asarray(RACING, jnp.float32), quotas)
    assert p_value(drawn, RACING, quotas) > LEVEL
    assert p_value(drawn, RACING[::-1], quotas) < LEVEL


def test_experts_have_noise_of_their_own(keys):
    """Shared noise would make expert 2 of equal logits always pick the second item of expert 1."""
    drawn, order = many_arrivals(keys(40_000), jnp.zeros((2, 60), jnp.float32), (1, 1))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert np.mean(order[:, 0, 1] == drawn[:, 1]) < 0.05  # 1 / 59 in the mean
    assert len({tuple(pair) for pair in drawn.tolist()}) > 3400  # of 60 * 59


@pytest.mark.slow
def test_all_pairs_of_three_items_occur(keys):
    drawn, _ = many_arrivals(keys(500), jnp.zeros((2, 3)), (1, 1))
    assert {tuple(pair) for pair in drawn.tolist()} == set(itertools.permutations(range(3), 2))


@pytest.mark.parametrize("num_items", [4, 400])
def test_zeros_of_either_sign_are_a_tie(num_items):
    """A top-k that compares bits puts -0.0 below 0.0, although they are equal. Long rows go by blocks."""
    logits = np.full((1, num_items), -1.0)
    logits[0, : num_items - 1] = 0.0
    logits[0, ::2] = -0.0
    logits[0, -1] = 1.0
    order = jax.jit(greedy_order, static_argnums=1)(jnp.asarray(logits), 3)
    assert order.tolist() == [[num_items - 1, 0, 1]]
