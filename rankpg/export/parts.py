"""What of a run is exported: both towers of one seed in this host's memory, checked, and the ids of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.features import Featurizer
from rankpg.environments.dataset import choose_contexts
from rankpg.errors import ConfigError
from rankpg.export.context_tower import ContextTower, context_tower, widen
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Run
from rankpg.types import Embeddings

__all__ = ["Parts", "ids_of", "kept_rows", "take_parts"]

_JUDGING = 1000
"""Contexts that recall is measured on, at most."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What of a run is exported."""

    run: Run
    seed: int
    params: Any
    items: np.ndarray
    """float32[M, N, D], of the items that `kept_rows` keeps"""
    tower: ContextTower
    queries: np.ndarray
    """float32[B, M, D]: embeddings of the contexts that recall is measured on."""

    @property
    def context_featurizer(self) -> Featurizer | None:
        """What makes the features [B, F] that the context tower reads, where they came from a table."""
        width = self.tower.width
        made_of = None if width is None else self.run.dataset.context_featurizer
        return made_of if made_of is not None and len(made_of.names) == width else None


def take_parts(run: Run, seed: int | None, platforms: Sequence[str]) -> Parts:
    """Embed the items and export the context tower of one seed.

    Args:
      run: trained.
      seed: one of its seeds; the first if None.
      platforms: as for `context_tower`.

    Raises:
      ConfigError: a seed that was not trained, parameters or embeddings that are not finite, an encoder that
        answers logits, or one whose context tower is no program of its own.
    """
    if seed is not None and seed not in run.config.seeds:
        raise ConfigError(f"--seed {seed} was not trained; the run has {run.config.seeds}")
    seed = run.config.seeds[0] if seed is None else seed
    place = run.config.seeds.index(seed)
    params = jax.tree.map(lambda leaf: leaf[place], run.state_of_hosts().params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        _check_finite(f"the parameters {jax.tree_util.keystr(path)} of seed {seed}", leaf)
    encode, one = run.policy.encoder.encode, jax.ShapeDtypeStruct((1,), jnp.int32)
    answer: Any = jax.eval_shape(encode, params, run.environment, one)
    if not isinstance(answer, Embeddings):
        raise ConfigError(
            "the run's encoder answers logits and no embeddings of contexts and items, so there are no items "
            "to put into an index; export needs an encoder that returns rankpg.types.Embeddings"
        )

    @jax.jit
    def embed_items(params, environment):
        encoded: Any = encode(params, environment, jnp.zeros(1, jnp.int32))
        return widen(encoded.items)

    kept = kept_rows(run)
    items = np.asarray(embed_items(params, run.environment))
    items = np.ascontiguousarray(items if kept is None else items[:, kept])
    _check_finite(f"the embeddings of items of seed {seed}", items)
    tower = context_tower(run.policy, params, run.environment, platforms)
    return Parts(run, seed, params, items, tower, _queries(run, params, tower))


def _check_finite(what: str, array: Any) -> None:
    if not np.isfinite(array).all():
        raise ConfigError(
            f"{what} are not finite: nothing can be ranked with them. Export another seed, or train again "
            "with a smaller --learning-rate"
        )


def _queries(run: Run, params: Any, tower: ContextTower) -> np.ndarray:
    """Embeddings of some of the run's contexts by its encoder; refused where the exported tower differs."""
    rows = choose_contexts(np.asarray(evaluation_contexts(run)), _JUDGING)
    rows = rows[::-1]  # so that the place in a batch is not the row

    def embed(params, environment, rows):
        return run.policy.embeddings(params, environment, rows).contexts

    known = params, run.environment, rows
    wanted = np.asarray(jax.jit(lambda *known: widen(embed(*known)))(*known))
    if not tower.runs_here():
        return wanted[::-1]
    inputs: Any = rows
    if tower.width is not None:
        features: Any = run.environment
        inputs = np.asarray(features.context_features[rows], np.float32)
    found = np.asarray(tower.program.call(tower.parameters, inputs))
    rounding = float(jnp.finfo(jax.eval_shape(embed, *known).dtype).eps) ** 0.5
    if not np.allclose(found, wanted, rtol=rounding, atol=rounding * float(np.abs(wanted).max())):
        raise ConfigError(
            "the exported context tower answers otherwise than the run's encoder: an encoder that reads "
            "context_features must read nothing else of a context, such as a table of ids"
        )
    return wanted[::-1]


def kept_rows(run: Run) -> np.ndarray | None:
    """Row numbers of the items that the run may still hand over, ascending; None: all of them."""
    allowed = run.environment.allowed
    return None if allowed is None else np.flatnonzero(np.asarray(allowed))


def ids_of(run: Run, side: str) -> list[int] | list[str]:
    """Ids of a side, context or item, as JSON holds them exactly: of all contexts, and of the kept items.

    Raises:
      ConfigError: ids that are neither all strings nor all integers.
    """
    ids = getattr(run.dataset, f"{side}_ids").ids
    kept = kept_rows(run) if side == "item" else None
    ids = (ids if kept is None else ids[kept]).tolist()
    if not (all(type(x) is str for x in ids) or all(type(x) is int for x in ids)):
        odd = next(x for x in ids if type(x) is not type(ids[0]) or type(x) not in (str, int))
        raise ConfigError(
            f"the {side} id {odd!r} is a {type(odd).__name__}; ids are exported exactly, and so must all be "
            "strings, or all integers"
        )
    return ids
