"""The part of a dataset that a run folder saves, so that the run can recommend without the original data.

Interactions are saved whole, so that a run on them can also be evaluated and trained on.

    data/ids.json       the ids of contexts and items, in the order of their rows
    data/features.json  how columns become features, where a table was given
    data/arrays.npz     features and eligibility; interactions and their split

Of interactions, the file holds every pair of user and item, so the folder is as private as the log that they
came from. Rewards of other data are not saved. No file contains a pickle.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankpg._utils.documents import read_json
from rankpg._utils.files import atomic_write, atomic_write_text
from rankpg.data.faults import in_one_line
from rankpg.data.features import Featurizer
from rankpg.data.files import load_arrays
from rankpg.data.ids import IdMap, TableError, text_array
from rankpg.environments.catalogue import Catalogue, Restricted, catalogue
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Interactions, Parts
from rankpg.environments.tabular import Ratings
from rankpg.errors import ConfigError
from rankpg.runs.storage.contents import ARRAYS, FEATURES, IDS
from rankpg.runs.storage.interactions_file import arrays_of, holds_interactions, interactions_of
from rankpg.types import Environment

__all__ = ["ARRAYS", "IDS", "load", "save"]

_SIDES = ("context", "item")
_COMPRESSED = 2**28
"""Bytes up to which arrays are compressed; features of millions of items would take minutes."""


def save(folder: Path, data: Dataset) -> None:
    """Saves ids, featurizers, features, eligibility, and interactions.

    Args:
      folder: destination of the files; created if it does not exist.
      data: the dataset of the run.

    Raises:
      ConfigError: ids that are neither text, numbers nor dates.
      OSError: the folder cannot be written.

    >>> import tempfile
    >>> from rankpg.environments import from_matrix
    >>> folder = Path(tempfile.mkdtemp()) / "data"
    >>> save(folder, from_matrix([[1.0, 2.0]], item_ids=["a", "b"]))
    >>> load(folder).item_ids.ids.tolist()
    ['a', 'b']
    """
    folder.mkdir(exist_ok=True)
    ids = {side: _plain(getattr(data, f"{side}_ids")) for side in _SIDES}
    atomic_write_text(
        folder / IDS, json.dumps(ids, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    featurizers = {side: getattr(data, f"{side}_featurizer") for side in _SIDES}
    if any(featurizers.values()):
        held = {side: f and json.loads(f.to_json()) for side, f in featurizers.items()}
        atomic_write_text(folder / FEATURES, json.dumps(held, allow_nan=False).encode())
    _save_arrays(folder / ARRAYS, data)


def load(folder: Path) -> Dataset:
    """Returns the saved dataset, whose environment has no rewards unless it is one of interactions.

    Raises:
      ConfigError: it was not saved, or is damaged.
    """
    try:
        ids = read_json(folder / IDS, largest=None, errors="surrogatepass")
        contexts, items = (IdMap(_array(ids[side]), _KINDS[side]) for side in _SIDES)
        featurizers: dict[str, Featurizer | None] = dict.fromkeys(_SIDES)
        file = folder / FEATURES
        if file.exists():
            held = read_json(file, largest=None)
            for side in _SIDES:
                if held[side] is not None:
                    featurizers[side] = Featurizer.from_json(json.dumps(held[side]), str(file))
        arrays = load_arrays(folder / ARRAYS)[0]
        world, parts = _environment(arrays, len(contexts), len(items))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ConfigError(
            f"{folder} cannot be read ({in_one_line(error)}); restore a copy of it, or pass the "
            "data: load_run(path, environment=data)"
        ) from None
    return Dataset(
        world, contexts, items, getattr(world, "missing_share", 1.0),
        context_featurizer=featurizers["context"], item_featurizer=featurizers["item"], parts=parts,
    )  # fmt: skip


def _environment(
    arrays: dict[str, np.ndarray], num_contexts: int, num_items: int
) -> tuple[Environment, Parts | None]:
    """Returns the environment of saved arrays, and the split if it is one of interactions."""
    features = {f"{side}_features": arrays.get(f"{side}_features") for side in _SIDES}
    world: Environment
    parts = None
    if holds_interactions(arrays):
        plain, parts = interactions_of(arrays, num_contexts, num_items)
        given = {name: jnp.asarray(rows) for name, rows in features.items() if rows is not None}
        world = dataclasses.replace(plain, **given)
    else:
        where = arrays.get("where")
        if where is not None:
            shape = num_contexts, num_items
            where = np.unpackbits(where, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        world = catalogue(num_contexts, num_items, eligible=where, **features)
        if (own := arrays.get("own")) is not None:
            world = dataclasses.replace(world, own=jnp.asarray(own, jnp.int32))
    allowed = arrays.get("allowed")
    if allowed is not None:
        world = Restricted(world, jnp.asarray(allowed))  # pyright: ignore[reportArgumentType]
    return world, parts


_KINDS = {"context": "user", "item": "item"}


def _plain(ids: IdMap) -> dict[str, Any]:
    """Returns ids in a form that JSON stores exactly, with their type."""
    values = ids.ids
    if values.dtype == object:
        values = np.array(values.tolist())
    kind = values.dtype.kind
    if kind in "iu" and np.array_equal(values, np.arange(len(values))):
        return {"type": str(values.dtype), "count": len(values)}
    if kind in "iufb":
        return {"type": str(values.dtype), "values": values.tolist()}
    if kind == "M":
        return {"type": str(values.dtype), "values": values.astype(np.int64).tolist()}
    if kind == "U":
        return {"type": "text", "values": values.tolist()}
    raise ConfigError(
        f"{ids.kind} ids of {values.dtype} cannot be saved with a run; make them text or whole numbers"
    )


def _array(held: dict[str, Any]) -> np.ndarray:
    if held["type"] == "text":
        if not all(isinstance(value, str) for value in held["values"]):
            raise TableError("an id is not text")
        return text_array(held["values"], "ids")
    kind = np.dtype(held["type"])
    if kind.kind not in "iufbM":
        raise TableError(f"ids of type {held['type']!r}")
    if "count" in held:
        if not isinstance(held["count"], int) or not 0 <= held["count"] < 2**31:
            raise TableError(f"{held['count']!r} ids")
        return np.arange(held["count"], dtype=kind)
    if kind.kind == "M":
        return np.array(held["values"], np.int64).astype(kind)
    return np.array(held["values"], kind)


def _save_arrays(file: Path, data: Dataset) -> None:
    world = data.environment
    arrays: dict[str, Any] = {
        f"{side}_features": np.asarray(rows)
        for side in _SIDES
        if (rows := getattr(world, f"{side}_features")) is not None
    }
    if world.where is not None:
        arrays["where"] = np.packbits(np.asarray(world.where))
    if isinstance(world.whole, Ratings | Catalogue) and world.whole.own is not None:
        arrays["own"] = np.asarray(world.whole.own)
    if isinstance(world.whole, Interactions):
        arrays |= arrays_of(world.whole, data.parts)
    if world.allowed is not None:
        arrays["allowed"] = np.asarray(world.allowed)
    large = sum(array.nbytes for array in arrays.values()) > _COMPRESSED
    with atomic_write(file) as partial, partial.open("wb") as content:
        (np.savez if large else np.savez_compressed)(content, allow_pickle=False, **arrays)
