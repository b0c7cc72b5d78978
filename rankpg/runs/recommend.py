"""Candidates from a trained run: id lookup, unknown contexts, eligibility masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.ids import ArrayLike, UnknownIdWarning
from rankpg.environments.dataset import Dataset
from rankpg.training.update import Learner
from rankpg.types import Params

__all__ = ["candidates", "context_rows", "known"]


def candidates(
    learner: Learner,
    dataset: Dataset,
    params: Params,
    contexts: ArrayLike,
    unknown: str,
    eligible: ArrayLike | None,
) -> np.ndarray:
    """Implements `Run.candidates`."""
    if unknown not in ("error", "mean"):
        raise ValueError(f"unknown={unknown!r}; expected 'error' or 'mean'")
    wanted = _context_list(dataset, contexts)
    fits = np.ones(len(wanted), bool) if unknown == "error" else known(dataset, wanted)
    rows = context_rows(dataset, wanted[fits]) if fits.any() else np.zeros(0, np.int32)
    if not fits.all():
        warnings.warn(
            f"{int(np.sum(~fits))} of {len(fits)} contexts ({np.mean(~fits):.1%}) are unknown, such as "
            f"{_plain(wanted[~fits])!r}; they get the candidates of the mean embedding",
            UnknownIdWarning,
            stacklevel=3,  # the caller of the run
        )
    allowed = _allowed_items(
        eligible, dataset.item_ids.rows, len(fits), learner.environment.num_items
    )
    items = _candidates_of(learner, params, rows, fits, allowed, wanted)
    return dataset.item_ids[items]


def known(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Implements `Run.known`."""
    return np.atleast_1d(dataset.context_ids.find(contexts) >= 0)


def context_rows(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Implements `Run.context_rows`."""
    return dataset.context_ids.rows(_context_list(dataset, contexts))


def _context_list(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Context ids as an array, in the form in which they are looked up."""
    wanted = np.atleast_1d(dataset.context_ids.labels(contexts))
    if wanted.ndim > 1 or not wanted.size:
        raise ValueError(
            f"contexts has shape {list(wanted.shape)}; expected one context id or a list of them"
        )
    return wanted


def _candidates_of(
    learner: Learner,
    params: Params,
    rows: np.ndarray,
    fits: np.ndarray,
    allowed: np.ndarray | None,
    wanted: np.ndarray,
) -> np.ndarray:
    """Candidates int32[contexts, K]: of `rows` where the context is known, else of the mean embedding."""
    policy, world = learner.policy, learner.environment
    size, replicate = policy.num_candidates, policy.retrieval.sharding.replicate
    items, choice = np.zeros((len(fits), size), np.int32), np.zeros(len(fits), np.int32)

    def own(which):
        mask = allowed if allowed is None or allowed.ndim == 1 else allowed[which]
        return None if mask is None else replicate(jnp.asarray(mask))

    if fits.any():
        contexts = replicate(jnp.asarray(rows, jnp.int32))
        items[fits], choice[fits] = jax.device_get(
            policy.greedy(params, world, contexts, own(fits))
        )
    if not fits.all():
        items[~fits], choice[~fits] = jax.device_get(
            policy.greedy_for_unknown(
                params,
                world,
                jnp.asarray(learner.sampler.contexts),
                int(np.sum(~fits)),
                own(~fits),
            )
        )
    poor = np.flatnonzero(choice < size)
    if len(poor):
        raise ValueError(
            f"context {_plain(wanted[poor])!r} has {choice[poor[0]]} eligible items, fewer than the {size} "
            "candidates of this run; allow more items in eligible="
        )
    return items


def _plain(ids: np.ndarray) -> object:
    """The first of some ids, as a Python value."""
    return ids[:1].tolist()[0]


def _allowed_items(
    eligible: ArrayLike | None,
    item_rows: Callable[[ArrayLike], np.ndarray],
    count: int,
    num_items: int,
) -> np.ndarray | None:
    """A mask bool[N] or bool[n, N], from a mask or from the ids of eligible items.

    Args:
      eligible: bool[N], bool[n, N], or ids; None is every item.
      item_rows: looks up the row numbers of ids.
      count: n, the number of contexts.
      num_items: N.

    Raises:
      ValueError: a mask of another shape, or ids that are not a list.
    """
    if eligible is None:
        return None
    given = np.asarray(eligible)
    if given.dtype == bool:
        if given.shape not in ((num_items,), (count, num_items)):
            raise ValueError(
                f"eligible is bool{list(given.shape)}; expected [{num_items}] (items), "
                f"[{count}, {num_items}] (contexts, items), or a list of item ids"
            )
        return given
    if given.ndim != 1 or not given.size:
        raise ValueError(
            f"eligible is {given.dtype}{list(given.shape)}; expected a list of item ids, or a mask"
        )
    mask = np.zeros(num_items, bool)
    mask[item_rows(eligible)] = True  # as given: an array would make floats of [1, 2**63]
    return mask
