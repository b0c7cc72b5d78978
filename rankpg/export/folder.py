"""The folder that leaves: everything a server needs of a trained run, written whole or not at all.

items.safetensors           embeddings float32[M, N, D]
items.json                  N ids, in order
context_tower.bin           the context tower as a program, for jax.export.deserialize
context_tower.safetensors   its parameters
contexts.json               context ids, in the order of the program's rows, where it takes rows
context_features.json       how features are made of a context's columns, where it takes those of a table
<index>_<expert>.<index>    one index an expert
CARD.md                     what was trained, on what, how it ended, and what to know
export.json                 the manifest: shapes, quotas, merge rule, measured recall, sums of all other files
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.export.card import card
from rankpg.export.context_tower import LARGEST_BATCH, PLATFORMS
from rankpg.export.indexes import INDEXES, ItemIndex, check_installed, kind_for
from rankpg.export.parts import Parts, ids_of, take_parts
from rankpg.export.recall import choose_effort, exact_rows, measure
from rankpg.runs.run import Run
from rankpg.runs.storage.card import settings_of

__all__ = ["FORMAT", "MANIFEST", "check_free", "export"]

FORMAT, MANIFEST = 1, "export.json"
ITEMS, ITEM_IDS, CONTEXT_IDS, CONTEXT_FEATURES, PROGRAM, PARAMETERS, CARD = (
    "items.safetensors",
    "items.json",
    "contexts.json",
    "context_features.json",
    "context_tower.bin",
    "context_tower.safetensors",
    "CARD.md",
)
_CONFIG = (
    "estimator", "environment", "num_candidates", "num_experts", "embedding_dim", "context_tower",
    "item_tower", "temperature", "table_dtype", "reranker", "ranking_length",
)  # fmt: skip

MERGE_RULE = (
    "Every expert m orders all items by inner product, largest first, ties by lower row. The K slots are "
    "filled expert after expert: expert 1 takes the first quotas[0] items of its order, expert 2 the first "
    "quotas[1] items of its order that are not taken yet, and so on. No order is needed beyond K."
)


def check_free(folder: Path | str) -> None:
    """Refuse a folder, or anything else of that name, that is there already: ConfigError."""
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"--out {folder} exists already; choose another folder for the export")


def export(
    run: Run,
    folder: Path | str,
    *,
    seed: int | None = None,
    index: str = "both",
    platforms: Sequence[str] = PLATFORMS,
    recall: float = 0.99,
    exact_below: int = 20_000,
) -> Path:
    """Write a trained seed's two towers, and indices over its items, for a server without rankpg.

    Args:
      run: trained, or read by `run_folder.load_run`.
      folder: does not exist yet.
      seed: which of the trained seeds; the first by default.
      index: none, faiss, usearch or both.
      platforms: that the context tower is lowered for, of cpu, cuda and tpu.
      recall: of its K best that every expert's index should find; it tries harder until it does.
      exact_below: with fewer items than that an index is searched exactly.

    Returns:
      The folder.

    Raises:
      ConfigError: the folder exists, the run is not two towers, its parameters are not finite, ids that JSON
        cannot hold, a seed that was not trained, or an impossible setting.
      ModuleNotFoundError: a package of the extra `export` is missing.
    """
    folder = Path(folder)
    check_free(folder)
    names = {"none": (), "both": tuple(INDEXES)}.get(index, (index,))
    check_installed(names)
    _safetensors()
    if not 0 < recall <= 1:
        raise ConfigError(f"--recall is {recall}; expected a share above 0, at most 1")
    parts = take_parts(run, seed, platforms)
    program = parts.tower.serialize()
    ids = {ITEM_IDS: ids_of(run, "item")}
    if parts.tower.width is None:
        ids[CONTEXT_IDS] = ids_of(run, "context")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with _writing(folder):
            partial.mkdir(parents=True)
            _write_towers(partial, parts, program, ids)
        indexes = _write_indexes(partial, folder, parts, names, recall, exact_below)
        manifest = _manifest(parts, indexes)
        with _writing(folder):
            (partial / CARD).write_text(card(run, parts.seed, manifest))
            manifest["sums"] = _sums(partial)
            text = json.dumps(manifest, indent=1, allow_nan=False)
            (partial / MANIFEST).write_text(text + "\n")
            os.rename(partial, folder)  # from here on it counts
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What a library raises where it cannot write, whatever its type, as an error that names the folder."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"--out {folder} cannot be written: {error}") from error


def _write_towers(folder: Path, parts: Parts, program: bytes, ids: dict[str, Any]) -> None:
    save = _safetensors()
    save({"embeddings": parts.items}, str(folder / ITEMS))
    save(parts.tower.parameters, str(folder / PARAMETERS))
    (folder / PROGRAM).write_bytes(program)
    for name, values in ids.items():
        (folder / name).write_text(json.dumps(values))
    if parts.context_featurizer:
        (folder / CONTEXT_FEATURES).write_text(parts.context_featurizer.to_json() + "\n")


def _write_indexes(
    partial: Path, folder: Path, parts: Parts, names: Sequence[str], recall: float, exact_below: int
) -> dict[str, Any]:
    """Build, tune, measure and save the indices; answers what the manifest says of them."""
    if not names:
        return {}
    depth = sum(parts.run.policy.quotas)
    exact = exact_rows(parts.queries, parts.items, depth)
    # The effort is chosen on every second context, and recall is measured on the others.
    tuning, judging = (
        (slice(1, None, 2), slice(0, None, 2)) if len(exact) > 1 else (slice(None),) * 2
    )
    told = {}
    for name in names:
        kind = kind_for(name, parts.items.shape[1], exact_below)
        indexes: list[ItemIndex] = [INDEXES[name](table, kind) for table in parts.items]
        effort = choose_effort(indexes, parts.queries[tuning], exact[tuning], recall)
        files = [f"{name}_{m}.{name}" for m in range(len(indexes))]
        with _writing(folder):
            for index, file in zip(indexes, files, strict=True):
                index.save(partial / file)
        found = measure(indexes, parts.queries[judging], exact[judging], parts.run.policy.quotas)
        told[name] = {
            "version": INDEXES[name].version(),
            "files": files,
            "kind": kind,
            "effort": effort,
            "depth": depth,
            "recall": found,
        }
    return told


def _manifest(parts: Parts, indexes: dict[str, Any]) -> dict[str, Any]:
    """Everything about the folder, but for the sums of its files."""
    run, tower = parts.run, parts.tower
    config, quotas = settings_of(run), [int(quota) for quota in run.policy.quotas]
    first = run.environment.whole.eligible(jnp.int32(0), jnp.zeros(1, jnp.int32))
    experts, count, dim = parts.items.shape
    return {
        "format": FORMAT,
        "versions": versions(),
        "run": {"step": run.step, "seed": parts.seed, "config": {k: config[k] for k in _CONFIG}},
        "data": None if run.dataset.ids_are_rows else run.dataset.fingerprint(),
        "num_experts": experts,
        "num_items": count,
        "embedding_dim": dim,
        "num_candidates": sum(quotas),
        "merge": {"rule": MERGE_RULE, "quotas": quotas},
        "temperature": run.policy.temperature,
        "temperature_is_applied": True,
        "masks": first is not None,
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
    }


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    sums = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as content:
            sums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return sums


def _safetensors() -> Any:
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "an export needs safetensors: pip install 'rankpg[export]'"
        ) from error
    return save_file
