"""The export folder: all files that a server needs, written atomically.

items.safetensors           embeddings float32[M, N, D]
items.json                  N item ids, in row order
context_tower.bin           the context tower as a program for jax.export.deserialize
context_tower.safetensors   its parameters
contexts.json               context ids in row order, if the program takes rows
seen.npz                    items that each context has seen, of a run on interactions
context_features.json       featurizer of the context's columns, if the program takes features of a table
<index>_<expert>.<index>    one index per expert
CARD.md                     results, settings, versions, limits
export.json                 manifest: shapes, quotas, merge rule, recall, checksums of all other files
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rankpg._utils.files import sync_folder, sync_tree
from rankpg._utils.paths import expanded
from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.export.card import card
from rankpg.export.context_tower import LARGEST_BATCH, PLATFORMS
from rankpg.export.indexes import INDEXES, kind_for, select_indexes
from rankpg.export.manifest import FORMAT, IndexEntry, Manifest, SeenEntry
from rankpg.export.parts import Parts, Seen, ids_of, take_parts
from rankpg.export.recall import choose_effort, exact_rows, measure_recall
from rankpg.runs.run import Run
from rankpg.runs.storage.card import settings_of

__all__ = ["MANIFEST", "check_free", "export"]

MANIFEST = "export.json"
ITEMS, ITEM_IDS, CONTEXT_IDS, CONTEXT_FEATURES, PROGRAM, PARAMETERS, SEEN, CARD = (
    "items.safetensors",
    "items.json",
    "contexts.json",
    "context_features.json",
    "context_tower.bin",
    "context_tower.safetensors",
    "seen.npz",
    "CARD.md",
)
_CONFIG = (
    "estimator", "environment", "num_candidates", "num_experts", "embedding_dim", "context_tower",
    "item_tower", "temperature", "table_dtype", "reranker", "ranking_length", "objective",
)  # fmt: skip

MERGE_RULE = (
    "Every expert orders all items by inner product, largest first, ties by lower row. The K slots are "
    "filled expert by expert: expert 1 takes the first quotas[0] items of its order, expert 2 the first "
    "quotas[1] items of its order that are not taken yet, and so on. K items per expert are enough."
)


def check_free(out: Path | str) -> None:
    """Rejects an output folder that exists.

    Raises:
      ConfigError: a folder, file or link of that name exists.
    """
    out = expanded(out)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"out={str(out)!r} exists already; choose another folder for the export")


def export(
    run: Run,
    out: Path | str,
    *,
    seed: int | None = None,
    index: str = "all",
    platforms: Sequence[str] = PLATFORMS,
    recall: float = 0.99,
    exact_below: int = 20_000,
) -> Path:
    """Exports both towers of a trained seed, and indexes over its items, for a server without rankpg.

    Args:
      run: a trained run, such as `load_run` returns.
      out: output folder; must not exist.
      seed: one of the trained seeds [the first].
      index: `none`, `all`, or a name of `INDEXES`: faiss or usearch.
      platforms: platforms that the context tower is lowered for, of cpu, cuda and tpu.
      recall: target recall of every expert's K best items; the search effort rises until it is reached.
      exact_below: catalogues with fewer items are searched exactly.

    Returns:
      The path of the folder.

    Raises:
      ConfigError: `out` exists, the encoder is not two towers, parameters are not finite, JSON cannot hold
        the ids, the seed was not trained, or another argument is out of range.
      ModuleNotFoundError: a package of the extra `export` is missing.
    """
    out = expanded(out)
    check_free(out)
    names = select_indexes(index)
    _safetensors()
    if not 0 < recall <= 1:
        raise ConfigError(f"recall={recall}; expected more than 0 and at most 1")
    parts = take_parts(run, seed, platforms)
    program = parts.tower.serialize()
    ids = {ITEM_IDS: ids_of(run, "item")}
    if parts.tower.width is None:
        ids[CONTEXT_IDS] = ids_of(run, "context")
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        with _writing(out):
            partial.mkdir(parents=True)
            _write_towers(partial, parts, program, ids)
        indexes = _write_indexes(partial, out, parts, names, recall, exact_below)
        manifest = _manifest(parts, indexes)
        with _writing(out):
            (partial / CARD).write_text(card(run, parts.seed, manifest))
            manifest["checksums"] = _checksums(partial)
            text = json.dumps(manifest, indent=1, allow_nan=False)
            (partial / MANIFEST).write_text(text + "\n")
            sync_tree(partial)
            os.rename(partial, out)  # atomic: the export is complete from here on
            sync_folder(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _warn_of_recall(indexes, recall)
    return out


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns whatever a library raises when it cannot write into a ConfigError that names the folder."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"out={str(out)!r} cannot be written: {error}") from error


def _write_towers(
    folder: Path, parts: Parts, program: bytes, ids: dict[str, list[int] | list[str]]
) -> None:
    """Writes item embeddings, context tower, ids and featurizer."""
    save = _safetensors()
    save({"embeddings": parts.items}, str(folder / ITEMS))
    save(parts.tower.parameters, str(folder / PARAMETERS))
    (folder / PROGRAM).write_bytes(program)
    for name, values in ids.items():
        (folder / name).write_text(json.dumps(values))
    if parts.context_featurizer:
        (folder / CONTEXT_FEATURES).write_text(parts.context_featurizer.to_json() + "\n")
    if parts.seen is not None:
        np.savez_compressed(folder / SEEN, **parts.seen._asdict())


def _write_indexes(
    partial: Path, out: Path, parts: Parts, names: Sequence[str], recall: float, exact_below: int
) -> dict[str, IndexEntry]:
    """Builds, tunes, measures and saves the indexes; returns their entries in the manifest."""
    if not names:
        return {}
    depth = sum(parts.run.policy.quotas)
    exact = exact_rows(parts.queries, parts.items, depth)
    # The effort is chosen on every second context, and recall is measured on the others.
    tuning, measuring = (
        (slice(1, None, 2), slice(0, None, 2)) if len(exact) > 1 else (slice(None),) * 2
    )
    entries: dict[str, IndexEntry] = {}
    for name in names:
        kind = kind_for(name, parts.items.shape[1], exact_below)
        indexes = [INDEXES[name](table, kind) for table in parts.items]
        effort = choose_effort(indexes, parts.queries[tuning], exact[tuning], recall)
        files = [f"{name}_{m}.{name}" for m in range(len(indexes))]
        with _writing(out):
            for index, file in zip(indexes, files, strict=True):
                index.save(partial / file)
        measured = measure_recall(
            indexes, parts.queries[measuring], exact[measuring], parts.run.policy.quotas
        )
        at_most = effort is None or effort == indexes[0].efforts[-1]
        entries[name] = {
            "version": INDEXES[name].version(),
            "files": files,
            "kind": kind,
            "effort": effort,
            "depth": depth,
            "recall": measured,
            "reached": not at_most or min(measured["experts"]) >= recall,
        }
    return entries


def _warn_of_recall(indexes: dict[str, IndexEntry], recall: float) -> None:
    """Warns of every index that finds less than is required at its largest effort."""
    for name, entry in indexes.items():
        if not entry["reached"]:
            warnings.warn(
                f"the index {name} finds {min(entry['recall']['experts']):.4f} of an expert's best items at "
                f"its largest search effort, and recall={recall:g} requires more: search exactly "
                "(exact_below above the number of items), take another index, or require less",
                stacklevel=3,
            )


def _manifest(parts: Parts, indexes: dict[str, IndexEntry]) -> Manifest:
    """Returns the manifest without checksums."""
    run, tower = parts.run, parts.tower
    config, quotas = settings_of(run), [int(quota) for quota in run.policy.quotas]
    first = run.environment.whole.eligible(jnp.int32(0), jnp.zeros(1, jnp.int32))
    experts, count, dim = parts.items.shape
    return {
        "format": FORMAT,
        "versions": versions(),
        "run": {
            "step": run.state_step,
            "seed": parts.seed,
            "config": {k: config[k] for k in _CONFIG},
        },
        "data": None if run.dataset.ids_are_rows else run.dataset.fingerprint(),
        "num_experts": experts,
        "num_items": count,
        "embedding_dim": dim,
        "num_candidates": sum(quotas),
        "merge": {"rule": MERGE_RULE, "quotas": quotas},
        "temperature": run.policy.temperature,
        "temperature_is_applied": True,
        "masks": first is not None and parts.seen is None,
        "seen": None if parts.seen is None else _seen_entry(parts.seen),
        "items": {"embeddings": ITEMS, "ids": ITEM_IDS},
        "context_tower": {
            "program": PROGRAM,
            "parameters": PARAMETERS,
            "takes": "rows" if tower.width is None else "features",
            "width": tower.width,
            "ids": CONTEXT_IDS if tower.width is None else None,
            "features": CONTEXT_FEATURES if parts.context_featurizer else None,
            "largest_batch": LARGEST_BATCH,
            "platforms": list(tower.program.platforms),
            "calling_convention": tower.program.calling_convention_version,
        },
        "indexes": indexes,
        "checksums": {},
    }


def _seen_entry(seen: Seen) -> SeenEntry:
    return {
        "file": SEEN,
        "row_starts": "row_starts",
        "items": "items",
        "longest": int(np.diff(seen.row_starts).max(initial=0)),
    }


def _checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file in a folder."""
    checksums = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as content:
            checksums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return checksums


def _safetensors() -> Callable[[dict[str, np.ndarray], str], None]:
    """Returns `safetensors.numpy.save_file`; the error of a missing package names the extra."""
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "an export needs safetensors: pip install 'rankpg[export]'"
        ) from error
    return save_file
