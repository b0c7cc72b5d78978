"""Rewards from which nothing can be learnt, or that mean something else than it seems."""

from __future__ import annotations

import numpy as np

from rankpg.data.ids import TableError

__all__ = ["cautions_of"]


def cautions_of(
    source: str, values: np.ndarray, missing_share: float, contexts_without: int, contexts: int
) -> tuple[str, ...]:
    """Returns sentences about rewards that are all equal, negative, or absent for some contexts.

    Args:
      source: the table, for messages.
      values: the rewards, without those of pairs that it lacks, which are 0.
      missing_share: share of the pairs that it lacks.
      contexts_without: number of contexts without a reward above 0.
      contexts: number of contexts.

    Raises:
      TableError: every reward is 0.

    >>> cautions_of("ratings.csv", np.array([1.0, 1.0]), 0.0, 0, 2)
    ('ratings.csv: every reward is 1, so every list is as good as any other: there is nothing to learn.',)
    """
    if not values.any():
        raise TableError(
            f"{source}: every reward is 0, so there is nothing to learn: check the column of values, and the "
            "join that it comes from"
        )
    if missing_share == 0 and np.ptp(values) == 0:
        what = "so every list is as good as any other: there is nothing to learn."
        return (f"{source}: every reward is {values.flat[0]:g}, {what}",)
    said = []
    negative = int(np.sum(values < 0))
    effect = (
        ", and a pair without a row counts as 0, which is better: the policy learns to avoid what was rated "
        "badly"
    )
    effect = effect if missing_share > 0 else ""
    if negative:
        said.append(f"{source}: {negative} of {values.size} rewards are below 0{effect}.")
    if contexts_without and contexts_without < contexts:
        said.append(
            f"{source}: {contexts_without} of {contexts} contexts have no reward above 0: they teach nothing "
            "that is good, and count in every mean."
        )
    elif contexts_without:
        said.append(f"{source}: no reward is above 0: the optimum of a list is at most 0.")
    return tuple(said)
