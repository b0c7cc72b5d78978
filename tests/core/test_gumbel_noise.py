"""Counter-based noise: standard Gumbel, without ties, a function of key and counter alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import slow
from jax.extend.random import threefry_2x32
from scipy import stats

from rankpg.core.sampling import gumbel_noise, threefry

ENABLE_X64 = False


def counters(count):
    return jnp.arange(count, dtype=jnp.int32)


NOISE = jax.jit(gumbel_noise, static_argnums=2)
HASH = jax.jit(threefry)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_noise_is_standard_gumbel(seed):
    noise = np.asarray(NOISE(jax.random.key(seed), counters(200_000), jnp.float32))
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 1e-4
    assert stats.kstest(noise * 1.02, stats.gumbel_r.cdf).pvalue < 1e-4  # negative control


def test_keys_and_counters_have_streams_of_their_own():
    first, second = (NOISE(jax.random.key(s), counters(200_000), jnp.float32) for s in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.02


@pytest.mark.slow
def test_no_ties_among_the_first_of_two_million():
    """JAX's default grid has dozens of ties, which go to the lowest id."""
    noise = gumbel_noise(jax.random.key(3), counters(2 * 10**6), jnp.float32)
    assert bool(jnp.all(jnp.isfinite(noise)))
    first = jax.lax.top_k(noise, 100)[0]
    assert len(np.unique(first)) == 100
    coarse = jax.random.gumbel(jax.random.key(3), (2 * 10**6,), mode="low")
    assert len(np.unique(jax.lax.top_k(coarse, 100)[0])) < 100


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_threefry_equals_that_of_jax(seed):
    key = jax.random.bits(jax.random.key(seed), (2,))
    counter = jax.random.bits(jax.random.key(seed + 10), (2, 1001))
    expected = threefry_2x32((key[0], key[1]), counter.reshape(-1)).reshape(2, -1)
    np.testing.assert_array_equal(jnp.stack(HASH((key[0], key[1]), tuple(counter))), expected)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0x0, 0x0), (0x0, 0x0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_reproduces_the_test_vectors(key, counter, expected):
    """The authors' test vectors for 20 rounds."""
    words = HASH(*(tuple(map(jnp.uint32, pair)) for pair in (key, counter)))
    assert tuple(map(int, words)) == expected


def test_small_variates_have_the_bits_of_both_words():
    """x = high + 2^-23 low, each of 23 bits: without the low word x would be off by up to a part in ten."""
    key, count = jax.random.key(3), 200_000
    words = np.asarray(jax.random.key_data(key)).reshape(-1)
    high, low = HASH(
        (jnp.uint32(words[0]), jnp.uint32(words[-1])),
        (jnp.zeros(count, jnp.uint32), counters(count).astype(jnp.uint32)),
    )
    high, low = ((np.asarray(word) >> 9).astype(np.float64) * 2.0**-23 for word in (high, low))
    x = high + low * 2.0**-23
    small = (x > 0) & (x < 1e-4)
    assert small.sum() > 5
    noise = np.asarray(NOISE(key, counters(count), jnp.float32))
    np.testing.assert_allclose(noise[small], -np.log(-np.log1p(-x[small])), rtol=1e-6)
    coarse = -np.log(-np.log1p(-np.maximum(high[small], 1e-9)))
    assert np.abs(noise[small] / coarse - 1).max() > 1e-5
