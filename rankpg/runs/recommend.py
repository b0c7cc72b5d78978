"""Asking a trained run: ids in, ids out, unknown contexts and restricted items by a declared policy."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.ids import UnknownIdWarning

__all__ = ["candidates", "context_rows", "known"]


def candidates(run: Any, contexts: Any, seed: int | None, unknown: Any, eligible: Any) -> Any:
    """`Run.candidates`."""
    if unknown not in ("error", "mean"):
        raise ValueError(f"unknown: expected error or mean, got {unknown!r}")
    asked = _asked(run, contexts)
    fits = np.ones(len(asked), bool) if unknown == "error" else known(run, asked)
    rows = context_rows(run, asked[fits]) if fits.any() else np.zeros(0, np.int32)
    if not fits.all():
        warnings.warn(
            f"{int(np.sum(~fits))} of {len(fits)} contexts ({np.mean(~fits):.1%}) are unknown, such as "
            f"{_plain(asked[~fits])!r}; they are answered at the mean of the contexts' embeddings",
            UnknownIdWarning,
            stacklevel=3,  # who asked the run
        )
    items = _answers(run, run.params(seed), rows, fits, eligible, asked)
    return run.dataset.item_ids[items]


def known(run: Any, contexts: Any) -> np.ndarray:
    """`Run.known`."""
    return np.atleast_1d(run.dataset.context_ids.find(contexts) >= 0)


def context_rows(run: Any, contexts: Any) -> np.ndarray:
    """`Run.context_rows`."""
    return run.dataset.context_ids.rows(_asked(run, contexts))


def _asked(run: Any, contexts: Any) -> np.ndarray:
    """Returns a list of context ids as they are looked up."""
    asked = np.atleast_1d(run.dataset.context_ids.labels(contexts))
    if asked.ndim > 1 or not asked.size:
        raise ValueError(
            f"contexts is ids{list(asked.shape)}; expected one context id or a list of them"
        )
    return asked


def _answers(
    run: Any, params: Any, rows: np.ndarray, fits: np.ndarray, eligible: Any, asked: np.ndarray
) -> np.ndarray:
    """int32[contexts, K]: of `rows` where the context is known, else at the mean."""
    size, policy, world = run.config.num_candidates, run.policy, run.environment
    allowed = _allowed_items(eligible, run.dataset.item_ids.rows, len(fits), world.num_items)
    items, choice = np.zeros((len(fits), size), np.int32), np.zeros(len(fits), np.int32)

    def own(which):
        mask = allowed if allowed is None or allowed.ndim == 1 else allowed[which]
        return None if mask is None else run.copies(jnp.asarray(mask))

    if fits.any():
        contexts = run.copies(jnp.asarray(rows, jnp.int32))
        items[fits], choice[fits] = jax.device_get(
            policy.greedy(params, world, contexts, own(fits))
        )
    if not fits.all():
        items[~fits], choice[~fits] = jax.device_get(
            policy.greedy_for_unknown(
                params,
                world,
                jnp.asarray(run.learner.sampler.contexts),
                int(np.sum(~fits)),
                own(~fits),
            )
        )
    poor = np.flatnonzero(choice < size)
    if len(poor):
        raise ValueError(
            f"context {_plain(asked[poor])!r} has {choice[poor[0]]} eligible items, fewer than the {size} "
            "candidates of this run; allow more"
        )
    return items


def _plain(ids: np.ndarray) -> Any:
    """The first of some ids, as a Python value."""
    return ids[:1].tolist()[0]


def _allowed_items(eligible: Any, item_rows: Any, count: int, num_items: int) -> np.ndarray | None:
    """A mask bool[N] or bool[n, N] from a mask, or from the ids of the items that are allowed.

    Args:
      eligible: bool[N], bool[n, N], or ids; None: every item.
      item_rows: row numbers of ids.
      count: n, how many contexts ask.
      num_items: N.

    Raises:
      ValueError: a mask of another shape, or ids that are no list.
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
