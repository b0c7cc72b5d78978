"""Credit by swaps: lists, rewards, and the expected gradient of the update against enumeration."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from helpers import oracle
from helpers.policies import normal

from rankpg import TrainConfig, rerankers
from rankpg.core.estimators import draw_candidates, swaps_of
from rankpg.encoders import Encoder
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.reward_models import RewardModel
from rankpg.runs.storage.checkpoint import _flat
from rankpg.training.build import build_learner
from rankpg.training.counterfactual import DrawKeys, lists_by_calls, lists_by_keys, swap_credit
from rankpg.training.optimizer import Fault
from rankpg.training.update import update
from rankpg.types import Environment

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

RELEVANCE = np.array([0.7, 3.1, 0.2, 1.9, 2.3, 0.9])
ALPHA = np.array([1.0, 0.5])
PAIRS = np.random.default_rng(3).normal(size=(6, 6))
"""Reward of an item at the second position, by the item at the first."""


@struct.dataclass
class World(Environment):
    """One context and six items; the noise of a reward has variance 1."""

    values: jax.Array
    pairs: jax.Array
    rewards_interact: bool = struct.field(pytree_node=False, default=False)
    num_contexts = property(lambda self: 1)
    num_items = property(lambda self: self.values.shape[0])

    def relevance(self, context, items):
        return jnp.asarray(RELEVANCE, self.values.dtype)[items]

    def mean_rewards(self, context, items):
        means = self.values[items]
        if not self.rewards_interact or items.shape != (2,):
            return means
        return means.at[1].set(self.pairs[items[0], items[1]])

    def sample_rewards(self, key, context, items):
        noise = jax.random.normal(key, items.shape, self.values.dtype)
        return self.mean_rewards(context, items) + noise


VALUES = np.random.default_rng(4).normal(size=6)


def world(interact=False) -> World:
    return World(jnp.asarray(VALUES), jnp.asarray(PAIRS), interact)


def wrong_model() -> RewardModel:
    """Predicts other rewards than those of the world, and counts what it has seen."""

    def predict(state, environment, contexts, items):
        return (3 * jnp.sin(items.astype(float)) + state[0]).astype(environment.values.dtype)

    def learn(state, environment, contexts, items, rewards, observed):
        return state[0], state[1] + 1

    return RewardModel(lambda key: (jnp.zeros(()), jnp.zeros((), jnp.int32)), predict, learn)


def learner_of(quotas, reranker="optimal", environment=None, logits=None, **settings):
    """A learner whose parameters are the logits themselves."""
    logits = normal(2, len(quotas), 6, sd=1.2) if logits is None else logits
    encoder = Encoder(
        lambda key: jnp.asarray(logits)[None], lambda params, contexts: params[contexts]
    )
    config = TrainConfig(
        estimator="ca_pg_swap",
        num_candidates=sum(quotas),
        num_experts=len(quotas),
        ranking_length=2,
        position_weights="uniform",
        batch_size=settings.pop("batch_size", 4),
        retrieval="dense",
        seeds=(0,),
        **settings,
    )
    given = None if isinstance(reranker, str) else reranker
    if given is None:
        config = dataclasses.replace(config, reranker=reranker)
    learner = build_learner(
        config, environment or world(), encoder=encoder, reranker=given, optimizer=optax.sgd(0.0)
    )
    alpha = np.array([1, 0.5], np.float32)  # a config refuses it where rewards interact
    return dataclasses.replace(learner, reward_model=wrong_model(), position_weights=alpha)


# --- the expected gradient ----------------------------------------------------------------------------------


def true_gradient(learner, logits, quotas) -> np.ndarray:
    """Enumerates candidate sets and rankings."""
    environment, noisy = learner.environment, learner.reranker.draws
    chosen, p = oracle.probabilities(logits, quotas)
    rankings = oracle.tuples(sum(quotas), 2)
    earned = np.zeros(len(chosen))
    for row, items in enumerate(chosen):
        if noisy:
            weights = np.exp(oracle.log_probs(RELEVANCE[None, items], (2,), rankings))
        else:
            best = np.argsort(-RELEVANCE[items])[:2]
            weights = (rankings == best).all(axis=1).astype(float)
        for ranking, weight in zip(items[rankings], weights, strict=True):
            first, second = ranking
            follows = PAIRS[first, second] if environment.rewards_interact else VALUES[second]
            earned[row] += weight * (ALPHA[0] * VALUES[first] + ALPHA[1] * follows)
    return np.einsum("p,pmn->mn", p * earned, oracle.log_prob_gradients(logits, quotas, chosen))


def sampled_gradient(learner, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square of the ascent direction over `rounds` batches."""
    state = learner.init(jax.random.key(0))

    @jax.jit
    def run(keys):
        def one(carry, key):
            gradient = -update(learner, state, learner.simulate(key))[1].gradient[0]
            return (carry[0] + gradient, carry[1] + gradient**2), None

        zeros = jnp.zeros_like(state.params[0])
        return jax.lax.scan(one, (zeros, zeros), keys)[0]

    first, second = run(jax.random.split(jax.random.key(1), rounds))
    return np.asarray(first) / rounds, np.asarray(second) / rounds


CASES = [
    *itertools.product(
        ((3,), (2, 1)), ("optimal", "noisy"), (False, True), ("sampled", "mean", "model")
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("quotas", "reranker", "interact", "source"), CASES)
def test_the_update_follows_the_gradient_of_the_value(quotas, reranker, interact, source):
    """Deterministic and noisy re-rankers, rewards of items and of lists, sampled or of a wrong model."""
    logits = normal(2, len(quotas), 6, sd=1.2)
    learner = learner_of(
        quotas, reranker, world(interact), logits, swap_rewards=source, batch_size=500
    )
    mean, square = sampled_gradient(learner, 200)
    truth = true_gradient(learner, logits, quotas)
    z = oracle.standard_errors(mean, square, 200, truth)
    assert np.max(np.abs(z)) < 4.5
    assert np.linalg.norm(mean - truth) < 0.2 * np.linalg.norm(truth)


@pytest.mark.slow
@pytest.mark.parametrize("quotas", [(3,), (2, 1)])
def test_a_re_ranker_without_sort_keys_is_called_for_every_swap(quotas):
    """A function of the set: it shows the item of median relevance before the best one."""

    def function(key, context, candidates):
        relevance = jnp.asarray(RELEVANCE)[candidates]
        order = jnp.argsort(-relevance)
        return candidates[order[jnp.array([1, 0])]]

    logits = normal(2, len(quotas), 6, sd=1.2)
    learner = learner_of(quotas, rerankers.custom(2, function), world(True), logits, batch_size=500)
    chosen, p = oracle.probabilities(logits, quotas)
    ranked = np.stack([s[np.argsort(-RELEVANCE[s])][[1, 0]] for s in chosen])
    earned = ALPHA[0] * VALUES[ranked[:, 0]] + ALPHA[1] * PAIRS[ranked[:, 0], ranked[:, 1]]
    truth = np.einsum("p,pmn->mn", p * earned, oracle.log_prob_gradients(logits, quotas, chosen))
    mean, square = sampled_gradient(learner, 200)
    assert np.max(np.abs(oracle.standard_errors(mean, square, 200, truth))) < 4.5


# --- lists --------------------------------------------------------------------------------------------------


def best_of(key_of, length, items):
    return sorted(items, key=lambda a: -key_of[a])[:length]


def test_few_lists_serve_all_swaps_of_one_expert():
    """L + 1 lists from the sort keys are the K lists that sorting every swapped set makes."""
    random, few = np.random.default_rng(0), jax.jit(lists_by_keys, static_argnums=4)
    for length in (1, 2, 4):
        for _ in range(30):
            ids = random.permutation(9)[:5]
            keys = random.normal(size=5)
            items, rival = jnp.asarray(ids[:4], jnp.int32), jnp.asarray(ids[4:], jnp.int32)
            lists = few(jnp.asarray(keys[:4]), jnp.asarray(keys[4:]), items, rival, length)
            assert lists.items.shape == (length + 1, length)
            key_of = dict(zip(ids.tolist(), keys, strict=True))
            by_key = partial(best_of, key_of, length)
            shown = by_key(ids[:4].tolist())
            for slot in range(4):
                wanted = by_key([a for a in ids.tolist() if a != ids[slot]])
                assert lists.items[lists.of_candidate[slot]].tolist() == wanted
            extra = {a for row in lists.items.tolist() for a in row} - set(shown)
            assert extra <= set(lists.others.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimal", "anti"])
def test_credit_by_keys_is_the_credit_by_calls(name):
    """A re-ranker without sort keys is called for every swap."""
    learner = learner_of((3,), name, swap_rewards="mean", batch_size=16)
    batch, state = learner.simulate(jax.random.key(3)), learner.init(jax.random.key(0))
    candidates = batch.candidates(learner, state.params)
    ranking = batch.ranking(learner, candidates)
    rewards = batch.rewards(learner, ranking)
    without = dataclasses.replace(
        learner, reranker=rerankers.custom(2, lambda key, context, items: learner.reranker(
            key, learner.environment, context, items).items)
    )  # fmt: skip
    by_keys, by_calls = (
        jax.jit(swap_credit)(each, keys_of(batch), batch.contexts, candidates, ranking, rewards)
        for each in (learner, without)
    )
    np.testing.assert_allclose(by_keys, by_calls, atol=1e-12)
    assert np.any(by_keys != 0)


@pytest.mark.slow
def test_lists_by_calls_put_the_entering_item_in_the_slot_of_the_leaving_one():
    candidates = draw_candidates(jax.random.key(0), jnp.asarray(normal(0, 1, 6)), (3,), "swaps")
    swaps = swaps_of(candidates, (3,))
    lists = lists_by_calls(lambda items: items, candidates.items, candidates.order[:, 3], swaps)
    for slot in range(3):
        changed = candidates.items.at[slot].set(candidates.order[0, 3])
        assert lists.items[lists.of_candidate[slot]].tolist() == changed.tolist()


# --- rewards ------------------------------------------------------------------------------------------------


def keys_of(batch) -> DrawKeys:
    return DrawKeys(batch.keys.reranker, batch.keys.rewards)


def credit_of(learner, seed=3):
    batch, state = learner.simulate(jax.random.key(seed)), learner.init(jax.random.key(0))
    candidates = batch.candidates(learner, state.params)
    ranking = batch.ranking(learner, candidates)
    rewards = learner.within_bounds(batch.rewards(learner, ranking))
    found = jax.jit(swap_credit)(
        learner, keys_of(batch), batch.contexts, candidates, ranking, rewards,
        state.reward_model_state,
    )  # fmt: skip
    return np.asarray(found), np.asarray(candidates.items), np.asarray(ranking), np.asarray(rewards)


@pytest.mark.slow
def test_a_list_keeps_the_rewards_of_the_items_that_it_shares_with_the_shown_one():
    """A candidate that is not shown has no credit behind a sorting re-ranker, unless its rival would be."""
    credit, items, ranking, rewards = credit_of(learner_of((4,), batch_size=32))
    best = np.sort(RELEVANCE)[::-1]
    for own, ids, shown, worth in zip(credit, items, ranking, rewards, strict=True):
        if (
            RELEVANCE[shown[1]] == best[1]
        ):  # the two best items are shown: no rival comes before them
            np.testing.assert_array_equal(own[~np.isin(ids, shown)], 0)
            second = own[ids == shown[1]][0]
            first = own[ids == shown[0]][0]
            # without the first, the second moves up; both lists then end with the same item
            assert first - second == pytest.approx(ALPHA[0] * (worth[0] - worth[1]), abs=1e-9)


@pytest.mark.slow
def test_all_items_as_candidates_have_no_credit_and_no_gradient():
    learner = learner_of((6,))
    state, details = update(
        learner, learner.init(jax.random.key(0)), learner.simulate(jax.random.key(1))
    )
    np.testing.assert_array_equal(details.credit, 0)
    np.testing.assert_array_equal(details.gradient, 0)
    assert int(state.fault) == 0


@pytest.mark.slow
def test_residual_of_a_reward_model_comes_last():
    credit, _, ranking, rewards = credit_of(
        learner_of((3,), swap_rewards="model", residual_weight=0.5)
    )
    assert credit.shape == (4, 4)
    predicted = 3 * np.sin(ranking) @ ALPHA
    np.testing.assert_allclose(credit[:, 3], 0.5 * (rewards @ ALPHA - predicted), atol=1e-6)


@pytest.mark.slow
def test_unobserved_items_earn_nothing_in_any_list():
    @struct.dataclass
    class Half(World):
        def observed(self, context, items):
            return items < 3

    half = Half(jnp.asarray(VALUES), jnp.asarray(PAIRS))
    learner = dataclasses.replace(
        learner_of((3,), environment=half, batch_size=16), swap_rewards="mean"
    )
    left_out = dataclasses.replace(learner, leaves_out_unobserved=True)
    nothing = Half(jnp.asarray(np.where(np.arange(6) < 3, VALUES, 0)), jnp.asarray(PAIRS))
    zeros = dataclasses.replace(learner, environment=nothing)
    np.testing.assert_allclose(credit_of(left_out)[0], credit_of(zeros)[0], atol=1e-12)
    assert np.any(credit_of(left_out)[0] != credit_of(learner)[0])


@pytest.mark.slow
def test_a_bad_reward_of_a_list_that_is_not_shown_is_a_fault_of_the_rewards():
    """The best item earns NaN and is not a candidate, but the runner-up of some."""
    bad = World(jnp.asarray(np.where(np.arange(6) == 1, np.nan, VALUES)), jnp.asarray(PAIRS))
    learner = learner_of((3,), "optimal", bad, batch_size=64)
    batch, state = learner.simulate(jax.random.key(1)), learner.init(jax.random.key(0))
    ranking = np.asarray(batch.ranking(learner, batch.candidates(learner, state.params)))
    keep = np.flatnonzero(~(ranking == 1).any(axis=1))
    shown = jax.tree.map(lambda leaf: leaf[keep], (batch.contexts, batch.keys[1:]))
    batch = dataclasses.replace(
        batch, contexts=shown[0], keys=type(batch.keys)(batch.keys[0], *shown[1])
    )
    after, _ = jax.jit(update)(learner, state, batch)
    assert int(after.fault) == Fault.REWARDS.value


@pytest.mark.slow
def test_rewards_of_other_lists_are_clipped_to_the_bounds():
    low = learner_of((3,), swap_rewards="mean", reward_bounds=(-0.1, 0.1), outside_bounds="clip")
    credit = credit_of(low)[0]
    assert 0 < np.abs(credit).max() <= 0.2 * ALPHA.sum()


# --- the learner --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_reward_model_learns_after_every_update():
    learner = learner_of((3,), swap_rewards="model")
    state = learner.init(jax.random.key(0))
    after, _ = update(learner, state, learner.simulate(jax.random.key(1)))
    assert int(after.reward_model_state[1]) == 1
    broken = dataclasses.replace(state, fault=jnp.int32(3))
    stopped, _ = update(learner, broken, learner.simulate(jax.random.key(1)))
    assert int(stopped.reward_model_state[1]) == 0


def test_a_state_without_a_reward_model_is_saved_as_before():
    learner = dataclasses.replace(learner_of((3,)), reward_model=None)
    state = learner.init(jax.random.key(0))
    assert state.reward_model_state == ()
    assert not [name for name in _flat(state) if "reward_model" in name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"advantage": "context"}, "its own baseline.*advantage='none'"),
        ({"entropy_bonus": 0.1}, "entropy_bonus=0.1.*entropy_bonus=0"),
        ({"unobserved": "left_out"}, "left_out.*compares whole lists"),
        ({"estimator": "v_pg", "swap_rewards": "mean"}, "swap_rewards='mean' has no effect"),
        ({"residual_weight": 0.5}, "residual_weight=0.5 has no effect"),
        ({"swap_rewards": "model", "residual_weight": 2.0}, "a number from 0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**{"estimator": "ca_pg_swap"} | settings)


@pytest.mark.slow
def test_components_that_do_not_fit_are_refused():
    from rankpg.advantages import batch_baseline

    config = TrainConfig(estimator="ca_pg_swap", num_candidates=2, batch_size=4)
    data = from_matrix(np.ones((5, 8))).environment
    with pytest.raises(ConfigError, match="its own baseline"):
        build_learner(config, data, advantage=batch_baseline())
    learner = build_learner(dataclasses.replace(config, swap_rewards="model"), data)
    with pytest.raises(ConfigError, match=r"give reward_model='two_tower'.*Learner\.reward_model"):
        jax.eval_shape(lambda key: learner.update(learner.init(key), key), jax.random.key(0))
