"""A generated log of interactions, for demonstrations: users whose taste drifts from genre to genre."""

from __future__ import annotations

import numpy as np

__all__ = ["generate_log"]

_GENRES = 8
_LIKED = 60.0
"""Factor on the popularity of an item of the genre that a user likes at the time."""
_STAY = 6
"""Mean number of interactions until a user's taste moves on to the next genre."""


def generate_log(
    num_users: int = 400, num_items: int = 300, length: int = 30, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns a generated log of interactions, and a table of its items with their genre.

    Each user takes one new item at a time, with a probability in proportion to its popularity, times 60 if
    it is of the genre that the user likes at the time. After each interaction, the taste of one user in six
    moves on to the next genre, so that no split of the log falls where all tastes change.

    Args:
      num_users: number of users.
      num_items: number of items.
      length: number of interactions of each user, fewer than items.
      seed: seed of all random numbers.

    Raises:
      ValueError: as many interactions of a user as items, or more.

    >>> log, items = generate_log(num_users=3, num_items=20, length=5)
    >>> {name: len(column) for name, column in log.items()}, sorted(items)
    ({'user': 15, 'item': 15, 'timestamp': 15}, ['genre', 'item'])
    """
    if not 0 < length < num_items:
        raise ValueError(
            f"length={length}; expected at least 1 and fewer than num_items={num_items}"
        )
    random = np.random.default_rng(seed)
    genre = np.arange(num_items) % _GENRES
    popularity = random.pareto(1.5, num_items) + 0.2
    liked = random.integers(_GENRES, size=num_users)
    taken = np.zeros((num_users, num_items), bool)
    chosen = np.empty((num_users, length), np.int64)
    for time in range(length):
        weights = popularity * np.where(genre == liked[:, None], _LIKED, 1.0)
        race = np.log(weights) + random.gumbel(
            size=taken.shape
        )  # Gumbel-max: one draw for each user
        chosen[:, time] = np.argmax(np.where(taken, -np.inf, race), axis=1)
        taken[np.arange(num_users), chosen[:, time]] = True
        liked = (liked + (random.random(num_users) < 1 / _STAY)) % _GENRES
    log = {
        "user": np.repeat(np.arange(num_users), length),
        "item": chosen.ravel(),
        "timestamp": np.tile(np.arange(length), num_users),
    }
    names = np.array([f"genre {number}" for number in genre])
    return log, {"item": np.arange(num_items), "genre": names}
