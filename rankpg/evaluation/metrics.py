"""Value of a two-stage ranker, and where it loses: regret by stage, recall, NDCG, alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.inclusion import log_inclusion_sum
from rankpg.core.numerics import centre, largest
from rankpg.core.plackett_luce import full_logits
from rankpg.core.sampling import greedy_candidates, sample_candidates
from rankpg.core.theory import is_aligned, is_partitioned
from rankpg.policy import Policy
from rankpg.types import Array, Environment, Float, Int, Params, PRNGKey, Quotas, Reranker, record

__all__ = [
    "OF_SINGLE_ITEMS",
    "Evaluation",
    "MetricAccumulator",
    "Row",
    "TwoStage",
    "correlation",
    "evaluate",
    "evaluate_context",
    "interaction_note",
    "ndcg",
    "normalised",
    "relevant_recall",
    "share_aligned",
]

Row = dict[str, Any]
"""One evaluation of one seed: plain numbers, or None for a missing value."""

OF_SINGLE_ITEMS = (
    "optimum", "normalised_value", "retrieval_regret", "reranker_regret", "candidate_recall",
    "relevant_recall", "ndcg", "partitioned", "recall_reward_correlation",
)  # fmt: skip
"""Measures that need the reward of a single item; NaN where the rewards of a list interact."""

_DRAWS = 16
"""Rankings per context over which a re-ranker that draws is averaged; the sampled policy has four."""


@record
class Evaluation:
    """Means over contexts. Values are sums over positions of alpha_l times the mean reward.

    Where the rewards of a list interact (`Environment.rewards_interact`), a value is the expected reward of
    the shown list. Measures that need the reward of a single item are then NaN: the optimum and the best list
    are unknown, and so are normalised value, regret, recall, nDCG and partition.
    """

    policy_value: Float[Array, ""]
    """Greedy candidates, the re-ranker's greedy ranking (a uniform re-ranker still draws)."""
    drawn_value: Float[Array, ""]
    """Greedy candidates, sampled ranking: what users are shown where the re-ranker draws."""
    sampled_value: Float[Array, ""]
    """Sampled candidates, sampled ranking: what training sees."""
    optimum: Float[Array, ""]
    """The best L items of the catalogue."""
    normalised_value: Float[Array, ""]
    """1 - (optimum - policy value) / |optimum|: the share of the optimum, which also falls with the policy
    where rewards are below 0. NaN where the optimum is 0."""
    retrieval_regret: Float[Array, ""]
    """Lost because the best items are not among the candidates."""
    reranker_regret: Float[Array, ""]
    """Lost because the best candidates are not shown first."""
    candidate_recall: Float[Array, ""]
    """Share of the T best items that are among the K candidates, T = K or `recall_depth`; of
    items that tie for the last place among the best, as many count as there are places. Ties at
    reward 0 do not count: where fewer than T items have a reward above 0, these alone are the best.
    Contexts without any are left out; NaN if all are."""
    relevant_recall: Float[Array, ""]
    """Share of the items whose mean reward is above 0 that are among the K candidates: recall@K where rewards
    are relevance judgements. 0 for a context without such items."""
    ndcg: Float[Array, ""]
    """Discounted cumulative gain of the shown list over that of the best list, gain = mean reward; 0 where
    even the best list has no gain above 0, so it says nothing of rewards below 0."""
    partitioned: Float[Array, ""]
    """Share of contexts in which every top-K item is more probable than every other (Definition 3.2)."""
    effective_items: Float[Array, ""]
    """exp(H), H the entropy of softmax(f_m): how many items an expert chooses among; mean over experts."""
    recall_reward_correlation: Float[Array, ""]
    """Correlation across contexts of candidate recall and minus the regret; NaN if either is constant."""


@dataclass(frozen=True, eq=False)
class TwoStage:
    """A two-stage ranker to be evaluated: retriever, re-ranker, and the weights of positions."""

    policy: Policy
    reranker: Reranker
    position_weights: np.ndarray
    """alpha, float[L]."""
    recall_depth: int | None = None
    """T of candidate_recall@T; K if None."""


def evaluate_context(
    system: TwoStage,
    environment: Environment,
    key: PRNGKey,
    context: Int[Array, ""],
    logits: Float[Array, "M N"],
) -> Evaluation:
    """Evaluates the two stages for one context."""
    quotas, reranker = system.policy.quotas, system.reranker
    num_candidates, length = sum(quotas), reranker.ranking_length
    alpha = jnp.asarray(system.position_weights)
    heaviest_first = jnp.sort(alpha, descending=True)  # where the best items belong
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
    logits = environment.mask_ineligible(context, logits)
    greedy_key, sample_key = jax.random.split(key)

    candidates = greedy_candidates(logits, quotas)
    keys = jax.random.split(greedy_key, _DRAWS)
    shown = jax.vmap(lambda k: reranker.greedy(k, environment, context, candidates).items)(keys)
    drawn = shown
    if reranker.draws:
        drawn = jax.vmap(lambda k: reranker(k, environment, context, candidates).items)(keys)
    if environment.rewards_interact:
        return _evaluate_lists(system, environment, sample_key, context, logits, (shown, drawn))
    rewards = environment.mean_rewards(context, catalogue)
    rewards = environment.mask_ineligible(context, rewards[None])[0]

    def sampled(key):
        draw_key, rank_key = jax.random.split(key)
        drawn = sample_candidates(draw_key, logits, quotas)
        return rewards[reranker(rank_key, environment, context, drawn).items] @ alpha

    depth = system.recall_depth or num_candidates
    best = largest(rewards, max(depth, length))[0]
    best_handed_over = largest(rewards[candidates], length)[0] @ heaviest_first
    optimum, value = best[:length] @ heaviest_first, jnp.mean(rewards[shown] @ alpha)
    log_probs = _item_log_probs(logits, quotas)
    return Evaluation(
        policy_value=value,
        drawn_value=jnp.mean(rewards[drawn] @ alpha),
        sampled_value=jnp.mean(jax.vmap(sampled)(jax.random.split(sample_key, 4))),
        optimum=optimum,
        normalised_value=jnp.zeros_like(value),  # of the means, not the mean of shares
        retrieval_regret=optimum - best_handed_over,
        reranker_regret=best_handed_over - value,
        candidate_recall=_recall(rewards, candidates, best[depth - 1], depth),
        relevant_recall=relevant_recall(rewards, candidates),
        ndcg=ndcg(jnp.mean(rewards[shown], axis=0), best[:length]),
        partitioned=is_partitioned(log_probs, rewards, num_candidates).astype(rewards.dtype),
        effective_items=jnp.mean(_effective_items(logits)),
        recall_reward_correlation=jnp.zeros_like(value),  # across contexts
    )


def _evaluate_lists(
    system: TwoStage,
    environment: Environment,
    key: PRNGKey,
    context: Int[Array, ""],
    logits: Float[Array, "M N"],
    greedy: tuple[Int[Array, "draws L"], Int[Array, "draws L"]],
) -> Evaluation:
    """Evaluates shown lists as wholes; all that needs the reward of a single item is NaN."""
    alpha, reranker = jnp.asarray(system.position_weights), system.reranker

    def value(ranking):
        gains = environment.mean_rewards(context, ranking)
        return gains @ alpha.astype(gains.dtype)

    def sampled(key):
        draw_key, rank_key = jax.random.split(key)
        drawn = sample_candidates(draw_key, logits, system.policy.quotas)
        return value(reranker(rank_key, environment, context, drawn).items)

    shown, drawn = (jnp.mean(jax.vmap(value)(rankings)) for rankings in greedy)
    undefined = {name: jnp.full_like(shown, jnp.nan) for name in OF_SINGLE_ITEMS}
    return Evaluation(
        policy_value=shown,
        drawn_value=drawn,
        sampled_value=jnp.mean(jax.vmap(sampled)(jax.random.split(key, 4))),
        effective_items=jnp.mean(_effective_items(logits)),
        **undefined,
    )


class Block(NamedTuple):
    """The number of contexts that are evaluated together."""

    contexts: int
    size_of_one: int
    """Approximate bytes of one context."""


def evaluation_block(num_items: int, quotas: Quotas) -> Block:
    """Chooses 64 contexts, or fewer if they would take more than half a GiB.

    With one expert, an evaluation holds a dozen numbers for each item; with more, a dozen for each of the K
    factors of Eq. 8.

    >>> evaluation_block(10**6, (100,)).contexts
    11
    """
    size = 4 * 12 * num_items * len(quotas) * (1 if len(quotas) == 1 else sum(quotas))
    return Block(max(1, min(64, 2**29 // size)), size)


def evaluate(
    system: TwoStage,
    environment: Environment,
    params: Params,
    contexts: Int[Array, "contexts"],
    key: PRNGKey,
    *,
    block: int | None = None,
) -> Evaluation:
    """Evaluates a policy and its re-ranker on the given contexts, block by block.

    Args:
      system: policy, re-ranker and position weights.
      environment: returns mean rewards.
      params: parameters of the encoder.
      contexts: ids to average over.
      key: draws from the sampled policy and from stochastic re-rankers.
      block: number of contexts whose logits are in memory at a time; `evaluation_block` if None.
    """

    def one(args):
        context, key = args
        logits = system.policy.logits(params, environment, context[None])[0]
        return evaluate_context(system, environment, key, context, logits)

    count = contexts.shape[0]
    block = min(
        block or evaluation_block(environment.num_items, system.policy.quotas).contexts, count
    )
    padded = jnp.pad(contexts, (0, -count % block), mode="edge")  # whole blocks compile once
    keys = jax.random.split(key, padded.shape[0])
    each = lax.map(one, (padded, keys), batch_size=block)
    each = jax.tree.map(lambda x: x[:count], each)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), each)
    return mean.replace(
        candidate_recall=jnp.nanmean(each.candidate_recall),
        normalised_value=normalised(mean.policy_value, mean.optimum),
        recall_reward_correlation=correlation(
            each.candidate_recall, each.policy_value - each.optimum
        ),
    )


def interaction_note(environment: Environment) -> str | None:
    """Returns which measures are left out where the rewards of a list interact; None where they do not.

    >>> from rankpg.environments import paper_instance, with_list_reward
    >>> print(interaction_note(paper_instance()))
    None
    >>> interaction_note(with_list_reward(paper_instance(), lambda context, items: 0.0))[:49]
    'The rewards of a list interact: policy_value is t'
    """
    if not environment.rewards_interact:
        return None
    return (
        "The rewards of a list interact: policy_value is the reward of the shown list; "
        f"{', '.join(OF_SINGLE_ITEMS)} and aligned need rewards of single items and are left out"
    )


def normalised(value: Float[Array, ""], optimum: Float[Array, ""]) -> Float[Array, ""]:
    """Returns 1 - (optimum - value) / |optimum|, which is value / optimum where the optimum is above 0.

    >>> [normalised(jnp.float32(v), jnp.float32(o)).item() for v, o in ((1, 2), (-4, -2), (-2, -2))]
    [0.5, 0.0, 1.0]
    """
    ratio = value / jnp.where(optimum == 0, jnp.nan, optimum)
    return jnp.where(optimum < 0, 2 - ratio, ratio)


def share_aligned(
    policy: Policy,
    environment: Environment,
    params: Params,
    contexts: Int[Array, "contexts"],
) -> Float[Array, ""]:
    """Share of contexts whose probabilities order all items as the rewards do (Definition 3.2).

    It sorts the catalogue for every context, so the training loop leaves it out. NaN where the rewards of a
    list interact, which order lists and not items.
    """
    if environment.rewards_interact:
        return jnp.full((), jnp.nan, jnp.float32)
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)

    def one(context):
        log_probs = _item_log_probs(
            policy.logits(params, environment, context[None])[0], policy.quotas
        )
        rewards = environment.mean_rewards(context, catalogue)
        # Masked items are last, on both sides.
        log_probs, rewards = (
            environment.mask_ineligible(context, values[None])[0] for values in (log_probs, rewards)
        )
        return is_aligned(log_probs, rewards)

    return jnp.mean(lax.map(one, contexts).astype(jnp.float32))


def _item_log_probs(logits: Float[Array, "M N"], quotas: Quotas) -> Float[Array, "N"]:
    """Values that order the items: logits of one expert, log expected number of draws of several."""
    if len(quotas) == 1:
        return logits[0]
    sparse = full_logits(centre(logits))
    return jax.vmap(lambda item: log_inclusion_sum(sparse, item, quotas))(sparse.items)


def _recall(
    rewards: Float[Array, "N"], candidates: Int[Array, "K"], last: Float[Array, ""], depth: int
) -> Float[Array, ""]:
    """Share of the T best items that are candidates, `last` being the smallest reward among these T.

    Items that are not eligible have reward -inf and do not count; fewer than T eligible items are all in. If
    the T best end in a tie at 0, only the items above 0 count; NaN if there are none.
    """
    handed = rewards[candidates]
    size = jnp.minimum(depth, jnp.sum(rewards > -jnp.inf))
    above, found = jnp.sum(rewards > last), jnp.sum(handed > last)
    ties = jnp.minimum(jnp.sum(handed == last), size - above)
    found, size = (jnp.where(last == 0, *pair) for pair in ((found, found + ties), (above, size)))
    share = found / jnp.maximum(size, 1)
    return jnp.where(size > 0, share, jnp.nan).astype(rewards.dtype)


def _effective_items(logits: Float[Array, "M N"]) -> Float[Array, "M"]:
    """Exp of each expert's entropy, - sum_a pi(a) log pi(a); masked items contribute 0."""
    log_probs = jax.nn.log_softmax(logits, axis=1)
    inside = jnp.where(jnp.isneginf(logits), 0, log_probs)
    return jnp.exp(-jnp.sum(jnp.exp(log_probs) * inside, axis=1))


def correlation(one: Float[Array, "n"], other: Float[Array, "n"]) -> Float[Array, ""]:
    """Pearson's correlation; pairs with a NaN are left out. NaN if either variable is constant.

    >>> correlation(jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 3.0, 5.0])).round(4)
    Array(1., dtype=float32)
    """
    known = ~(jnp.isnan(one) | jnp.isnan(other))
    varies = jnp.ones((), bool)
    centred = []
    for x in (one, other):
        largest = jnp.max(x, where=known, initial=-jnp.inf)
        # The std of equal floats is rounding.
        varies &= largest > jnp.min(x, where=known, initial=jnp.inf)
        mean = jnp.sum(x, where=known) / jnp.maximum(jnp.sum(known), 1)
        centred.append(jnp.where(known, x - mean, 0))
    one, other = centred
    lengths = jnp.sqrt(jnp.sum(one**2) * jnp.sum(other**2))
    return jnp.where(varies, jnp.sum(one * other) / jnp.where(varies, lengths, 1), jnp.nan)


def relevant_recall(rewards: Float[Array, "N"], candidates: Int[Array, "K"]) -> Float[Array, ""]:
    """Share of the items with reward above 0 that are candidates; 0 if there are none."""
    relevant = jnp.sum(rewards > 0)
    return (jnp.sum(rewards[candidates] > 0) / jnp.maximum(relevant, 1)).astype(rewards.dtype)


def ndcg(gains: Float[Array, "L"], ideal: Float[Array, "L"]) -> Float[Array, ""]:
    """Normalised discounted cumulative gain of a list; 0 where the ideal list has no gain."""
    discount = 1 / jnp.log2(jnp.arange(2.0, gains.shape[0] + 2))
    best = ideal @ discount
    return jnp.where(best > 0, gains @ discount / jnp.where(best > 0, best, 1), 0)


@dataclass
class MetricAccumulator:
    """Running means of the step metrics since the last evaluation; saved in checkpoints.

    Sums are float64 and taken update by update, so they do not depend on where chunks end.

    >>> whole, halves = MetricAccumulator(), MetricAccumulator()
    >>> loss = np.float32([[0.1, 0.2, 0.3]])  # [seeds, updates]
    >>> whole.add({"loss": loss}, 1.0)
    >>> halves.add({"loss": loss[:, :1]}, 0.4)
    >>> halves = MetricAccumulator.from_json(halves.to_json())
    >>> halves.add({"loss": loss[:, 1:]}, 0.6)
    >>> bool(halves.means()["loss"] == whole.means()["loss"])
    True
    """

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Adds the metrics of a chunk of updates, by name, each [seeds, updates]."""
        (length,) = {values.shape[1] for values in metrics.values()}
        for name, values in metrics.items():
            before = self.sums.get(name, np.zeros(len(values)))
            terms = np.concatenate([before[:, None], values.astype(np.float64)], axis=1)
            self.sums[name] = np.add.accumulate(terms, axis=1)[:, -1]
        self.steps += length
        self.seconds += seconds

    @property
    def speed(self) -> float | None:
        """Updates per second; None before the first."""
        return self.steps / self.seconds if self.steps else None

    def means(self) -> dict[str, np.ndarray]:
        """Returns the means [seeds] by name."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; None for a sum that is not finite."""
        sums = {
            name: [float(x) if np.isfinite(x) else None for x in total]
            for name, total in self.sums.items()
        }
        return {"steps": self.steps, "seconds": self.seconds, "sums": sums}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> MetricAccumulator:
        """Restores what `to_json` returned.

        Raises:
          ValueError, KeyError, TypeError: the values are of another kind.
        """
        sums = {
            name: np.array([np.nan if x is None else x for x in total], np.float64)
            for name, total in saved["sums"].items()
        }
        return cls(int(saved["steps"]), float(saved["seconds"]), sums)
