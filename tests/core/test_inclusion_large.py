"""Inclusion with a Poisson tail: close to exact inclusion, and always within its error bound."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import INF, slow
from helpers.streaming import Masks
from scipy import stats

import rankpg
from rankpg.core.inclusion_exact import chernoff_above, chernoff_below
from rankpg.core.inclusion_large import _log_error, poisson_cdf
from rankpg.retrieval.streamed import Streamed
from rankpg.types import Embeddings

QUADRATURE = 1e-7  # relative; both sides integrate with the same nodes


@functools.partial(jax.jit, static_argnums=(2, 3))
def large(logits, items, slots, head=None):
    """`LargeInclusion` of some items of every policy: logits [S, N], items [S, n] -> [S, n]."""
    return _for_all_items(
        lambda f, a: rankpg.log_inclusion_large(f[None], a, (slots,), head), logits, items
    )


@functools.partial(jax.jit, static_argnums=2)
def exact(logits, items, slots):
    """Log P by exact inclusion, likewise."""
    return _for_all_items(
        lambda f, a: rankpg.log_inclusion(f[None], a, (slots,), "exact"), logits, items
    )


def _for_all_items(function, logits, items):
    """Applies `function(policy, item)` under one `vmap`, which traces faster than two."""
    found = jax.vmap(function)(jnp.repeat(logits, items.shape[1], axis=0), items.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(*items.shape, *x.shape[1:]), found)


def policies(num_items: int) -> tuple[jax.Array, jax.Array]:
    """Flat, standard normal, peaked, peaked and half masked; and items from the likeliest to the rarest."""
    random = np.random.default_rng(num_items)
    logits = np.array([0.0, 1.0, 4.0, 3.0])[:, None] * random.normal(size=(4, num_items))
    logits[3, random.choice(num_items, size=num_items // 2, replace=False)] = -INF
    ranks = [0, num_items // 6, num_items // 2 - 1, num_items - 1]
    return jnp.asarray(logits), jnp.asarray(np.argsort(-logits)[:, ranks], jnp.int32)


def relative_errors(found, truth) -> np.ndarray:
    """|P - truth| / P, the quantity that is bounded; 0 where both probabilities are 0."""
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(truth))
    impossible = np.isneginf(truth)
    difference = np.where(impossible, 0, truth) - np.where(impossible, 0, found)
    return np.abs(np.expm1(difference))


# --- the bound --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_items", "slots", "heads"),
    [
        (200, 10, (0, 40)),
        slow(300, 1, (0, 4, 16)),
        slow(300, 20, (0, 20, 80)),
        slow(1000, 10, (0, 10, 40, 160)),
        slow(1000, 50, (0, 50, 200)),
        slow(1000, 200, (0, 200, 800)),
        slow(200, 190, (0, 195, 199)),  # nearly all are taken: the tail is not rare
    ],
)
def test_errors_are_within_the_bound(num_items, slots, heads):
    logits, items = policies(num_items)
    truth = exact(logits, items, slots)
    worst = []
    for head in heads:
        found = large(logits, items, slots, head)
        errors = relative_errors(found.log_probability, truth)
        assert (errors <= found.error_bound + QUADRATURE).all()
        assert np.isfinite(found.error_bound).all()
        worst.append((errors.max(), found.error_bound.max()))
    # without a head, peaked policies have large errors
    assert worst[0][0] > 1000 * QUADRATURE
    assert worst[-1][0] < worst[0][0]
    assert worst[-1][1] < worst[0][1]


@pytest.mark.slow
def test_the_bound_is_nearly_attained():
    """One slot (so P is the softmax), two heavy items, no head: the error is 2/3 of P."""
    logits, items = jnp.asarray([[0.0, 3.0, 3.0, 0.0, 0.0]]), jnp.zeros((1, 1), jnp.int32)
    found = large(logits, items, 1, 0)
    error = relative_errors(found.log_probability, [[-np.log(3 + 2 * np.exp(3))]])
    assert 0.6 < error < found.error_bound
    assert error > 0.8 * found.error_bound


@pytest.mark.parametrize("head", [9, slow(100)])
def test_a_head_of_all_others_is_exact(head):
    logits = 2 * np.random.default_rng(0).normal(size=(3, 10))
    logits[1, [2, 7]] = -INF
    logits[2, [0, 1, 2, 3, 4, 5]] = -INF  # as many eligible items as slots
    items = jnp.broadcast_to(jnp.arange(10, dtype=jnp.int32), (3, 10))
    found = large(jnp.asarray(logits), items, 4, head)
    np.testing.assert_allclose(
        found.log_probability, exact(jnp.asarray(logits), items, 4), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_array_equal(found.error_bound, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sd", [1.0, 3.0])
def test_probabilities_add_up_to_the_number_of_slots(sd):
    """2000 normal logits: 40 quantiles, 50 items each."""
    slots, repeats = 10, 50
    distinct = sd * stats.norm.ppf((np.arange(40) + 0.5) / 40)
    logits = jnp.asarray(np.repeat(distinct, repeats))[None]
    found = large(logits, jnp.arange(0, 2000, repeats, dtype=jnp.int32)[None], slots)
    p = np.exp(np.asarray(found.log_probability[0]))
    assert abs(repeats * p.sum() - slots) < repeats * np.sum(found.error_bound[0] * p)
    np.testing.assert_allclose(repeats * p.sum(), slots, rtol=5e-3)
    assert (np.diff(p) > 0).all()


# --- masks and extremes -----------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2, 3))
def values_and_gradients(logits, items, slots, head):
    """Log P [S, n], bound [S, n] and gradient [S, n, N] of some items of every policy."""

    def one(f, item):
        found = rankpg.log_inclusion_large(f[None], item, (slots,), head)
        return found.log_probability, found.error_bound

    (values, bounds), gradients = _for_all_items(
        jax.value_and_grad(one, has_aux=True), logits, items
    )
    return values, bounds, gradients


EXTREMES = np.array(
    [
        [1e4, 1e4 - 1, 1e4 + 1, 1e4, 1e4 - 2, 1e4],
        [-1e4, -1e4 - 1, -1e4 + 1, -1e4, -1e4 - 2, -1e4],
        [0, 1e4, 0, 1, 2, -1],
        [1e4, -1e4, 0, 5e3, -5e3, -1e4],
        [-INF, 1e4, 0, -1e4, 3, 3],
        [-INF, -INF, 1e4, 0, -1e4, -INF],
        [-INF, -INF, 1e4, 0, -1e4, 1e4],
        [0, 0, 0, 0, 0, 0],
    ]
)


@pytest.mark.parametrize("dtype", [jnp.float32, slow(jnp.float64), slow(jnp.bfloat16)])
def test_masked_and_extreme_logits_have_finite_values_and_gradients(dtype):
    items = jnp.asarray(np.tile(np.arange(6), (8, 1)), jnp.int32)
    found = values_and_gradients(jnp.asarray(EXTREMES, dtype), items, 3, 2)
    values, bounds, gradients = found
    eligible = np.isfinite(EXTREMES)
    np.testing.assert_array_equal(np.isfinite(values), eligible)
    assert (np.asarray(values, np.float64) <= 0).all()
    assert np.isfinite(bounds).all()
    assert (np.asarray(bounds)[~eligible] == 0).all()
    gradients = np.asarray(gradients, np.float64)
    assert np.isfinite(gradients).all()
    assert (gradients[~eligible] == 0).all()  # of a masked item
    assert (np.moveaxis(gradients, 1, 2)[~eligible] == 0).all()  # in a masked item's logit
    # exactly as many eligible items as slots
    np.testing.assert_array_equal(np.asarray(values)[5], np.where(eligible[5], 0, -INF))
    np.testing.assert_array_equal(np.asarray(bounds)[5], 0)
    # far apart: the three largest are certain; log P of the others is the distance to the third
    far = np.asarray(values, np.float64)[3]
    np.testing.assert_allclose(far, [0, -1e4, 0, 0, -5e3, -1e4], rtol=1e-2, atol=1e-5)


def test_all_items_are_certain_when_all_are_taken():
    found = large(jnp.asarray([[3.0, -4.0, 0.0]]), jnp.arange(3, dtype=jnp.int32)[None], 3)
    np.testing.assert_array_equal(found.log_probability, 0)
    np.testing.assert_array_equal(found.error_bound, 0)


# --- gradients --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_are_those_of_exact_inclusion():
    """200 items, 10 slots, items in the head of 40 and in the tail: to the accuracy of the value."""
    logits, items = (x[1:3] for x in policies(200))
    assert large(logits, items, 10).error_bound.max() < 0.2
    found = jax.jacrev(lambda f: large(f, items, 10).log_probability)(logits)
    truth = jax.jacrev(lambda f: exact(f, items, 10))(logits)
    assert np.abs(truth).max() > 0.5
    np.testing.assert_allclose(found, truth, rtol=0, atol=2e-3)
    tail = np.argsort(-np.asarray(logits[0]))[
        60:
    ]  # of the normal policy, which moves in its tail too
    of_tail = np.asarray(truth)[0, :, 0, tail]
    assert np.abs(of_tail).max() > 2e-3
    np.testing.assert_allclose(np.asarray(found)[0, :, 0, tail], of_tail, rtol=0.1, atol=1e-6)


def test_gradients_agree_with_differences():
    """Gradients of the likeliest and the rarest item, along three directions; one compiled program."""
    random = np.random.default_rng(1)
    logits, directions = 1.5 * random.normal(size=9), random.normal(size=(3, 9))
    step = 1e-4
    rows = np.stack([logits, *(logits + step * directions), *(logits - step * directions)])
    items = np.tile([np.argmax(logits), np.argmin(logits)], (7, 1))
    values, _, gradients = values_and_gradients(
        jnp.asarray(rows), jnp.asarray(items, jnp.int32), 3, 4
    )
    slopes = np.asarray(values[1:4] - values[4:7]) / (2 * step)
    np.testing.assert_allclose(
        directions @ np.asarray(gradients[0]).T, slopes, rtol=1e-5, atol=1e-5
    )
    assert np.abs(slopes).max() > 0.1


# --- precision, memory, transformations -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("num_items", "slots"), [(1000, 10), slow(50_000, 100)])
def test_float32_is_close_to_float64(num_items, slots):
    logits, items = policies(num_items)
    single = large(logits[:3].astype(jnp.float32), items[:3], slots)
    double = large(logits[:3], items[:3], slots)
    assert single.log_probability.dtype == single.error_bound.dtype == jnp.float32
    np.testing.assert_allclose(single.log_probability, double.log_probability, rtol=0, atol=1e-4)
    np.testing.assert_allclose(single.error_bound, double.error_bound, rtol=0.02, atol=1e-6)


@pytest.mark.slow
def test_memory_is_below_nodes_times_items():
    policy = jax.ShapeDtypeStruct((1, 2**18), jnp.float32)
    value = lambda f: rankpg.log_inclusion_large(f, 3, (10,)).log_probability  # noqa: E731
    for function in (value, jax.grad(value)):
        compiled = jax.jit(function).lower(policy).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**18 * 4 / 4


@pytest.mark.slow
def test_eager_jit_and_vmap_agree():
    logits, items = policies(30)
    batched = large(logits, items, 3)
    eager = rankpg.log_inclusion_large(logits[1:2], int(items[1, 2]), (3,))
    jax.tree.map(
        lambda one, many: np.testing.assert_allclose(many[1, 2], one, rtol=1e-9), eager, batched
    )


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_poisson_cdf_and_its_derivative(dtype):
    means = np.array([0, 1e-40, 1e-3, 0.5, 7, 99, 100.5, 400, 1e6])
    mean = jnp.asarray(means, dtype)
    found, slope = jax.jit(
        lambda m: jax.jvp(lambda x: poisson_cdf(x, 300), (m,), (jnp.ones_like(m),))
    )(mean)
    truth = stats.poisson.cdf(np.arange(300)[:, None], means)
    near = 1e-11 if dtype == jnp.float64 else 3e-5
    np.testing.assert_allclose(found, truth, rtol=near, atol=1e-30)
    pmf = stats.poisson.pmf(np.arange(300)[:, None], means)
    np.testing.assert_allclose(slope, -pmf, rtol=near, atol=1e-30)


# --- against drawing --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["dense", "streamed"])
@pytest.mark.parametrize("sd", [pytest.param(0.5, marks=pytest.mark.long), 3.0])
def test_inclusion_frequencies_at_100_000_items(key, sd, retrieval):
    """Chi-square of 4,000 draws against log P; groups of equal items are counted, so rare ones count too.

    A count of draws without replacement varies less than a Poisson count, so the test is conservative.
    """
    num_items, slots, num_draws, repeats = 100_000, 20, 4000, 2500
    distinct = sd * stats.norm.ppf((np.arange(40) + 0.5) / 40)
    logits = jnp.asarray(np.repeat(distinct, repeats), jnp.float32)[None]
    watched = jnp.arange(0, num_items, repeats, dtype=jnp.int32)[None]

    def dense(keys):
        return jax.vmap(lambda k: rankpg.sample_candidates(k, logits, (slots,)))(keys)

    def streamed(keys):
        ones = jnp.ones((len(keys), 1, 1), logits.dtype)
        towers = Embeddings(contexts=ones, items=logits[:, :, None])
        contexts = jnp.zeros(len(keys), jnp.int32)
        given = keys, towers, contexts, Masks(None), (slots,), "candidates"
        return Streamed().sample(*given).items

    @jax.jit
    def counts(keys):
        draw = {"dense": dense, "streamed": streamed}[retrieval]
        drawn = jax.lax.map(draw, keys.reshape(-1, 50))
        return jnp.bincount(drawn.reshape(-1) // repeats, length=40)

    def chi_square(policy):
        log_p = np.asarray(large(policy, watched, slots).log_probability[0], np.float64)
        expected = num_draws * repeats * np.exp(log_p)
        return np.sum((drawn - expected) ** 2 / expected)

    drawn = np.asarray(counts(jax.random.split(key, num_draws)))
    assert drawn.sum() == num_draws * slots
    limit = stats.chi2.ppf(1 - 1e-6, 40)
    assert chi_square(logits) < limit
    assert chi_square(logits / 1.1) > limit  # negative control: a policy that is 10 % warmer


def log_error(mean, squares, head_mean, tail, limit):
    one = (jnp.asarray([x], jnp.float64) for x in (mean, squares, head_mean, tail))
    return float(_log_error(*one, limit)[0])


@pytest.mark.parametrize(("mean", "squares"), [(0.3, 0.02), (4.0, 0.02), (4.0, 1.5)])
def test_the_distance_from_a_poisson_variable_is_that_of_le_cam(mean, squares):
    found = log_error(mean, squares, 0.0, 0.5, 4)
    assert found == pytest.approx(np.log(min(squares / max(mean, 1), 0.5)), rel=1e-6)


def test_le_cam_bounds_the_distance_of_rare_events():
    """Brute force: the count of independent events against the Poisson variable of the same mean."""
    chances = np.array([0.3, 0.2, 0.25, 0.1, 0.05])
    count = np.ones(1)
    for p in chances:
        count = np.convolve(count, [1 - p, p])
    poisson = stats.poisson.pmf(np.arange(len(count)), chances.sum())
    distance = max(np.abs(np.cumsum(count) - np.cumsum(poisson)))
    assert 0 < distance <= np.exp(log_error(chances.sum(), np.sum(chances**2), 0.0, 0.5, 3))


def test_the_error_bound_does_not_trust_the_approximation():
    """An approximation near 0 or 1 says nothing of the truth, for which Chernoff bounds stand."""
    few = log_error(6.0, 5.0, 0.0, 1e-12, 4)  # approximately none; in truth up to the bound
    assert few == pytest.approx(float(chernoff_below(jnp.float64(6.0), jnp.float64(3))))
    assert few > np.log(1e-3)
    many = log_error(1.0, 0.9, 0.0, 1 - 1e-12, 4)
    assert many == pytest.approx(float(chernoff_above(jnp.float64(1.0), jnp.float64(4))))
    assert many > np.log(1e-3)
