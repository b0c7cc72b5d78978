"""Inclusion probabilities: every method against the sum that defines it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.inclusion import METHODS, all_gradients, all_items, policies, relative_errors
from helpers.policies import INF, slow
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import rankpg
from rankpg.core.inclusion import log_inclusion_threshold
from rankpg.core.sampling import arrivals

ORACLES = {
    "greedy": (oracle.greedy_inclusion, oracle.greedy_inclusion_gradient),
    "swr": (oracle.swr_inclusion, oracle.swr_inclusion_gradient),
    "sum": (oracle.sum_inclusion, oracle.sum_inclusion_gradient),
}


# --- the closed forms --------------------------------------------------------------------------------------

ANY_QUOTAS = [(4,), (2, 1), (0, 2), (1, 0, 1), (2, 1, 2)]
FAST = (("greedy", (4,)), ("greedy", (1, 0, 1)), ("swr", (1, 0, 1)), ("sum", (1, 0, 1)))


@pytest.mark.parametrize(
    ("method", "quotas"),
    [
        pytest.param(method, quotas, marks=() if (method, quotas) in FAST else pytest.mark.slow)
        for method in ORACLES
        for quotas in ANY_QUOTAS
    ],
)
def test_closed_forms_by_their_formulas(method, quotas):
    """Values and gradients of Eq. 8, `swr` and `sum`, with quotas of 0 among others."""
    logits = policies(len(quotas), 7, fewest=sum(quotas))
    value, gradient = ORACLES[method]
    found, gradients = all_gradients(jnp.asarray(logits), quotas, method)
    for f, log_p, slopes in zip(logits, found, gradients, strict=True):
        for item in range(7):
            p, slope = value(f, item, quotas), gradient(f, item, quotas)
            np.testing.assert_allclose(np.exp(log_p[item]), p, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(p * slopes[item], slope, rtol=1e-7, atol=1e-12)
    assert np.isfinite(gradients).all()


@pytest.mark.slow
def test_greedy_depends_on_the_cascade_of_picks():
    """Expert 1 greedily takes item 1 in the absence of item 0, and expert 2 chooses from items 2 and 3."""
    logits = np.array([[0.0, 2.0, 1.0, -1.0], [0.0, 2.0, 1.0, -1.0]])
    w = np.exp(logits[0])
    missed = (1 - w[0] / w.sum()) * (1 - w[0] / (w[0] + w[2] + w[3]))
    found = all_items(jnp.asarray(logits)[None], (1, 1), "greedy")[0, 0]
    np.testing.assert_allclose(np.exp(found), 1 - missed, rtol=1e-12)


def test_swr_and_sum_by_hand():
    """Two of four equal items: 1 - (3/4)^2 and 2/4; the numbers of three experts add up."""

    @jax.jit
    def by_hand(one, three):
        return jnp.exp(
            jnp.stack(
                [
                    rankpg.log_inclusion(one, 1, (2,), "swr"),
                    rankpg.log_inclusion(one, 1, (2,), "sum"),
                    rankpg.log_inclusion(three, 1, (1, 1, 2), "sum"),
                ]
            )
        )

    truth = [1 - (3 / 4) ** 2, 2 / 4, (1 + 1 + 2) / 4]
    np.testing.assert_allclose(by_hand(jnp.zeros((1, 4)), jnp.zeros((3, 4))), truth)


# --- the bias of the approximations -------------------------------------------------------------------------


def test_greedy_and_swr_are_not_exact():
    """Negative control of the tests of `exact`: for the same policies, these are far from the truth."""
    logits = policies(1, 8, fewest=3)
    truth = np.array([oracle.inclusion(one, (3,)) for one in logits])
    for method in ("greedy", "swr"):
        found = all_items(jnp.asarray(logits), (3,), method)
        assert relative_errors(found, truth) > 0.1


def test_greedy_is_near_the_truth_and_swr_and_sum_are_not():
    """`swr` underestimates the items of large logits, and `sum` exceeds 1 there."""
    logits, slots = 2 * np.random.default_rng(0).normal(size=(1, 7)), 3
    truth = oracle.inclusion(logits, (slots,))
    padded = np.pad(logits, ((0, 0), (0, 1)), constant_values=-INF)  # the shape of `policies(1, 8)`
    greedy, swr, total = (
        np.exp(np.asarray(all_items(jnp.asarray(np.tile(padded, (10, 1, 1))), (slots,), m)[0, :7]))
        for m in ("greedy", "swr", "sum")
    )
    assert np.max(np.abs(greedy - truth)) < 0.1
    assert np.max(np.abs(greedy - truth)) < np.max(np.abs(swr - truth)) / 2
    top = np.argsort(-logits[0])[:slots]
    assert swr[top].sum() < truth[top].sum() - 0.1
    assert total.max() > 1
    np.testing.assert_allclose(total.sum(), slots)


# --- all methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [slow("exact"), "greedy", "swr", "sum"])
def test_one_slot_is_the_softmax(method):
    logits = policies(1, 8, fewest=1)
    found = all_items(jnp.asarray(logits), (1,), method)
    assert relative_errors(found, oracle.softmax(logits)[:, 0]) < 1e-8


@pytest.mark.parametrize("method", ["exact", "greedy"])
def test_all_eligible_items_are_certain_when_all_are_taken(method):
    """N = K, by the shape and by masks."""
    found = all_items(jnp.asarray(policies(1, 4, fewest=4)), (4,), method)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    masked = np.array([[0.0, -INF, 3.0, -INF, -4.0, 1.0, -INF]])
    ten = jnp.asarray(np.tile(masked, (10, 1, 1)))  # the shape of `policies(1, 7)`
    found, gradients = all_gradients(ten, (4,), method)
    np.testing.assert_allclose(found[0], np.where(np.isneginf(masked[0]), -INF, 0), atol=1e-12)
    assert np.isfinite(gradients).all()


EXTREMES = np.array(
    [
        [1e4, 1e4 - 1, 1e4 + 1, 1e4, 1e4 - 2],
        [-1e4, -1e4 - 1, -1e4 + 1, -1e4, -1e4 - 2],
        [0, 1e4, 0, 1, 2],
        [0, -1e4, 0, 1, 2],
        [1e4, -1e4, 0, 5e3, -5e3],
        [-INF, 1e4, 0, -1e4, 3],
        [-INF, -INF, 1e4, 0, -1e4],
        [0, 0, 0, 0, 0],
        [1e4, 1e4, 1e4, -1e4, -1e4],
    ]
)[:, None, :]


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((method, jnp.float32) for method in METHODS),
        ("sum", jnp.bfloat16),
        *(slow(method, jnp.float64) for method in METHODS),
        *(slow(method, jnp.bfloat16) for method in ("exact", "greedy", "swr")),
    ],
)
def test_extreme_logits_have_finite_values_and_gradients(method, dtype):
    logits = jnp.asarray(EXTREMES, dtype)
    values, gradients = all_gradients(logits, (3,), method)
    assert gradients.dtype == dtype
    eligible = np.isfinite(EXTREMES[:, 0])
    np.testing.assert_array_equal(np.isfinite(values), eligible)
    gradients = np.asarray(gradients, np.float64)
    assert np.isfinite(gradients).all()
    assert (gradients[~eligible] == 0).all()  # of the score of a masked item
    assert (np.moveaxis(gradients[:, :, 0], 1, 2)[~eligible] == 0).all()  # and in its logit
    if method != "sum":
        assert (np.asarray(values, np.float64) <= 0).all()
    if method in ("exact", "greedy"):
        # far apart, the three largest are certain; log P of the others is the distance to the third
        far = np.asarray(values, np.float64)[4]
        np.testing.assert_allclose(far, [0, -1e4, 0, 0, -5e3], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("method", [*METHODS, "threshold"])
def test_output_has_the_dtype_of_the_logits(method, dtype):
    def value(f):
        if method == "threshold":
            return rankpg.log_inclusion_threshold(jax.random.key(0), f, 1, (2,))
        return rankpg.log_inclusion(f, 1, (2,), method)

    assert jax.eval_shape(value, jax.ShapeDtypeStruct((1, 5), dtype)).dtype == dtype


@pytest.mark.slow
def test_gradients_agree_with_differences(key):
    """Reverse mode through all methods at once, `threshold` included."""
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(1, 6), scale=1.5))

    @jax.jit
    def scores(f):
        closed = [rankpg.log_inclusion(f, 2, (3,), method) for method in METHODS]
        return jnp.stack([*closed, rankpg.log_inclusion_threshold(key, f, 2, (3,))])

    check_grads(scores, (logits,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=2)
def methods_together(logits, item, slots):
    return jnp.stack([rankpg.log_inclusion(logits, item, (slots,), m) for m in METHODS])


six = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6)


@settings(max_examples=25)
@given(values=six, order=st.permutations(range(6)), shift=st.floats(-100, 100))
def test_inclusion_is_invariant_to_shifts_and_permutations(values, order, shift):
    """Ties may pick either item, so there are none."""
    logits = np.array(values)[None] + 1e-6 * np.arange(6)
    here = methods_together(jnp.asarray(logits), jnp.int32(order[2]), 3)
    shifted = methods_together(jnp.asarray(logits + shift), jnp.int32(order[2]), 3)
    np.testing.assert_allclose(shifted, here, rtol=1e-7, atol=1e-7)
    renamed = methods_together(jnp.asarray(logits[:, order]), jnp.int32(2), 3)
    np.testing.assert_allclose(renamed, here, rtol=1e-7, atol=1e-7)
    assert (np.asarray(here)[:3] <= 0).all()


@settings(max_examples=25)
@given(values=six, item=st.integers(0, 5), step=st.floats(1e-3, 10))
def test_inclusion_increases_with_the_own_logit(values, item, step):
    logits = np.array(values)[None]
    raised = logits + step * (np.arange(6) == item)
    before = methods_together(jnp.asarray(logits), jnp.int32(item), 3)
    after = methods_together(jnp.asarray(raised), jnp.int32(item), 3)
    assert (np.asarray(after) >= np.asarray(before) - 1e-8).all()


@pytest.mark.slow
def test_eager_jit_and_vmap_agree():
    logits = jnp.asarray(policies(1, 8, fewest=3)[3:4])
    eager = rankpg.log_inclusion(logits[0], 5, (3,), "swr")
    np.testing.assert_allclose(all_items(logits, (3,), "swr")[0, 5], eager, rtol=1e-10)


@pytest.mark.slow
def test_one_trace_serves_all_items():
    traces = []

    @functools.partial(jax.jit, static_argnames="quotas")
    def step(logits, item, quotas):
        traces.append(quotas)
        return rankpg.log_inclusion(logits, item, quotas, "greedy")

    logits = jnp.asarray(policies(2, 6, fewest=6)[3])
    for item in range(4):
        step(logits + item, item, quotas=(2, 1))
    assert traces == [(2, 1)]


# --- threshold --------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2, 3))
def threshold_moments(key, logits, quotas, num_draws):
    items = jnp.arange(logits.shape[1], dtype=jnp.int32)

    def one(k):
        return jnp.exp(
            jax.vmap(lambda a: rankpg.log_inclusion_threshold(k, logits, a, quotas))(items)
        )

    p = jax.lax.map(one, jax.random.split(key, num_draws), batch_size=20_000)
    return jnp.mean(p, axis=0), jnp.mean(p**2, axis=0)


@pytest.mark.parametrize("quotas", [slow((3,)), slow((2, 1)), slow((2, 1, 2))], ids=str)
def test_threshold_is_unbiased(key, quotas):
    logits = 1.5 * np.random.default_rng(7).normal(size=(len(quotas), 6))
    logits[0, 4] = -INF
    mean, square = threshold_moments(key, jnp.asarray(logits, jnp.float32), quotas, 200_000)
    truth = oracle.inclusion(logits, quotas)
    z = oracle.standard_errors(mean, square, 200_000, truth)
    assert np.max(np.abs(z)) < 5
    # negative control: a policy that is 3 % warmer has other probabilities
    z = oracle.standard_errors(mean, square, 200_000, oracle.inclusion(logits / 1.03, quotas))
    assert np.max(np.abs(z)) > 5


def test_threshold_is_certain_for_separated_logits(key):
    """Gaps of about 120 decide the draw: P is 1 for the three largest and 0 for the others."""
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(1, 8)), jnp.float32)
    certain = jnp.where(jnp.arange(8) < 3, logits + 60, logits - 60)
    found = jax.jit(jax.vmap(lambda a: rankpg.log_inclusion_threshold(key, certain, a, (3,))))(
        jnp.arange(8, dtype=jnp.int32)
    )
    np.testing.assert_allclose(np.exp(found), [1, 1, 1, 0, 0, 0, 0, 0], atol=1e-6)


@functools.partial(jax.jit, static_argnums=2)
def threshold_gradients(key, logits, quotas):
    """Value and gradient for every item."""
    one = jax.value_and_grad(lambda f, a: rankpg.log_inclusion_threshold(key, f, a, quotas))
    return jax.vmap(one, (None, 0))(logits, jnp.arange(logits.shape[1], dtype=jnp.int32))


@pytest.mark.slow
def test_threshold_is_certain_when_all_items_are_taken(key):
    values, gradients = threshold_gradients(key, jnp.zeros((2, 4)), (2, 2))
    np.testing.assert_allclose(values, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-12)


def test_threshold_with_as_many_eligible_items_as_slots(key):
    """The eligible items are certain; a masked item is impossible."""
    logits = jnp.asarray([[0.0, -INF, 1e4, -INF]])
    values, gradients = threshold_gradients(key, logits, (2,))
    np.testing.assert_allclose(values, [0, -INF, 0, -INF], atol=1e-12)
    assert np.isfinite(gradients).all()
    assert (np.asarray(gradients)[:, 0, [1, 3]] == 0).all()


def test_threshold_of_two_experts_by_hand(key):
    """kappa_m is the K_m-th arrival of expert m without the item, and without what earlier experts took."""
    logits, quotas = jnp.asarray(np.random.default_rng(5).normal(size=(2, 7))), (2, 1)
    centred = np.asarray(logits) - np.max(logits, axis=1, keepdims=True)
    order, perturbed = (np.asarray(x) for x in arrivals(key, jnp.asarray(centred), quotas))
    estimate = jax.jit(log_inclusion_threshold, static_argnums=3)
    for item in range(7):
        taken, rate = set(), 0.0
        for own, values, f, quota in zip(order, perturbed, centred, quotas, strict=True):
            left = [
                (i, v) for i, v in zip(own.tolist(), values, strict=True) if i not in {item, *taken}
            ]
            taken |= {i for i, _ in left[:quota]}
            rate += np.exp(f[item] - left[quota - 1][1])
        found = float(estimate(key, logits, item, quotas))
        assert found == pytest.approx(np.log(-np.expm1(-rate)), rel=1e-9)
