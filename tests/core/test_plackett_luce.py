"""Log-probabilities of the policy against enumeration, and sparse logits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import INF, masked, normal, slow
from hypothesis import given
from hypothesis import strategies as st

import rankpg
from rankpg.core.plackett_luce import full_logits, gather_logits

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
# The others have shapes and quotas of their own, and so a compilation each.
SLOW = (
    "two experts, the first idle",
    "three experts",
    "three experts, the middle one idle",
)


# --- log-probabilities ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2,), static_argnames=("function",))
def log_probs(logits, chosen, quotas, function=rankpg.log_prob):
    """Value and gradient of every tuple."""
    one = jax.value_and_grad(lambda f, s: function(f, s, quotas))
    return jax.vmap(one, (None, 0))(logits, chosen)


def enumerated(logits, quotas, dtype=jnp.float64, function=rankpg.log_prob):
    chosen = oracle.tuples(logits.shape[1], sum(quotas))
    found = log_probs(
        jnp.asarray(logits, dtype), jnp.asarray(chosen, jnp.int32), quotas, function=function
    )
    return chosen, np.asarray(found[0]), np.asarray(found[1], np.float64)


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in POLICIES])
def test_log_prob_is_the_sum_over_slots(name):
    """Values and gradients; the probabilities add up to 1, and the expected gradient is 0."""
    logits, quotas = POLICIES[name]
    chosen, values, gradients = enumerated(logits, quotas)
    np.testing.assert_allclose(values, oracle.log_probs(logits, quotas, chosen), rtol=1e-12)
    possible = np.isfinite(values)
    truth = oracle.log_prob_gradients(logits, quotas, chosen)
    np.testing.assert_allclose(gradients[possible], truth[possible], atol=1e-12)
    assert np.isfinite(gradients).all()
    p = np.exp(values)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("p,pmn->mn", p, gradients), 0, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["one expert, masked", "two experts, peaked", slow("three experts")]
)
def test_log_prob_swr_is_the_sum_over_slots(name):
    logits, quotas = POLICIES[name]
    chosen, values, gradients = enumerated(logits, quotas, function=rankpg.log_prob_swr)
    some = np.random.default_rng(0).choice(len(chosen), size=min(60, len(chosen)), replace=False)
    for s in some:
        truth = oracle.swr_log_prob(logits, quotas, chosen[s])
        np.testing.assert_allclose(values[s], truth, rtol=1e-12)
        if np.isfinite(truth):
            truth = oracle.swr_log_prob_gradient(logits, quotas, chosen[s])
            np.testing.assert_allclose(gradients[s], truth, atol=1e-12)
    assert np.isfinite(gradients).all()


@functools.partial(jax.jit, static_argnums=2)
def both_log_probs(logits, candidates, quotas):
    """`log_prob` and `log_prob_swr` of the candidates."""
    functions = (rankpg.log_prob, rankpg.log_prob_swr)
    return jnp.stack([f(logits, candidates, quotas) for f in functions])


def test_one_slot_is_the_log_softmax():
    logits = normal(0, 1, 7, sd=3)
    truth = np.log(oracle.softmax(logits))[0]
    for item in range(7):
        found = both_log_probs(jnp.asarray(logits), jnp.array([item], jnp.int32), (1,))
        np.testing.assert_allclose(found, truth[item], rtol=1e-12)


def test_equal_logits_have_equal_probabilities():
    """1 / (5 * 4 * 3) for an ordered triple out of five, 1 / 5^3 with replacement."""
    _, values, _ = enumerated(np.full((1, 5), 7.0), (3,))
    np.testing.assert_allclose(values, -np.log(5 * 4 * 3), rtol=1e-12)
    _, values, _ = enumerated(np.full((1, 5), 7.0), (3,), function=rankpg.log_prob_swr)
    np.testing.assert_allclose(values, -3 * np.log(5), rtol=1e-12)


EXTREMES = {
    "high": [[1e4, 1e4 - 1, 1e4 + 1, 1e4, 1e4 - 2]],
    "low": [[-1e4, -1e4 - 1, -1e4 + 1, -1e4, -1e4 - 2]],
    "one high": [[0, 1e4, 0, 1, 2]],
    "one low": [[0, -1e4, 0, 1, 2]],
    "far apart": [[1e4, -1e4, 0, 5e3, -5e3]],
    "masked": [[-INF, 1e4, 0, -1e4, 3]],
    "nearly all masked": [[-INF, 0, 1e4, -1e4, -INF]],
    "ties": [[0, 0, 0, 0, 0]],
    "ties, high and low": [[1e4, 1e4, 1e4, -1e4, -1e4]],
}
RELATIVE = {jnp.float64: 1e-15, jnp.float32: 1e-6, jnp.bfloat16: 1e-6}
"""Tolerance relative to the largest logit. bfloat16 is exact as an input: the logits are rounded first, and
the computation is float32."""


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (rankpg.log_prob, jnp.float64),
        (rankpg.log_prob, jnp.float32),
        slow(rankpg.log_prob, jnp.bfloat16),
        (rankpg.log_prob_swr, jnp.float64),
        *(slow(rankpg.log_prob_swr, dtype) for dtype in (jnp.float32, jnp.bfloat16)),
    ],
)
def test_extreme_logits_have_finite_values_and_gradients(dtype, function):
    for name, logits in EXTREMES.items():
        rounded = np.asarray(jnp.asarray(logits, dtype), np.float64)
        chosen, values, gradients = enumerated(rounded, (3,), dtype, function)
        if function is rankpg.log_prob:
            truth = oracle.log_probs(rounded, (3,), chosen)
        else:
            truth = np.array([oracle.swr_log_prob(rounded, (3,), s) for s in chosen])
        np.testing.assert_array_equal(np.isfinite(values), np.isfinite(truth), err_msg=name)
        near = RELATIVE[dtype] * max(1, np.max(np.abs(rounded[np.isfinite(rounded)])))
        np.testing.assert_allclose(values, truth, rtol=0, atol=near, err_msg=name)
        assert np.isfinite(gradients).all(), name
        assert (gradients[:, ~np.isfinite(rounded)] == 0).all(), name


def test_peaked_policy_in_float32():
    """The picks have nearly all the weight: `A + log1p(-exp(B - A) + 1e-10)` is wrong here."""
    logits = np.array([[40.0, 35.0, 30.0, 0.0, -5.0]])
    chosen, values, gradients = enumerated(logits, (3,), jnp.float32)
    np.testing.assert_allclose(values, oracle.log_probs(logits, (3,), chosen), rtol=1e-5, atol=1e-6)
    truth = oracle.log_prob_gradients(logits, (3,), chosen)
    np.testing.assert_allclose(gradients, truth, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_output_has_the_dtype_of_the_logits(dtype):
    logits, candidates = jnp.zeros((1, 4), dtype), jnp.array([0, 2], jnp.int32)
    for function in (rankpg.log_prob, rankpg.log_prob_swr):
        value, gradient = jax.eval_shape(
            lambda f, function=function: jax.value_and_grad(function)(f, candidates, (2,)), logits
        )
        assert value.dtype == gradient.dtype == dtype


# --- invariants -------------------------------------------------------------------------------------------


finite_logits = st.lists(st.floats(-30, 30, width=32), min_size=12, max_size=12)


@given(values=finite_logits, order=st.permutations(range(6)), shift=st.floats(-100, 100))
def test_log_prob_is_invariant_to_shifts_and_permutations(values, order, shift):
    """A shift of an expert's logits changes nothing, nor does a renaming of the items."""
    logits = np.array(values).reshape(2, 6)
    candidates = jnp.asarray(order[:3], jnp.int32)
    here = both_log_probs(jnp.asarray(logits), candidates, (2, 1))
    assert (np.asarray(here) <= 1e-12).all()
    shifted = logits + np.array([[shift], [-2 * shift]])
    np.testing.assert_allclose(
        both_log_probs(jnp.asarray(shifted), candidates, (2, 1)), here, rtol=1e-9, atol=1e-9
    )
    renamed = jnp.asarray(np.argsort(order)[np.asarray(candidates)], jnp.int32)
    np.testing.assert_allclose(
        both_log_probs(jnp.asarray(logits[:, order]), renamed, (2, 1)), here, rtol=1e-9, atol=1e-9
    )


@pytest.mark.slow
def test_eager_jit_and_vmap_agree(key, keys):
    logits, quotas = jnp.asarray(normal(0, 2, 6)), (2, 1)
    eager = rankpg.sample_candidates(key, logits, quotas)
    batch = keys(3).at[1].set(key)
    drawn = jax.jit(jax.vmap(lambda k: rankpg.sample_candidates(k, logits, quotas)))(batch)
    np.testing.assert_array_equal(drawn[1], eager)
    one = rankpg.log_prob(logits, eager, quotas)
    many = jax.jit(jax.vmap(lambda s: rankpg.log_prob(logits, s, quotas)))(drawn)
    np.testing.assert_allclose(many[1], one, rtol=1e-12)


@pytest.mark.slow
def test_one_trace_serves_all_values(keys):
    traces = []

    @functools.partial(jax.jit, static_argnames="quotas")
    def step(key, logits, quotas):
        traces.append(quotas)
        candidates = rankpg.sample_candidates(key, logits, quotas)
        return rankpg.log_prob(logits, candidates, quotas)

    for seed, key in enumerate(keys(4)):
        step(key, jnp.asarray(normal(seed, 2, 6), jnp.float32), quotas=(2, 1))
    assert traces == [(2, 1)]


# --- sparse logits ----------------------------------------------------------------------------------------


@jax.jit
def gathered(logits, ids):
    """Sparse logits, their total, and the positions of the ids."""
    sparse = gather_logits(logits, ids)
    return sparse, sparse.log_total(), sparse.positions(ids)


def test_log_total_is_the_weight_of_the_whole_catalogue():
    logits = np.random.default_rng(0).normal(size=(2, 6), scale=5)
    logits[1, 2] = -INF
    total = np.log(np.exp(logits).sum(axis=1))
    for ids in ([5, 2, 2], [3, 1, 3], [0, 4, 2]):
        items = jnp.asarray(ids, jnp.int32)
        sparse, found, positions = gathered(jnp.asarray(logits), items)
        np.testing.assert_allclose(found, total, rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(sparse.items)[positions], ids)
        rest = [j for j in range(6) if j not in ids]
        weight = np.exp(logits)[:, rest].sum(axis=1)
        np.testing.assert_allclose(np.exp(sparse.log_rest), weight, rtol=1e-12)
    found = jax.jit(lambda f: full_logits(f).log_total())(jnp.asarray(logits))
    np.testing.assert_allclose(found, total, rtol=1e-12)


def test_a_repeated_id_counts_once_in_value_and_gradient():
    logits, items = jnp.asarray([[0.0, 1.0, 2.0]]), jnp.array([1, 1, 0], jnp.int32)
    total = jax.jit(jax.value_and_grad(lambda f: gather_logits(f, items).log_total()[0]))
    value, gradient = total(logits)
    np.testing.assert_allclose(value, np.log(np.exp([0.0, 1.0, 2.0]).sum()), rtol=1e-12)
    np.testing.assert_allclose(gradient, oracle.softmax(np.array([[0.0, 1.0, 2.0]])), rtol=1e-12)


def test_an_id_of_minus_one_has_the_position_past_the_end():
    @jax.jit
    def positions(items, ids):
        return gather_logits(jnp.zeros((1, 5)), items).positions(ids)

    found = positions(jnp.array([4, 1], jnp.int32), jnp.array([-1, 1, 4], jnp.int32))
    np.testing.assert_array_equal(found, [2, 0, 1])
