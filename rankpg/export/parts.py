"""The exported parts of a run: embeddings, context tower and ids of one seed, validated, in host memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.features import Featurizer
from rankpg.environments.dataset import choose_contexts
from rankpg.environments.interactions import Interactions, seen_items
from rankpg.errors import ConfigError
from rankpg.export.context_tower import ContextTower, context_tower, widen
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Run
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any

__all__ = ["Parts", "Seen", "ids_of", "kept_rows", "seen_of", "take_parts"]

_RECALL_CONTEXTS = 1000
"""Largest number of contexts that recall is measured on."""


class Seen(NamedTuple):
    """Items that each context has seen, in CSR form."""

    row_starts: np.ndarray
    """int64[contexts + 1]"""
    items: np.ndarray
    """int32, rows of the exported items, ascending for each context"""


@dataclasses.dataclass(frozen=True)
class Parts:
    """Item embeddings and context tower of one seed of a run."""

    run: Run
    seed: int
    params: Params
    items: np.ndarray
    """embeddings float32[M, N, D] of the rows that `kept_rows` returns"""
    tower: ContextTower
    queries: np.ndarray
    """embeddings float32[B, M, D] of the contexts that recall is measured on"""
    seen: Seen | None = None
    """Items to leave out for each context; None where the run does not say, or the tower takes features."""

    @property
    def context_featurizer(self) -> Featurizer | None:
        """Featurizer of the context features that the tower reads, if they were made from a table."""
        width = self.tower.width
        featurizer = None if width is None else self.run.dataset.context_featurizer
        return featurizer if featurizer is not None and len(featurizer.names) == width else None


def take_parts(run: Run, seed: int | None, platforms: Sequence[str]) -> Parts:
    """Embeds the items and exports the context tower of one seed.

    Args:
      run: a trained run.
      seed: one of its seeds [the first].
      platforms: see `context_tower`.

    Raises:
      ConfigError: the seed was not trained, parameters or embeddings are not finite, the encoder returns
        logits, or its context tower cannot be separated from the rest.
    """
    if seed is not None and seed not in run.config.seeds:
        raise ConfigError(f"seed={seed} was not trained; expected one of {run.config.seeds}")
    seed = run.config.seeds[0] if seed is None else seed
    row = run.config.seeds.index(seed)
    params = jax.tree.map(lambda leaf: leaf[row], run.state_of_hosts().params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        _check_finite(f"parameters {jax.tree_util.keystr(path)} of seed {seed}", leaf)
    encode, one = run.policy.encoder.encode, jax.ShapeDtypeStruct((1,), jnp.int32)
    encoded: object = jax.eval_shape(encode, params, run.environment, one)
    if not isinstance(encoded, Embeddings):
        raise ConfigError(
            "the encoder of the run returns logits, so there are no item embeddings to index; expected an "
            "encoder that returns rankpg.types.Embeddings"
        )

    @jax.jit
    def embed_items(params: Params, environment: Environment) -> Float[Array, "M N D"]:
        encoded: Any = encode(params, environment, jnp.zeros(1, jnp.int32))
        return widen(encoded.items)

    kept = kept_rows(run)
    items = np.asarray(embed_items(params, run.environment))
    items = np.ascontiguousarray(items if kept is None else items[:, kept])
    _check_finite(f"item embeddings of seed {seed}", items)
    tower = context_tower(run.policy, params, run.environment, platforms)
    seen = seen_of(run) if tower.width is None else None
    return Parts(run, seed, params, items, tower, _queries(run, params, tower), seen)


def _check_finite(name: str, array: ArrayLike) -> None:
    """Rejects arrays with NaN or infinite numbers."""
    if not np.isfinite(array).all():
        raise ConfigError(
            f"the {name} are not finite, so the policy cannot rank; export another seed=, or train again "
            "with a smaller learning_rate"
        )


def _queries(run: Run, params: Params, tower: ContextTower) -> Float[np.ndarray, "B M D"]:
    """Embeds contexts with the run's encoder and rejects an exported tower that differs from it."""
    rows = choose_contexts(np.asarray(evaluation_contexts(run)), _RECALL_CONTEXTS)
    rows = rows[::-1]  # so that the position in the batch differs from the row

    def embed(
        params: Params, environment: Environment, rows: Int[Array, "B"]
    ) -> Float[Array, "B M D"]:
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
            "the exported context tower and the encoder of the run return different embeddings of one "
            "context; expected equal ones. An exported tower gets context_features and nothing else: build "
            "an encoder that reads no table of ids beside them"
        )
    return wanted[::-1]


def kept_rows(run: Run) -> np.ndarray | None:
    """Returns the rows of the items that the run may still retrieve, ascending; None for all items."""
    allowed = run.environment.allowed
    return None if allowed is None else np.flatnonzero(np.asarray(allowed))


def seen_of(run: Run) -> Seen | None:
    """Returns the items that each context has seen; None for a run whose data are not interactions.

    Args:
      run: a trained run; items that were removed from it are left out.
    """
    whole = run.environment.whole
    if not isinstance(whole, Interactions):
        return None
    row_starts, items = seen_items(whole)
    kept = kept_rows(run)
    if kept is None:
        return Seen(row_starts, items)
    new_row = np.full(whole.num_items, -1, np.int32)
    new_row[kept] = np.arange(len(kept), dtype=np.int32)
    stays = new_row[items] >= 0
    before = np.concatenate([[0], np.cumsum(stays)])
    return Seen(before[row_starts], new_row[items[stays]])


def ids_of(run: Run, side: str) -> list[int] | list[str]:
    """Returns the ids of all contexts, or of the items that `kept_rows` returns.

    Args:
      run: a trained run.
      side: `context` or `item`.

    Raises:
      ConfigError: the ids are neither all strings nor all integers, the types that JSON holds exactly.
    """
    ids = getattr(run.dataset, f"{side}_ids").ids
    kept = kept_rows(run) if side == "item" else None
    ids = (ids if kept is None else ids[kept]).tolist()
    if not (all(type(x) is str for x in ids) or all(type(x) is int for x in ids)):
        odd = next(x for x in ids if type(x) is not type(ids[0]) or type(x) not in (str, int))
        raise ConfigError(
            f"the {side} id {odd!r} is a {type(odd).__name__}; expected ids that are all strings or all "
            "integers, which JSON holds exactly"
        )
    return ids
