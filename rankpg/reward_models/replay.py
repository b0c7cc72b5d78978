"""Memory of observed rewards, from which a reward model learns again (Lin 1992)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rankpg.types import Array, Bool, Float, Int, PRNGKey, record

__all__ = ["Memory", "Observed", "Replay"]

_LARGEST_COUNT = 2**30
"""Later rewards replace stored ones with the probability of the one of this number."""


class Replay(NamedTuple):
    """Settings of a reward model that learns again from the rewards that were observed before.

    One call of `learn` then makes several steps of the optimizer. Each is on the new rewards, and on others
    that are drawn from the memory. They are real observations, so nothing is assumed about rewards.
    """

    capacity: int = 2**18
    """Number of rewards that are kept, a random sample of all; each takes 12 bytes."""
    steps: int = 4
    """Steps of the optimizer for every batch of new rewards."""
    batch_size: int = 384
    """Remembered rewards in each of these steps, drawn with replacement."""


class Observed(NamedTuple):
    """Observed rewards of pairs of a context and an item."""

    contexts: Int[Array, "n"]
    items: Int[Array, "n"]
    rewards: Float[Array, "n"]
    seen: Bool[Array, "n"]
    """False for an entry that holds nothing."""


@record
class Memory:
    """A uniform sample of all observed rewards, without repeats (a reservoir; Vitter 1985).

    The newest rewards alone would not do: a policy that has learnt to avoid an item no longer sees its
    rewards, and the model would lose what it knew of it.

    >>> memory, ids, mask = Memory.empty(3), jnp.array([0, 0]), jnp.array([True, False])
    >>> for reward in (1.0, 2.0, 3.0):
    ...     memory = memory.add(jax.random.key(0), Observed(ids, ids, jnp.full(2, reward), mask))
    >>> memory.rewards.tolist(), int(memory.count)
    ([1.0, 2.0, 3.0], 3)
    """

    contexts: Int[Array, "capacity"]
    items: Int[Array, "capacity"]
    rewards: Float[Array, "capacity"]
    count: Int[Array, ""]
    """Number of rewards that were observed, up to 2^30."""

    @classmethod
    def empty(cls, capacity: int) -> Memory:
        """Returns a memory without rewards."""
        ids, zero = jnp.zeros(capacity, jnp.int32), jnp.zeros((), jnp.int32)
        return cls(ids, ids, jnp.zeros(capacity, jnp.float32), zero)

    def add(self, key: PRNGKey, new: Observed) -> Memory:
        """Stores the rewards that were seen; in a full memory, each with probability capacity / count."""
        capacity = self.rewards.shape[0]
        seen = new.seen.astype(jnp.int32)
        number = self.count + jnp.cumsum(seen) - 1  # of each among all that were observed
        drawn = jax.random.randint(key, number.shape, 0, jnp.maximum(number, 0) + 1, jnp.int32)
        place = jnp.where(number < capacity, number, drawn)
        place = jnp.where(new.seen, jnp.minimum(place, capacity), capacity)  # outside: dropped

        def stored(old: Array, values: Array) -> Array:
            return old.at[place].set(values.astype(old.dtype), mode="drop")

        return Memory(
            contexts=stored(self.contexts, new.contexts),
            items=stored(self.items, new.items),
            rewards=stored(self.rewards, new.rewards),
            count=jnp.minimum(self.count + jnp.sum(seen, dtype=jnp.int32), _LARGEST_COUNT),
        )

    def draw(self, key: PRNGKey, count: int) -> Observed:
        """Draws stored rewards uniformly, with replacement; none are seen of an empty memory."""
        stored = jnp.minimum(self.count, self.rewards.shape[0])
        places = jax.random.randint(key, (count,), 0, jnp.maximum(stored, 1), jnp.int32)
        seen = jnp.broadcast_to(stored > 0, (count,))
        return Observed(self.contexts[places], self.items[places], self.rewards[places], seen)
