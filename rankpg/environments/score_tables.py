"""Tables of a re-ranker's scores: their checks, and their rows and columns where a catalogue grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from rankpg.types import Array, Float

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # checked here, with messages of our own
    ArrayLike = Any

__all__ = ["ArrayLike", "checked_scores", "padded_scores"]


def checked_scores(
    name: str, values: ArrayLike, shape: tuple[int, int]
) -> Float[Array, "num_users N"]:
    """Returns a table of scores as an array.

    Args:
      name: its name, for errors.
      values: scores, higher is better.
      shape: numbers of users and of items.

    Raises:
      ValueError: another shape, or a NaN.

    >>> checked_scores("scores", [[1, 2]], (1, 2)).dtype
    dtype('float32')
    """
    table = np.asarray(values, np.float32)
    if table.shape != shape:
        raise ValueError(
            f"{name} has the shape {list(table.shape)}; expected {list(shape)}, users x items"
        )
    if np.isnan(table).any():
        user, item = (int(i) for i in np.argwhere(np.isnan(table))[0])
        raise ValueError(
            f"{name} is NaN for user {user}, item {item}; expected numbers: write -inf for an item that "
            "comes last"
        )
    return jnp.asarray(table)


def padded_scores(
    scores: Float[Array, "num_users N"] | None, users: int = 0, items: int = 0
) -> Float[Array, "more_users more_N"] | None:
    """Returns a table with further items, which come last, or users, who have the mean score of an item.

    >>> padded_scores(jnp.array([[1.0], [3.0]]), users=1).tolist()
    [[1.0], [3.0], [2.0]]
    """
    if scores is None:
        return None
    mean = jnp.broadcast_to(jnp.mean(scores, axis=0), (users, scores.shape[1]))
    every = jnp.concatenate([scores, mean])
    return jnp.pad(every, ((0, 0), (0, items)), constant_values=-jnp.inf)
