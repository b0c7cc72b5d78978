"""Which contexts train, and which judge."""

from __future__ import annotations

import numpy as np

__all__ = ["choose_contexts", "split_contexts"]


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
