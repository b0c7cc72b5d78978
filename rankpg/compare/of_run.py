"""A trained run as one more row of a comparison: its lists of the test part, without training."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np

from rankpg.compare.results import Schedule, Trial
from rankpg.compare.stages import Stage
from rankpg.compare.trained import Lists
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Interactions, Parts
from rankpg.errors import ConfigError
from rankpg.runs.run import Run
from rankpg.types import Int

__all__ = ["THIS_RUN", "data_of_run", "has_validation", "lists_of_run", "trial_of_run"]

THIS_RUN = "this run"
"""Name of the row."""

_TUNING_SHARE = 0.1
"""Share of each user's training part by which methods are tuned where the run has no validation part."""


def data_of_run(run: Run) -> tuple[Dataset, tuple[str, ...]]:
    """Returns the data on which methods are compared with a run, and sentences about what each was fitted to.

    Where the run has no validation part, the last tenth of each user's training part takes its place in the
    tuning. The final fit of the methods includes it, as the run's training did.

    Args:
      run: trained on interactions.

    Raises:
      ConfigError: the run is on other data, or some of its items were removed.
    """
    data, world, parts = run.dataset, run.dataset.environment, run.dataset.parts
    if parts is None or not isinstance(world, Interactions):
        raise ConfigError(
            f"the run is on a {type(world).__name__}; expected a run on interactions, all items of which are "
            "in the catalogue: rankpg.train(config, environments.from_interactions(log))"
        )
    plain = dataclasses.replace(
        cast("Interactions", world), item_scores=None, training_scores=None, training_ends=None
    )
    data = dataclasses.replace(data, environment=plain)
    if has_validation(run):
        return data, (
            f"{THIS_RUN} was trained without the validation part, to which all other methods were fitted as "
            "well in the end; as history of a user, it has been read by all of them.",
        )
    tuned_by = parts.forward(_TUNING_SHARE)
    ends = parts.train_ends.copy()
    ends[tuned_by.users] = tuned_by.history_ends
    parts = Parts(ends, parts.validation_ends, parts.test_ends, parts.trains)
    return dataclasses.replace(data, parts=parts), (
        f"{THIS_RUN} has no validation part: the other methods were tuned on the last tenth of each user's "
        f"training part, and fitted to the whole of it in the end, as {THIS_RUN} was. In its final list both "
        "orders have the weight 1/2.",
    )


def has_validation(run: Run) -> bool:
    """Returns True if a run was trained without some interactions that are its validation part."""
    assert run.dataset.parts is not None
    moments = run.dataset.parts.validation()
    return bool(np.any(moments.feedback_ends > moments.history_ends))


def lists_of_run(
    run: Run, stage: Stage, depth: int, most: int | None = None
) -> list[Int[np.ndarray, "n depth"]]:
    """Returns the lists of a run's trained state, one table for each seed; -1 after the last item.

    Args:
      run: trained on the data of the stage.
      stage: the tuning or the final fit.
      depth: length of the lists.
      most: most seeds; all if None.
    """
    lists = Lists(run, stage.part, depth)
    return [lists.of(index) for index in range(len(run.config.seeds))[:most]]


def trial_of_run(run: Run) -> Trial:
    """Returns the settings of a run as a trial, with its validation metric if it was evaluated."""
    names = ("objective", "context_tower", "embedding_dim", "learning_rate")
    settings = {name: getattr(run.config, name) for name in names}
    known = [row.get("validation_ndcg@10") for row in run.state_rows]
    values = [value for value in known if value is not None]
    schedule = Schedule(run.state_step, run.config.num_steps)
    return Trial(settings, float(np.mean(values)) if values else None, schedule)
