"""Inclusion probabilities and gradients of all items of many policies, by one compiled program each."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers.policies import INF

import rankpg

METHODS = ("exact", "greedy", "swr", "sum")


@functools.partial(jax.jit, static_argnums=(1, 2))
def all_items(logits, quotas, method):
    """Log P for every item of every policy: logits [S, M, N] -> [S, N]."""

    def one(policy, item):
        return rankpg.log_inclusion(policy, item, quotas, method)

    return _for_all_pairs(one, logits)


@functools.partial(jax.jit, static_argnums=(1, 2))
def all_gradients(logits, quotas, method):
    """Log P and its gradient for every item of every policy, [S, N] and [S, N, M, N]."""

    def one(policy, item):
        return rankpg.log_inclusion(policy, item, quotas, method)

    return _for_all_pairs(jax.value_and_grad(one), logits)


def _for_all_pairs(function, logits):
    """Applies `function(policy, item)` under one `vmap`, which traces faster than two."""
    policies, items = logits.shape[0], logits.shape[-1]
    ids = jnp.tile(jnp.arange(items, dtype=jnp.int32), policies)
    found = jax.vmap(function)(jnp.repeat(logits, items, axis=0), ids)
    return jax.tree.map(lambda x: x.reshape(policies, items, *x.shape[1:]), found)


def policies(experts: int, items: int, fewest: int) -> np.ndarray:
    """Flat to peaked, several seeds; then with masks, down to `fewest` eligible items."""
    random = np.random.default_rng(experts * 100 + items)
    scale = np.array([0.0, 0.5, 2.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0])[:, None, None]
    logits = (
        scale * random.normal(size=(10, experts, items)) + 0.0
    )  # no -0.0, so that ties are exact
    for policy, eligible in enumerate(range(max(fewest, items - 3), items), start=7):
        masked = random.choice(items, size=items - eligible, replace=False)
        logits[policy][:, masked] = -INF
    return logits


def relative_errors(log_p: np.ndarray, truth: np.ndarray) -> float:
    """Largest relative error of P where P > 0; asserts that log P is -inf where P = 0."""
    np.testing.assert_array_equal(np.isneginf(log_p), truth == 0)
    eligible = truth > 0
    return float(np.max(np.abs(np.exp(np.asarray(log_p)[eligible]) / truth[eligible] - 1)))
