"""A trained run on another catalogue: items come and go, new contexts ask, and no parameter changes.

A tower over features embeds whatever has features. A table of ids has a row for what was there in training,
and nothing to say about anything else.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.features import feature_rows
from rankpg.data.ids import IdMap, TableError, id_array, id_kind
from rankpg.data.side_tables import describe
from rankpg.environments.dataset import Dataset
from rankpg.environments.edits import add_contexts, add_items, remove_items
from rankpg.errors import ConfigError
from rankpg.runs.memory import check_memory
from rankpg.training.build import build_learner
from rankpg.training.update import Learner
from rankpg.types import Embeddings

if TYPE_CHECKING:
    from rankpg.runs.run import Run

__all__ = ["with_contexts", "with_items", "without_items"]


def with_items(run: Any, items: Any, item_ids: Any = None) -> Any:
    """`Run.with_items`."""
    data = _dataset(run, "item")
    ids, features = _rows(data, "item", items, item_ids)
    added = add_items(data, ids, features)
    if not _embeds(run, added):
        raise _no_row("item")
    return _on(run, added)


def without_items(run: Any, item_ids: Any) -> Any:
    """`Run.without_items`."""
    data = _dataset(run)
    rows = np.unique(data.item_ids.rows(item_ids))
    if len(rows) == len(data.item_ids):
        raise ValueError("without_items: no item would be left")
    if data.environment.allowed is None:
        closed = remove_items(data, rows, renumber=True)
        if _embeds(run, closed):
            return _on(run, closed)
    return _on(run, remove_items(data, rows, renumber=False))


def with_contexts(run: Any, contexts: Any, context_ids: Any = None) -> Any:
    """`Run.with_contexts`."""
    data = _dataset(run, "context")
    if run.config.context_tower == "ids":
        raise _no_row("context")
    return _on(run, add_contexts(data, *_rows(data, "context", contexts, context_ids)))


def _dataset(run: Any, side: str | None = None) -> Dataset:
    data = run.dataset
    if data.ids_are_rows:
        raise ConfigError(
            "this run has no ids, only row numbers; train it on a dataset, such as "
            "environments.from_table or from_matrix return, to change its catalogue"
        )
    if side is not None and getattr(data.environment, f"{side}_features") is None:
        raise _no_row(side)
    return data


def _no_row(side: str) -> ConfigError:
    one = f"an {side}" if side == "item" else f"a {side}"
    return ConfigError(
        f"{side}s cannot be added to this run: its {side} tower embeds ids, and {one} that training never "
        f"saw has no embedding. Train with {side} features and --{side}-tower features (or adapter, given)"
    )


def _rows(data: Dataset, side: str, table: Any, ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and features of what is new."""
    featurizer = getattr(data, f"{side}_featurizer")
    known: IdMap = getattr(data, f"{side}_ids")
    width = getattr(data.environment, f"{side}_features").shape[1]
    if ids is None:
        if featurizer is None:
            raise TableError(
                f"{side}s: this run's features were given as an array; give the new rows as an array "
                f"[n, {width}], and their ids as {side}_ids"
            )
        found = describe(table, featurizer, side)
        new, rows = found.ids, found.features
    else:
        given = ids if isinstance(ids, np.ndarray) else np.asarray(ids, object)
        new = IdMap(id_array(np.atleast_1d(given), side), side).ids
        rows = feature_rows(table, f"{side}s", len(new))
    if rows is None or rows.shape[1] != width:
        have = 0 if rows is None else rows.shape[1]
        raise TableError(f"{side}s: {have} features a row; expected {width}, as in training")
    if id_kind(new) != id_kind(known.ids):
        raise TableError(
            f"{side}s: ids are {new.dtype}, and those of the run {known.ids.dtype}: bring both to one type"
        )
    old = known.find(new) >= 0
    if old.any():
        raise TableError(
            f"{side}s: the id {new[old][:1].tolist()[0]!r} is there already ({int(old.sum())} are); "
            + ("take it out with without_items first" if side == "item" else "leave it out")
        )
    return new, rows


def _embeds(run: Any, data: Dataset) -> bool:
    """Whether the encoder has an embedding for every item of this catalogue, from shapes alone."""
    params = jax.eval_shape(lambda x: jax.tree.map(lambda leaf: leaf[0], x), run.state.params)
    two = jax.ShapeDtypeStruct((2,), jnp.int32)
    encoded = jax.eval_shape(run.policy.encoder.encode, params, data.environment, two)
    return isinstance(encoded, Embeddings) and encoded.items.shape[1] == len(data.item_ids)


def _on(run: Run, data: Dataset) -> Run:
    """The run on another environment: the same parameters, copied, so that either may go on training."""
    learner = _learner(run, data)
    return dataclasses.replace(
        run,
        learner=learner,
        state=jax.tree.map(jnp.copy, run.state),
        metrics=list(run.metrics),
        accumulator=copy.deepcopy(run.accumulator),
        dataset=data,
        memory=check_memory(learner, len(run.config.seeds)),
    )


def _learner(run: Run, data: Dataset) -> Learner:
    before, config = run.learner, run.config
    if not data.environment.knows_rewards:  # no reward, so no propensity either
        config = dataclasses.replace(config, adaptive_learning_rate=False)
    learner = build_learner(
        config,
        data.environment,
        encoder=before.policy.encoder,
        reranker=before.reranker,
        advantage=before.advantage,
        optimizer=before.optimizer,
    )
    world = learner.policy.retrieval.sharding.replicate(data.environment)
    # New contexts are neither trained nor evaluated on.
    return dataclasses.replace(learner, environment=world, sampler=before.sampler)
