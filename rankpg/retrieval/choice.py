"""The retrievals by name, and the choice that suits a catalogue and its device."""

from __future__ import annotations

import jax

from rankpg.retrieval.base import RETRIEVALS, Retrieval, RetrievalSettings
from rankpg.retrieval.dense import Dense
from rankpg.retrieval.sharded import Sharded
from rankpg.retrieval.sharding import shard_over
from rankpg.retrieval.streamed import Streamed

__all__ = ["RETRIEVALS", "SAME_DRAW", "RetrievalSettings", "choose_retrieval"]

_FEW_ITEMS = 8192
"""Dense is faster on a CPU below this size: its logits stay in cache (benchmarks/scripts/retrievals.py)."""

_FEW_BYTES = 2**30
"""Logits of up to this size stay in memory on any other device."""


RETRIEVALS.update(
    {
        "dense": lambda catalogue, reason: Dense(reason=reason),
        "streamed": lambda catalogue, reason: Streamed(reason=reason),
        "sharded": lambda catalogue, reason: Sharded(
            shard_over(catalogue.mesh, catalogue.num_items, catalogue.num_candidates), reason=reason
        ),
    }
)

SAME_DRAW = frozenset({"streamed", "sharded"})
"""Retrievals that draw the same candidates from the same keys: a run may change between them."""


def choose_retrieval(
    wanted: str,
    catalogue: RetrievalSettings,
    num_logits: int,
    *,
    whole_catalogue: bool,
    towers: bool,
    known_feedback: bool = False,
    platform: str | None = None,
    devices: int | None = None,
) -> Retrieval:
    """Builds the retrieval that the setting `retrieval` names; `auto` takes the one that suits the catalogue.

    Args:
      wanted: auto, or a name of `RETRIEVALS`.
      catalogue: N, K and the mesh.
      num_logits: seeds * B * M * N, which dense retrieval holds several times over.
      whole_catalogue: the score reads the logits of every item.
      known_feedback: True for an objective on known feedback, whose loss has no draw to save logits in.
      towers: the encoder returns embeddings, and not logits.
      platform: cpu, gpu or tpu; that of JAX's first device if None.
      devices: number of devices; those that JAX sees if None.

    >>> known = {"whole_catalogue": False, "towers": True, "platform": "cpu", "devices": 1}
    >>> chosen = choose_retrieval("auto", RetrievalSettings(10**6, 100), 128 * 10**6, **known)
    >>> chosen.name, chosen.reason
    ('streamed', 'chunks of 1000000 items are faster than all their logits at once')
    """
    name, reason = wanted, "as requested"
    if wanted == "auto":
        name, reason = _automatic(
            catalogue.num_items,
            num_logits,
            whole_catalogue=whole_catalogue,
            towers=towers,
            known_feedback=known_feedback,
            platform=platform or jax.default_backend(),
            devices=jax.device_count() if devices is None else devices,
        )
    retrieval = RETRIEVALS[name](catalogue, reason)
    if not isinstance(retrieval, Retrieval):
        raise TypeError(
            f"RETRIEVALS[{name!r}] returned a {type(retrieval).__name__}; expected an object of a class that "
            "inherits from rankpg.retrieval.Retrieval"
        )
    return retrieval


def _automatic(
    num_items: int,
    num_logits: int,
    *,
    whole_catalogue: bool,
    towers: bool,
    known_feedback: bool,
    platform: str,
    devices: int,
) -> tuple[str, str]:
    """Name and reason of the retrieval that suits a catalogue."""
    if whole_catalogue:
        return "dense", "the score reads the logits of the whole catalogue"
    if not towers:
        return "dense", "the encoder returns logits, which are all in memory already"
    if known_feedback and 4 * num_logits <= _FEW_BYTES:
        return (
            "dense",
            f"{4 * num_logits / 2**20:.0f} MiB of logits, of which every one has a gradient",
        )
    if platform == "cpu":
        if num_items < _FEW_ITEMS:
            return "dense", f"the logits of {num_items} items fit in cache"
        reason = f"chunks of {num_items} items are faster than all their logits at once"
    elif 4 * num_logits <= _FEW_BYTES:
        return "dense", f"{4 * num_logits / 2**20:.0f} MiB of logits fit on the device"
    else:
        reason = f"{4 * num_logits / 2**30:.1f} GiB of logits would be too many"
    if devices == 1:
        return "streamed", reason
    return "sharded", f"{reason}, and {devices} devices share them"
