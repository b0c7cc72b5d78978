"""Evaluation against loops in numpy on a problem of seven contexts and six items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg import TrainConfig, rerankers
from rankpg.environments.dataset import choose_contexts, split_contexts
from rankpg.environments.from_ratings import from_matrix
from rankpg.evaluation.metrics import TwoStage, _recall, evaluate, share_aligned
from rankpg.training.build import build_learner

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS = 7, 6
ALPHA = np.array([1.0, 0.5])
MEANS = np.random.default_rng(2).uniform(0, 4, (CONTEXTS, ITEMS))
MEANS[1] = [3, 3, 1, 1, 1, 0]  # ties inside and across the cut at K = 3
MEANS[2] = [2, 1, 1, 1, 1, 0]
ELIGIBLE = np.ones((CONTEXTS, ITEMS), bool)
ELIGIBLE[0, [1, 4]] = False
ELIGIBLE[5, :3] = False  # exactly K are left


def two_stage(experts=1, eligible=None, weights="1,0.5", **components):
    """A two-stage ranker with K = 3 and L = 2, its environment, and parameters."""
    config = TrainConfig(
        num_candidates=3, num_experts=experts, ranking_length=2, embedding_dim=3, batch_size=4,
        position_weights=weights, init_scale=1.0,
    )  # fmt: skip
    return built(config, from_matrix(MEANS, eligible=eligible).environment, **components)


def built(config, environment, **components):
    learner = build_learner(config, environment, **components)
    params = jax.jit(learner.init)(jax.random.key(6)).params
    system = TwoStage(learner.policy, learner.reranker, learner.position_weights)
    return system, environment, params


def evaluated(system, environment, params, contexts, block=64):
    contexts = jnp.asarray(contexts, jnp.int32)
    one = jax.jit(
        lambda p: evaluate(system, environment, p, contexts, jax.random.key(0), block=block)
    )
    return {name: float(value) for name, value in vars(one(params)).items()}


def logits_of(params):
    x, e = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params))
    return np.einsum("mcd,mnd->cmn", x, e)


def greedy(logits, quotas) -> list[int]:
    taken: list[int] = []
    for expert, quota in enumerate(quotas):
        order = [a for a in np.argsort(-logits[expert]) if a not in taken]
        taken += order[:quota]
    return taken


def by_hand(params, quotas, contexts, sign=-1, eligible=ELIGIBLE | True):
    """Every figure of a re-ranker that sorts by sign * reward."""
    rows = []
    for context in contexts:
        means = np.where(eligible[context], MEANS[context], -np.inf)
        logits = np.where(eligible[context], logits_of(params)[context], -np.inf)
        candidates = greedy(logits, quotas)
        shown = means[sorted(candidates, key=lambda a: sign * means[a])[:2]]
        best, best_handed = (np.sort(of)[::-1] for of in (means, means[candidates]))
        discount = 1 / np.log2([2, 3])
        rows.append(
            {
                "policy_value": shown @ ALPHA,
                "optimum": best[:2] @ ALPHA,
                "retrieval_regret": best[:2] @ ALPHA - best_handed[:2] @ ALPHA,
                "reranker_regret": best_handed[:2] @ ALPHA - shown @ ALPHA,
                "ndcg": shown @ discount / (best[:2] @ discount),
            }
        )
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def anti():
    return two_stage(reranker=rerankers.anti(2))


def close(found, expected):
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("block", [3, 64])
def test_metrics_of_an_anti_reranker_equal_loops(anti, block):
    """Seven contexts do not fill blocks of three."""
    params = anti[2]
    found = evaluated(*anti, range(CONTEXTS), block)
    expected = by_hand(params, (3,), range(CONTEXTS), sign=1)
    close(found, expected)
    assert expected["reranker_regret"] > 0.1
    assert expected["retrieval_regret"] > 0.1
    regrets = found["retrieval_regret"] + found["reranker_regret"]
    assert regrets == pytest.approx(found["optimum"] - found["policy_value"], rel=1e-5)
    share = expected["policy_value"] / expected["optimum"]
    assert found["normalised_value"] == pytest.approx(share, rel=1e-5)


@pytest.mark.slow
def test_metrics_with_experts_and_masks_equal_loops():
    system, environment, params = two_stage(experts=2, eligible=ELIGIBLE)
    found = evaluated(system, environment, params, range(CONTEXTS))
    close(found, by_hand(params, (2, 1), range(CONTEXTS), eligible=ELIGIBLE))
    assert found["reranker_regret"] == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(value) for value in found.values())


def test_metrics_of_some_contexts_are_theirs_alone(anti):
    _, _, params = anti
    close(evaluated(*anti, [5, 2]), by_hand(params, (3,), [5, 2], sign=1))


def test_chosen_contexts_are_fixed_distinct_and_in_range():
    seven, thousand = np.arange(7, dtype=np.int32), np.arange(1000, dtype=np.int32)
    assert choose_contexts(seven, 7).tolist() == list(range(7))
    assert choose_contexts(seven, 100).tolist() == list(range(7))
    some = choose_contexts(thousand, 50)
    assert some.dtype == np.int32
    assert len(set(some.tolist())) == 50
    assert 0 <= some.min() < some.max() < 1000
    assert np.array_equal(some, choose_contexts(thousand, 50))
    assert some.max() > 500  # not the first fifty


# Recall and partition, one context at a time.


def compiled_shares(logits, eligible=None):
    """recall and partitioned of a policy with these logits for every context."""
    table = jnp.asarray(logits, jnp.float32)[None]
    encoder = rankpg.encoders.Encoder(
        lambda key: table, lambda p, contexts: jnp.broadcast_to(p, (contexts.shape[0], 1, ITEMS))
    )
    system, environment, _ = two_stage(encoder=encoder, eligible=eligible)

    @jax.jit
    def each(params, context):
        result = evaluate(system, environment, params, context[None], jax.random.key(0))
        aligned = share_aligned(system.policy, environment, params, context[None])
        return result.candidate_recall, result.partitioned, aligned

    def shares_of(logits, context):
        params = jnp.asarray(logits, jnp.float32)[None]
        return tuple(float(x) for x in each(params, jnp.int32(context)))

    return shares_of


@pytest.fixture(scope="module")
def shares_of():
    return compiled_shares(np.zeros(ITEMS))


def test_recall_and_partition_without_ties(shares_of):
    order = np.argsort(-MEANS[3])
    logits = np.empty(ITEMS)
    logits[order] = [6, 5, 4, 3, 2, 1]
    assert shares_of(logits, 3) == (1, 1, 1)
    logits[order] = [4, 5, 6, 1, 2, 3]  # the right set in the wrong order
    assert shares_of(logits, 3) == (1, 1, 0)
    logits[order] = [6, 5, 3, 4, 2, 1]  # one of three is wrong
    recall, *rest = shares_of(logits, 3)
    assert recall == pytest.approx(2 / 3)
    assert rest == [0, 0]
    logits[order] = [1, 2, 3, 4, 5, 6]
    assert shares_of(logits, 3) == (0, 0, 0)
    logits[order] = [6, 5, 4, 4, 2, 1]  # a tie of probabilities at the cut separates nothing
    assert shares_of(logits, 3)[1:] == (0, 0)


@pytest.mark.parametrize("third", [2, 3, 4])
def test_tied_items_count_as_the_best(shares_of, third):
    """Context 1 has rewards 3 3 1 1 1 0: the third place belongs to any of items 2, 3 and 4."""
    logits = np.array([6.0, 5.0, 0, 0, 0, -9])
    logits[third] = 4
    assert shares_of(logits, 1) == (1, 1, 1)


@pytest.mark.parametrize(
    ("rewards", "candidates", "recall"),
    [
        ([1, 1, 1, 0, 0, 0], [3, 4, 5, 0], 1 / 3),  # no item of reward 0 is a top 4
        ([1, 1, 1, 0, 0, 0], [0, 1, 2, 5], 1),
        ([0, 0, 0, 0, 0, 0], [3, 4], np.nan),
        ([-1, 0, 0, -2, -3, -4], [0, 3, 4], 1 / 3),  # above -1 there are two, and the third is it
        ([1, 1, 1, 1, 1, 1], [3, 4], 1),
        ([2, 1, 1, 1, 0, 0], [1, 2], 1 / 2),
        ([5, 4, 3, 2, 1, 0], [0, 2, 4], 2 / 3),
    ],
)
def test_recall_counts_ties_up_to_the_free_places(rewards, candidates, recall):
    rewards = jnp.asarray(rewards, jnp.float32)
    last = jnp.sort(rewards)[-len(candidates)]
    found = _recall(rewards, jnp.asarray(candidates, jnp.int32), last, len(candidates))
    assert float(found) == pytest.approx(recall, nan_ok=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rankpg.errors.DataWarning")
def test_a_random_policy_on_sparse_rewards_has_the_recall_of_chance():
    """One item of 40 is worth something, and K = 20: an untrained policy finds it half of the time."""
    table = np.eye(40)[np.random.default_rng(0).integers(0, 40, 60)]
    table[0] = 0  # without any, a context has no recall
    config = rankpg.TrainConfig(num_candidates=20, num_steps=1, eval_every=1, seeds=(0,))
    before = rankpg.train(config, from_matrix(table)).metrics[0]
    assert 0.2 < before["candidate_recall"] < 0.8
    assert before["candidate_recall"] == pytest.approx(
        before["relevant_recall"] * 60 / 59, rel=1e-5
    )


# Re-rankers that draw, and weights that do not fall.


@pytest.mark.slow
def test_a_uniform_reranker_is_averaged_over_rankings():
    system, environment, params = two_stage(reranker=rerankers.uniform(2), weights="1,0")
    found = evaluated(system, environment, params, range(CONTEXTS))
    logits, draws = logits_of(params), 16 * CONTEXTS
    handed = [MEANS[c][greedy(logits[c], (3,))] for c in range(CONTEXTS)]
    expected = np.mean([np.mean(means) for means in handed])
    error = np.sqrt(np.mean([np.var(means) for means in handed]) / draws)
    assert abs(found["policy_value"] - expected) < 5 * error
    assert found["policy_value"] != pytest.approx(np.mean([m.max() for m in handed]), abs=2 * error)


@pytest.mark.slow
def test_drawn_value_is_below_the_greedy_value():
    """Expects the mean of a softmax on three rewards, by enumeration, and not the best of them."""
    config = TrainConfig(num_candidates=3, embedding_dim=3, batch_size=4, reranker="noisy")
    environment, reranker = from_matrix(MEANS).environment, rerankers.noisy(1, 0.5)
    system, environment, params = built(config, environment, reranker=reranker)
    found = evaluated(system, environment, params, range(CONTEXTS))
    handed = [m[greedy(f, (3,))] for m, f in zip(MEANS, logits_of(params), strict=True)]
    shares = [np.exp(0.5 * m) / np.exp(0.5 * m).sum() for m in handed]
    means = [s @ m for s, m in zip(shares, handed, strict=True)]
    variances = [s @ m**2 - (s @ m) ** 2 for s, m in zip(shares, handed, strict=True)]
    error = np.sqrt(np.mean(variances) / (16 * CONTEXTS))
    assert abs(found["drawn_value"] - np.mean(means)) < 4 * error
    assert found["policy_value"] == pytest.approx(np.mean([m.max() for m in handed]), rel=1e-5)
    assert found["policy_value"] > np.mean(means) + 4 * error


def test_no_policy_beats_the_optimum():
    """The best item belongs in the second place if that has more weight."""

    def second_best_first(key, context, candidates):
        means = jnp.asarray(MEANS, jnp.float32)[context, candidates]
        return candidates[jnp.argsort(-means)[:2]][::-1]

    stage = rerankers.custom(2, second_best_first)
    everything = rankpg.encoders.Encoder(
        lambda key: jnp.asarray(MEANS, jnp.float32), lambda p, contexts: p[contexts][:, None]
    )
    system, environment, params = two_stage(weights="0.5,1", reranker=stage, encoder=everything)
    found = evaluated(system, environment, params, range(CONTEXTS))
    assert found["normalised_value"] == pytest.approx(1)
    assert found["retrieval_regret"] == pytest.approx(0, abs=1e-6)
    assert found["reranker_regret"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_sampled_value_is_that_of_sampled_candidates():
    """A policy with all its weight on three items, and one that is uniform over six."""
    peaked = jnp.asarray([[50.0, 50, 50, 0, 0, 0]])
    encoder = rankpg.encoders.Encoder(
        lambda key: peaked, lambda p, contexts: jnp.broadcast_to(p, (contexts.shape[0], 1, ITEMS))
    )
    system, environment, params = two_stage(encoder=encoder)
    sampled = evaluated(system, environment, params, range(CONTEXTS))
    best_of_three = np.sort(MEANS[:, :3], axis=1)[:, ::-1][:, :2] @ ALPHA
    assert sampled["sampled_value"] == pytest.approx(best_of_three.mean(), rel=1e-5)
    assert sampled["policy_value"] == pytest.approx(best_of_three.mean(), rel=1e-5)
    spread = evaluated(system, environment, jnp.zeros_like(peaked), range(CONTEXTS))
    assert spread["sampled_value"] != pytest.approx(best_of_three.mean(), rel=1e-2)


@pytest.mark.parametrize("held_out", [1, 30, 99])
def test_held_out_contexts_are_a_fixed_partition(held_out):
    training, evaluated_on = split_contexts(100, held_out)
    assert len(evaluated_on) == held_out
    assert sorted([*training, *evaluated_on]) == list(range(100))
    assert np.array_equal(evaluated_on, split_contexts(100, held_out)[1])
    assert training.dtype == evaluated_on.dtype == np.int32


@pytest.mark.parametrize("held_out", [100, 101, -1])
def test_too_many_held_out_contexts_are_rejected(held_out):
    with pytest.raises(ValueError, match=f"held_out_contexts={held_out}, .* has 100 contexts"):
        split_contexts(100, held_out)


def test_without_held_out_contexts_all_train_and_all_evaluate():
    training, evaluated_on = split_contexts(4, 0)
    assert training.tolist() == evaluated_on.tolist() == [0, 1, 2, 3]
