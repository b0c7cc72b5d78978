"""Evaluation against loops in numpy on a problem of seven contexts and six items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg import TrainConfig
from rankpg import rerankers as rerankers
from rankpg.environments.dataset import choose_contexts, split_contexts
from rankpg.environments.from_ratings import from_matrix
from rankpg.evaluation.metrics import _recall, evaluate, share_aligned
from rankpg.training.build import assemble
from rankpg.training.update import init_state

ENABLE_X64 = False

CONTEXTS, ITEMS = 7, 6
ALPHA = np.array([1.0, 0.5])
MEANS = np.random.default_rng(2).uniform(0, 4, (CONTEXTS, ITEMS))
MEANS[1] = [3, 3, 1, 1, 1, 0]  # ties inside and across the cut at K = 3
MEANS[2] = [2, 1, 1, 1, 1, 0]
ELIGIBLE = np.ones((CONTEXTS, ITEMS), bool)
ELIGIBLE[0, [1, 4]] = False
ELIGIBLE[5, :3] = False  # exactly K are left


@pytest.fixture(scope="module", autouse=True)
def standard_promotion(jax_flags):
    """optax's Adam promotes dtypes by the standard rules."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")


def policy(experts=1, stage="optimal", eligible=None, weights="1,0.5", **components):
    environment = from_matrix(MEANS, eligible=eligible).environment
    config = TrainConfig(
        num_candidates=3, num_experts=experts, ranking_length=2, embedding_dim=3, batch_size=4,
        reranker=stage, position_weights=weights, init_scale=1.0,
    )  # fmt: skip
    pipeline = assemble(config, environment, **components)
    params = jax.jit(lambda: init_state(pipeline, jax.random.key(6)).params)()
    return pipeline, environment, params


def judged(pipeline, environment, params, contexts, block=64):
    contexts = jnp.asarray(contexts, jnp.int32)
    one = jax.jit(
        lambda p: evaluate(pipeline, environment, p, contexts, jax.random.key(0), block=block)
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
    return policy(stage="anti")


def close(answer, expected):
    for name, value in expected.items():
        assert answer[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("block", [3, 64])
def test_one_expert_and_a_reranker_that_loses(anti, block):
    """Seven contexts are no multiple of a block of three."""
    params = anti[2]
    answer = judged(*anti, range(CONTEXTS), block)
    expected = by_hand(params, (3,), range(CONTEXTS), sign=1)
    close(answer, expected)
    assert expected["reranker_regret"] > 0.1
    assert expected["retrieval_regret"] > 0.1
    regrets = answer["retrieval_regret"] + answer["reranker_regret"]
    assert regrets == pytest.approx(answer["optimum"] - answer["policy_value"], rel=1e-5)
    share = expected["policy_value"] / expected["optimum"]
    assert answer["normalised_value"] == pytest.approx(share, rel=1e-5)


def test_several_experts_and_masks():
    pipeline, environment, params = policy(experts=2, eligible=ELIGIBLE)
    answer = judged(pipeline, environment, params, range(CONTEXTS))
    close(answer, by_hand(params, (2, 1), range(CONTEXTS), eligible=ELIGIBLE))
    assert answer["reranker_regret"] == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(value) for value in answer.values())


def test_a_subset_is_evaluated_alone(anti):
    _, _, params = anti
    close(judged(*anti, [5, 2]), by_hand(params, (3,), [5, 2], sign=1))


def test_the_subset_is_fixed_distinct_and_in_range():
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


def shares(logits, eligible=None):
    """recall and partitioned of a policy with these logits for every context."""
    table = jnp.asarray(logits, jnp.float32)[None]
    encoder = rankpg.encoders.Encoder(
        lambda key: table, lambda p, contexts: jnp.broadcast_to(p, (contexts.shape[0], 1, ITEMS))
    )
    pipeline, environment, _ = policy(encoder=encoder, eligible=eligible)

    @jax.jit
    def each(params, context):
        answer = evaluate(pipeline, environment, params, context[None], jax.random.key(0))
        aligned = share_aligned(pipeline, environment, params, context[None])
        return answer.candidate_recall, answer.partitioned, aligned

    def ask(logits, context):
        params = jnp.asarray(logits, jnp.float32)[None]
        return tuple(float(x) for x in each(params, jnp.int32(context)))

    return ask


@pytest.fixture(scope="module")
def ask():
    return shares(np.zeros(ITEMS))


def test_recall_and_partition_without_ties(ask):
    order = np.argsort(-MEANS[3])
    logits = np.empty(ITEMS)
    logits[order] = [6, 5, 4, 3, 2, 1]
    assert ask(logits, 3) == (1, 1, 1)
    logits[order] = [4, 5, 6, 1, 2, 3]  # the right set in the wrong order
    assert ask(logits, 3) == (1, 1, 0)
    logits[order] = [6, 5, 3, 4, 2, 1]  # one of three is wrong
    recall, *rest = ask(logits, 3)
    assert recall == pytest.approx(2 / 3)
    assert rest == [0, 0]
    logits[order] = [1, 2, 3, 4, 5, 6]
    assert ask(logits, 3) == (0, 0, 0)
    logits[order] = [6, 5, 4, 4, 2, 1]  # a tie of probabilities at the cut separates nothing
    assert ask(logits, 3)[1:] == (0, 0)


@pytest.mark.parametrize("third", [2, 3, 4])
def test_of_equal_rewards_any_may_be_among_the_top(ask, third):
    """Context 1 has rewards 3 3 1 1 1 0: the third place belongs to any of items 2, 3 and 4."""
    logits = np.array([6.0, 5.0, 0, 0, 0, -9])
    logits[third] = 4
    assert ask(logits, 1) == (1, 1, 1)


@pytest.mark.parametrize(
    ("rewards", "candidates", "recall"),
    [
        (
            [1, 1, 1, 0, 0, 0],
            [3, 4, 5, 0],
            2 / 4,
        ),  # three are worth something; one zero more is a top 4
        ([1, 1, 1, 0, 0, 0], [0, 1, 2, 5], 1),
        ([0, 0, 0, 0, 0, 0], [3, 4], 1),
        ([2, 1, 1, 1, 0, 0], [1, 2], 1 / 2),
        ([5, 4, 3, 2, 1, 0], [0, 2, 4], 2 / 3),
    ],
)
def test_recall_counts_ties_no_more_often_than_there_are_places(rewards, candidates, recall):
    rewards = jnp.asarray(rewards, jnp.float32)
    last = jnp.sort(rewards)[-len(candidates)]
    found = _recall(rewards, jnp.asarray(candidates, jnp.int32), last, len(candidates))
    assert float(found) == pytest.approx(recall)


# Re-rankers that draw, and weights that do not fall.


def test_a_uniform_reranker_is_averaged_over_draws():
    pipeline, environment, params = policy(stage="uniform", weights="1,0")
    answer = judged(pipeline, environment, params, range(CONTEXTS))
    logits, draws = logits_of(params), 16 * CONTEXTS
    handed = [MEANS[c][greedy(logits[c], (3,))] for c in range(CONTEXTS)]
    expected = np.mean([np.mean(means) for means in handed])
    error = np.sqrt(np.mean([np.var(means) for means in handed]) / draws)
    assert abs(answer["policy_value"] - expected) < 5 * error
    assert answer["policy_value"] != pytest.approx(
        np.mean([m.max() for m in handed]), abs=2 * error
    )


def test_a_reranker_that_draws_is_worth_less_drawn_than_greedy():
    """Of the three candidates by softmax on the reward: the mean by enumeration, against the best of them."""
    stage = rerankers.noisy(1, 0.5)
    config = TrainConfig(num_candidates=3, embedding_dim=3, batch_size=4, reranker="noisy")
    environment = from_matrix(MEANS).environment
    pipeline = assemble(config, environment, reranker=stage)
    params = jax.jit(lambda: init_state(pipeline, jax.random.key(6)).params)()
    answer = judged(pipeline, environment, params, range(CONTEXTS))
    handed = [m[greedy(f, (3,))] for m, f in zip(MEANS, logits_of(params), strict=True)]
    shares = [np.exp(0.5 * m) / np.exp(0.5 * m).sum() for m in handed]
    means = [s @ m for s, m in zip(shares, handed, strict=True)]
    variances = [s @ m**2 - (s @ m) ** 2 for s, m in zip(shares, handed, strict=True)]
    error = np.sqrt(np.mean(variances) / (16 * CONTEXTS))
    assert abs(answer["drawn_value"] - np.mean(means)) < 4 * error
    assert answer["policy_value"] == pytest.approx(np.mean([m.max() for m in handed]), rel=1e-5)
    assert answer["policy_value"] > np.mean(means) + 4 * error


def test_no_policy_beats_the_optimum():
    """With more weight on the second place, the best item belongs there."""

    def second_best_first(key, context, candidates):
        means = jnp.asarray(MEANS, jnp.float32)[context, candidates]
        return candidates[jnp.argsort(-means)[:2]][::-1]

    stage = rerankers.custom(2, second_best_first)
    everything = rankpg.encoders.Encoder(
        lambda key: jnp.asarray(MEANS, jnp.float32), lambda p, contexts: p[contexts][:, None]
    )
    pipeline, environment, params = policy(weights="0.5,1", reranker=stage, encoder=everything)
    answer = judged(pipeline, environment, params, range(CONTEXTS))
    assert answer["normalised_value"] == pytest.approx(1)
    assert answer["retrieval_regret"] == pytest.approx(0, abs=1e-6)
    assert answer["reranker_regret"] == pytest.approx(0, abs=1e-6)


def test_what_training_sees_is_the_sampled_policy():
    """A policy with all its weight on three items, and one that is uniform over six."""
    peaked = jnp.asarray([[50.0, 50, 50, 0, 0, 0]])
    encoder = rankpg.encoders.Encoder(
        lambda key: peaked, lambda p, contexts: jnp.broadcast_to(p, (contexts.shape[0], 1, ITEMS))
    )
    pipeline, environment, params = policy(encoder=encoder, stage="optimal")
    sampled = judged(pipeline, environment, params, range(CONTEXTS))
    best_of_three = np.sort(MEANS[:, :3], axis=1)[:, ::-1][:, :2] @ ALPHA
    assert sampled["sampled_value"] == pytest.approx(best_of_three.mean(), rel=1e-5)
    assert sampled["policy_value"] == pytest.approx(best_of_three.mean(), rel=1e-5)
    spread = judged(pipeline, environment, jnp.zeros_like(peaked), range(CONTEXTS))
    assert spread["sampled_value"] != pytest.approx(best_of_three.mean(), rel=1e-2)


@pytest.mark.parametrize("held_out", [1, 30, 99])
def test_held_out_contexts_are_a_fixed_partition(held_out):
    training, judging = split_contexts(100, held_out)
    assert len(judging) == held_out
    assert sorted([*training, *judging]) == list(range(100))
    assert np.array_equal(judging, split_contexts(100, held_out)[1])
    assert training.dtype == judging.dtype == np.int32


@pytest.mark.parametrize("held_out", [100, 101, -1])
def test_something_is_left_to_train_on(held_out):
    with pytest.raises(ValueError, match=f"held_out_contexts={held_out}, .* has 100 contexts"):
        split_contexts(100, held_out)


def test_without_held_out_contexts_all_train_and_all_judge():
    training, judging = split_contexts(4, 0)
    assert training.tolist() == judging.tolist() == [0, 1, 2, 3]
