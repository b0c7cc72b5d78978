"""The two stages of a comparison: tuning on the validation part, and the final fit before the test part.

Both have the same form, so that a method cannot treat them differently: training data, and the users whose
later items are to be found. The data of the tuning has no row of the test part.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import sparse

from rankpg.baselines.base import shape_of
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Interactions, Parts, interactions, users_and_places
from rankpg.errors import ConfigError
from rankpg.evaluation.ranking import catalogue_metrics, ranking_metrics
from rankpg.runs.held_out import HeldOutPart
from rankpg.types import Float, Int

if TYPE_CHECKING:
    from rankpg.compare.final_list import FinalList
else:
    FinalList = Any

__all__ = ["MOST_TUNING_USERS", "Stage", "check_parts", "final_stage", "tuning_stage"]

MOST_TUNING_USERS = 10_000
"""Most users on whom a trial is evaluated; of more, a fixed random choice."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Training data, and the users whose later items are to be found."""

    data: Dataset
    """Its test part is what is evaluated in this stage; its validation part is empty."""
    part: HeldOutPart
    """The evaluated users and their later items."""
    seen: sparse.csr_array
    """Values of all interactions before the evaluated part, float32[num_users, N]; 0 for all others."""
    final: FinalList | None = None
    """The re-ranker of this stage; None for none."""

    @classmethod
    def of(cls, data: Dataset, most: int | None = None) -> Stage:
        """Returns the stage of a dataset without a validation part."""
        parts, world = _parts(data), cast("Interactions", data.environment)
        return cls(data, HeldOutPart.of(world, parts.test(), most), _seen(world, parts))

    @property
    def num_items(self) -> int:
        """N, items of the catalogue."""
        return shape_of(self.seen)[1]

    @property
    def eligible(self) -> int:
        """Smallest number of items that a user has not had before the evaluated part."""
        return self.num_items - int(np.diff(self.seen.indptr).max())

    def metrics(
        self, lists: Int[np.ndarray, "n depth"], cutoffs: tuple[int, ...]
    ) -> dict[str, Float[np.ndarray, "n"]]:
        """Returns every metric of every evaluated user: `evaluation.ranking.ranking_metrics`."""
        return ranking_metrics(lists, self.part.relevant, at=cutoffs)

    def score(
        self, lists: Int[np.ndarray, "n depth"], cutoff: int
    ) -> tuple[float, float | None, float]:
        """Returns the means of ndcg@cutoff of the lists and of the final lists, and the re-ranker's weight.

        The weight is that of the best final lists; without a re-ranker there are none.
        """
        own = float(self.metrics(lists, (cutoff,))[f"ndcg@{cutoff}"].mean())
        if self.final is None:
            return own, None, 1.0
        return own, *self.final.best(lists, self.part, cutoff)

    def depth(self, cutoff: int) -> int:
        """Returns the length of the lists from which metrics at a cut-off and final lists are computed."""
        return cutoff if self.final is None else max(cutoff, self.final.num_candidates)

    def data_for(self, objective: str) -> Dataset:
        """Returns the data to train on; with scores for an objective that trains through their order.

        Raises:
          ConfigError: the objective needs a re-ranker, and there is none.
        """
        if objective != "exposure":
            return self.data
        if self.final is None:
            raise ConfigError(
                "it trains through the order of a re-ranker, and there is none; give reranker='lightgbm'"
            )
        return self.final.data

    def catalogue(
        self, lists: Int[np.ndarray, "n depth"], cutoffs: tuple[int, ...]
    ) -> dict[str, float]:
        """Returns the metrics of the catalogue that is shown: `evaluation.ranking.catalogue_metrics`."""
        popularity = np.bincount(self.seen.indices, minlength=self.num_items)
        num_users = int(np.count_nonzero(np.diff(self.seen.indptr)))
        return catalogue_metrics(
            lists, self.num_items, popularity, num_users=max(num_users, 1), at=cutoffs
        )


def tuning_stage(data: Dataset) -> Stage:
    """Returns the stage in which the validation part is to be found; the test part is not in its data.

    Args:
      data: interactions with a validation part.

    >>> from rankpg.environments import from_interactions
    >>> log = {"user": [1] * 5, "item": [5, 6, 7, 8, 9], "timestamp": [1, 2, 3, 4, 5]}
    >>> stage = tuning_stage(from_interactions(log, validation_share=0.2))
    >>> stage.part.relevant[1], stage.data.environment.sequence.tolist()  # the last item is not there
    (array([3], dtype=int32), [0, 1, 2, 3])
    """
    parts, world = _parts(data), cast("Interactions", data.environment)
    users, places = users_and_places(world)
    stays = places < parts.validation_ends[users]
    items, values = np.asarray(world.sequence)[stays], np.asarray(world.sequence_values)[stays]
    known = interactions(users[stays], items, values, world.num_users, world.num_items)
    known = dataclasses.replace(
        known,
        context_features=world.context_features,
        item_features=world.item_features,
        item_tags=world.item_tags,
        weights=None if world.weights is None else world.weights[stays],
    )
    ends = parts.validation_ends
    earlier = Parts(parts.train_ends, parts.train_ends, ends, parts.trains)
    data = dataclasses.replace(data, environment=known.at(earlier.test()), parts=earlier)
    return Stage.of(data, MOST_TUNING_USERS)


def final_stage(data: Dataset) -> Stage:
    """Returns the stage in which the test part is to be found, after training and validation part.

    Args:
      data: interactions with a test part.

    >>> from rankpg.environments import from_interactions
    >>> log = {"user": [1] * 5, "item": [5, 6, 7, 8, 9], "timestamp": [1, 2, 3, 4, 5]}
    >>> stage = final_stage(from_interactions(log, validation_share=0.2))
    >>> stage.part.relevant[1], stage.seen.toarray()
    (array([4], dtype=int32), array([[1., 1., 1., 1., 0.]], dtype=float32))
    """
    parts, world = _parts(data).refit(), cast("Interactions", data.environment)
    known = dataclasses.replace(data, environment=world.at(parts.test()), parts=parts)
    return Stage.of(known)


_SHARES = {"validation": 0.1, "test": 0.2}
"""Shares of the parts that messages propose."""


def check_parts(data: Dataset) -> None:
    """Rejects data on which methods cannot be tuned and compared.

    Raises:
      ConfigError: the data is not a log of interactions, or fewer than two users have validation or test
        items; the message names the argument that sets their share.
    """
    if data.parts is None:
        raise ConfigError(
            f"data has a {type(data.environment).__name__} environment without parts; expected interactions "
            "with a validation and a test part: environments.from_interactions(log, validation_share=0.1)"
        )
    held_out = {"validation": data.parts.validation(), "test": data.parts.test()}
    users = {
        name: int(np.count_nonzero(moments.feedback_ends > moments.history_ends))
        for name, moments in held_out.items()
    }
    few = [name for name, count in users.items() if count < 2]
    if few:
        found = " and ".join(f"a {name} part of {users[name]} users" for name in few)
        remedy = " and ".join(f"{name}_share={_SHARES[name]}" for name in few)
        raise ConfigError(
            f"data has {found}; expected at least 2 in the validation part, on whom methods are tuned, and "
            f"in the test part, on whom they are compared: read the log with {remedy} and a split other than "
            "'none', or take a log in which users have more items"
        )


def _parts(data: Dataset) -> Parts:
    assert data.parts is not None, "check_parts rejects such data"
    return data.parts


def _seen(world: Interactions, parts: Parts) -> sparse.csr_array:
    """The interactions before the test part, with their values."""
    users, places = users_and_places(world)
    before = places < parts.validation_ends[users]
    pairs = users[before], np.asarray(world.sequence)[before]
    values = np.asarray(world.sequence_values, np.float32)[before]
    seen = sparse.csr_array((values, pairs), shape=(world.num_users, world.num_items))
    seen.sort_indices()
    return seen
