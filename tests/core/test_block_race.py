"""`block_race`: the law of Gumbel-top-k with one variate per item, at any width of the blocks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import INF, LEVEL, masked, normal, p_value
from scipy.stats import ks_2samp

from rankpg.core.sampling import (
    arrivals,
    block_race,
    block_width,
    condition_on_maximum,
    fill_quotas,
    gumbel_top_k,
)

NUM_DRAWS = 60_000


def without(logits: np.ndarray, *items: int) -> np.ndarray:
    """A copy with some items masked for every expert."""
    return masked(logits, *((slice(None), item) for item in items))


POLICIES = {
    "flat": (np.zeros((1, 7)), (3,)),
    "one expert": (normal(0, 1, 7), (3,)),
    "peaked": (normal(1, 1, 7, sd=10), (3,)),
    "masked": (without(normal(2, 1, 7), 0, 3), (3,)),
    "a block wholly masked": (without(normal(3, 1, 7), 0, 2, 4, 6), (3,)),
    "three experts": (normal(4, 3, 6), (1, 1, 2)),
    "three experts, masked, peaked": (without(normal(5, 3, 6, sd=10), 1), (1, 1, 1)),
}


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def race(key, logits, quotas, width, num_draws=NUM_DRAWS):
    def draw(key):
        order, perturbed = block_race(key, logits, sum(quotas), width)
        return fill_quotas(order, quotas)[0], perturbed

    return jax.vmap(draw)(jax.random.split(key, num_draws))


def cases():
    """Every policy at every width; the fast ones share four compiled programs."""
    for name, (logits, quotas) in POLICIES.items():
        for width in (1, 2, 3, 5, 7):
            fast = (width == 3 and name != "three experts") or (name, width) == ("masked", 2)
            marks = () if fast else pytest.mark.slow
            yield pytest.param(logits, quotas, width, id=f"{name}, width {width}", marks=marks)


@pytest.mark.parametrize(("logits", "quotas", "width"), [*cases()])
def test_draws_have_the_probabilities_of_the_policy(key, logits, quotas, width):
    drawn, _ = race(key, jnp.asarray(logits, jnp.float32), quotas, width)
    assert p_value(drawn, logits, quotas) > LEVEL


def softmax_within_a_block(key, logits, width, num_draws):
    """A plausible mistake: E_i = Exp(1) / (share of the block), not Exp(1) / w_i."""
    blocks = logits[0].reshape(width, -1)
    rng = np.random.default_rng(0)
    weights = np.exp(blocks)
    first = rng.exponential(size=(num_draws, 1, blocks.shape[1])) / weights.sum(axis=0)
    within = rng.exponential(size=(num_draws, *blocks.shape)) / (weights / weights.sum(axis=0))
    arrival = first + within - within.min(axis=1, keepdims=True)
    return np.argsort(arrival.reshape(num_draws, -1), axis=1)[:, :3]


def test_chi_square_rejects_shares_in_place_of_weights(key):
    logits, quotas = normal(6, 1, 6), (3,)
    wrong = softmax_within_a_block(key, logits, 3, NUM_DRAWS)
    assert p_value(wrong, logits, quotas) < LEVEL
    right, _ = race(key, jnp.asarray(logits, jnp.float32), quotas, 3)
    assert p_value(right, logits, quotas) > LEVEL


def test_perturbed_logits_are_minus_log_arrival_times(key):
    """Every order statistic has the law of f + Gumbel noise, by a two-sample test."""
    logits = jnp.asarray(normal(7, 1, 7, sd=2), jnp.float32)
    _, raced = race(key, logits, (3,), 3)
    keys = jax.random.split(jax.random.fold_in(key, 1), NUM_DRAWS)
    _, plain = jax.jit(jax.vmap(lambda k: gumbel_top_k(k, logits, 3)))(keys)
    for place in range(3):
        assert ks_2samp(raced[:, 0, place], plain[:, 0, place]).pvalue > LEVEL
    assert ks_2samp(raced[:, 0, 0], plain[:, 0, 0] + 0.1).pvalue < LEVEL


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_logits_decide_the_order(key, dtype):
    """Logits of +-1e4, centred: neither NaN nor a tie, and the order is theirs."""
    logits = jnp.asarray(np.linspace(0, -2e4, 300)[None], dtype)
    order, perturbed = jax.jit(block_race, static_argnums=(2, 3))(key, logits, 5, 7)
    np.testing.assert_array_equal(order, [[0, 1, 2, 3, 4]])
    assert np.isfinite(perturbed).all()
    assert (np.diff(perturbed) < 0).all()


def test_masked_items_come_last_and_padding_never(key):
    """8 of 211 items are eligible, so 3 of the 11 places go to masked items: to real ones, each once.

    The second expert has none left, and all its places go to items that the first did not take.
    """
    eligible = np.arange(3, 211, 27)
    logits = np.full((2, 211), -INF, np.float32)
    logits[:, eligible] = normal(8, 2, len(eligible))
    draw = jax.jit(jax.vmap(lambda k: arrivals(k, jnp.asarray(logits), (10, 0))))
    assert block_width(211, 11) > 1
    order, perturbed = draw(jax.random.split(key, 200))
    assert order.shape == (200, 2, 11)
    assert order.max() < 211
    assert all(len(set(row)) == 11 for row in order.reshape(-1, 11).tolist())
    assert np.isin(order[:, 0, :8], eligible).all()
    assert not np.isin(order[:, 0, 8:], eligible).any()
    assert np.isneginf(perturbed[:, 0, 8:]).all()
    assert np.isfinite(perturbed[:, 0, :8]).all()
    taken = order[:, 0, None, :10] == order[:, 1, :, None]
    assert not taken.any()
    assert np.isneginf(perturbed[:, 1]).all()


def test_block_width_at_least_halves_the_variates():
    for num_items in (1, 10, 100, 1000, 12_345, 10**6):
        for depth in (1, 5, 11, 101, 1001):
            if depth > num_items:
                continue
            width = block_width(num_items, depth)
            blocks = -(-num_items // width)
            if width > 1:
                assert 2 * (blocks + width * depth) <= num_items
                assert (width - 1) * blocks >= depth


@pytest.mark.slow
def test_large_catalogues_have_no_ties(keys):
    """The first 100 of 1e6 equal items have 100 arrival times; with JAX's default noise some are equal."""
    logits = jnp.zeros((1, 10**6), jnp.float32)
    for sampler in (lambda k: arrivals(k, logits, (100,)), lambda k: gumbel_top_k(k, logits, 100)):
        perturbed = jax.jit(lambda k, draw=sampler: draw(k)[1][0, :100])
        assert all(len(np.unique(perturbed(k))) == 100 for k in keys(3))
    default = [np.sort(jax.random.gumbel(k, (10**6,), jnp.float32))[-100:] for k in keys(3)]
    assert min(len(np.unique(top)) for top in default) < 100


def inclusion_by_arrival(
    logits: np.ndarray, watched: np.ndarray, num_candidates: int
) -> np.ndarray:
    """P(item among the first K to arrive), the arrival of item i being exponential of rate exp(logit i).

    The integral over log time of an item's density times P(fewer than K others have arrived), by the
    trapezoidal rule. The law of the count is built item by item, the watched ones last, without the item.
    """
    rates = np.exp(logits - logits.max())
    log_time = np.linspace(-30.0, 10.0, 400)
    arrived = -np.expm1(-rates * np.exp(log_time)[:, None])  # [T, N]

    def count(law: np.ndarray, items: np.ndarray) -> np.ndarray:  # [T, K]: P(c others have arrived)
        for p in arrived[:, items].T[:, :, None]:
            law = law * (1 - p) + np.pad(law[:, :-1], ((0, 0), (1, 0))) * p
        return law

    none_yet = np.eye(1, num_candidates).repeat(len(log_time), axis=0)
    law = count(none_yet, np.setdiff1d(np.arange(len(rates)), watched))
    found = []
    for item in watched:
        fewer = count(law, np.setdiff1d(watched, item)).sum(axis=1)
        hazard = rates[item] * np.exp(log_time)
        found.append(np.sum(hazard * np.exp(-hazard) * fewer))
    return np.array(found) * (log_time[1] - log_time[0])


@pytest.mark.slow
def test_inclusion_frequencies_at_100_000_items_are_exact(key):
    """Counts over 4,000 draws, of items over the whole range of P, are within 5 sigma of an integral."""
    num_items, num_draws = 100_000, 4000
    logits = jnp.asarray(normal(9, 1, num_items, sd=3), jnp.float32)
    watched = jnp.asarray(np.argsort(-np.asarray(logits[0]))[:: num_items // 400][:20], jnp.int32)
    watched = jnp.concatenate([jnp.argsort(-logits[0])[:20].astype(jnp.int32), watched])

    @jax.jit
    def hits(keys):
        def one(k):
            return (arrivals(k, logits, (10,))[0][:, :10] == watched[:, None]).any(axis=1)

        return jax.lax.map(one, keys, batch_size=50).sum(axis=0)

    counts = np.asarray(hits(jax.random.split(key, num_draws)))
    p = inclusion_by_arrival(np.asarray(logits[0], float), np.asarray(watched), 10)
    sigma = np.sqrt(num_draws * p * (1 - p)) + 1
    assert (np.abs(counts - num_draws * p) < 5 * sigma).all()
    assert counts.sum() > num_draws


@pytest.mark.parametrize("lead", [3.0, 20.0, 39.0])
def test_an_item_keeps_its_distance_to_a_maximum_far_below(lead):
    """-log(exp(-T) - exp(-Z) + exp(-f)), where clipping a lead above 4 would change the third digit."""
    maximum, logits = 0.0, np.array([lead, lead - 0.1, lead - 5, lead - 60])
    found = condition_on_maximum(jnp.asarray(maximum), jnp.asarray(logits), jnp.zeros(4), axis=0)
    exact = lead - np.log(np.exp(lead - maximum) + np.expm1(lead - logits))
    np.testing.assert_allclose(found, exact, rtol=1e-9)
