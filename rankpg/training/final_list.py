"""The expected gain of wanted items in the final list, for objectives that go through a re-ranker's order.

    contexts -> logits of the whole catalogue, re-ranker's scores -> expected gain -> loss

The re-ranker sorts by a score, so the gradient of P(a is shown at position l) is known and nothing is drawn:
see core/expected_list.py. An item that the re-ranker puts far below position L has hardly any gradient, so
the objective is a mixture with the inclusion term, which has one for every wanted item.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.advantages import position_weights
from rankpg.core.expected_list import expected_gain
from rankpg.environments.interactions import Interactions, Moments
from rankpg.errors import ConfigError
from rankpg.training.whole_catalogue import all_logits
from rankpg.types import Array, Environment, Feedback, Float, Int, Params, PRNGKey

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:
    Learner = Any

__all__ = [
    "FinalList",
    "FinalListSettings",
    "check_order",
    "final_list",
    "sorted_moments",
]

_PROBED = 64
"""Contexts on which the re-ranker's scores are compared with and without the feedback."""


@dataclass(frozen=True)
class FinalList:
    """The loss of wanted items in the final list: - sum over l of alpha_l P(a is shown at position l).

    The other wanted items stay in the catalogue: they compete for the positions, and the sum over the wanted
    items is the expected DCG of the one list that is shown only if they do.
    """

    num_candidates: int
    """K"""
    weights: tuple[float, ...]
    """alpha, a weight for each of the L positions."""
    share: float = 0.5
    """Share in the loss; the rest is the inclusion term's."""
    method: str = "independent"
    """A name of `core.expected_list.EXPECTED_GAINS`."""
    mask_others: bool = False
    """Leave the other wanted items of a context out of the catalogue."""

    def losses(
        self,
        learner: Learner,
        params: Params,
        contexts: Int[Array, "B"],
        wanted: Feedback,
        noise: PRNGKey | None = None,
    ) -> Float[Array, "B P"]:
        """Returns the loss of every wanted item.

        Args:
          learner: policy, re-ranker and environment.
          params: parameters of the policy.
          contexts: ids.
          wanted: their items.
          noise: key of the encoder's dropout; none if None.
        """
        world = learner.environment
        logits = all_logits(learner, params, contexts, noise)
        everything = jnp.arange(world.num_items, dtype=jnp.int32)

        def one(
            context: Int[Array, ""], own: Float[Array, "M N"], items: Int[Array, "P"]
        ) -> Float[Array, "P"]:
            scores = _scores(learner, world, context, everything)
            return -self.gains(own[0], scores, items)

        return jax.vmap(one)(contexts, logits, wanted.items)

    def gains(
        self, logits: Float[Array, "N"], scores: Float[Array, "N"], items: Int[Array, "P"]
    ) -> Float[Array, "P"]:
        """Returns the expected gain of every wanted item of one context.

        Args:
          logits: those of the whole catalogue; -inf masks an item.
          scores: the re-ranker's.
          items: wanted items.

        >>> one = FinalList(num_candidates=2, weights=(1.0,), method="exact")
        >>> one.gains(jnp.zeros(3), jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1])).round(3).tolist()
        [0.667, 0.333]
        """

        def of(logits: Float[Array, "N"], some: Int[Array, "p"]) -> Float[Array, "p"]:
            weights = jnp.asarray(self.weights, logits.dtype)
            return expected_gain(logits, scores, some, self.num_candidates, weights, self.method)

        if not self.mask_others:
            return of(logits, items)
        others = logits.at[items].set(-jnp.inf)
        return jax.vmap(lambda item: of(others.at[item].set(logits[item]), item[None])[0])(items)


def _scores(
    learner: Learner, world: Environment, context: Int[Array, ""], items: Int[Array, "n"]
) -> Float[Array, "n"]:
    """The scores of a re-ranker that `check_order` has found to sort by them."""
    scores = learner.reranker.scores(world, context, items)
    assert scores is not None
    return scores


@runtime_checkable
class FinalListSettings(Protocol):
    """Settings from which the term is built; a `TrainConfig` has these fields."""

    @property
    def num_candidates(self) -> int: ...

    @property
    def ranking_length(self) -> int: ...

    @property
    def retrieval(self) -> str: ...

    @property
    def reranker(self) -> str: ...

    @property
    def exposure_share(self) -> float: ...

    @property
    def exposure_weights(self) -> str: ...

    @property
    def exposure_method(self) -> str: ...

    @property
    def mask_positives(self) -> bool | None: ...


def final_list(settings: FinalListSettings) -> FinalList:
    """Builds the term of the settings.

    >>> from rankpg import TrainConfig
    >>> final_list(TrainConfig(objective="exposure", num_candidates=9, ranking_length=2)).weights
    (1.0, 0.6309)
    """
    alpha = np.asarray(position_weights(settings.exposure_weights, settings.ranking_length))
    return FinalList(
        num_candidates=settings.num_candidates,
        weights=tuple(alpha.tolist()),
        share=settings.exposure_share,
        method=settings.exposure_method,
        mask_others=bool(settings.mask_positives),
    )


def check_order(learner: Learner, world: Interactions, settings: FinalListSettings) -> None:
    """Rejects a re-ranker whose order training may not go through.

    Args:
      learner: holds the re-ranker.
      world: the moments that are trained on.
      settings: the name of the re-ranker.

    Raises:
      ConfigError: it does not sort by a known score, or the score knows the feedback.
    """
    remedy = "give reranker='stored' and Interactions.with_scores, or rerankers.by_score"
    if settings.reranker == "learned":
        raise ConfigError(
            "reranker='learned' with objective='exposure': the scorer is fitted to the rewards of the "
            f"environment, so this is a re-ranker fitted on the test part; {remedy}"
        )
    one, two = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
    if jax.eval_shape(learner.reranker.scores, world, one, two) is None:
        raise ConfigError(
            f"reranker={settings.reranker!r} has no scores, and objective='exposure' goes through the order "
            f"of a re-ranker that sorts by a score; {remedy}"
        )
    if _knows_feedback(learner, world):
        raise ConfigError(
            f"reranker={settings.reranker!r} sorts by scores that change with the feedback, such as the "
            "relevance of interactions, so objective='exposure' would train on an order that is unknown when "
            f"a user is served; {remedy}"
        )


def _knows_feedback(learner: Learner, world: Interactions) -> bool:
    """True if the scores of wanted items differ where the same moments have no feedback."""
    rows = np.unique(np.linspace(0, world.num_contexts - 1, _PROBED, dtype=np.int32))
    blind = dataclasses.replace(world, feedback_ends=world.history_ends)

    def differs(world: Interactions, blind: Interactions, contexts: Int[Array, "n"]) -> Array:
        wanted = world.feedback(jax.random.key(0), contexts)

        def scores(environment: Environment) -> Float[Array, "n P"]:
            score = lambda c, items: _scores(learner, environment, c, items)  # noqa: E731
            return jax.vmap(score)(contexts, wanted.items)

        return jnp.any((scores(world) != scores(blind)) & (wanted.values > 0))

    return bool(jax.jit(differs)(world, blind, jnp.asarray(rows)))


def sorted_moments(moments: Moments, training_ends: Int[Array, "num_users"] | None) -> Moments:
    """Returns the moments at which the scores of training were known.

    Args:
      moments: moments of the training part.
      training_ends: `Interactions.training_ends`; None keeps all moments.

    Raises:
      ConfigError: no moment is left.

    >>> moments = Moments(np.array([0, 0]), np.array([1, 4]), np.array([2, 5]))
    >>> sorted_moments(moments, jnp.array([3])).history_ends
    array([4])
    """
    if training_ends is None:
        return moments
    known = moments.history_ends >= np.asarray(training_ends)[moments.users]
    if not known.any():
        raise ConfigError(
            f"training_ends is later than each of {len(moments.users)} moments of the training part, so the "
            "scores of the re-ranker know their feedback; compute training_scores at earlier moments, or "
            "give a smaller forward_share"
        )
    return Moments(*(values[known] for values in moments))
