"""Which contexts train, and which evaluator."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable

import jax
import numpy as np

from rankpg.data.features import Featurizer
from rankpg.data.ids import IdMap
from rankpg.environments.catalogue import Catalogue, Restricted
from rankpg.environments.tabular import Ratings, RewardMatrix
from rankpg.types import Array

__all__ = ["Dataset", "LeftOut", "choose_contexts", "split_contexts"]


def split_contexts(num_contexts: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts to train on, and a fixed random choice of `held_out` that are kept for evaluation.

    Without any held out, both are all contexts.

    Raises:
      ValueError: nothing would be left to train on.

    >>> training, judging = split_contexts(5, 2)
    >>> sorted([*training.tolist(), *judging.tolist()]), len(judging)
    ([0, 1, 2, 3, 4], 2)
    """
    every = np.arange(num_contexts, dtype=np.int32)
    if held_out == 0:
        return every, every
    if not 0 < held_out < num_contexts:
        raise ValueError(
            f"--held-out-contexts is {held_out}, of {num_contexts} contexts; expected fewer, so that some "
            "are left to train on"
        )
    chosen = np.random.default_rng(0).choice(num_contexts, held_out, replace=False)
    return np.setdiff1d(every, chosen), np.sort(chosen).astype(np.int32)


def choose_contexts(contexts: np.ndarray, most: int) -> np.ndarray:
    """All of these contexts, or, of more than `most`, a fixed random subset, in ascending order.

    >>> choose_contexts(np.arange(3, dtype=np.int32), 10)
    array([0, 1, 2], dtype=int32)
    """
    if len(contexts) <= most:
        return contexts
    return np.sort(np.random.default_rng(0).choice(contexts, most, replace=False))


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Rows of a ratings table, and ids, that did not come into the environment, and why.

    >>> print(LeftOut(rows=10, unknown_rows=1, unknown_contexts=0, unknown_items=1, unrated_contexts=0))
    1 of 10 ratings (10.0%) left out: 0 contexts and 1 items are not in their tables
    """

    rows: int
    """Ratings that were read."""
    unknown_rows: int
    """Ratings whose context or item is not in its table."""
    unknown_contexts: int
    unknown_items: int
    unrated_contexts: int
    """Contexts of their table without any rating."""

    @property
    def unknown_share(self) -> float:
        """Of the ratings."""
        return self.unknown_rows / self.rows

    def __str__(self) -> str:
        parts = []
        if self.unknown_rows:
            parts.append(
                f"{self.unknown_rows} of {self.rows} ratings ({self.unknown_share:.1%}) left out: "
                f"{self.unknown_contexts} contexts and {self.unknown_items} items are not in their tables"
            )
        if self.unrated_contexts:
            parts.append(f"{self.unrated_contexts} contexts left out: no rating")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An environment and what its row numbers stand for.

    `context_ids[rows]` and `item_ids[rows]` give ids back, `.rows(ids)` the row numbers of ids;
    `missing_share` is the share of (context, item) pairs without a rating, which earn 0.
    """

    environment: Ratings | RewardMatrix | Catalogue | Restricted
    context_ids: IdMap
    item_ids: IdMap
    missing_share: float
    context_featurizer: Featurizer | None = None
    item_featurizer: Featurizer | None = None
    """From the columns of your tables to the environment's features, for rows that come later."""
    left_out: LeftOut | None = None
    """What of the tables is not in the environment; None where all of it is."""

    def sums(self) -> dict[str, str]:
        """SHA-256 of the ids of either side and of the numbers: what a trained policy belongs to."""
        return self._sums

    @functools.cached_property
    def _sums(self) -> dict[str, str]:
        return {
            "context_ids": _sum(map(repr, self.context_ids.ids.tolist())),
            "item_ids": _sum(map(repr, self.item_ids.ids.tolist())),
            "numbers": _sum(map(_bytes, jax.tree.leaves(self.environment))),
        }


def _bytes(leaf: Array) -> bytes:
    values = np.ascontiguousarray(leaf)
    return f"{values.dtype}{values.shape}".encode() + values.tobytes()


def _sum(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
