"""A part of a catalogue: the run of blocks that one device holds, and how the parts are put together.

A device that holds the whole catalogue has nothing to put together. Else all of this runs inside of
`jax.shard_map`, over the mesh axis that the items lie along.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from rankpg.numerics import largest, log_sum_exp
from rankpg.retrieval.layout import Layout
from rankpg.types import Array, Bool, Float, Int

__all__ = ["Part"]


@dataclass(frozen=True)
class Part:
    """As many blocks as every other device holds; beyond the last item of the catalogue is padding.

    >>> Part(Layout(num_items=10, size=4, width=2), devices=3, axis="items").rows
    4
    """

    whole: Layout
    """the catalogue's"""
    devices: int = 1
    axis: str | None = None
    """the mesh axis of the items; None without a mesh"""

    @property
    def num_blocks(self) -> int:
        return -(-self.whole.num_blocks // self.devices)

    @property
    def rows(self) -> int:
        """Items on this device."""
        return self.whole.num_items if self.devices == 1 else self.num_blocks * self.whole.width

    @property
    def layout(self) -> Layout:
        """Of this device's items, counted from its first one."""
        return Layout(self.rows, min(self.whole.size, self.num_blocks * self.width), self.width)

    @property
    def width(self) -> int:
        return self.whole.width

    def first_block(self) -> Int[Array, ""] | int:
        """The place of this device's first block in the catalogue."""
        if self.axis is None or self.devices == 1:
            return 0
        return lax.axis_index(self.axis) * self.num_blocks

    def local(self, blocks: Int[Array, "..."]) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
        """Where blocks of the catalogue stand on this device (anywhere, if not here), and whether they do."""
        place = blocks - self.first_block()
        here = (place >= 0) & (place < self.num_blocks)
        return jnp.where(here, place, 0), here

    def first(
        self, values: Float[Array, "n"], ids: Int[Array, "n"], count: int
    ) -> tuple[Float[Array, "count"], Int[Array, "count"]]:
        """The `count` largest values of all devices, in descending order, and their ids."""
        values, place = largest(values, min(count, values.shape[0]))
        ids = ids[place]
        if self.axis is None or self.devices == 1:
            return values, ids
        values, ids = (lax.all_gather(x, self.axis, tiled=True) for x in (values, ids))
        values, place = largest(values, count)
        return values, ids[place]

    def highest(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The largest of all devices' values, entry by entry."""
        return x if self.axis is None else lax.pmax(x, self.axis)

    def log_sum(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """log of the sum of exp over all devices, entry by entry."""
        if self.axis is None or self.devices == 1:
            return x
        return log_sum_exp(lax.all_gather(x, self.axis), axis=0)

    def sum(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The sum over all devices, entry by entry."""
        return x if self.axis is None else lax.psum(x, self.axis)

    def everywhere(self, x: Bool[Array, "..."]) -> Bool[Array, "..."]:
        """Whether it holds on every device."""
        return x if self.axis is None else lax.pmin(x.astype(jnp.int32), self.axis) > 0
