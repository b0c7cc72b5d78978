"""Chunks, blocks and shards of a catalogue: chunks are scored together, blocks race."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from rankpg.core.numerics import largest, log_sum_exp, scan_rows
from rankpg.types import Array, Bool, Float, Int

__all__ = ["FLOAT_BYTES", "Layout", "Shard", "layout_for"]

FLOAT_BYTES = 4

_CHUNK = 4096
"""Approximate number of items in a chunk: a batch's logits of one chunk stay in the processor's cache."""

_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Layout:
    """Block j holds items j w to j w + w - 1; a chunk holds `size` items, the last one maybe fewer."""

    num_items: int
    size: int
    """Items in a chunk, a multiple of the width."""
    width: int
    """Items in a block, w."""

    @property
    def num_blocks(self) -> int:
        return -(-self.num_items // self.width)

    @property
    def chunks(self) -> int:
        return -(-self.num_items // self.size)

    def start_of(self, block: Int[Array, "..."]) -> Int[Array, "..."]:
        """The first of the `width` items that are read for a block; the last block may start early."""
        return jnp.minimum(block * self.width, self.num_items - self.width)

    def block_of(self, item: Int[Array, "..."]) -> Int[Array, "..."]:
        """The block that an item belongs to."""
        return item // self.width

    def row_of(self, item: Int[Array, "..."]) -> Int[Array, "..."]:
        """The index of an item among those that are read for its block."""
        return item - self.start_of(self.block_of(item))

    def scan(
        self,
        body: Callable[[Any, Int[Array, ""], Float[Array, "M n D"]], tuple[Any, Any]],
        carry: Any,
        table: Float[Array, "M N D"],
    ) -> tuple[Any, Any]:
        """Computes `carry, output = body(carry, first item, rows of the table)` for every chunk, in order.

        Returns:
          The last carry, and the outputs of all chunks; see `core.numerics.scan_rows`.
        """
        return scan_rows(body, carry, table, self.size)


def layout_for(num_items: int, depth: int, chunk: int = _CHUNK) -> Layout:
    """Chooses the block width: racing all block sums takes about as long as opening `depth` blocks.

    An opened item costs about four times as much as the sum of a block, hence sqrt(N / (4 depth)), rounded
    to a power of 2.

    >>> layout_for(10**6, 101)
    Layout(num_items=1000000, size=4096, width=64)
    >>> layout_for(50, 5).chunks
    1
    """
    wanted = math.log2(max(1.0, math.sqrt(num_items / (4 * depth))))
    width = _WIDTHS[min(round(wanted), len(_WIDTHS) - 1)]
    size = min(-(-num_items // width) * width, max(width, chunk // width * width))
    return Layout(num_items, size, width)


@dataclass(frozen=True)
class Shard:
    """The blocks of one device, the same number on each; beyond the last item of the catalogue is padding.

    >>> Shard(Layout(num_items=10, size=4, width=2), devices=3, axis="items").rows
    4
    """

    whole: Layout
    """The layout of the whole catalogue."""
    devices: int = 1
    axis: str | None = None
    """The mesh axis of the items; None without a mesh."""

    @property
    def num_blocks(self) -> int:
        return -(-self.whole.num_blocks // self.devices)

    @property
    def rows(self) -> int:
        """Items on this device."""
        return self.whole.num_items if self.devices == 1 else self.num_blocks * self.whole.width

    @property
    def layout(self) -> Layout:
        """The layout of this device's items, counted from its first one."""
        return Layout(self.rows, min(self.whole.size, self.num_blocks * self.width), self.width)

    @property
    def width(self) -> int:
        return self.whole.width

    def first_block(self) -> Int[Array, ""] | int:
        """Index of this device's first block in the catalogue."""
        if self.axis is None or self.devices == 1:
            return 0
        return lax.axis_index(self.axis) * self.num_blocks

    def local(self, blocks: Int[Array, "..."]) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
        """Index on this device of some blocks of the catalogue (0 if absent), and a mask of those present."""
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
        """Elementwise maximum over all devices."""
        return x if self.axis is None else lax.pmax(x, self.axis)

    def log_sum(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Elementwise log-sum-exp over all devices."""
        if self.axis is None or self.devices == 1:
            return x
        return log_sum_exp(lax.all_gather(x, self.axis), axis=0)

    def sum(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Elementwise sum over all devices."""
        return x if self.axis is None else lax.psum(x, self.axis)

    def everywhere(self, x: Bool[Array, "..."]) -> Bool[Array, "..."]:
        """Elementwise conjunction over all devices."""
        return x if self.axis is None else lax.pmin(x.astype(jnp.int32), self.axis) > 0
