"""Several processes that train one run together."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from rankpg.errors import ConfigError, argument

__all__ = ["agreed", "is_writer", "join_processes"]


def join_processes(distributed: Sequence[str] = ()) -> None:
    """Connects this process to the others of its run; call it before any other use of JAX.

    Args:
      distributed: ADDRESS:PORT of the first process, their number, and the index of this one from 0; empty
        where the cluster provides these: Slurm, a TPU pod, Open MPI, Kubernetes.

    Raises:
      ConfigError: impossible arguments, a cluster that does not provide them, or a process that is missing.

    >>> join_processes(["here"])
    Traceback (most recent call last):
    rankpg.errors.ConfigError: distributed=('here',); expected nothing where Slurm, ...
    """
    wrong = ConfigError(
        f"{argument('distributed', tuple(distributed))}; expected nothing where Slurm, Open MPI, Kubernetes "
        "or a TPU pod provides the rest, else ADDRESS:PORT COUNT INDEX, for instance "
        "distributed=('10.0.0.1:9876', '2', '0')"
    )
    if not distributed:
        _initialise()
        return
    try:
        address, count, index = distributed[0], int(distributed[1]), int(distributed[2])
    except (ValueError, IndexError):
        raise wrong from None
    if len(distributed) > 3 or ":" not in address or not 0 <= index < count:
        raise wrong
    _initialise(address, count, index)


def _initialise(*arguments: str | int) -> None:
    # Collectives between CPUs go over the network as well.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*arguments)  # pyright: ignore[reportArgumentType]
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"distributed=: {error}") from error


def is_writer() -> bool:
    """Returns True in the first process, which writes files and reports.

    >>> is_writer()
    True
    """
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """Returns the largest of all processes' numbers; every process must call it.

    >>> agreed(15)
    15
    """
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
