"""Swaps: against a second draw without the item, and the expected gradient against enumeration."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, masked, normal, slow

from rankpg.core.plackett_luce import full_logits
from rankpg.core.sampling import arrivals, order_depth, take_quotas
from rankpg.core.swaps import find_swaps, later_arrivals, swap_scores

QUOTAS = [(3,), (1, 1), (2, 1), (1, 2), (1, 1, 1), (2, 2, 1), (1, 0, 2), (0, 2, 2), (1, 1, 1, 1)]


# --- the swaps of one draw --------------------------------------------------------------------------------


def draw(times: np.ndarray, quotas) -> tuple[list[int], list[list[int]]]:
    """Picks and orders, expert after expert, from the arrival time of every item under every expert."""
    free, items, orders = set(range(times.shape[1])), [], []
    for own, quota in zip(times, quotas, strict=True):
        order = [int(a) for a in np.argsort(own) if a in free and own[a] < INF]
        items += order[:quota]
        free -= set(order[:quota])
        orders.append(order)
    return items, orders


def padded(times: np.ndarray, quotas):
    """The arrays that the library draws: items, orders by arrival and perturbed logits, and later ones."""
    items, orders = draw(times, quotas)
    depth = order_depth(times.shape[1], quotas)
    order = np.full((len(quotas), depth), -1)
    perturbed = np.full((len(quotas), depth), -INF)
    for m, own in enumerate(orders):
        count = min(depth, len(own))
        order[m, :count] = own[:count]
        perturbed[m, :count] = -np.log(times[m, own[:count]])
    experts = np.array(oracle.slot_experts(quotas))
    later = np.where(np.arange(len(quotas))[:, None] > experts, -np.log(times[:, items]), -INF)
    arrays = (jnp.asarray(x, jnp.int32) for x in (items, order))
    return *arrays, jnp.asarray(perturbed), jnp.asarray(later)


FIND = jax.jit(jax.vmap(find_swaps, (0, 0, 0, 0, None)), static_argnums=4)


def found_sets(times: np.ndarray, quotas) -> list[list[set[int]]]:
    """The set without each candidate of every draw, by the library."""
    arrays = [jnp.stack(each) for each in zip(*(padded(t, quotas) for t in times), strict=True)]
    swaps = FIND(*arrays, quotas)
    found = []
    for items, slots, intos in zip(
        *map(np.asarray, (arrays[0], *vars(swaps).values())), strict=True
    ):
        rows = []
        for slot, into in zip(slots, intos, strict=True):
            changed = items.copy()
            changed[slot] = into
            assert len(set(changed.tolist())) == len(items)
            rows.append(set(changed.tolist()))
        found.append(rows)
    return found


FAST = ((3,), (2, 2, 1), (1, 0, 2))


@pytest.mark.parametrize("quotas", [q if q in FAST else slow(q) for q in QUOTAS], ids=str)
def test_a_swap_gives_the_set_of_a_draw_in_which_the_candidate_comes_last(quotas):
    """Every candidate of 200 draws: its arrival under its own expert is moved to the end."""
    times = np.random.default_rng(0).exponential(size=(200, len(quotas), 6))
    experts, changed = oracle.slot_experts(quotas), 0
    for one, found in zip(times, found_sets(times, quotas), strict=True):
        items, _ = draw(one, quotas)
        for slot, (item, expert) in enumerate(zip(items, experts, strict=True)):
            without = one.copy()
            without[expert, item] = 1e9
            assert found[slot] == set(draw(without, quotas)[0]), (items, slot)
            changed += found[slot] != set(items)
    assert changed > 200


@pytest.mark.parametrize("quotas", [(6,), (3, 3), (2, 2, 2)], ids=str)
def test_all_items_are_swapped_for_none(quotas):
    times = np.random.default_rng(1).exponential(size=(20, len(quotas), 6))
    assert all(s == set(range(6)) for rows in found_sets(times, quotas) for s in rows)


def test_without_an_eligible_runner_up_nothing_changes():
    times = np.random.default_rng(2).exponential(size=(20, 1, 6))
    times[:, :, [1, 4, 5]] = INF
    assert all(s == {0, 2, 3} for rows in found_sets(times, (3,)) for s in rows)


# --- scores -----------------------------------------------------------------------------------------------


def test_the_score_is_the_log_probability_to_come_before_the_runner_up():
    logits = masked(normal(0, 2, 6), (0, 5))
    items = jnp.array([3, 0, 5], jnp.int32)
    order = jnp.array([[3, 0, 5, 1], [5, 2, 4, 1]], jnp.int32)
    perturbed = jnp.array([[2.0, 1.0, -INF, -INF], [0.5, 0.2, 0.1, 0.0]])

    def score(f):
        return swap_scores(full_logits(f), items, order, perturbed, (2, 1))

    value, gradient = jax.jit(lambda f: (score(f), jax.jacrev(score)(f)))(jnp.asarray(logits))
    rate = np.exp(logits[1, 5] - 0.2)
    np.testing.assert_allclose(value, [0, 0, np.log1p(-np.exp(-rate))], rtol=1e-12)
    wanted = np.zeros((3, 2, 6))
    wanted[2, 1, 5] = rate / np.expm1(rate)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-12)  # the first expert has no runner-up


def test_later_arrivals_are_exponential_and_of_a_stream_of_their_own(key):
    logits, quotas = jnp.asarray(normal(1, 3, 5)), (1, 1, 1)
    items = jnp.array([4, 2, 0], jnp.int32)
    sample = jax.jit(jax.vmap(lambda k: later_arrivals(k, full_logits(logits), items, quotas)))
    found = np.asarray(sample(jax.random.split(key, 20_000)))
    for m in range(3):
        for slot in range(3):
            if slot >= m:
                assert (found[:, m, slot] == -INF).all()
                continue
            rate = np.exp(float(logits[m, items[slot]]))
            scaled = rate * np.exp(-found[:, m, slot])  # Exp(1)
            assert abs(scaled.mean() - 1) < 0.05
            assert abs(scaled.std() - 1) < 0.05
    assert abs(np.corrcoef(found[:, 1, 0], found[:, 2, 0])[0, 1]) < 0.04


# --- the expected gradient ----------------------------------------------------------------------------------


def set_rewards(items: int) -> np.ndarray:
    """An arbitrary reward of every set, by the bits of its items."""
    return np.random.default_rng(5).normal(size=2**items)


def true_gradient(logits, quotas) -> np.ndarray:
    chosen, p = oracle.probabilities(logits, quotas)
    earned = set_rewards(logits.shape[1])[(2**chosen).sum(axis=1)]
    return np.einsum("p,pmn->mn", p * earned, oracle.log_prob_gradients(logits, quotas, chosen))


ONE_EXPERT = {
    "plain": normal(2, 1, 6, sd=1.5),
    "masked": masked(normal(3, 1, 6, sd=1.5), (0, 3)),
    "peaked": normal(4, 1, 6, sd=4.0),
}


@pytest.mark.parametrize("name", ["masked", slow("plain"), slow("peaked")])
def test_expected_swap_gradient_is_the_gradient_for_one_expert(name):
    """Quadrature: S and runner-up b come with density w_b e^{-W t} prod_{i in S} (1 - e^{-w_i t})."""
    logits, slots = ONE_EXPERT[name], 3
    weights, rewards = np.exp(logits[0]), set_rewards(6)
    possible = np.flatnonzero(weights)
    x, weight = np.polynomial.legendre.leggauss(400)
    log_time, step = 25 * x - 5, 25 * weight
    times = np.exp(log_time)
    sets = [(s, b) for s in itertools.combinations(possible, slots) for b in possible if b not in s]
    order = jnp.asarray([[*s, b] for s, b in sets], jnp.int32)[:, None]
    perturbed = jnp.asarray(
        np.sort(-log_time[:, None] + np.arange(slots, -1, -1.0), axis=1)[:, ::-1]
    )
    perturbed = perturbed.at[:, -1].set(-log_time)[:, None]

    def slope(f, order, perturbed):
        score = lambda g: swap_scores(full_logits(g), order[0, :slots], order, perturbed, (slots,))  # noqa: E731
        return jax.jacrev(score)(f)[:, 0]

    over_times = jax.vmap(slope, (None, None, 0))
    slopes = jax.jit(jax.vmap(over_times, (None, 0, None)))(jnp.asarray(logits), order, perturbed)
    swaps = FIND(order[:, 0, :slots], order, jnp.tile(perturbed[:1], (len(sets), 1, 1)),
                 jnp.zeros((len(sets), 1, slots)), (slots,))  # fmt: skip
    found = np.zeros(6)
    for (s, b), by_time, slot, into in zip(
        sets, np.asarray(slopes), swaps.slot, swaps.into, strict=True
    ):
        rest = weights.sum() - weights[list(s)].sum()
        density = weights[b] * np.exp(-rest * times)
        density = density * np.prod(-np.expm1(-weights[list(s)][:, None] * times), axis=0)
        code = sum(2**i for i in s)
        codes = code - 2 ** np.array(s)[np.asarray(slot)] + 2 ** np.asarray(into)
        credit = rewards[code] - rewards[codes]
        found += np.einsum("t,k,tkn->n", density * times * step, credit, by_time)
    np.testing.assert_allclose(found, true_gradient(logits, (slots,))[0], atol=1e-9)


@functools.partial(jax.jit, static_argnums=(2, 3))
def swap_moments(key, logits, quotas, num_draws):
    """Mean and mean square of sum_i (R(S) - R(S - out + into)) grad score_i."""
    rewards = jnp.asarray(set_rewards(logits.shape[1]))

    def one(k):
        order, perturbed = arrivals(k, logits, quotas)
        items = take_quotas(order, quotas)
        later = later_arrivals(k, full_logits(logits), items, quotas)
        swaps = find_swaps(items, order, perturbed, later, quotas)
        code = jnp.sum(2**items, dtype=items.dtype)
        credit = rewards[code] - rewards[code - 2 ** items[swaps.slot] + 2**swaps.into]
        score = lambda f: swap_scores(full_logits(f), items, order, perturbed, quotas)  # noqa: E731
        return jax.vjp(score, logits)[1](credit)[0]

    def batch(total, keys):
        found = jax.vmap(one)(keys)
        return (total[0] + found.sum(axis=0), total[1] + (found**2).sum(axis=0)), None

    zeros = jnp.zeros_like(logits)
    keys = jax.random.split(key, num_draws).reshape(-1, 4000)
    (first, second), _ = jax.lax.scan(batch, (zeros, zeros), keys)
    return first / num_draws, second / num_draws


@pytest.mark.slow
@pytest.mark.parametrize("quotas", QUOTAS, ids=str)
def test_expected_swap_gradient_is_the_gradient_by_sampling(key, quotas):
    logits = normal(6, len(quotas), 6, sd=1.2)
    mean, square = swap_moments(key, jnp.asarray(logits), quotas, 400_000)
    z = oracle.standard_errors(mean, square, 400_000, true_gradient(logits, quotas))
    assert np.max(np.abs(z)) < 4.5
