"""Candidates from a trained run: id lookup, unknown contexts, eligibility masks."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from rankpg._utils.labels import labelled
from rankpg.core.quotas import expert_quotas
from rankpg.data.ids import ArrayLike, IdMap, UnknownIdWarning
from rankpg.data.labels import aligned_mask
from rankpg.environments.dataset import Dataset
from rankpg.training.update import Learner
from rankpg.types import Params

__all__ = ["ShortListWarning", "allowed_items", "candidates", "context_rows", "fill_value", "known"]


class ShortListWarning(UserWarning):
    """Some contexts have fewer eligible items than candidates were requested."""


def candidates(
    learner: Learner,
    dataset: Dataset,
    params: Params,
    contexts: ArrayLike,
    unknown: str,
    eligible: ArrayLike | None,
    k: int | None = None,
    too_few: str = "pad",
) -> np.ndarray:
    """Implements `Run.candidates`."""
    if too_few not in ("pad", "error"):
        raise ValueError(f"too_few={too_few!r}; expected 'pad' or 'error'")
    learner = _of_length(learner, k)
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
    allowed = allowed_items(eligible, dataset, wanted)
    items, choice = _candidates_of(learner, params, rows, fits, allowed)
    size = learner.policy.num_candidates
    poor = np.flatnonzero(choice < size)
    found = dataset.item_ids[items]
    if not len(poor):
        return found
    if too_few == "error":
        raise ValueError(
            f"context {_plain(wanted[poor])!r} has {choice[poor[0]]} eligible items, fewer than the {size} "
            "candidates requested; allow more items in eligible=, give a smaller k=, or give "
            "too_few='pad'"
        )
    warnings.warn(
        f"{len(poor)} of {len(fits)} contexts, such as {_plain(wanted[poor])!r} with {choice[poor[0]]}, have "
        f"fewer than {size} eligible items; their rows end in {fill_value(dataset.item_ids)!r}",
        ShortListWarning,
        stacklevel=3,  # the caller of the run
    )
    # Experts choose in turn, so that the first slots have the items that there are.
    missing = np.arange(size)[None] >= choice[:, None]
    return np.where(missing, np.asarray(fill_value(dataset.item_ids)).astype(found.dtype), found)


def _of_length(learner: Learner, k: int | None) -> Learner:
    """Returns the learner with a policy that returns k candidates; the slots are split over its experts."""
    if k is None:
        return learner
    policy, most = learner.policy, learner.environment.num_items
    experts = len(policy.quotas)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not experts <= k <= most:
        raise ValueError(
            f"k={k!r}; expected a whole number from {experts} (one for each expert) to {most} (the catalogue)"
        )
    quotas = expert_quotas(int(k), experts)
    return dataclasses.replace(learner, policy=dataclasses.replace(policy, quotas=quotas))


def fill_value(ids: IdMap) -> object:
    """Returns the fill value of a short list for this type of ids: "", -1, NaN or NaT.

    Where -1 is an id, or cannot be one, it is the smallest or the largest number that is not an id.
    """
    dtype = ids[np.zeros(1, np.int32)].dtype
    if dtype.kind == "U":
        return ""
    if dtype.kind == "M":
        return np.datetime64("NaT")
    if dtype.kind == "f":
        return float("nan")
    if dtype.kind not in "iu":
        return None
    limits = np.iinfo(dtype)
    free = (x for x in (-1, limits.min, limits.max) if limits.min <= x <= limits.max)
    return next((x for x in free if not (ids.find([x]) >= 0).any()), limits.max)


def known(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Implements `Run.known`."""
    return np.atleast_1d(dataset.context_ids.find(contexts) >= 0)


def context_rows(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Implements `Run.context_rows`."""
    return dataset.context_ids.rows(_context_list(dataset, contexts))


def _context_list(dataset: Dataset, contexts: ArrayLike) -> np.ndarray:
    """Context ids as an array, in the form in which they are looked up."""
    if not np.size(np.asarray(contexts, object)):
        raise ValueError(
            "contexts is empty; expected one context id or a list of at least one, such as "
            f"{_plain(dataset.context_ids[np.arange(1)])!r}"
        )
    wanted = np.atleast_1d(dataset.context_ids.labels(contexts))
    if wanted.ndim > 1:
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
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates int32[contexts, K], and the number of items that each context could choose from.

    They are those of `rows` where the context is known, else of the mean embedding.
    """
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
    return items, choice


def _plain(ids: np.ndarray) -> object:
    """The first of some ids, as a Python value."""
    return ids[:1].tolist()[0]


def allowed_items(
    eligible: ArrayLike | None, dataset: Dataset, contexts: ArrayLike
) -> np.ndarray | None:
    """A mask bool[N] or bool[n, N], from a mask or from the ids of eligible items.

    Args:
      eligible: bool[N], bool[n, N], or ids; None is every item. The labels of a pandas table are ids of
        contexts and items, and those of a series are ids of items, in any order.
      dataset: ids of the catalogue.
      contexts: the n contexts, of which some may be unknown.

    Raises:
      ValueError: a mask of another shape, or without a label for an id; or ids that are not a list.
    """
    if eligible is None:
        return None
    items, wanted = dataset.item_ids, _context_list(dataset, contexts)
    given, count, size = np.asarray(labelled(eligible).values), len(wanted), len(items)
    if not given.size:
        raise ValueError(
            "eligible is empty; expected the ids of at least one item, a mask of all items, or None for "
            "every item"
        )
    if given.dtype == bool:
        given = aligned_mask(eligible, "eligible", wanted, dataset.context_ids.kind, items)
        if given.shape not in ((size,), (count, size)):
            raise ValueError(
                f"eligible is bool{list(given.shape)}; expected [{size}] (items), "
                f"[{count}, {size}] (contexts, items), or a list of item ids"
            )
        return given
    if given.ndim != 1:
        raise ValueError(
            f"eligible is {given.dtype}{list(given.shape)}; expected a list of item ids, or a mask"
        )
    if given.dtype.kind in "iuf" and size > 2 and given.shape == (size,) and set(given) <= {0, 1}:
        raise ValueError(
            f"eligible holds {size} numbers, one for each item, all of them 0 or 1: pass .astype(bool) if it "
            "is a mask, or each id once if these are ids"
        )
    mask = np.zeros(size, bool)
    mask[items.rows(eligible)] = True  # as given: an array would make floats of [1, 2**63]
    return mask
