"""Rejects configurations that online learning does not support, and invalid feedback."""

from __future__ import annotations

import numbers
from typing import Literal, NamedTuple

import numpy as np

from rankpg.data.ids import ArrayLike, IdMap
from rankpg.errors import ConfigError
from rankpg.runs.run import Run

__all__ = [
    "Returns",
    "RewardBounds",
    "best_first",
    "check_online",
    "check_ranking",
    "check_rewards",
    "check_scores",
]


def check_online(run: Run, importance: str, clip: float) -> None:
    """Rejects a run whose components need the re-ranker and the user inside the program.

    Raises:
      ConfigError: the message names a setting that works.
    """
    learner = run.server
    if len(run.config.seeds) != 1:
        raise ConfigError(
            f"seeds={run.config.seeds}; an online retriever is one policy: give one seed"
        )
    if learner.adaptive_learning_rate:
        raise ConfigError(
            "adaptive_learning_rate=True needs the re-ranker's propensity, which is unknown online; give "
            "adaptive_learning_rate=False"
        )
    if learner.objective is not None and run.config.objective == "policy_gradient":
        raise ConfigError(
            f"estimator={run.config.estimator!r} learns from predicted rewards, and an online retriever by a "
            "policy gradient alone; give estimator='ca_pg_swr', 'ca_pg' or 'v_pg'"
        )
    if learner.estimator.by_swaps:
        raise ConfigError(
            f"estimator={run.config.estimator!r} needs the rewards of lists that no user saw, and the Gumbel "
            "noise of the draw, which is stale once the parameters change; give estimator='v_pg', "
            "'ca_pg_swr' or 'ca_pg', or 'v_pg_set' with one expert"
        )
    if learner.estimator.statistics == "arrivals":
        raise ConfigError(
            f"estimator={run.config.estimator!r} needs the Gumbel noise of the draw, which is stale once the "
            "parameters change; give estimator='ca_pg_swr', 'ca_pg' or 'v_pg'"
        )
    if learner.policy.retrieval.name == "sharded":
        raise ConfigError(
            "an online retriever uses one device; give retrieval='streamed' or 'dense'"
        )
    if importance not in ("set", "item", "none"):
        raise ConfigError(f"importance={importance!r}; expected set, item or none")
    if importance == "item" and not learner.estimator.credit_assigned:
        raise ConfigError(
            f"importance='item' weights items, and estimator={run.config.estimator!r} scores the whole "
            "candidate set; give importance='set'"
        )
    if not isinstance(clip, numbers.Real) or not 1 <= clip < np.inf:
        raise ConfigError(f"clip={clip!r}; expected a number of at least 1")


Returns = Literal["scores", "ranking", "rewards"]


class RewardBounds(NamedTuple):
    """Smallest and largest reward, and whether one outside is clipped."""

    low: float
    high: float
    clips: bool


def check_scores(scores: ArrayLike, shape: tuple[int, int], source: str) -> np.ndarray:
    """Validates scores, float[n, K]: one for each candidate, larger is better, +-inf allowed.

    Raises:
      ValueError: another shape, not numbers, or NaN.
    """
    array = _numbers(scores, "scores", source)
    if array.shape != shape:
        raise ValueError(
            f"{source} returned scores of shape {list(array.shape)}; expected {list(shape)}, one per "
            "candidate"
        )
    if np.isnan(array).any():
        row, column = np.argwhere(np.isnan(array))[0]
        raise ValueError(f"{source} returned NaN as the score of candidate {column} of row {row}")
    return array


def best_first(scores: np.ndarray, candidates: np.ndarray, length: int) -> np.ndarray:
    """Returns the `length` candidates with the largest scores; ties go to the earlier slot.

    >>> best_first(np.array([[0.5, 2.0, 0.5]]), np.array([[7, 8, 9]]), 2)
    array([[8, 7]])
    """
    places = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    return np.take_along_axis(candidates, places, axis=1)


def check_ranking(
    ranking: ArrayLike,
    candidates: np.ndarray,
    length: int,
    rows: np.ndarray,
    source: str,
    ids: IdMap | None = None,
) -> np.ndarray:
    """Validates a ranking, items [n, L]: each a candidate of its row, none twice.

    Args:
      ranking: the list of every row, best first.
      candidates: [n, K].
      length: L.
      rows: row numbers, for messages.
      source: name of the function or draw, for messages.
      ids: item ids of the ranking, if the candidates and the result are row numbers.

    Raises:
      ValueError: another shape or dtype, an item that is not a candidate, or an item twice.
      UnknownIdError: an item that is not in `ids`.
    """
    try:
        shown = np.asarray(ranking, object) if ids else _typed(ranking, candidates)
    except ValueError:
        shown = None
    if shown is None or (shown.ndim == 1 and any(isinstance(x, list | tuple) for x in shown)):
        raise ValueError(
            f"{source}: ranking has rows of different lengths; expected {length} items each"
        )
    wanted = (len(candidates), length)
    if shown.shape != wanted:
        few = shown.ndim == 2 and len(shown) == len(candidates) and shown.shape[1] < length
        hint = f"; it shows too few items, L is {length}" if few else ""
        raise ValueError(
            f"{source}: ranking has shape {list(shown.shape)}; expected {list(wanted)}, item ids best "
            f"first{hint}"
        )
    if ids:
        shown = ids.rows(ranking)
    elif shown.dtype.kind != candidates.dtype.kind and not (
        shown.dtype.kind in "iu" and candidates.dtype.kind in "iu"
    ):
        raise ValueError(
            f"{source}: ranking holds {shown.dtype}; expected item ids ({candidates.dtype}), not "
            "positions or scores"
        )

    def named(items: np.ndarray | np.generic) -> object:
        return (ids[items] if ids else items).tolist()

    foreign = ~(shown[:, :, None] == candidates[:, None, :]).any(axis=2)
    if foreign.any():
        row, place = np.argwhere(foreign)[0]
        raise ValueError(
            f"{source}: ranking of row {rows[row]} shows {named(shown[row, place])} at position "
            f"{place + 1}, which is not among its candidates {named(candidates[row])}"
        )
    ordered = np.sort(shown, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"{source}: ranking of row {rows[row]} shows an item twice: {named(shown[row])}"
        )
    return shown.astype(candidates.dtype)


def _typed(ranking: ArrayLike, candidates: np.ndarray) -> np.ndarray:
    """An array with the dtype of its values: pandas returns objects."""
    shown = np.asarray(ranking)
    if shown.dtype == object:
        shown = np.array(shown.tolist())
    if shown.dtype == object and candidates.dtype.kind == "M":
        shown = shown.astype(candidates.dtype)
    return shown


def check_rewards(
    rewards: ArrayLike,
    shape: tuple[int, int],
    rows: np.ndarray,
    source: str,
    bounds: RewardBounds | None = None,
    seen: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Validates rewards, float32[n, L], all finite and within bounds.

    Args:
      rewards: those of the shown items.
      shape: (n, L).
      rows: rows of the draw, for messages.
      source: name of the draw, for messages.
      bounds: lowest and highest reward; None for none.
      seen: bool[n, L], False for a position that was not shown, whose reward is the number within the bounds
        that is nearest to 0. None: all were shown.

    Returns:
      The rewards, and the number of those that were clipped.

    Raises:
      ValueError: another shape, not numbers, or a number that is not finite or outside of the bounds.
    """
    array = _numbers(rewards, "rewards", source)
    if array.shape != shape:
        raise ValueError(
            f"{source}: rewards have shape {list(array.shape)}; expected {list(shape)}, one per shown item"
        )
    low, high, clips = bounds or RewardBounds(-np.inf, np.inf, False)
    if seen is not None:
        array = np.where(seen, array, np.clip(0.0, low, high))
    with np.errstate(over="ignore"):
        finite = np.isfinite(array if clips else array.astype(np.float32))
    if not finite.all():
        row, place = np.argwhere(~finite)[0]
        raise ValueError(
            f"{source}: the reward of row {rows[row]}, position {place + 1}, is {array[row, place]}; "
            "expected a finite number. For a row without a reward yet, leave it out with rows= and pass it "
            "later, or discard it"
        )
    outside = (array < low) | (array > high)
    if outside.any() and not clips:
        row, place = np.argwhere(outside)[0]
        raise ValueError(
            f"{source}: the reward of row {rows[row]}, position {place + 1}, is {array[row, place]:g}, "
            f"outside of reward_bounds={low:g}, {high:g}; correct it, or make the retriever with wider "
            "reward_bounds or outside_bounds='clip'"
        )
    return np.clip(array, low, high).astype(np.float32), int(outside.sum())


def _numbers(values: ArrayLike, name: str, source: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{source}: {name} must be numbers of one shape, got {_short(values)}"
        ) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
