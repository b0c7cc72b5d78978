"""Several processes that train one run together, and which of them speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rankpg.errors import ConfigError

__all__ = ["agreed", "is_writer", "join_processes"]


def join_processes(place: Sequence[str] = ()) -> None:
    """Meet the other processes of this run, before JAX does anything else (`jax.distributed`).

    Args:
      place: ADDRESS:PORT of the first process, how many there are, and which one this is, from 0; empty
        where the cluster tells: Slurm, a TPU pod, Open MPI, Kubernetes.

    Raises:
      ConfigError: the place is none, nobody tells it, or the others did not come.

    >>> join_processes(["here"])
    Traceback (most recent call last):
    rankpg.errors.ConfigError: --distributed is here; expected nothing (where Slurm, ...
    """
    wrong = ConfigError(
        f"--distributed is {' '.join(place)}; expected nothing (where Slurm, Open MPI, Kubernetes or a "
        "TPU pod tells the rest), or ADDRESS:PORT COUNT INDEX, for instance 10.0.0.1:9876 2 0"
    )
    if not place:
        _meet()
        return
    try:
        address, count, index = place[0], int(place[1]), int(place[2])
    except (ValueError, IndexError):
        raise wrong from None
    if len(place) > 3 or ":" not in address or not 0 <= index < count:
        raise wrong
    _meet(address, count, index)


def _meet(*place: Any) -> None:
    # CPUs talk over the network, too.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*place)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--distributed: {error}") from error


def is_writer() -> bool:
    """Whether this process writes files and reports: the first one does.

    >>> is_writer()
    True
    """
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """The largest of all processes' numbers: what one was told, all of them know. Every process must call it.

    >>> agreed(15)
    15
    """
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
