"""The inclusion objective by every method of P(a in S), against enumeration of all draws."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.config import ConfigError
from rankpg.environments import from_interactions
from rankpg.runs.run import prepare
from rankpg.training import whole_catalogue

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

USERS, ITEMS, LENGTH = 5, 6, 5
RANDOM = np.random.default_rng(3)
LOG = {
    "user": np.repeat(np.arange(USERS), LENGTH),
    "item": np.concatenate([RANDOM.permutation(ITEMS)[:LENGTH] for _ in range(USERS)]),
    "timestamp": np.tile(np.arange(LENGTH), USERS),
    "value": RANDOM.uniform(0.5, 2.0, USERS * LENGTH),
}
SETTINGS = {
    "objective": "inclusion",
    "context_tower": "ids",
    "first_share": 0.0,
    "num_candidates": 2,
    "embedding_dim": 3,
    "batch_size": 4,
    "num_steps": 2,
    "eval_every": 2,
    "seeds": (0,),
    "init_scale": 1.0,
}


@pytest.fixture(scope="module")
def data():
    return from_interactions(LOG)


def by_enumeration(weights, item, quotas):
    """The probability that the item is among the first K of all ordered draws; one expert."""
    (slots,) = quotas
    total, own = 0.0, weights[0]
    eligible = np.flatnonzero(own)
    if slots >= len(eligible):
        return 1.0
    for drawn in itertools.permutations(eligible, slots):
        if item in drawn:
            left, chance = own.sum(), 1.0
            for a in drawn:
                chance *= own[a] / left
                left -= own[a]
            total += chance
    return total


def by_greedy(weights, item, quotas):
    """Eq. 8 by a loop over slots: each slot sees the item and what the greedy picks before it have left."""
    taken, missed = [item], 1.0
    for own, slots in zip(weights, quotas, strict=True):
        for _ in range(slots):
            left = [a for a in range(ITEMS) if a not in taken and own[a] > 0]
            missed *= 1 - own[item] / (own[item] + own[left].sum())
            if left:
                taken.append(max(left, key=lambda a: own[a]))
    return 1 - missed


def slow_loss(run, key, formula, several):
    """The loss of the first update, by loops over contexts and wanted items."""
    learner, objective = run.learner, run.learner.objective
    of_feedback, _ = jax.random.split(key)
    contexts = objective.sampler(jax.random.fold_in(key, np.uint32(2**32 - 1)), jnp.int32(0))
    wanted = learner.environment.feedback(of_feedback, contexts)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    logits = learner.policy.logits(params, learner.environment, contexts)
    total = weight = 0.0
    for row, context in enumerate(np.asarray(contexts)):
        masked = learner.environment.mask_ineligible(jnp.int32(context), logits[row])
        weights = np.exp(np.asarray(masked, np.float64))
        kept = np.asarray(wanted.values[row]) > 0
        mine = np.asarray(wanted.items[row])[kept]
        for item, value in zip(mine, np.asarray(wanted.values[row])[kept], strict=True):
            others = weights.copy()
            if objective.mask_others:
                others[:, [a for a in mine if a != item]] = 0
            total -= value * np.mean([formula(others, item, quotas) - 1 for quotas in several])
            weight += value
    return total / weight


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "masks", "experts", "several", "at_once"),
    [
        ("exact", True, 1, [(1,), (2,), (6,)], None),
        ("exact", False, 1, [(2,), (3,)], 1),
        ("greedy", True, 1, [(2,), (3,)], None),
        ("greedy", False, 2, [(1, 1), (2, 1)], None),
    ],
)
def test_loss_by_brute_force(data, monkeypatch, method, masks, experts, several, at_once):
    if at_once:  # every wanted item alone, as in a catalogue that fills the memory
        monkeypatch.setattr(whole_catalogue, "_NUMBERS", 1)
    run = prepare(
        rankpg.TrainConfig(
            **SETTINGS,
            inclusion_method=method,
            mask_positives=masks,
            num_experts=experts,
            inclusion_at=[max(sum(quotas), experts) for quotas in several],
            forward_share=0.7,
        ),
        data,
    )
    formula = by_enumeration if method == "exact" else by_greedy
    state, key = jax.tree.map(lambda leaf: leaf[0], run.state), jax.random.key(1)
    after, metrics = jax.jit(type(run.learner).update)(run.learner, state, key)
    assert metrics.loss == pytest.approx(slow_loss(run, key, formula, several), rel=1e-4)
    assert int(after.fault) == 0
    assert float(metrics.gradient_norm) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retrieval": "streamed"}, "retrieval='streamed' with inclusion_method='exact'"),
        ({"retrieval": "sharded"}, "retrieval='sharded' with inclusion_method='exact'"),
        ({"num_experts": 2}, "num_experts=2 with inclusion_method='exact'.*'greedy'"),
        (
            {"objective": "softmax"},
            "inclusion_method='exact' has no effect with objective='softmax'",
        ),
        (
            {"inclusion_method": "threshold"},
            "inclusion_method='threshold'; expected one of swr, sum",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        rankpg.TrainConfig(**SETTINGS | {"inclusion_method": "exact"} | settings)
