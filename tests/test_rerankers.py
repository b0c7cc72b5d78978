"""Re-rankers: rankings, propensities, and checks of custom functions."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import stats

from rankpg import TrainConfig, rerankers
from rankpg.environments.from_ratings import from_matrix
from rankpg.environments.interactions import Moments, interactions
from rankpg.environments.synthetic import generate
from rankpg.rerankers import RERANKERS, fit_scorer
from rankpg.training.build import build_learner
from rankpg.types import Environment, Ranking, Reranker

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

DRAWS = 20_000
CONTEXT = jnp.int32(1)
CANDIDATES = jnp.array([9, 2, 7, 4], jnp.int32)


@struct.dataclass
class World(Environment):
    """Relevance and reward disagree on purpose: re-rankers order by relevance."""

    scores: jax.Array

    num_contexts = 2
    num_items = 10

    def mean_rewards(self, context, items):
        return 10 - self.scores[context, items]

    def sample_rewards(self, key, context, items):
        return self.mean_rewards(context, items)

    def relevance(self, context, items):
        return self.scores[context, items]


@pytest.fixture(scope="module")
def world():
    scores = np.random.default_rng(8).normal(size=(2, 10)).astype(np.float32)
    return World(jnp.asarray(scores))


def relevance(world) -> dict[int, float]:
    return {int(a): float(world.scores[1, a]) for a in CANDIDATES}


def plackett_luce(scores: dict[int, float], length: int) -> dict[tuple[int, ...], float]:
    """The probability of every ordered tuple."""
    chances = {}
    for ranking in itertools.permutations(scores, length):
        p, left = 1.0, dict(scores)
        for item in ranking:
            p *= np.exp(left[item]) / sum(np.exp(list(left.values())))
            del left[item]
        chances[ranking] = p
    return chances


def draw(reranker, world, method="__call__"):
    def one(key):
        return getattr(reranker, method)(key, world, CONTEXT, CANDIDATES)

    rankings = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(11), DRAWS))
    return [tuple(r) for r in np.asarray(rankings.items).tolist()], np.asarray(
        rankings.log_propensity
    )


def p_value(rankings, expected: dict[tuple[int, ...], float]) -> float:
    assert set(rankings) <= set(expected)
    counts = [rankings.count(ranking) for ranking in expected]
    return stats.chisquare(counts, DRAWS * np.array(list(expected.values()))).pvalue


@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize(("name", "sign"), [("optimal", -1), ("anti", 1)])
def test_optimal_and_anti_sort_by_relevance(name, sign, length, world):
    reranker, score = getattr(rerankers, name)(length), relevance(world)
    for method in (reranker, reranker.greedy):
        ranking = method(jax.random.key(0), world, CONTEXT, CANDIDATES)
        assert ranking.items.tolist() == sorted(score, key=lambda a: sign * score[a])[:length]
        assert ranking.items.dtype == jnp.int32
        assert float(ranking.log_propensity) == 0


@pytest.mark.slow
@pytest.mark.parametrize("inverse_temperature", [0.0, 1.5])
def test_noisy_is_plackett_luce(inverse_temperature, world):
    reranker = rerankers.noisy(2, inverse_temperature)
    score = {a: inverse_temperature * s for a, s in relevance(world).items()}
    expected = plackett_luce(score, 2)
    rankings, log_propensity = draw(reranker, world)
    assert p_value(rankings, expected) > 1e-3
    truth = [np.log(expected[ranking]) for ranking in rankings]
    np.testing.assert_allclose(log_propensity, truth, rtol=1e-4, atol=1e-5)

    wrong = plackett_luce({a: s + 0.15 * (a == 9) for a, s in score.items()}, 2)
    assert p_value(rankings, wrong) < 1e-3  # the test above can fail

    greedy = reranker.greedy(jax.random.key(1), world, CONTEXT, CANDIDATES)
    best = tuple(greedy.items.tolist())
    assert expected[best] == pytest.approx(max(expected.values()))
    assert float(greedy.log_propensity) == pytest.approx(np.log(expected[best]), rel=1e-4)


def test_propensity_does_not_depend_on_a_shift_of_relevance(world):
    """Float32 at 1e4 has steps of 1e-3; the differences are what counts."""
    quarters = jnp.round(4 * world.scores) / 4  # exact beside 8192 as well
    reranker = rerankers.noisy(2)
    near, far = (
        reranker.greedy(jax.random.key(0), World(scores), CONTEXT, CANDIDATES).log_propensity
        for scores in (quarters, quarters + 8192)
    )
    assert float(far) == pytest.approx(float(near), rel=1e-6)


@pytest.mark.parametrize("method", ["__call__", "greedy"])
def test_uniform_draws_at_evaluation_too(method, world):
    rankings, log_propensity = draw(rerankers.uniform(2), world, method)
    expected = plackett_luce(dict.fromkeys(relevance(world), 0.0), 2)
    assert p_value(rankings, expected) > 1e-3
    np.testing.assert_allclose(log_propensity, -np.log(12), rtol=1e-5)


def test_table_builds_rerankers_of_the_length_of_the_config(world):
    names = {"optimal", "noisy", "uniform", "anti", "learned", "similarity", "stored", "lightgbm"}
    assert set(RERANKERS) == names
    config = TrainConfig(
        ranking_length=3, num_candidates=5, reranker="noisy", inverse_temperature=2.5
    )
    for name in ("optimal", "noisy", "uniform", "anti"):
        reranker = RERANKERS[name](config, world)
        assert isinstance(reranker, Reranker)
        assert reranker.ranking_length == 3
    given, direct = RERANKERS["noisy"](config, world), rerankers.noisy(3, 2.5)
    rankings = (r(jax.random.key(3), world, CONTEXT, CANDIDATES) for r in (given, direct))
    jax.tree.map(np.testing.assert_array_equal, *rankings)


# A re-ranker that is learned.


@pytest.mark.slow
def test_a_learned_scorer_on_features_ranks_better_than_chance():
    environment = generate(jax.random.key(0), 20, 30, 4)
    scorer = fit_scorer(jax.random.key(1), environment, num_steps=400, batch_size=128)
    learnt, best, mean = shown(environment, scorer)
    assert learnt - mean > 0.6 * (best - mean), (learnt, best, mean)


@pytest.mark.slow
def test_a_learned_scorer_without_features_ranks_better_than_chance():
    table = np.random.default_rng(0).uniform(0, 3, (6, 8))
    environment = from_matrix(table).environment
    scorer = fit_scorer(jax.random.key(1), environment, num_steps=400, batch_size=64)
    learnt, best, mean = shown(environment, scorer)
    assert learnt - mean > 0.6 * (best - mean), (learnt, best, mean)


def shown(environment, scorer):
    """Mean reward of what the scorer shows of the whole catalogue, of the best item, of all items."""
    reranker = rerankers.learned(1, scorer)
    everything = jnp.arange(environment.num_items, dtype=jnp.int32)

    def one(context):
        items = reranker(jax.random.key(0), environment, context, everything).items
        means = environment.mean_rewards(context, everything)
        return means[items[0]], means.max(), means.mean()

    contexts = jnp.arange(environment.num_contexts, dtype=jnp.int32)
    return (float(x.mean()) for x in jax.jit(jax.vmap(one))(contexts))


# Scores by which a re-ranker sorts.


def test_rerankers_that_sort_return_their_scores(world):
    sorting = {
        "optimal": rerankers.optimal(2),
        "anti": rerankers.anti(2),
        "learned": rerankers.learned(2, lambda w, context, items: w.scores[context, items] ** 2),
    }
    truth = np.array(list(relevance(world).values()))
    expected = {"optimal": truth, "anti": -truth, "learned": truth**2}
    for name, reranker in sorting.items():
        found = reranker.scores(world, CONTEXT, CANDIDATES)
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)
        shown = reranker(jax.random.key(0), world, CONTEXT, CANDIDATES).items
        np.testing.assert_array_equal(shown, CANDIDATES[np.argsort(-found)[:2]])
    for reranker in (rerankers.noisy(2), rerankers.uniform(2), rerankers.custom(2, mine)):
        assert reranker.scores(world, CONTEXT, CANDIDATES) is None


SORTING = {
    "optimal": rerankers.optimal(3),
    "anti": rerankers.anti(3),
    "noisy": rerankers.noisy(3, 1.5),
    "uniform": rerankers.uniform(3),
}


@pytest.mark.parametrize("name", SORTING)
def test_sort_keys_are_those_of_the_call_with_the_same_key(world, name):
    """200 keys: the candidates of largest sort keys are the ranking that is shown."""
    reranker = SORTING[name]

    def one(key):
        own, new = reranker.sort_keys(key, world, CONTEXT, CANDIDATES, CANDIDATES[:1] + 1)
        return reranker(key, world, CONTEXT, CANDIDATES).items, own, new

    shown, own, new = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    order = np.argsort(-np.asarray(own), axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(shown, np.asarray(CANDIDATES)[order])
    assert new.shape == (200, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy", "uniform"])
def test_sort_keys_of_others_have_noise_of_their_own(world, name):
    """An item of the candidates as the other has keys of the same law, uncorrelated with its own."""
    one = jax.vmap(
        lambda key: SORTING[name].sort_keys(key, world, CONTEXT, CANDIDATES, CANDIDATES[:1])
    )
    own, new = jax.jit(one)(jax.random.split(jax.random.key(0), DRAWS))
    assert stats.ks_2samp(own[:, 0], new[:, 0]).pvalue > 1e-4
    assert abs(np.corrcoef(own[:, 0], new[:, 0])[0, 1]) < 0.04


def test_a_re_ranker_of_your_own_has_no_sort_keys_by_default(world):
    others = CANDIDATES[:1]
    for reranker in (rerankers.custom(2, mine), Reverse()):
        assert reranker.sort_keys(jax.random.key(0), world, CONTEXT, CANDIDATES, others) is None


class Reverse(Reranker):
    """Inherits the defaults."""

    ranking_length = 1

    def __call__(self, key, environment, context, candidates):
        return Ranking(items=candidates[::-1][:1], log_propensity=jnp.zeros(()))

    greedy = __call__


def test_a_class_of_your_own_has_no_scores(world):
    class Mine(Reranker):
        ranking_length = 1

        def __call__(self, key, environment, context, candidates):
            return rerankers.optimal(1)(key, environment, context, candidates)

        greedy = __call__

    assert Mine().scores(world, CONTEXT, CANDIDATES) is None


def test_by_score_sorts_by_the_function(world):
    def score(environment, context, items):
        return -jnp.abs(items - 5 * context).astype(jnp.float32)

    reranker = rerankers.by_score(3, score)
    for method in (reranker, reranker.greedy):
        ranking = method(jax.random.key(0), world, CONTEXT, CANDIDATES)
        assert ranking.items.tolist() == [4, 7, 2]  # 1, 2 and 3 away from 5
    np.testing.assert_array_equal(reranker.scores(world, CONTEXT, CANDIDATES), [-4, -3, -2, -1])


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda environment, context, items: items, r"int32\[4\] for 4 items"),
        (lambda environment, context, items: jnp.ones(()), r"float32\[\] for 4 items"),
        (lambda environment, context, items: None, "None for 4 items"),
    ],
)
def test_score_of_another_kind_is_rejected(score, said, world):
    with pytest.raises(ValueError, match=f"returned {said}; expected one float for each item"):
        rerankers.by_score(2, score)(jax.random.key(0), world, CONTEXT, CANDIDATES)


def test_stored_sorts_by_the_row_of_the_user():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    world = interactions(users, items, np.ones(3), 2, 10)
    table = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    later = world.at(Moments(np.array([1, 0, 1]), np.array([0, 1, 1]), np.array([1, 2, 1])))
    for context, user in enumerate([1, 0, 1]):
        scored = later.with_scores(table)
        found = rerankers.stored(2).scores(scored, jnp.int32(context), CANDIDATES)
        np.testing.assert_array_equal(found, table[user, CANDIDATES])
        shown = rerankers.stored(2)(jax.random.key(0), scored, jnp.int32(context), CANDIDATES)
        assert shown.items[0] == CANDIDATES[np.argmax(table[user, CANDIDATES])]


def test_stored_names_the_environment_without_scores(world):
    with pytest.raises(ValueError, match="item_scores, which the environment World lacks"):
        rerankers.stored(2).scores(world, CONTEXT, CANDIDATES)


# A re-ranker of the user's own.


def mine(key, context, candidates):
    return jnp.sort(candidates)[:2]


def too_many(key, context, candidates):
    return candidates


def one_number(key, context, candidates):
    return candidates[0]


def scores(key, context, candidates):
    return candidates[:2].astype(jnp.float32)


def mask(key, context, candidates):
    return candidates[:2] > 3


def broken(key, context, candidates):
    raise RuntimeError("the model is not loaded")


SETTINGS = {"num_candidates": 4, "ranking_length": 2, "batch_size": 4}


def test_custom_reranker_has_unknown_propensity(world):
    reranker = rerankers.custom(2, mine)
    assert isinstance(reranker, Reranker)
    for method in (reranker, reranker.greedy):
        ranking = method(jax.random.key(0), world, CONTEXT, CANDIDATES)
        assert ranking.items.tolist() == [2, 4]
        assert bool(jnp.isnan(ranking.log_propensity))
    assert build_learner(TrainConfig(**SETTINGS), world, reranker=reranker).reranker is reranker


def test_custom_reranker_receives_key_context_and_candidates(world):
    def function(key, context, candidates):
        place = jax.random.randint(key, (), 0, 4)
        return jnp.stack([candidates[place], candidates[context]])

    reranker, key = rerankers.custom(2, function), jax.random.key(4)
    place = int(jax.random.randint(key, (), 0, 4))
    ranking = reranker(key, world, CONTEXT, CANDIDATES)
    assert ranking.items.tolist() == [int(CANDIDATES[place]), int(CANDIDATES[1])]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (too_many, r"int32\[4\]"),
        (one_number, r"int32\[\]"),
        (scores, r"float32\[2\]"),
        (mask, r"bool\[2\]"),
    ],
)
def test_invalid_output_names_the_function_and_the_output(function, said, world):
    reranker = rerankers.custom(2, function)
    message = rf"'{function.__name__}' returned {said}; expected L = 2 integer item ids"
    with pytest.raises(ValueError, match=message):
        reranker(jax.random.key(0), world, CONTEXT, CANDIDATES)
    with pytest.raises(ValueError, match=rf"the re-ranker raised .*{message}"):
        build_learner(TrainConfig(**SETTINGS), world, reranker=reranker)


def test_exceptions_of_a_custom_reranker_are_passed_on(world):
    reranker = rerankers.custom(2, broken)
    message = "the re-ranker raised RuntimeError: the model is not loaded"
    with pytest.raises(ValueError, match=message) as caught:
        build_learner(TrainConfig(**SETTINGS), world, reranker=reranker)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_reranker_of_another_length_is_rejected(world):
    reranker = rerankers.custom(3, lambda key, context, candidates: candidates[:3])
    with pytest.raises(ValueError, match="ranking_length=2, but the re-ranker shows 3 items"):
        build_learner(TrainConfig(**SETTINGS), world, reranker=reranker)


def test_adaptive_learning_rate_needs_a_propensity(world):
    config = TrainConfig(**SETTINGS, adaptive_learning_rate=True)
    with pytest.raises(
        ValueError, match=r"adaptive_learning_rate=True needs .* give adaptive_learning_rate=False"
    ):
        build_learner(config, world, reranker=rerankers.custom(2, mine))
    build_learner(config, world, reranker=rerankers.uniform(2))
