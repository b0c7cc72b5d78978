"""A run: from a config to trained seeds, with evaluations on the way.

This is the host's side. It compiles one chunk of updates, calls it over and over, evaluates between chunks,
and hands each step of progress to whoever listens: a progress bar, a run folder, your own code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Progress, Run, prepare
from rankpg.types import Environment

__all__ = ["train"]

if TYPE_CHECKING:
    from rankpg.runs.storage.folder import RunFolder


def train(
    config: TrainConfig | None = None,
    environment: Environment | Dataset | None = None,
    *,
    out: Path | str | RunFolder | None = None,
    resume: bool = False,
    on_progress: Callable[[Run, Progress], None] | None = None,
    **components: Any,
) -> Run:
    """Train every seed of a config and return the run.

    Args:
      config: the settings; all defaults if None.
      environment: rewards of your own; the config's if None.
      out: the folder of the run, where every evaluation is saved at once (`load_run` reads it back), or a
        `RunFolder`, which says how it is kept; None writes nothing.
      resume: whether to go on with the run of that folder instead of beginning one.
      on_progress: called after every chunk and every evaluation.
      **components: components of your own in place of the config's: encoder, reranker, advantage,
        optimizer (see `assembly.assemble`).

    Raises:
      ConfigError, ValueError, TypeError: before anything runs, for what cannot be; see `assembly.assemble`,
        `RunFolder.open` and `RunFolder.resume`.
      SaveError: the disk does not take it.

    >>> import numpy as np
    >>> from rankpg.environments import from_matrix
    >>> config = TrainConfig(num_candidates=2, num_steps=20, eval_every=10, seeds=(0,))
    >>> run = train(config, from_matrix(np.eye(6)))
    >>> [row["step"] for row in run.metrics]
    [0, 10, 20]
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config is a {type(config).__name__}; expected a rankpg.TrainConfig")
    folder = None if out is None else _folder(out)
    if resume and folder is None:
        raise ConfigError("resume=True needs out=, the folder of the run that goes on")
    if folder is not None and not resume:
        folder.check_free()  # before anything is read or compiled
    run = prepare(config or TrainConfig(), environment, **components)
    try:
        if folder is not None:
            folder.resume(run) if resume else folder.open(run)
        for progress in training_loop(run):
            if folder is not None:
                folder.follow(run, progress)
            if on_progress is not None:
                on_progress(run, progress)
    finally:
        problem = None if folder is None else folder.close(run)
        if problem:
            warnings.warn(problem, stacklevel=2)
    return run


def _folder(out: Path | str | RunFolder) -> RunFolder:
    # Not above: it also reads runs back, for which it prepares them.
    from rankpg.runs.storage.folder import RunFolder

    return out if isinstance(out, RunFolder) else RunFolder(out)
