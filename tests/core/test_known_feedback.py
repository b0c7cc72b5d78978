"""Probabilities that wanted items are candidates, against the plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.core.inclusion import log_inclusion
from rankpg.core.known_feedback import (
    box_cox,
    log_inclusion_of_wanted,
    log_inclusion_of_wanted_dense,
)
from rankpg.core.plackett_luce import gather_logits

WANTED = np.array([4, 1, 6], np.int32)
LOGITS = 1.5 * np.random.default_rng(0).normal(size=(2, 9))
LOGITS[:, 8] = -np.inf


def by_formula(logits, item, quotas, masked, method):
    """1 - prod_m (1 - pi_m)^K_m, or sum_m K_m pi_m, with the other wanted items taken out or not."""
    weights = np.exp(np.asarray(logits))
    if masked:
        others = [int(other) for other in WANTED if other != item]
        weights[:, others] = 0
    share = weights[:, item] / weights.sum(axis=1)
    if method == "sum":
        return np.sum(np.array(quotas) * share)
    return 1 - np.prod((1 - share) ** np.array(quotas))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("method", ["swr", "sum"])
@pytest.mark.parametrize("quotas", [(1,), (5,), (2, 3)])
def test_probabilities_by_their_formulas(masked, method, quotas):
    logits = jnp.asarray(LOGITS[: len(quotas)])
    sparse = gather_logits(logits, jnp.asarray(WANTED))
    found = log_inclusion_of_wanted(
        sparse, jnp.asarray(WANTED), [quotas], method=method, mask_others=masked
    )[0]
    wanted = [by_formula(logits, int(item), quotas, masked, method) for item in WANTED]
    np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-12)


@pytest.mark.parametrize("masked", [True, False])
def test_dense_and_sparse_agree_in_value_and_gradient(masked):
    def dense(logits):
        return log_inclusion_of_wanted_dense(
            logits, jnp.asarray(WANTED), (2, 3), method="swr", mask_others=masked
        ).sum()

    def sparse(logits):
        listed = gather_logits(logits, jnp.asarray(WANTED))
        return log_inclusion_of_wanted(
            listed, jnp.asarray(WANTED), [(2, 3)], mask_others=masked
        ).sum()

    value, slope = jax.value_and_grad(dense)(jnp.asarray(LOGITS))
    again, same = jax.value_and_grad(sparse)(jnp.asarray(LOGITS))
    np.testing.assert_allclose(again, value, rtol=1e-12)
    np.testing.assert_allclose(same, slope, atol=1e-12)
    assert np.abs(slope).max() > 0.1


def test_one_slot_is_the_softmax():
    sparse = gather_logits(jnp.asarray(LOGITS[:1]), jnp.asarray(WANTED))
    found = log_inclusion_of_wanted(sparse, jnp.asarray(WANTED), [(1,)], mask_others=False)[0]
    np.testing.assert_allclose(found, jax.nn.log_softmax(LOGITS[0])[WANTED], rtol=1e-12)


def test_exact_is_that_of_the_catalogue_without_the_others():
    found = log_inclusion_of_wanted_dense(jnp.asarray(LOGITS[:1]), jnp.asarray(WANTED), (3,))
    for place, item in enumerate(np.asarray(WANTED)):
        others = np.array([other for other in range(9) if other not in np.asarray(WANTED)])
        kept = np.append(others, item)
        wanted = log_inclusion(jnp.asarray(LOGITS[:1, kept]), len(kept) - 1, (3,))
        np.testing.assert_allclose(found[place], wanted, rtol=1e-9)


def test_repeats_of_an_item_change_nothing():
    repeated = jnp.asarray(np.concatenate([WANTED, WANTED[:1], WANTED[:1]]))
    sparse = gather_logits(jnp.asarray(LOGITS), repeated)
    found = log_inclusion_of_wanted(sparse, repeated, [(2, 3), (1, 1)])[0]
    once = log_inclusion_of_wanted(
        gather_logits(jnp.asarray(LOGITS), jnp.asarray(WANTED)), jnp.asarray(WANTED), [(2, 3)]
    )[0]
    np.testing.assert_allclose(found, once[np.array([0, 1, 2, 0, 0])], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_have_finite_gradients(scale):
    def loss(logits, power):
        listed = gather_logits(logits, jnp.asarray(WANTED))
        log_p = log_inclusion_of_wanted(listed, jnp.asarray(WANTED), [(4,)])
        return jnp.sum(box_cox(log_p, power))

    logits = jnp.zeros((1, 9)).at[0, 4].set(scale)
    for power in (0.0, 0.3, 1.0):
        value, slope = jax.value_and_grad(loss)(logits, power)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_box_cox_goes_from_the_logarithm_to_the_probability():
    log_p = jnp.log(jnp.array([1e-6, 0.2, 1.0]))
    np.testing.assert_allclose(box_cox(log_p, 0.0), log_p)
    np.testing.assert_allclose(box_cox(log_p, 1.0), jnp.exp(log_p) - 1)
    np.testing.assert_allclose(box_cox(log_p, 0.5), (jnp.exp(log_p) ** 0.5 - 1) / 0.5)
    near = box_cox(log_p, 2e-4)
    np.testing.assert_allclose(near, log_p, rtol=3e-3)
    np.testing.assert_allclose(jax.jit(box_cox)(log_p, jnp.array(0.5)), box_cox(log_p, 0.5))


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method='exact'; expected one of swr, sum"):
        log_inclusion_of_wanted(
            gather_logits(jnp.asarray(LOGITS), jnp.asarray(WANTED)),
            jnp.asarray(WANTED),
            [(1, 1)],
            method="exact",
        )
