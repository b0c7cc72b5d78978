"""Batches whose candidates were drawn before, with the ranking and the rewards that came from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rankpg.core.estimators import Candidates
from rankpg.environments.catalogue import Restricted
from rankpg.types import Array, Bool, Float, Int, Key, Params, record

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:  # the learner is an argument; it is imported by its users
    Learner = Any

__all__ = ["Logged", "among", "rescore", "sample"]


def sample(
    learner: Learner,
    params: Params,
    keys: Key[Array, "B"],
    contexts: Int[Array, "B"],
    allowed: Bool[Array, "B N"] | None = None,
) -> Candidates:
    """Draws candidates [B, K] as `Policy.sample` does, among the `allowed` items of each row; all if None."""
    policy, statistics = learner.policy, learner.estimator.statistics

    def draw(world: Any, keys: Key[Array, "B"], contexts: Int[Array, "B"]) -> Candidates:
        return policy.sample(keys, params, world, contexts, statistics)

    return _among_allowed(draw, learner.environment, allowed, keys, contexts)


def rescore(
    learner: Learner,
    params: Params,
    items: Int[Array, "B K"],
    contexts: Int[Array, "B"],
    allowed: Bool[Array, "B N"] | None = None,
) -> Candidates:
    """Computes what `sample` would return under these parameters for candidates [B, K] drawn before."""
    policy, statistics = learner.policy, learner.estimator.statistics

    def score(world: Any, items: Int[Array, "B K"], contexts: Int[Array, "B"]) -> Candidates:
        return policy.rescore(items, params, world, contexts, statistics)

    return _among_allowed(score, learner.environment, allowed, items, contexts)


def _among_allowed(
    function: Callable[..., Candidates],
    environment: Any,
    allowed: Bool[Array, "B N"] | None,
    *rows: Any,
) -> Candidates:
    """Calls `function(environment, *rows)`; with `allowed`, for each row in an environment of its own."""
    if allowed is None:
        return function(environment, *rows)

    def one(allowed: Bool[Array, "N"], *row: Any) -> Candidates:
        found = function(among(environment, allowed), *(value[None] for value in row))
        return jax.tree.map(lambda leaf: leaf[0], found)

    return jax.vmap(one)(allowed, *rows)


def among(environment: Any, allowed: Bool[Array, "N"]) -> Restricted:
    """Returns an environment in which these items alone are eligible."""
    return Restricted(whole=environment, allowed=allowed)


@record
class Logged:
    """A batch whose candidates were drawn before, and whose ranking and rewards were observed.

    `update` checks the shapes. Ids are not checked: those of a context and of an item must exist, and the
    candidates of a row must differ. `online.Retriever.update` checks these too.
    """

    contexts: Int[Array, "B"]
    items: Int[Array, "B K"]
    """Candidates in slot order."""
    shown: Int[Array, "B L"]
    observed: Float[Array, "B L"]
    weights: Float[Array, "B L"]
    """Importance weights, P_theta / P_theta' of the candidate set or of each shown item, clipped: see
    `online.importance_weights`."""
    seen: Bool[Array, "B L"] | None = None
    """False for a position that was not shown: its item and its reward have no effect. None: all were."""
    allowed: Bool[Array, "B N"] | None = None
    """Items that were eligible at the draw, besides those that the environment excludes. None: all were."""

    def candidates(self, learner: Learner, params: Params) -> Candidates:
        """Rescores the candidates under the present parameters; not for `statistics="arrivals"`."""
        self._check_shapes(learner)
        return rescore(learner, params, self.items, self.contexts, self.allowed)

    def ranking(self, learner: Learner, candidates: Candidates) -> Int[Array, "B L"]:
        """Returns the list that was shown."""
        return self.shown

    def rewards(self, learner: Learner, ranking: Int[Array, "B L"]) -> Float[Array, "B L"]:
        """Returns the rewards that were observed."""
        return self.observed

    def _check_shapes(self, learner: Learner) -> None:
        batch, shown = jnp.shape(self.contexts)[:1], learner.reranker.ranking_length
        for name, wanted in (
            ("contexts", batch),
            ("items", (*batch, learner.policy.num_candidates)),
            ("shown", (*batch, shown)),
            ("observed", (*batch, shown)),
            ("weights", (*batch, shown)),
        ):
            found = jnp.shape(getattr(self, name))
            if found != wanted:
                raise ValueError(f"{name} of a logged batch has shape {found}; expected {wanted}")
