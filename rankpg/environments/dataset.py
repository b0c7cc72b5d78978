"""Datasets: an environment with the ids of its rows, and the split of its contexts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rankpg.data.ids import IdMap
from rankpg.environments.interactions import Parts
from rankpg.types import Array, Environment, check_environment

if TYPE_CHECKING:
    from rankpg.data.features import Featurizer
else:
    Featurizer = Any

__all__ = ["ENVIRONMENTS", "Dataset", "LeftOut", "choose_contexts", "split_contexts"]


def split_contexts(num_contexts: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits contexts into those to train on and a fixed random choice of `held_out` for evaluation.

    With held_out=0 both are all contexts.

    Raises:
      ValueError: no context would be left to train on.

    >>> training, evaluation = split_contexts(5, 2)
    >>> sorted([*training.tolist(), *evaluation.tolist()]), len(evaluation)
    ([0, 1, 2, 3, 4], 2)
    """
    every = np.arange(num_contexts, dtype=np.int32)
    if held_out == 0:
        return every, every
    if not 0 < held_out < num_contexts:
        raise ValueError(
            f"held_out_contexts={held_out}, but the environment has {num_contexts} contexts; expected fewer, "
            "so that some are left to train on"
        )
    chosen = np.random.default_rng(0).choice(num_contexts, held_out, replace=False)
    return np.setdiff1d(every, chosen), np.sort(chosen).astype(np.int32)


def choose_contexts(contexts: np.ndarray, most: int) -> np.ndarray:
    """Returns these contexts, or a fixed random subset of `most` of them, in ascending order.

    >>> choose_contexts(np.arange(3, dtype=np.int32), 10)
    array([0, 1, 2], dtype=int32)
    """
    if len(contexts) <= most:
        return contexts
    return np.sort(np.random.default_rng(0).choice(contexts, most, replace=False))


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Rows and ids of a ratings table that were left out of the environment, by reason.

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
        """Share of the ratings that were left out."""
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
    """An environment and the ids that its row numbers stand for.

    `context_ids[rows]` and `item_ids[rows]` return ids, `.rows(ids)` the row numbers of ids;
    `missing_share` is the share of (context, item) pairs without a rating, which earn 0.
    """

    environment: Environment
    context_ids: IdMap
    item_ids: IdMap
    missing_share: float
    context_featurizer: Featurizer | None = None
    item_featurizer: Featurizer | None = None
    """Turns columns of the tables into features of the environment, for rows that come later."""
    left_out: LeftOut | None = None
    """Rows and ids of the tables that are not in the environment; None where all are."""
    parts: Parts | None = None
    """Training, validation and test part of interactions; None for other data."""
    notes: tuple[str, ...] = ()
    """Sentences about how the data was read and split."""
    cautions: tuple[str, ...] = ()
    """Sentences about rewards that mislead, of which training warns."""

    @classmethod
    def of(cls, environment: Environment | Dataset) -> Dataset:
        """Returns a dataset as it is; the ids of another environment are its row numbers.

        Raises:
          TypeError: the environment lacks members of the protocol.

        >>> from rankpg.environments import paper_instance
        >>> data = Dataset.of(paper_instance())
        >>> data.item_ids.rows([5, 2]), data.ids_are_rows
        (array([5, 2]), True)
        """
        if isinstance(environment, Dataset):
            return environment
        check_environment(environment)
        contexts = IdMap.of_range(environment.num_contexts, "context")
        return cls(environment, contexts, IdMap.of_range(environment.num_items, "item"), 0.0)

    @property
    def needs_care(self) -> bool:
        """True where training may have to warn of rewards or of features."""
        return bool(self.cautions or self.context_featurizer or self.item_featurizer)

    @property
    def ids_are_rows(self) -> bool:
        """True for an environment without ids of its own; then there is nothing to be saved beside it."""
        return self.context_ids.is_range and self.item_ids.is_range

    def fingerprint(self) -> dict[str, str]:
        """Returns SHA-256 checksums of the ids, of the numbers, and of scores and split, if there are any.

        A trained policy belongs to the dataset of the same fingerprint.
        """
        return dict(self._fingerprint)

    @functools.cached_property
    def _fingerprint(self) -> dict[str, str]:
        checksums = {
            "context_ids": _checksum(map(repr, self.context_ids.ids.tolist())),
            "item_ids": _checksum(map(repr, self.item_ids.ids.tolist())),
            "numbers": _checksum(map(_bytes, _leaves(self.environment, of_scores=False))),
        }
        if self.environment.item_scores is not None:
            checksums["scores"] = _checksum(map(_bytes, _leaves(self.environment, of_scores=True)))
        return checksums if self.parts is None else checksums | {"split": self.parts.checksum()}


_SCORES = {"item_scores", "training_scores", "training_ends"}
"""Fields of an environment that hold a re-ranker's scores, which a run may have or not."""


def _leaves(environment: Environment, *, of_scores: bool) -> list[Array]:
    """Returns the arrays of a re-ranker's scores, or all others."""
    leaves = jax.tree_util.tree_leaves_with_path(environment)
    return [x for path, x in leaves if bool({_name(key) for key in path} & _SCORES) == of_scores]


def _name(key: Any) -> str:
    return str(getattr(key, "name", key))


def _bytes(leaf: Array) -> bytes:
    values = np.ascontiguousarray(leaf)
    return f"{values.dtype}{values.shape}".encode() + values.tobytes()


def _checksum(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


ENVIRONMENTS: dict[str, Callable[[Any], Environment | Dataset]] = {}
"""name -> builder from settings; the values of the setting `environment`, filled in registry.py."""
