"""Objectives on known feedback, without draws: softmax, inclusion, and exposure.

    contexts -> wanted items -> policy -> log P(a in S) -> loss -> gradient -> optimizer

The first two are means over wanted items of a function of P(a in S), the probability that the item is among K
candidates: see core/known_feedback.py. `softmax` is the case K = 1 with the logarithm. `exposure` mixes
`inclusion` with the expected gain of the item in the final list: see final_list.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.known_feedback import box_cox, log_inclusion_of_wanted
from rankpg.core.plackett_luce import SparseLogits
from rankpg.core.quotas import expert_quotas
from rankpg.encoders.two_tower import TOWERS
from rankpg.environments.interactions import Interactions, Parts
from rankpg.errors import ConfigError
from rankpg.retrieval.dense import Dense
from rankpg.training.final_list import (
    FinalList,
    FinalListSettings,
    check_order,
    final_list,
    sorted_moments,
)
from rankpg.training.moment_sampler import MomentSampler
from rankpg.training.moments import MomentSettings, check_held_out_users, training_moments
from rankpg.training.optimizer import first_fault, norm
from rankpg.training.sampled_softmax import (
    Scored,
    check_samples,
    draw_negatives,
    sampled_logits,
)
from rankpg.training.unobserved import UnobservedSettings, with_observation_model
from rankpg.training.update import ContextSampler, Learner, StepMetrics, TrainState
from rankpg.training.whole_catalogue import all_logits, log_inclusion_of_all, reads_all_logits
from rankpg.types import (
    Array,
    Embeddings,
    Environment,
    Feedback,
    Float,
    Int,
    Params,
    PRNGKey,
    Quotas,
)

__all__ = [
    "Curriculum",
    "KnownFeedback",
    "Term",
    "check_knows_feedback",
    "expected_reward",
    "on_moments",
    "with_all_logits",
]


_SORTED = ("policy_gradient", "exposure")
"""Objectives in whose updates the re-ranker sorts."""
_TINY = float(np.finfo(np.float32).tiny)
_LAST_RATE = 0.05
"""The last learning rate, in units of that at the switch."""

_ORDER = np.uint32(2**32 - 1)
"""Folded into the root key for the order of moments; other numbers are those of updates."""

_SAMPLE = np.uint32(1)
"""Folded into the key of the encoder's dropout for the negatives of a sampled softmax."""

_WIDEST = 128
"""Most items of feedback of one context that an update reads."""


@dataclass(frozen=True)
class Term:
    """A function of P(a in S): the mean over several K of (P^power - 1) / power, negated.

    >>> Term.softmax()
    Term(at=(1,), power=0.0, method='swr')
    """

    at: tuple[int, ...]
    """Numbers of candidates K; the loss is the mean over them."""
    power: float = 1.0
    """0: -log P, as of a likelihood; 1: 1 - P, so that the expected number of wanted candidates is gained."""
    method: str = "swr"
    """Method by which P(a in S) is computed, of `core.known_feedback`."""

    @classmethod
    def softmax(cls) -> Term:
        """The cross-entropy of the softmax: K = 1, power 0."""
        return cls(at=(1,), power=0.0)


@dataclass(frozen=True)
class Curriculum:
    """Terms in the order of training: a first one up to a step, then a second one with smaller steps."""

    first: Term
    second: Term
    switch: int
    """Updates with the first term."""
    num_steps: int
    """All updates."""
    later_rate: float = 1.0
    """Factor on the learning rate at `switch`, from where it falls linearly to 1/20 of that at the end."""

    def step_size(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Factor on the learning rate at a step.

        >>> curriculum = Curriculum(Term.softmax(), Term.softmax(), switch=2, num_steps=4, later_rate=0.5)
        >>> [round(float(curriculum.step_size(jnp.int32(step))), 4) for step in range(5)]
        [1.0, 1.0, 0.5, 0.2625, 0.025]
        """
        later = max(1, self.num_steps - self.switch)
        progress = jnp.clip((step - self.switch).astype(jnp.float32) / later, 0, 1)
        falling = self.later_rate * (1 - (1 - _LAST_RATE) * progress)
        return jnp.where(step < self.switch, 1.0, falling)


@dataclass(frozen=True, eq=False)
class KnownFeedback:
    """Gradient descent on the loss of the wanted items of a batch; a value of `Learner.objective`.

    The loss is sum over contexts x and wanted items a of v_a * term(P(a in S | x)), over the sum of v_a.
    """

    sampler: MomentSampler
    curriculum: Curriculum
    mask_others: bool = True
    """Leave the other wanted items of a context out of the catalogue."""
    final_list: FinalList | None = None
    """Term that the second one is mixed with; None for none."""
    softmax_samples: int | None = None
    """Number of items that are drawn for the softmax of a batch; None: all."""

    def update(
        self, learner: Learner, state: TrainState, key: PRNGKey, root: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step on the next batch; a fault changes nothing but `state.fault`."""
        state = self._restarted(learner, state)
        of_feedback, noise = jax.random.split(key)
        contexts = self.sampler(jax.random.fold_in(root, _ORDER), state.step)
        wanted = feedback_of(learner.environment, of_feedback, contexts)

        def mean_loss(params: Params) -> tuple[Float[Array, ""], Scored]:
            scored = self._scored(learner, params, contexts, wanted, state.step, noise)
            batch = _Batch(learner, params, contexts, wanted, scored, noise)
            losses = self._losses(batch, state.step)  # [B, P]
            total = jnp.maximum(jnp.sum(wanted.values), _TINY)
            return jnp.sum(wanted.values * losses) / total, scored

        descend = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, scored), gradient = descend(state.params)
        length = norm(gradient)
        fine = jnp.ones_like(scored.sound)
        fault = first_fault(jnp.stack([scored.sound, fine, fine], axis=1), loss, length)
        step_size = self.curriculum.step_size(state.step)
        state = learner.apply_gradient(state, gradient, state.baseline_state, step_size, fault)
        reward = jnp.mean(expected_reward(scored.sparse_logits, wanted, learner.policy.quotas))
        return state, StepMetrics(loss=loss, reward=reward, gradient_norm=length)

    def _scored(
        self,
        learner: Learner,
        params: Params,
        contexts: Int[Array, "B"],
        wanted: Feedback,
        step: Int[Array, ""],
        noise: PRNGKey,
    ) -> Scored:
        """Sparse logits of the wanted items, from a sample where the softmax is sampled."""
        policy, world, number = learner.policy, learner.environment, self.softmax_samples

        def full() -> Scored:
            found = policy.rescore(wanted.items, params, world, contexts, noise=noise)
            return Scored(found.sparse_logits, found.sound)

        if number is None:
            return full()
        key = jax.random.fold_in(noise, _SAMPLE)
        sample = draw_negatives(key, wanted.items[:, 0], number, world.num_items)

        def sampled() -> Scored:
            embeddings = cast("Embeddings", policy.encode(params, world, contexts, noise))
            return sampled_logits(embeddings, wanted.items, sample, contexts, world)

        if self.curriculum.second == Term.softmax():
            return sampled()
        return lax.cond(step < self.curriculum.switch, sampled, full)

    def _restarted(self, learner: Learner, state: TrainState) -> TrainState:
        """Drops the optimizer's moments at the switch: the gradients of the second term are far smaller.

        With the moments of the first one, an adaptive optimizer would hardly move for some thousand updates.
        """
        if self.curriculum.first == self.curriculum.second:
            return state
        fresh = lax.cond(
            state.step == self.curriculum.switch,
            lambda: learner.optimizer.init(state.params),
            lambda: state.optimizer_state,
        )
        return dataclasses.replace(state, optimizer_state=fresh)

    def _losses(self, batch: _Batch, step: Int[Array, ""]) -> Float[Array, "B P"]:
        """The loss of every wanted item, by the term of this step."""
        first, second = self.curriculum.first, self.curriculum.second

        def of_first() -> Float[Array, "B P"]:
            return batch.losses(first, self.mask_others)

        def of_second() -> Float[Array, "B P"]:
            inclusion = batch.losses(second, self.mask_others)
            if self.final_list is None:
                return inclusion
            share = self.final_list.share
            return (1 - share) * inclusion + share * batch.list_losses(self.final_list)

        if first == second and self.final_list is None:
            return of_first()
        return lax.cond(step < self.curriculum.switch, of_first, of_second)


class _Batch(NamedTuple):
    """A batch of moments with their wanted items, whose loss it computes."""

    learner: Learner
    params: Params
    contexts: Int[Array, "B"]
    wanted: Feedback
    scored: Scored
    """Sparse logits of the wanted items."""
    noise: PRNGKey
    """Key of the encoder's dropout."""

    def losses(self, term: Term, mask_others: bool) -> Float[Array, "B P"]:
        """The term of every wanted item, averaged over the numbers of candidates."""
        world, experts = self.learner.environment, len(self.learner.policy.quotas)
        known, items = self.wanted.values > 0, self.wanted.items
        if reads_all_logits(term.method):
            several = [
                expert_quotas(max(min(k, world.num_items), experts), experts) for k in term.at
            ]
            logits = all_logits(self.learner, self.params, self.contexts, self.noise)
            log_p = log_inclusion_of_all(
                logits, items, several, method=term.method, mask_others=mask_others
            )
        else:
            # Every expert has a slot, so that none of them is left at its random start.
            several = [expert_quotas(max(k, experts), experts) for k in term.at]
            log_p = jax.vmap(
                lambda own, some: log_inclusion_of_wanted(
                    own, some, several, method=term.method, mask_others=mask_others
                )
            )(self.scored.sparse_logits, items)
        gains = box_cox(jnp.where(known[:, None], log_p, 0), term.power)
        return -jnp.mean(gains, axis=1)

    def list_losses(self, final_list: FinalList) -> Float[Array, "B P"]:
        """The loss of every wanted item in the final list."""
        return final_list.losses(self.learner, self.params, self.contexts, self.wanted, self.noise)


@runtime_checkable
class FeedbackSettings(FinalListSettings, MomentSettings, UnobservedSettings, Protocol):
    """Settings from which an objective is built; a `TrainConfig` has these fields."""

    @property
    def objective(self) -> str: ...

    @property
    def softmax_samples(self) -> int | None: ...

    @property
    def inclusion_at(self) -> tuple[int, ...]: ...

    @property
    def inclusion_method(self) -> str: ...

    @property
    def inclusion_power(self) -> float: ...

    @property
    def later_rate(self) -> float: ...

    @property
    def draws_per_context(self) -> int: ...

    @property
    def num_steps(self) -> int: ...


def on_moments(learner: Learner, settings: FeedbackSettings, parts: Parts) -> Learner:
    """Returns a learner that is trained on moments of the training part of interactions.

    The policy gradient draws the later moments alone: their feedback is what follows what was seen.

    Args:
      learner: built for the environment that is evaluated.
      settings: the objective, and which moments.
      parts: parts of the dataset.

    Raises:
      ConfigError: the training part has no moments, objective='exposure' cannot go through the order of the
        re-ranker, or unobserved='left_out' has no baseline.
    """
    check_held_out_users(settings.context_tower, parts)
    known = settings.objective != "policy_gradient"
    of_histories = known and TOWERS[settings.context_tower].reads_histories
    first, later = training_moments(settings, parts, of_histories=of_histories)
    world = cast("Interactions", learner.environment)
    if settings.objective in _SORTED:
        later = sorted_moments(later, world.training_ends)
    if not len(first.users) or not len(later.users):
        raise ConfigError(
            f"no moment to train on: of {int(np.sum(parts.trains))} users with a training part, "
            f"{len(first.users)} have a beginning and {len(later.users)} an end; give another "
            f"forward_share={settings.forward_share:g} or split"
        )
    learner, world = with_observation_model(learner, world.for_training(), settings, parts)
    if not known:
        contexts = np.arange(len(later.users), dtype=np.int32)
        sampler = ContextSampler(contexts, settings.batch_size, settings.draws_per_context)
        return dataclasses.replace(learner, environment=world.at(later), sampler=sampler)
    both = first if first is later else first.followed_by(later)
    ranges = (0, len(first.users)), (len(both.users) - len(later.users), len(both.users))
    world = world.at(both, _WIDEST)
    if settings.softmax_samples is not None:
        params = jax.eval_shape(learner.policy.init, jax.random.key(0))
        check_samples(learner, params, settings.softmax_samples)
    if settings.objective != "softmax" and reads_all_logits(settings.inclusion_method):
        method = f"inclusion_method={settings.inclusion_method!r}"
        learner = with_all_logits(learner, settings.retrieval, method)
    if settings.objective == "exposure":
        learner = with_all_logits(learner, settings.retrieval, "objective='exposure'")
        check_order(learner, world.at(later, _WIDEST), settings)
    return dataclasses.replace(learner, environment=world, objective=_objective(settings, *ranges))


def _objective(
    settings: FeedbackSettings, first: tuple[int, int], later: tuple[int, int]
) -> KnownFeedback:
    """The objective of the settings, for contexts in two ranges."""
    switch = round(settings.first_share * settings.num_steps)
    second = Term(settings.inclusion_at, settings.inclusion_power, settings.inclusion_method)
    if settings.objective == "softmax":
        second = Term.softmax()
    return KnownFeedback(
        MomentSampler(settings.batch_size, first, later, switch),
        Curriculum(Term.softmax(), second, switch, settings.num_steps, settings.later_rate),
        settings.mask_positives is not False,
        final_list(settings) if settings.objective == "exposure" else None,
        settings.softmax_samples,
    )


def expected_reward(sparse: SparseLogits, wanted: Feedback, quotas: Quotas) -> Float[Array, "B"]:
    """Expected value of the wanted items among K candidates drawn with replacement: sum_a v_a P(a in S)."""

    def one(own: SparseLogits, items: Int[Array, "P"]) -> Float[Array, "P"]:
        share = jnp.exp(own.logits[:, own.positions(items)] - own.log_total()[:, None])
        missed = jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
        return -jnp.expm1(jnp.asarray(quotas, missed.dtype) @ missed)

    return jnp.sum(wanted.values * jax.vmap(one)(sparse, wanted.items), axis=1)


def with_all_logits(learner: Learner, retrieval: str, reason: str) -> Learner:
    """Returns a learner with dense retrieval, where it was chosen automatically.

    Args:
      learner: has any retrieval.
      retrieval: the setting `retrieval`.
      reason: the setting that reads the logits of the whole catalogue, such as "objective='exposure'".

    Raises:
      ConfigError: another retrieval was chosen, or several processes or devices share the items.
    """
    name = learner.policy.retrieval.name
    if name == "dense":
        return learner
    if retrieval != "auto" or name != "streamed":
        raise ConfigError(
            f"retrieval={name!r} with {reason}, which reads the logits of the whole catalogue; give "
            "retrieval='dense', or objective='inclusion' with inclusion_method='swr'"
        )
    dense = Dense(reason=f"{reason} reads the logits of the whole catalogue")
    policy = dataclasses.replace(learner.policy, retrieval=dense)
    return dataclasses.replace(learner, policy=policy)


def check_knows_feedback(environment: Environment) -> None:
    """Rejects an environment that does not know which items earn a reward.

    Raises:
      ConfigError: names the environment.
    """
    contexts = jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(
        lambda world, rows: feedback_of(world, jax.random.key(0), rows), environment, contexts
    )


def feedback_of(environment: Environment, key: PRNGKey, contexts: Int[Array, "B"]) -> Feedback:
    """Returns the known feedback of some contexts.

    Raises:
      ConfigError: the environment does not know which items earn a reward.
    """
    found = environment.feedback(key, contexts)
    if found is None:
        raise ConfigError(
            f"objective='softmax', 'inclusion' and 'exposure' need known feedback, and the environment "
            f"{type(environment).__name__} has none; give environment='interactions', or "
            "objective='policy_gradient'"
        )
    return found
