"""Which runs can go live."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rankpg.data.ids import IdMap
from rankpg.errors import ConfigError
from rankpg.runs.run import Run

__all__ = ["Answers", "best_first", "check_live", "check_ranking", "check_rewards", "check_scores"]


def check_live(run: Run, importance: str, clip: float) -> None:
    """Refuse a run whose components need re-ranker and user inside the program.

    Raises:
      ConfigError: it says what to choose.
    """
    learner = run.learner
    if len(run.config.seeds) != 1:
        raise ConfigError(
            f"--seeds is {' '.join(map(str, run.config.seeds))}; a live retriever is one policy, so "
            "expected one seed"
        )
    if learner.adaptive_learning_rate:
        raise ConfigError(
            "--adaptive-learning-rate needs the re-ranker's propensity, and the re-ranker is outside; "
            "choose "
            "--no-adaptive-learning-rate"
        )
    if learner.estimator.statistics == "arrivals":
        raise ConfigError(
            f"--estimator {run.config.estimator} scores with the noise that drew, which belongs to the "
            "parameters of "
            "the draw, and they may have moved; choose ca_pg_swr or another one"
        )
    if learner.policy.retrieval.name == "sharded":
        raise ConfigError("a live retriever uses one device; choose --retrieval streamed or dense")
    if importance not in ("set", "item", "none"):
        raise ConfigError(f"importance is {importance!r}; expected set, item or none")
    if importance == "item" and not learner.estimator.credit_assigned:
        raise ConfigError(
            f"importance 'item' weights items, and --estimator {run.config.estimator} scores the whole "
            "candidate "
            "set; choose importance 'set'"
        )
    if not 1 <= clip < np.inf:
        raise ConfigError(f"clip is {clip}; expected a number of at least 1")


Answers = Literal["scores", "ranking", "rewards"]


def check_scores(scores: Any, shape: tuple[int, int], source: str) -> np.ndarray:
    """Float [n, K]: one number per candidate, larger is better; -inf and +inf are allowed, NaN is not.

    Raises:
      ValueError: another shape, no numbers, NaN.
    """
    array = _numbers(scores, "scores", source)
    if array.shape != shape:
        raise ValueError(
            f"{source} answered scores of shape {list(array.shape)}; expected {list(shape)}, one per "
            "candidate"
        )
    if np.isnan(array).any():
        row, column = np.argwhere(np.isnan(array))[0]
        raise ValueError(f"{source} answered NaN as the score of candidate {column} of row {row}")
    return array


def best_first(scores: np.ndarray, candidates: np.ndarray, length: int) -> np.ndarray:
    """The `length` candidates of largest score; of equals the one in the earlier slot.

    >>> best_first(np.array([[0.5, 2.0, 0.5]]), np.array([[7, 8, 9]]), 2)
    array([[8, 7]])
    """
    places = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    return np.take_along_axis(candidates, places, axis=1)


def check_ranking(
    ranking: Any,
    candidates: np.ndarray,
    length: int,
    rows: np.ndarray,
    source: str,
    ids: IdMap | None = None,
) -> np.ndarray:
    """Items [n, L], each a candidate of its row, none twice.

    Args:
      ranking: what came.
      candidates: [n, K].
      length: L.
      rows: what the n rows are called.
      source: whom to name.
      ids: those of the ranking, where the candidates, and the answer, are row numbers of them.

    Raises:
      ValueError: another shape or dtype, an item that was no candidate, an item twice.
      UnknownIdError: an item that `ids` does not hold.
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
            f"{source}: ranking holds {shown.dtype}; expected item ids ({candidates.dtype}) and not "
            "positions or "
            "scores"
        )

    def named(items: Any) -> Any:
        return (ids[items] if ids else items).tolist()

    strange = ~(shown[:, :, None] == candidates[:, None, :]).any(axis=2)
    if strange.any():
        row, place = np.argwhere(strange)[0]
        raise ValueError(
            f"{source}: ranking of row {rows[row]} shows {named(shown[row, place])} at position "
            f"{place + 1}, which is none of its candidates {named(candidates[row])}"
        )
    ordered = np.sort(shown, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"{source}: ranking of row {rows[row]} shows an item twice: {named(shown[row])}"
        )
    return shown.astype(candidates.dtype)


def _typed(ranking: Any, candidates: np.ndarray) -> np.ndarray:
    """An array of what the values are: pandas hands out objects."""
    shown = np.asarray(ranking)
    if shown.dtype == object:
        shown = np.array(shown.tolist())
    if shown.dtype == object and candidates.dtype.kind == "M":
        shown = shown.astype(candidates.dtype)
    return shown


def check_rewards(
    rewards: Any, shape: tuple[int, int], rows: np.ndarray, source: str
) -> np.ndarray:
    """float32[n, L], finite.

    Raises:
      ValueError: another shape, no numbers, a number that is not finite.
    """
    array = _numbers(rewards, "rewards", source)
    if array.shape != shape:
        raise ValueError(
            f"{source}: rewards have shape {list(array.shape)}; expected {list(shape)}, one per shown item"
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row, place = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"{source}: the reward of row {rows[row]}, position {place + 1}, is {array[row, place]}; "
            "expected a finite "
            "number. Where no reward came, leave the row out (rows=) and tell it later, or forget it"
        )
    return array


def _numbers(values: Any, name: str, source: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{source}: {name} are no numbers of one shape, but {_short(values)}"
        ) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
