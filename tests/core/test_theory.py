"""Theorems 3.1 and 3.3 and Definition 3.2, against enumeration without code of the library."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.policies import slow
from hypothesis import given
from hypothesis import strategies as st

from rankpg.core import theory

REWARDS = np.array([0.7, 2.0, 1.1, 3.0])
LOGITS = np.array([[0.3, -0.8, 1.2, 0.1], [1.0, 0.2, -0.5, 0.4]])
QUOTAS = {"one expert": (2,), "two experts": (1, 1), "uneven": (2, 1)}


@functools.cache
def by_rule(rule):
    """P(a shown | S) in two forms: the library's, in slot order, and the oracle's, float[1, N]."""

    def shown(candidates):
        rewards = jnp.asarray(REWARDS)[candidates]
        place = {"optimal": jnp.argmax, "anti": jnp.argmin}.get(rule)
        if place is None:
            return jnp.full(candidates.shape, 1 / candidates.shape[0])
        return jax.nn.one_hot(place(rewards), candidates.shape[0])

    def positions(candidates):
        found, ids = np.zeros((1, len(REWARDS))), np.asarray(candidates)
        if rule == "uniform":
            found[0, ids] = 1 / len(ids)
        else:
            place = np.argmax if rule == "optimal" else np.argmin
            found[0, ids[place(REWARDS[ids])]] = 1
        return found

    return shown, positions


@functools.partial(jax.jit, static_argnums=(1, 2))
def compiled_parts(logits, quotas, shown, rewards):
    return theory.decompose_gradient(logits, quotas, shown, rewards)


def decompose(logits, quotas, shown, rewards) -> theory.GradientParts:
    return compiled_parts(jnp.asarray(logits), quotas, shown, jnp.asarray(rewards))


THEOREM_3_1 = [
    pytest.param(name, rule, marks=() if fast else pytest.mark.slow)
    for name in QUOTAS
    for rule in ("optimal", "uniform", "anti")
    for fast in [(name, rule) == ("uneven", "anti")]
]


@pytest.mark.parametrize(("name", "rule"), THEOREM_3_1)
def test_parts_of_theorem_3_1_add_up(name, rule):
    quotas = QUOTAS[name]
    shown, positions = by_rule(rule)
    logits = LOGITS[: len(quotas)]
    parts = decompose(logits, quotas, shown, REWARDS)
    whole = oracle.policy_gradient(logits, quotas, positions, REWARDS, np.ones(1))
    credit = oracle.credit_assigned_gradient(logits, quotas, positions, REWARDS, np.ones(1))
    np.testing.assert_allclose(parts.v_pg, whole, atol=1e-6)
    np.testing.assert_allclose(parts.ca_pg, credit, atol=1e-6)
    np.testing.assert_allclose(parts.ca_pg + parts.remainder, parts.v_pg, atol=1e-6)
    assert np.abs(parts.v_pg).max() > 0.01


def test_uniform_reranker_has_no_remainder_for_one_expert():
    """P(a shown | a in S) = 1/K for every policy, so credit assignment is the whole gradient."""
    shown, _ = by_rule("uniform")
    parts = decompose(LOGITS[:1], (2,), shown, REWARDS)
    np.testing.assert_allclose(parts.remainder, 0, atol=1e-6)
    np.testing.assert_allclose(parts.ca_pg, parts.v_pg, atol=1e-6)


def test_anti_reranker_misleads_credit_assignment():
    """CA-PG lowers the logit that the value gradient raises: the best item is shown only if alone."""
    rewards = jnp.array([3.0, 2.0, 1.0])

    def worst(candidates):
        return jax.nn.one_hot(jnp.argmin(rewards[candidates]), 2)

    parts = decompose(np.zeros((1, 3)), (2,), worst, rewards)
    best_item = 0
    assert float(parts.v_pg[0, best_item]) > 0.01
    assert float(parts.ca_pg[0, best_item]) < -0.01


@pytest.mark.slow
def test_optimal_reranker_does_not_mislead():
    shown, _ = by_rule("optimal")
    parts = decompose(np.zeros((1, 4)), (2,), shown, REWARDS)
    assert int(jnp.argmax(parts.ca_pg[0])) == int(jnp.argmax(parts.v_pg[0])) == 3


def test_masked_item_has_gradient_0():
    shown, _ = by_rule("uniform")
    logits = jnp.asarray(LOGITS[:1]).at[0, 0].set(-jnp.inf)
    parts = decompose(logits, (2,), shown, REWARDS)
    for part in parts:
        assert np.all(np.isfinite(part))
        assert part[0, 0] == 0


@pytest.mark.parametrize(
    ("quotas", "rule", "holds"),
    [
        ((2,), "optimal", True),
        ((2,), "anti", False),
        slow((1, 1), "optimal", True),
        slow((1, 1), "anti", False),
    ],
)
def test_condition_of_theorem_3_3(quotas, rule, holds):
    shown, positions = by_rule(rule)
    logits, size = LOGITS[: len(quotas)], sum(quotas)
    found, margins = theory.top_k_condition(
        jnp.asarray(logits), quotas, shown, jnp.asarray(REWARDS)
    )
    assert found is holds

    chosen, p = oracle.probabilities(logits, quotas)
    included = oracle.inclusion(logits, quotas)
    conditional = p @ np.concatenate([positions(s) for s in chosen]) / included
    order = np.argsort(-REWARDS)
    expected = np.empty((size, 4 - size))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, j in itertools.product(range(size), range(4 - size)):
            a, b = order[i], order[size + j]
            expected[i, j] = REWARDS[a] / REWARDS[b] - conditional[b] / conditional[a]
    assert margins.shape == expected.shape
    np.testing.assert_allclose(margins, expected, rtol=1e-5)
    assert holds == bool(np.all(expected > 0))


def test_theorem_3_3_ignores_masked_items():
    shown, _ = by_rule("optimal")
    logits = jnp.asarray(LOGITS[:1]).at[0, 0].set(-jnp.inf)
    assert theory.top_k_condition(logits, (2,), shown, jnp.asarray(REWARDS))[0]


@pytest.mark.parametrize("function", [theory.decompose_gradient, theory.top_k_condition])
def test_large_enumerations_are_rejected(function):
    with pytest.raises(
        ValueError, match=r"K = 4 of N = 30 items .* 657720 ways; expected at most 200000"
    ):
        function(jnp.zeros((1, 30)), (4,), lambda c: c, jnp.ones(30))


@pytest.mark.parametrize("reward", [0.0, -1.0])
def test_theorem_3_3_requires_positive_rewards(reward):
    shown, _ = by_rule("optimal")
    rewards = jnp.asarray(REWARDS).at[2].set(reward)
    with pytest.raises(ValueError, match=rf"rewards has the minimum {reward}; .* above 0"):
        theory.top_k_condition(jnp.asarray(LOGITS[:1]), (2,), shown, rewards)


# Definition 3.2, with ties on both sides.

aligned = jax.jit(theory.is_aligned)
partitioned = jax.jit(theory.is_partitioned, static_argnums=2)
few_values = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@given(few_values, few_values)
def test_is_aligned(probabilities, rewards):
    expected = all(
        probabilities[a] > probabilities[b]
        for a, b in itertools.permutations(range(4), 2)
        if rewards[a] > rewards[b]
    )
    assert bool(aligned(jnp.array(probabilities, float), jnp.array(rewards, float))) == expected


@given(few_values, few_values, st.integers(1, 4))
def test_is_partitioned(probabilities, rewards, size):
    """Any of several equal rewards may count in the top K."""

    def separates(top):
        others = [item for item in range(4) if item not in top]
        return all(
            rewards[a] >= rewards[b] and probabilities[a] > probabilities[b]
            for a, b in itertools.product(top, others)
        )

    expected = any(separates(top) for top in itertools.combinations(range(4), size))
    found = partitioned(jnp.array(probabilities, float), jnp.array(rewards, float), size)
    assert bool(found) == expected


def test_both_definitions_occur_as_true_and_false():
    """A function that is always False would pass most examples above."""
    rewards = jnp.array([4.0, 3.0, 2.0, 1.0])
    assert bool(aligned(rewards, rewards))
    assert bool(partitioned(jnp.array([3.0, 4.0, 2.0, 1.0]), rewards, 2))
    assert not bool(partitioned(jnp.array([3.0, 1.0, 2.0, 0.0]), rewards, 2))
    assert bool(aligned(jnp.array([2.0, 1.0, 0.5]), jnp.array([1.0, 1.0, -jnp.inf])))
