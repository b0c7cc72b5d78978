"""Pairs that a log does not hold: weights by an estimated propensity, and a model of their rewards.

An item without interaction earns 0 in a log, although it may never have been shown. `popularity_weights`
divides what was observed by an estimated probability of observation; `fit_reward_model` predicts the rest.
Both read the training part alone.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from rankpg.environments.interactions import Interactions, Parts, users_and_places
from rankpg.environments.reward_model import RewardModel
from rankpg.errors import ConfigError

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:
    Learner = Any

__all__ = [
    "UnobservedSettings",
    "check_needs_a_log",
    "fit_reward_model",
    "popularity_weights",
    "propensities",
    "training_entries",
    "with_observation_model",
]

_ROWS = 4096
"""Users or items whose equations are in memory together."""


@runtime_checkable
class UnobservedSettings(Protocol):
    """Settings of pairs that were not observed; a `TrainConfig` has these fields."""

    @property
    def unobserved(self) -> str: ...

    @property
    def popularity_weight(self) -> float: ...

    @property
    def propensity_clip(self) -> float: ...


def check_needs_a_log(settings: UnobservedSettings) -> None:
    """Rejects settings that read a training part where the data has none.

    Raises:
      ConfigError: names the setting.
    """
    given = {
        f"unobserved={settings.unobserved!r}": settings.unobserved != "zero",
        f"popularity_weight={settings.popularity_weight:g}": settings.popularity_weight > 0,
    }
    for setting, used in given.items():
        if used:
            raise ConfigError(
                f"{setting} needs a log of interactions, from whose training part it is estimated; give "
                "environment='interactions' or environments.from_interactions, or leave it out"
            )


def with_observation_model(
    learner: Learner, world: Interactions, settings: UnobservedSettings, parts: Parts
) -> tuple[Learner, Interactions]:
    """Returns the learner and the environment of training, as the settings treat unobserved pairs.

    Args:
      learner: holds the advantage.
      world: interactions for training, with any moments.
      settings: `unobserved`, and the estimate of the propensity.
      parts: the training part.

    Raises:
      ConfigError: unobserved='left_out' with an advantage that cannot leave out positions.
    """
    power, least = settings.popularity_weight, settings.propensity_clip
    if settings.unobserved == "model":
        model = fit_reward_model(world, parts, power=power, least=least)
        return learner, dataclasses.replace(world, reward_model=model)
    if power > 0:
        weights = jnp.asarray(popularity_weights(world, parts, power, least))
        if world.reward_weights is not None:
            weights = weights * world.reward_weights
        world = dataclasses.replace(world, reward_weights=weights)
    if settings.unobserved == "left_out":
        if "observed" not in inspect.signature(learner.advantage.apply).parameters:
            raise ConfigError(
                "unobserved='left_out' needs an advantage whose baseline is the mean of what was observed, "
                "since without a baseline an item that earns 0 has no gradient either; give "
                "advantage='context', 'batch' or 'learned', or an Advantage whose apply takes observed="
            )
        learner = dataclasses.replace(learner, leaves_out_unobserved=True)
    return learner, world


def training_entries(world: Interactions, parts: Parts) -> np.ndarray:
    """Returns bool[num_interactions], True for the entries of `world.sequence` in the training part.

    >>> from rankpg.environments import from_interactions
    >>> log = {"user": [1] * 5, "item": [5, 6, 7, 8, 9], "timestamp": [1, 2, 3, 4, 5]}
    >>> data = from_interactions(log)
    >>> training_entries(data.environment, data.parts).tolist()
    [True, True, True, True, False]
    """
    users, places = users_and_places(world)
    return (places < parts.train_ends[users]) & parts.trains[users]


def propensities(counts: np.ndarray, power: float, least: float) -> np.ndarray:
    """Returns an estimated probability that each item is observed, up to a factor, from its popularity.

        p_a = max(least, (n_a / max_b n_b)^power),   n_a the number of interactions, at least 1

    A power law of the popularity, as in Yang et al. (2018) and Saito et al. (2020), who take a power of 1/2.

    Args:
      counts: int[N], n_a.
      power: 0 for equal propensities.
      least: lower bound, so that no weight 1 / p_a is above 1 / least.

    >>> propensities(np.array([100, 25, 0]), power=0.5, least=0.2).tolist()
    [1.0, 0.5, 0.2]
    """
    share = np.maximum(counts, 1) / max(1, int(np.max(counts, initial=1)))
    return np.maximum(least, share**power)


def popularity_weights(world: Interactions, parts: Parts, power: float, least: float) -> np.ndarray:
    """Returns the weight 1 / p_a of every interaction, divided by the mean over the training part.

    Args:
      world: interactions.
      parts: the training part, whose interactions are counted.
      power, least: as for `propensities`.

    Returns:
      float32[num_interactions], in the order of `world.sequence`.
    """
    items, trained = np.asarray(world.sequence), training_entries(world, parts)
    counts = np.bincount(items[trained], minlength=world.num_items)
    weights = 1 / propensities(counts, power, least)[items]
    return (weights / np.mean(weights[trained])).astype(np.float32)


def fit_reward_model(
    world: Interactions,
    parts: Parts,
    *,
    power: float = 0.0,
    least: float = 0.1,
    rank: int = 16,
    unobserved_weight: float = 0.05,
    penalty: float = 0.5,
    iterations: int = 10,
) -> RewardModel:
    """Fits factors to the values of the training part by weighted alternating least squares.

        minimise  sum over observed (u, a) of (v_ua - <p_u, q_a>)^2 / p_a
                  + w0 sum over the others of <p_u, q_a>^2  +  penalty (sum |p_u|^2 + sum |q_a|^2)

    Unobserved pairs are weak zeros, of weight w0 (Hu, Koren and Volinsky 2008), since without any of them
    a log of equal values would be predicted by a constant.

    Args:
      world: interactions; of its values, weights are left out.
      parts: the training part.
      power, least: of the propensities p_a; see `propensities`.
      rank: R.
      unobserved_weight: w0.
      penalty: weight of the squared factors.
      iterations: number of rounds, each of which solves for all users and all items.
    """
    trained = training_entries(world, parts)
    users = users_and_places(world)[0][trained]
    items = np.asarray(world.sequence)[trained]
    values = np.asarray(world.sequence_values, np.float64)[trained]
    counts = np.bincount(items, minlength=world.num_items)
    weights = 1 / propensities(counts, power, least)[items]
    shape = (world.num_users, world.num_items)
    excess = sparse.csr_array((weights - unobserved_weight, (users, items)), shape)
    target = sparse.csr_array((weights * values, (users, items)), shape)
    excess_of_items, target_of_items = excess.T.tocsr(), target.T.tocsr()
    of_items = np.random.default_rng(0).normal(scale=0.1, size=(world.num_items, rank))
    of_users = np.zeros((world.num_users, rank))
    for _ in range(iterations):
        of_users = _solved(excess, target, of_items, unobserved_weight, penalty)
        of_items = _solved(excess_of_items, target_of_items, of_users, unobserved_weight, penalty)
    return RewardModel(
        users=jnp.asarray(of_users, jnp.float32),
        items=jnp.asarray(of_items, jnp.float32),
        high=float(np.max(values, initial=0)),
    )


def _solved(
    excess: sparse.csr_array,
    target: sparse.csr_array,
    others: np.ndarray,
    unobserved_weight: float,
    penalty: float,
) -> np.ndarray:
    """Returns the factors of all rows, given those of the columns: one linear system for each row."""
    rank = others.shape[1]
    outer = (others[:, :, None] * others[:, None, :]).reshape(len(others), -1)
    shared = unobserved_weight * others.T @ others + penalty * np.eye(rank)
    found = []
    for start in range(0, len(excess.indptr) - 1, _ROWS):
        rows = slice(start, start + _ROWS)
        left = (excess[rows] @ outer).reshape(-1, rank, rank) + shared
        found.append(np.linalg.solve(left, (target[rows] @ others)[:, :, None])[:, :, 0])
    return np.concatenate(found)
