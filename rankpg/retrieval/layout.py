"""How a catalogue is cut: N items into chunks that are scored together, a chunk into blocks that race."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from rankpg.blocks import scan_rows
from rankpg.types import Array, Float, Int

__all__ = ["Layout", "layout_for"]

_CHUNK = 4096
"""Items a chunk, about: a batch's logits of one chunk stay in the processor's cache."""

_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Layout:
    """Items j w to j w + w - 1 are block j; a chunk is `size` items in a row, the last one what is left."""

    num_items: int
    size: int
    """items a chunk, a multiple of the width"""
    width: int
    """items a block, w"""

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
        """Which of the items that are read for its block it is."""
        return item - self.start_of(self.block_of(item))

    def scan(
        self,
        body: Callable[[Any, Int[Array, ""], Float[Array, "M n D"]], tuple[Any, Any]],
        carry: Any,
        table: Float[Array, "M N D"],
    ) -> tuple[Any, Any]:
        """`carry, answer = body(carry, first item, rows of the table)` for every chunk, in order.

        Returns:
          The last carry, and the answers of all chunks; see `blocks.scan_rows`.
        """
        return scan_rows(body, carry, table, self.size)


def layout_for(num_items: int, depth: int, chunk: int = _CHUNK) -> Layout:
    """Blocks so wide that their sums race for about as long as it takes to open `depth` of them.

    An opened item costs about four times what the sum of a block does, hence sqrt(N / (4 depth)), rounded to
    a power of 2.

    >>> layout_for(10**6, 101)
    Layout(num_items=1000000, size=4096, width=64)
    >>> layout_for(50, 5).chunks
    1
    """
    wanted = math.log2(max(1.0, math.sqrt(num_items / (4 * depth))))
    width = _WIDTHS[min(round(wanted), len(_WIDTHS) - 1)]
    size = min(-(-num_items // width) * width, max(width, chunk // width * width))
    return Layout(num_items, size, width)
