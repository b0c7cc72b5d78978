"""Which retrieval suits a catalogue."""

from __future__ import annotations

from typing import NamedTuple

import jax

__all__ = ["Choice", "choose_retrieval"]

_FEW_ITEMS = 8192
"""On a CPU dense is faster below: its logits stay in cache (benchmarks/scripts/retrievals.py)."""

_FEW_BYTES = 2**30
"""Of logits, on another device: up to here they are left in memory."""


class Choice(NamedTuple):
    """A retrieval, and why it was taken."""

    name: str
    reason: str


def choose_retrieval(
    wanted: str,
    num_items: int,
    logits_at_once: int,
    *,
    whole_catalogue: bool,
    towers: bool,
    platform: str | None = None,
    devices: int | None = None,
) -> Choice:
    """What `--retrieval auto` takes; a retrieval that was asked for is taken as it is.

    Args:
      wanted: auto, dense, streamed or sharded.
      num_items: N.
      logits_at_once: seeds * B * M * N, what dense retrieval holds several times over.
      whole_catalogue: whether the score lists every item.
      towers: whether the encoder answers embeddings, and not logits.
      platform: cpu, gpu, tpu; that of JAX's first device if None.
      devices: how many there are; those that JAX sees if None.

    >>> known = {"whole_catalogue": False, "towers": True, "platform": "cpu", "devices": 1}
    >>> choose_retrieval("auto", 10**6, 128 * 10**6, **known)
    Choice(name='streamed', reason='1000000 items pass by in chunks faster than all their logits are held')
    """
    if wanted != "auto":
        return Choice(wanted, "as you asked")
    if whole_catalogue:
        return Choice("dense", "the score lists the whole catalogue")
    if not towers:
        return Choice("dense", "the encoder answers logits, which are all in memory already")
    if (platform or jax.default_backend()) == "cpu":
        if num_items < _FEW_ITEMS:
            return Choice("dense", f"the logits of {num_items} items are few")
        reason = f"{num_items} items pass by in chunks faster than all their logits are held"
        return _in_chunks(reason, devices)
    if 4 * logits_at_once <= _FEW_BYTES:
        return Choice("dense", f"{4 * logits_at_once / 2**20:.0f} MiB of logits fit the device")
    return _in_chunks(f"{4 * logits_at_once / 2**30:.1f} GiB of logits would be too many", devices)


def _in_chunks(reason: str, devices: int | None) -> Choice:
    """Streamed on one device, sharded on several."""
    devices = jax.device_count() if devices is None else devices
    if devices == 1:
        return Choice("streamed", reason)
    return Choice("sharded", f"{reason}, and {devices} devices share them")
