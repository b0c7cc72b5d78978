"""P(a in S): every method against the sum that defines it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import stats

import rankpg
from rankpg.core.inclusion_exact import log_inclusion_exact

INF = np.inf
METHODS = ("exact", "greedy", "swr", "sum")
ORACLES = {
    "greedy": (oracle.greedy_inclusion, oracle.greedy_inclusion_gradient),
    "swr": (oracle.swr_inclusion, oracle.swr_inclusion_gradient),
    "sum": (oracle.sum_inclusion, oracle.sum_inclusion_gradient),
}


@functools.partial(jax.jit, static_argnums=(1, 2))
def all_items(logits, quotas, method):
    """log P for every item of every policy: logits [S, M, N] -> [S, N]."""
    items = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    one = lambda f, item: rankpg.log_inclusion(f, item, quotas, method)  # noqa: E731
    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(logits, items)


@functools.partial(jax.jit, static_argnums=(1, 2))
def all_gradients(logits, quotas, method):
    """Values and gradients, [S, N] and [S, N, M, N]."""
    items = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    one = jax.value_and_grad(lambda f, item: rankpg.log_inclusion(f, item, quotas, method))
    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(logits, items)


def policies(experts: int, items: int, fewest: int) -> np.ndarray:
    """Flat to peaked, several seeds; then with masks, down to `fewest` eligible items."""
    random = np.random.default_rng(experts * 100 + items)
    scale = np.array([0.0, 0.5, 2.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0])[:, None, None]
    logits = scale * random.normal(size=(10, experts, items)) + 0.0  # ties have no sign
    for policy, eligible in enumerate(range(max(fewest, items - 3), items), start=7):
        masked = random.choice(items, size=items - eligible, replace=False)
        logits[policy][:, masked] = -INF
    return logits


def relative_errors(log_p: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative error of P where P > 0; and no probability where there is none."""
    np.testing.assert_array_equal(np.isneginf(log_p), truth == 0)
    eligible = truth > 0
    return float(np.max(np.abs(np.exp(np.asarray(log_p)[eligible]) / truth[eligible] - 1)))


# --- exact ------------------------------------------------------------------------------------------------


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize("slots", [1, slow(2), 3, slow(4), 5, slow(6), 7])
def test_exact_is_the_sum_over_all_tuples(slots):
    """N = 8 and, by masks, 7, 6 and 5 eligible items; standard deviations up to 4."""
    logits = policies(1, 8, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits), (slots,), "exact")
    assert relative_errors(found, truth) < 1e-6


@pytest.mark.parametrize("slots", [slow(1), slow(2), slow(3), 4, slow(5), slow(6), slow(7)])
def test_exact_in_float32(slots):
    logits = policies(1, 8, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits, jnp.float32), (slots,), "exact")
    assert relative_errors(np.asarray(found, np.float64), truth) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("items", "slots"), [(n, k) for n in range(2, 8) for k in range(1, n)])
def test_exact_for_every_smaller_catalogue(items, slots):
    logits = policies(1, items, fewest=slots)
    truth = np.array([oracle.inclusion(one, (slots,)) for one in logits])
    found = all_items(jnp.asarray(logits), (slots,), "exact")
    assert relative_errors(found, truth) < 1e-6


@pytest.mark.parametrize("slots", [slow(1), 4, slow(6)])
def test_exact_gradient_is_the_sum_over_all_tuples(slots):
    logits = policies(1, 7, fewest=slots)
    values, gradients = all_gradients(jnp.asarray(logits), (slots,), "exact")
    for f, value, gradient in zip(logits, values, gradients, strict=True):
        truth = oracle.inclusion_gradients(f, (slots,))  # of P = exp(value)
        p = np.exp(np.asarray(value))
        np.testing.assert_allclose(p[:, None, None] * gradient, truth, atol=1e-8)
    assert np.isfinite(gradients).all()


def test_the_oracle_would_notice_a_method_that_is_not_exact():
    """Negative control: Eq. 8 and sampling with replacement are far from the truth for the same policies."""
    logits = policies(1, 8, fewest=3)
    truth = np.array([oracle.inclusion(one, (3,)) for one in logits])
    for method in ("greedy", "swr"):
        found = all_items(jnp.asarray(logits), (3,), method)
        assert relative_errors(found, truth) > 0.1


def catalogue(sd: float) -> tuple[np.ndarray, int]:
    """1000 normal logits: 50 quantiles, 20 items each, so that 50 probabilities tell the sum of all."""
    distinct = sd * stats.norm.ppf((np.arange(50) + 0.5) / 50)
    return np.repeat(distinct, 20)[None], 20


@functools.partial(jax.jit, static_argnums=(1, 2))
def every(logits, slots, stride):
    items = jnp.arange(0, logits.shape[1], stride, dtype=jnp.int32)
    one = lambda item: rankpg.log_inclusion(logits, item, (slots,))  # noqa: E731
    return jnp.exp(jax.lax.map(one, items, batch_size=5))


@pytest.mark.parametrize(
    ("dtype", "slots", "sd"),
    [
        (jnp.float64, 10, 3.0),
        slow(jnp.float32, 10, 3.0),
        *(
            slow(jnp.float64, *case)
            for case in [(10, 1.0), (50, 1.0), (50, 3.0), (200, 1.0), (200, 3.0)]
        ),
        *(
            slow(jnp.float32, *case)
            for case in [(10, 1.0), (50, 1.0), (50, 3.0), (200, 1.0), (200, 3.0)]
        ),
    ],
)
def test_exact_adds_up_to_the_number_of_slots(dtype, slots, sd):
    logits, repeats = catalogue(sd)
    p = every(jnp.asarray(logits, dtype), slots, repeats)
    assert p.dtype == dtype
    near = 1e-4 if dtype == jnp.float64 else 1e-3
    np.testing.assert_allclose(repeats * np.sum(p, dtype=np.float64), slots, rtol=near)
    assert (np.diff(p) > 0).all()  # the larger the logit, the likelier the item


@pytest.mark.slow
@pytest.mark.parametrize("slots", [10, 200])
def test_the_default_nodes_are_enough(slots):
    """Against 16 times as many quadrature nodes, item by item, for peaked policies of 1000 items."""
    logits = jnp.asarray(4 * np.random.default_rng(0).normal(size=1000))
    items = jnp.asarray(np.argsort(-np.asarray(logits))[:: 1000 // 12], jnp.int32)
    few, many = (
        jax.lax.map(lambda a, n=nodes: log_inclusion_exact(logits, a, slots, n), items)
        for nodes in (None, 1024)
    )
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-6)


# --- the closed forms -------------------------------------------------------------------------------------

ANY_QUOTAS = [(3,), slow((2, 1)), slow((0, 2)), (1, 0, 1), slow((2, 1, 2))]


@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("quotas", ANY_QUOTAS, ids=str)
def test_closed_forms(quotas, method):
    """Values and gradients of Eq. 8, `swr` and `sum` by their formulas, zeros in the quotas included."""
    logits = policies(len(quotas), 7, fewest=sum(quotas))
    value, gradient = ORACLES[method]
    found, gradients = all_gradients(jnp.asarray(logits), quotas, method)
    for f, log_p, slopes in zip(logits, found, gradients, strict=True):
        for item in range(7):
            p, slope = value(f, item, quotas), gradient(f, item, quotas)
            np.testing.assert_allclose(np.exp(log_p[item]), p, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(p * slopes[item], slope, rtol=1e-7, atol=1e-12)
    assert np.isfinite(gradients).all()


def test_greedy_depends_on_the_cascade_of_picks():
    """Expert 2 meets what expert 1 greedily left: items 1 and 2, once 0 itself is set aside, then 3."""
    logits = np.array([[0.0, 2.0, 1.0, -1.0], [0.0, 2.0, 1.0, -1.0]])
    w = np.exp(logits[0])
    missed = (1 - w[0] / w.sum()) * (1 - w[0] / (w[0] + w[2] + w[3]))
    found = all_items(jnp.asarray(logits)[None], (1, 1), "greedy")[0, 0]
    np.testing.assert_allclose(np.exp(found), 1 - missed, rtol=1e-12)


def test_swr_and_sum_by_hand():
    """Two of four equal items: 1 - (3/4)^2 and 2/4; three experts add up."""
    one, three = jnp.zeros((1, 1, 4)), jnp.zeros((1, 3, 4))
    swr, total = (np.exp(all_items(one, (2,), method)) for method in ("swr", "sum"))
    np.testing.assert_allclose(swr, 1 - (3 / 4) ** 2)
    np.testing.assert_allclose(total, 2 / 4)
    np.testing.assert_allclose(np.exp(all_items(three, (1, 1, 2), "sum")), (1 + 1 + 2) / 4)


# --- what all methods share -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_one_slot_is_the_softmax(method):
    logits = policies(1, 8, fewest=1)
    found = all_items(jnp.asarray(logits), (1,), method)
    assert relative_errors(found, oracle.softmax(logits)[:, 0]) < 1e-8


@pytest.mark.parametrize("method", ["exact", "greedy"])
def test_every_eligible_item_is_certain_when_all_are_taken(method):
    """N = K, by the shape and by masks."""
    found = all_items(jnp.asarray(policies(1, 4, fewest=4)), (4,), method)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    masked = np.array([[[0.0, -INF, 3.0, -INF, -4.0, 1.0, -INF]]])
    found, gradients = all_gradients(jnp.asarray(masked), (4,), method)
    np.testing.assert_allclose(found[0], np.where(np.isneginf(masked[0, 0]), -INF, 0), atol=1e-12)
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
        ("greedy", jnp.bfloat16),
        *(slow(method, jnp.float64) for method in METHODS),
        *(slow(method, jnp.bfloat16) for method in ("exact", "swr", "sum")),
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
        # far apart, the three largest are certain and the others pay their distance to the third
        far = np.asarray(values, np.float64)[4]
        np.testing.assert_allclose(far, [0, -1e4, 0, 0, -5e3], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("method", METHODS)
def test_the_dtype_of_the_output_is_the_dtype_of_the_logits(method, dtype):
    policy = jax.ShapeDtypeStruct((1, 5), dtype)
    found = jax.eval_shape(lambda f: rankpg.log_inclusion(f, 1, (2,), method), policy)
    assert found.dtype == dtype
    found = jax.eval_shape(
        lambda f: rankpg.log_inclusion_threshold(jax.random.key(0), f, 1, (2,)), policy
    )
    assert found.dtype == dtype


@pytest.mark.slow
def test_gradients_agree_with_differences(key):
    """Reverse mode through every method at once, the one by sampling included."""
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
def test_shift_and_permutation(values, order, shift):
    """A common shift changes nothing; renaming the items renames the answer. (Ties may pick either item.)"""
    logits = np.array(values)[None] + 1e-6 * np.arange(6)
    here = methods_together(jnp.asarray(logits), jnp.int32(order[2]), 3)
    shifted = methods_together(jnp.asarray(logits + shift), jnp.int32(order[2]), 3)
    np.testing.assert_allclose(shifted, here, rtol=1e-7, atol=1e-7)
    renamed = methods_together(jnp.asarray(logits[:, order]), jnp.int32(2), 3)
    np.testing.assert_allclose(renamed, here, rtol=1e-7, atol=1e-7)
    assert (np.asarray(here)[:3] <= 0).all()


@settings(max_examples=25)
@given(values=six, item=st.integers(0, 5), step=st.floats(1e-3, 10))
def test_an_item_gains_from_its_own_logit(values, item, step):
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


# --- measured bias ----------------------------------------------------------------------------------------


def test_how_far_the_approximations_are_from_the_truth():
    """Eq. 8 is close; sampling with replacement underestimates the head and `sum` exceeds 1 there."""
    logits, slots = 2 * np.random.default_rng(0).normal(size=(1, 7)), 3
    truth = oracle.inclusion(logits, (slots,))
    greedy, swr, total = (
        np.exp(np.asarray(all_items(jnp.asarray(logits)[None], (slots,), m)[0]))
        for m in ("greedy", "swr", "sum")
    )
    assert np.max(np.abs(greedy - truth)) < 0.1
    assert np.max(np.abs(greedy - truth)) < np.max(np.abs(swr - truth)) / 2
    top = np.argsort(-logits[0])[:slots]
    assert swr[top].sum() < truth[top].sum() - 0.1
    assert total.max() > 1
    np.testing.assert_allclose(total.sum(), slots)


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
    # negative control: the same draws are no estimate of a policy that is 3 % warmer
    z = oracle.standard_errors(mean, square, 200_000, oracle.inclusion(logits / 1.03, quotas))
    assert np.max(np.abs(z)) > 5


def test_threshold_decides_who_is_drawn(key):
    """An item's own noise must beat its threshold: P is large for the drawn, in total K for one expert."""
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(1, 8)), jnp.float32)
    certain = jnp.where(jnp.arange(8) < 3, logits + 60, logits - 60)
    found = jax.jit(jax.vmap(lambda a: rankpg.log_inclusion_threshold(key, certain, a, (3,))))(
        jnp.arange(8, dtype=jnp.int32)
    )
    np.testing.assert_allclose(np.exp(found), [1, 1, 1, 0, 0, 0, 0, 0], atol=1e-6)


def test_threshold_at_the_edges(key):
    """N = K is certain; a masked item is impossible; exactly K eligible items are certain."""
    every = jnp.arange(4, dtype=jnp.int32)
    one = jax.value_and_grad(lambda f, a: rankpg.log_inclusion_threshold(key, f, a, (2, 2)))
    values, gradients = jax.jit(jax.vmap(one, (None, 0)))(jnp.zeros((2, 4)), every)
    np.testing.assert_allclose(values, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-12)
    one = jax.value_and_grad(lambda f, a: rankpg.log_inclusion_threshold(key, f, a, (2,)))
    masked = jnp.asarray([[0.0, -INF, 1e4, -INF]])
    values, gradients = jax.jit(jax.vmap(one, (None, 0)))(masked, every)
    np.testing.assert_allclose(values, [0, -INF, 0, -INF], atol=1e-12)
    assert np.isfinite(gradients).all()
    assert (np.asarray(gradients)[:, 0, [1, 3]] == 0).all()
