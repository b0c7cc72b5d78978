"""Credit by swaps: the reward of the shown list less that of the list without one of the candidates.

    credit_i = R(S) - R(S - out_i + into_i),        R = sum_l alpha_l r_l of the list that the re-ranker makes

The swaps are those of `core.swaps`. What else a list depends on is the same for all of them: the key of the
re-ranker, with the entering item in the slot of the leaving one, and the key of the rewards. Where rewards
belong to items, every item that a list shows has one reward, whichever list shows it.

`Learner.swap_rewards` names the rewards:

    sampled    what the environment draws
    mean       its mean rewards
    model      those of a reward model, R^, for the shown list as well; then what the model does not explain,
               R - R^(S), multiplies the score of the whole set: the sum is unbiased for any R^
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.advantages import Advantage, is_identity
from rankpg.core.estimators import ESTIMATORS, Candidates, swaps_of
from rankpg.core.numerics import largest
from rankpg.core.swaps import Swaps, runner_ups
from rankpg.errors import ConfigError
from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.types import Array, Environment, Float, Int, Key, PRNGKey, Quotas, Reranker

__all__ = [
    "DrawKeys",
    "Lists",
    "SwapLearner",
    "check_swaps",
    "lists_by_calls",
    "lists_by_keys",
    "set_score",
    "swap_credit",
]


@runtime_checkable
class SwapLearner(Protocol):
    """The parts of a learner that credit by swaps reads; a `training.update.Learner` has them."""

    @property
    def environment(self) -> Environment: ...

    @property
    def policy(self) -> Any: ...

    @property
    def reranker(self) -> Reranker: ...

    @property
    def advantage(self) -> Advantage: ...

    @property
    def position_weights(self) -> np.ndarray: ...

    @property
    def entropy_bonus(self) -> float: ...

    @property
    def leaves_out_unobserved(self) -> bool: ...

    @property
    def swap_rewards(self) -> str: ...

    @property
    def residual_weight(self) -> float: ...

    @property
    def reward_model(self) -> RewardModel | None: ...

    def within_bounds(self, rewards: Float[Array, "..."]) -> Float[Array, "..."]:
        """Clips rewards to their bounds, or replaces those outside by NaN."""
        ...


class DrawKeys(NamedTuple):
    """The keys with which a batch was drawn, one of each for every row."""

    reranker: Key[Array, "B"]
    rewards: Key[Array, "B"]


class Lists(NamedTuple):
    """The lists of one context's other candidate sets, n of them."""

    items: Int[Array, "n L"]
    of_candidate: Int[Array, "K"]
    """Index of the list without each candidate."""
    others: Int[Array, "m"]
    """Items that a list may show besides those of the ranking."""


def swap_credit(
    learner: SwapLearner,
    keys: DrawKeys,
    contexts: Int[Array, "B"],
    candidates: Candidates,
    ranking: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
    reward_model_state: RewardModelState = (),
) -> Float[Array, "B n"]:
    """Returns R(S) - R(S - out + into) of every candidate; with a reward model also R - R^(S), n = K + 1.

    It carries no gradient. It is 0 where the swap changes nothing.

    Args:
      learner: the re-ranker, the environment, and the source of the rewards.
      keys: those with which the re-ranker and the environment drew `ranking` and `rewards`.
      contexts: ids.
      candidates: with statistics "swaps".
      ranking, rewards: what was shown, and what it earned.
      reward_model_state: the state of `learner.reward_model`.

    Raises:
      ConfigError: components that do not fit; see `check_swaps`.
    """
    check_swaps(learner)
    quotas = learner.policy.quotas
    swaps = jax.vmap(lambda c: swaps_of(c, quotas))(candidates)
    lists = jax.vmap(_lists, in_axes=(0, None, None, 0, 0, 0, None))(
        keys.reranker, learner.reranker, learner.environment, contexts, candidates,
        swaps, quotas,
    )  # fmt: skip
    rewards = _left_out(learner, contexts, ranking, rewards)
    shown, others = _rewards(learner, keys, contexts, ranking, rewards, lists, reward_model_state)
    alpha = jnp.asarray(learner.position_weights, rewards.dtype)
    earned, instead = shown @ alpha, others @ alpha
    credit = earned[:, None] - jnp.take_along_axis(instead, lists.of_candidate, axis=1)
    out = jnp.take_along_axis(candidates.items, swaps.slot, axis=1)
    credit = jnp.where(swaps.into == out, 0, credit)
    if learner.swap_rewards == "model":
        residual = learner.residual_weight * (rewards @ alpha - earned)
        credit = jnp.concatenate([credit, residual[:, None]], axis=1)
    return lax.stop_gradient(credit)


def check_swaps(learner: SwapLearner) -> None:
    """Rejects components that credit by swaps cannot use.

    Raises:
      ConfigError: an advantage, an entropy bonus, or a source of rewards that the learner lacks.
    """
    if not is_identity(learner.advantage):
        raise ConfigError(
            "estimator='ca_pg_swap' is its own baseline: the credit of a candidate is what the list loses "
            "without it, so a further one cancels; give advantage='none'"
        )
    if learner.entropy_bonus:
        raise ConfigError(
            f"entropy_bonus={learner.entropy_bonus:g} is paid by the score of what was drawn, and a score of "
            "estimator='ca_pg_swap' is not the log-probability of an item or a set; give entropy_bonus=0, or "
            "estimator='v_pg'"
        )
    if learner.swap_rewards == "mean" and not learner.environment.knows_rewards:
        raise ConfigError(
            "swap_rewards='mean' needs an environment that knows its mean rewards; give "
            "swap_rewards='sampled' or 'model'"
        )
    if learner.swap_rewards == "model" and learner.reward_model is None:
        raise ConfigError(
            "swap_rewards='model' needs a reward model, and the learner has none; give "
            "reward_model='two_tower', one of yours in Learner.reward_model, or swap_rewards='sampled'"
        )


def set_score(
    candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas
) -> Float[Array, "1"]:
    """Score of the whole candidate set, which the residual of a reward model multiplies.

    `v_pg_set` for one expert, since it has less noise, else `v_pg`.
    """
    name = "v_pg_set" if len(quotas) == 1 else "v_pg"
    return ESTIMATORS[name].score(candidates, ranking[:1], quotas)


# --- lists ------------------------------------------------------------------------------------------------


def _lists(
    key: PRNGKey,
    reranker: Reranker,
    environment: Environment,
    context: Int[Array, ""],
    candidates: Candidates,
    swaps: Swaps,
    quotas: Quotas,
) -> Lists:
    """Returns the lists of one context, by the re-ranker's sort keys if it has any."""
    items = candidates.items
    rivals, _ = runner_ups(candidates.order, candidates.perturbed, quotas)
    there = rivals >= 0
    # Without a runner-up no swap changes anything, so any item can stand in its place.
    rivals = jnp.where(there, rivals, items[0])
    keys = reranker.sort_keys(key, environment, context, items, rivals)
    if keys is None:
        called = lambda each: reranker(key, environment, context, each).items  # noqa: E731
        return lists_by_calls(called, items, rivals, swaps)
    own, new = keys
    new = jnp.where(there, new, -jnp.inf)
    if len(quotas) == 1:
        return lists_by_keys(own, new, items, rivals, reranker.ranking_length)

    def sorted_list(slot: Int[Array, ""], into: Int[Array, ""]) -> Int[Array, "L"]:
        key_of = jnp.where(into == items[slot], own[slot], new[jnp.argmax(rivals == into)])
        places = largest(own.at[slot].set(key_of), reranker.ranking_length)[1]
        return items.at[slot].set(into)[places]

    lists = jax.vmap(sorted_list)(swaps.slot, swaps.into)
    return Lists(lists, jnp.arange(len(items), dtype=jnp.int32), jnp.concatenate([items, rivals]))


def lists_by_calls(
    rank: Any, items: Int[Array, "K"], rivals: Int[Array, "M"], swaps: Swaps
) -> Lists:
    """Returns K lists by K calls of the re-ranker, `rank(candidates) -> items`, one for every swap."""

    def one(slot: Int[Array, ""], into: Int[Array, ""]) -> Int[Array, "L"]:
        return rank(items.at[slot].set(into))

    lists = jax.vmap(one)(swaps.slot, swaps.into)
    return Lists(lists, jnp.arange(len(items), dtype=jnp.int32), jnp.concatenate([items, rivals]))


def lists_by_keys(
    own: Float[Array, "K"],
    new: Float[Array, "1"],
    items: Int[Array, "K"],
    rival: Int[Array, "1"],
    length: int,
) -> Lists:
    """Returns the L + 1 lists that serve all K swaps of one expert, from the keys by which a call sorts.

    Let z be the L + 1 items of largest keys among the candidates and the rival b. The list of S - i + b is z
    without i if i is in z, else z without its last item; that of S itself is one of them too.

    Args:
      own, new: sort keys of the candidates and of the rival.
      items, rival: item ids.
      length: L.

    >>> keys, rival = jnp.array([3.0, 1.0, 2.0]), jnp.array([2.5])
    >>> lists = lists_by_keys(keys, rival, jnp.array([7, 8, 9]), jnp.array([4]), 1)
    >>> lists.items.tolist(), lists.of_candidate.tolist(), lists.others.tolist()
    ([[4], [7]], [0, 1, 1], [4])
    """
    places = largest(jnp.concatenate([own, new]), length + 1)[1]
    top = jnp.concatenate([items, rival])[places]
    rows = [[place for place in range(length + 1) if place != gone] for gone in range(length + 1)]
    found = places[None, :] == jnp.arange(len(items), dtype=places.dtype)[:, None]
    index = jnp.argmax(found, axis=1).astype(jnp.int32)
    enters = jnp.any(places == len(items))
    return Lists(
        items=top[np.asarray(rows, np.int32)],
        of_candidate=jnp.where(jnp.any(found, axis=1), index, length),
        others=jnp.where(enters, rival, top[length:]),
    )


# --- rewards ----------------------------------------------------------------------------------------------


def _rewards(
    learner: SwapLearner,
    keys: DrawKeys,
    contexts: Int[Array, "B"],
    ranking: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
    lists: Lists,
    model_state: RewardModelState,
) -> tuple[Float[Array, "B L"], Float[Array, "B n L"]]:
    """Rewards of the shown list, from the source that `swap_rewards` names, and of the others."""
    environment = learner.environment
    if learner.swap_rewards == "sampled":
        shown, others = (
            rewards,
            _sampled(environment, keys.rewards, contexts, ranking, rewards, lists),
        )
    else:
        every = jnp.concatenate([ranking[:, None], lists.items], axis=1)
        if learner.swap_rewards == "mean":
            of_lists = jax.vmap(environment.mean_rewards, in_axes=(None, 0))
            found = jax.vmap(of_lists)(contexts, every)
        else:
            assert learner.reward_model is not None  # as checked
            flat = every.reshape(len(every), -1)
            found = learner.reward_model.predict(model_state, environment, contexts, flat)
            found = found.reshape(every.shape)
        found = learner.within_bounds(lax.stop_gradient(found).astype(rewards.dtype))
        shown, others = found[:, 0], found[:, 1:]
    others = learner.within_bounds(others)
    return (
        _left_out(learner, contexts, ranking, shown),
        jax.vmap(lambda items, worth: _left_out(learner, contexts, items, worth), 1, 1)(
            lists.items, others
        ),
    )


def _left_out(
    learner: SwapLearner,
    contexts: Int[Array, "B"],
    ranking: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
) -> Float[Array, "B L"]:
    """Rewards with 0 for the items that the environment has not observed, if the learner leaves them out."""
    if not learner.leaves_out_unobserved:
        return rewards
    return jnp.where(jax.vmap(learner.environment.observed)(contexts, ranking), rewards, 0)


def _sampled(
    environment: Environment,
    keys: Key[Array, "B"],
    contexts: Int[Array, "B"],
    ranking: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
    lists: Lists,
) -> Float[Array, "B n L"]:
    """Draws the rewards of all lists; where they belong to items, one for each item that is not shown yet."""
    if environment.rewards_interact:
        of_lists = jax.vmap(environment.sample_rewards, in_axes=(None, None, 0))
        return jax.vmap(of_lists)(keys, contexts, lists.items)
    fresh = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    more = jax.vmap(environment.sample_rewards)(fresh, contexts, lists.others)
    known = jnp.concatenate([ranking, lists.others], axis=1)
    worth = jnp.concatenate([rewards, more.astype(rewards.dtype)], axis=1)

    def of_item(known: Int[Array, "n"], worth: Float[Array, "n"], item: Int[Array, ""]):
        return worth[
            jnp.argmax(known == item)
        ]  # the first of equals: what was shown keeps its reward

    look_up = jax.vmap(jax.vmap(of_item, (None, None, 0)), (None, None, 0))
    return jax.vmap(look_up)(known, worth, lists.items)
