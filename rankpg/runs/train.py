"""Training from a config, with or without a run folder: `rankpg.train`."""

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
    """Trains every seed of a config and returns the run.

    Args:
      config: settings; all defaults if None.
      environment: contexts and rewards of your own; those of the config if None.
      out: folder of the run, in which every evaluation is saved at once (`load_run` reads it), or a
        `RunFolder` with settings of its own; None writes nothing.
      resume: continue the run of that folder instead of starting one.
      on_progress: called after every chunk and every evaluation.
      **components: encoder, reranker, advantage or optimizer of your own, in place of those of the config
        (see `training.build_learner`); the re-ranker may also be a result of
        `training.lambdamart.fit_lightgbm`.

    Raises:
      ConfigError, ValueError, TypeError: settings or components that do not fit, before anything runs; see
        `training.build_learner`, `RunFolder.open` and `RunFolder.resume`.
      SaveError: the folder cannot be written.

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
    if folder is not None:  # before anything is read or compiled
        folder.check_resumable() if resume else folder.check_free()
    if folder is not None and resume:
        components = folder.components() | components
    restored = resume and folder is not None and folder.has_checkpoint()
    run = prepare(config or TrainConfig(), environment, restored=restored, **components)
    try:
        if folder is not None:
            folder.resume(run) if resume else folder.open(run)
            if folder.notice:
                warnings.warn(folder.notice, stacklevel=2)
        for progress in training_loop(run):
            if folder is not None:
                folder.on_progress(run, progress)
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
