"""Objectives on known feedback, without draws: softmax, inclusion, and exposure.

    contexts -> wanted items -> policy -> log P(a in S) -> loss -> gradient -> optimizer

The first two are means over wanted items of a function of P(a in S), the probability that the item is among K
candidates: see core/known_feedback.py. `softmax` is the case K = 1 with the logarithm. `exposure` mixes
`inclusion` with the expected gain of the item in the final list: see final_list.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.core.known_feedback import box_cox, log_inclusion_of_wanted
from rankpg.core.plackett_luce import SparseLogits
from rankpg.core.quotas import expert_quotas
from rankpg.encoders.two_tower import TOWERS
from rankpg.environments.interactions import Interactions, Moments, Parts
from rankpg.errors import ConfigError
from rankpg.training.final_list import (
    FinalList,
    FinalListSettings,
    check_order,
    final_list,
    sorted_moments,
    with_all_logits,
)
from rankpg.training.moment_sampler import MomentSampler
from rankpg.training.optimizer import first_fault, norm
from rankpg.training.update import ContextSampler, Learner, StepMetrics, TrainState
from rankpg.types import Array, Environment, Feedback, Float, Int, Params, PRNGKey, Quotas

__all__ = [
    "Curriculum",
    "KnownFeedback",
    "Term",
    "check_knows_feedback",
    "expected_reward",
    "on_moments",
    "steps_of_epochs",
    "training_environment",
    "training_moments",
]


_SORTED = ("policy_gradient", "exposure")
"""Objectives in whose updates the re-ranker sorts."""
_TINY = float(np.finfo(np.float32).tiny)
_LAST_RATE = 0.05
"""The last learning rate, in units of that at the switch."""

_ORDER = np.uint32(2**32 - 1)
"""Folded into the root key for the order of moments; other numbers are those of updates."""

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

    def update(
        self, learner: Learner, state: TrainState, key: PRNGKey, root: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step on the next batch; a fault changes nothing but `state.fault`."""
        state = self._restarted(learner, state)
        of_feedback, noise = jax.random.split(key)
        contexts = self.sampler(jax.random.fold_in(root, _ORDER), state.step)
        wanted = feedback_of(learner.environment, of_feedback, contexts)

        def mean_loss(params: Params) -> tuple[Float[Array, ""], Candidates]:
            scored = learner.policy.rescore(
                wanted.items, params, learner.environment, contexts, noise=noise
            )

            def of_list() -> Float[Array, "B P"]:
                assert self.final_list is not None
                return self.final_list.losses(learner, params, contexts, wanted, noise)

            losses = self._losses(learner, scored, wanted, state.step, of_list)  # [B, P]
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

    def _losses(
        self,
        learner: Learner,
        scored: Candidates,
        wanted: Feedback,
        step: Int[Array, ""],
        of_list: Callable[[], Float[Array, "B P"]],
    ) -> Float[Array, "B P"]:
        """The loss of every wanted item, by the term of this step."""
        experts = len(learner.policy.quotas)
        known = wanted.values > 0

        def of(term: Term) -> Callable[[SparseLogits, Int[Array, "B P"]], Float[Array, "B P"]]:
            # Every expert has a slot, so that none of them is left at its random start.
            several = [expert_quotas(max(k, experts), experts) for k in term.at]

            def losses(sparse: SparseLogits, items: Int[Array, "B P"]) -> Float[Array, "B P"]:
                log_p = jax.vmap(
                    lambda own, some: log_inclusion_of_wanted(
                        own, some, several, method=term.method, mask_others=self.mask_others
                    )
                )(sparse, items)
                gains = box_cox(jnp.where(known[:, None], log_p, 0), term.power)
                return -jnp.mean(gains, axis=1)

            return losses

        terms = of(self.curriculum.first), of(self.curriculum.second)
        if self.final_list is not None:
            share, inclusion = self.final_list.share, terms[1]

            def mixture(sparse: SparseLogits, items: Int[Array, "B P"]) -> Float[Array, "B P"]:
                return (1 - share) * inclusion(sparse, items) + share * of_list()

            terms = terms[0], mixture
        elif self.curriculum.first == self.curriculum.second:
            return terms[0](scored.sparse_logits, wanted.items)
        first = step < self.curriculum.switch
        return lax.cond(first, *terms, scored.sparse_logits, wanted.items)


@runtime_checkable
class FeedbackSettings(FinalListSettings, Protocol):
    """Settings from which an objective is built; a `TrainConfig` has these fields."""

    @property
    def objective(self) -> str: ...

    @property
    def inclusion_at(self) -> tuple[int, ...]: ...

    @property
    def inclusion_method(self) -> str: ...

    @property
    def inclusion_power(self) -> float: ...

    @property
    def later_rate(self) -> float: ...

    @property
    def forward_share(self) -> float: ...

    @property
    def next_items(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def num_steps(self) -> int: ...

    @property
    def context_tower(self) -> str: ...

    @property
    def first_share(self) -> float: ...

    @property
    def draws_per_context(self) -> int: ...


def training_moments(
    settings: FeedbackSettings, parts: Parts, *, of_histories: bool
) -> tuple[Moments, Moments]:
    """Returns the moments that training draws from, first and later.

    An encoder that reads histories is trained on every moment of the training part. A table of users is
    trained on the beginning of each user's part, and then on its end, with the beginning as seen.

    Args:
      settings: `forward_share` and `next_items`.
      parts: parts of a dataset of interactions.
      of_histories: True for an encoder that reads histories.
    """
    if of_histories:
        every = parts.every_next(settings.next_items)
        return every, every
    if settings.forward_share == 1:
        whole = parts.whole()
        return whole, whole
    return parts.before(settings.forward_share), parts.forward(settings.forward_share)


def steps_of_epochs(settings: FeedbackSettings, parts: Parts, num_epochs: int) -> int:
    """Returns the number of updates in which the average moment of training is drawn `num_epochs` times."""
    of_histories = TOWERS[settings.context_tower].reads_histories
    first, later = training_moments(settings, parts, of_histories=of_histories)
    mean = np.interp(settings.first_share, (0, 1), (len(later.users), len(first.users)))
    return max(1, -(-int(num_epochs * mean) // settings.batch_size))


def _check_held_out_users(context_tower: str, parts: Parts) -> None:
    """Rejects users who are evaluated, not trained on, and known to the tower by their number alone."""
    held_out = ~parts.trains & (parts.test_ends > parts.train_ends)
    tower = TOWERS[context_tower]
    if held_out.any() and not tower.reads_histories and not tower.reads_features:
        raise ConfigError(
            f"{int(held_out.sum())} users are held out whole, but context_tower={context_tower!r} learns "
            "nothing about users that it never sees; give context_tower='history' or another split"
        )


def on_moments(learner: Learner, settings: FeedbackSettings, parts: Parts) -> Learner:
    """Returns a learner that is trained on moments of the training part of interactions.

    The policy gradient draws the later moments alone: their feedback is what follows what was seen.

    Args:
      learner: built for the environment that is evaluated.
      settings: the objective, and which moments.
      parts: parts of the dataset.

    Raises:
      ConfigError: the training part has no moments, or objective='exposure' cannot go through the order of
        the re-ranker.
    """
    _check_held_out_users(settings.context_tower, parts)
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
    world = world.for_training()
    if not known:
        contexts = np.arange(len(later.users), dtype=np.int32)
        sampler = ContextSampler(contexts, settings.batch_size, settings.draws_per_context)
        return dataclasses.replace(learner, environment=world.at(later), sampler=sampler)
    both = first if first is later else first.followed_by(later)
    ranges = (0, len(first.users)), (len(both.users) - len(later.users), len(both.users))
    world = world.at(both, _WIDEST)
    if settings.objective == "exposure":
        learner = with_all_logits(learner, settings)
        check_order(learner, world.at(later, _WIDEST), settings)
    return dataclasses.replace(learner, environment=world, objective=_objective(settings, *ranges))


def training_environment(before: Environment, served: Environment) -> Environment:
    """Returns the environment to train on after items or users were added or removed.

    Its moments are those of before. Items that were removed stay in the sequences: they are known feedback,
    although they are not served.

    Args:
      before: moments of the training part, before the change.
      served: the environment that is evaluated and served, after the change.
    """
    old = cast("Interactions", before)
    columns = old.context_users, old.history_ends, old.feedback_ends
    moments = Moments(*map(np.asarray, columns))
    return cast("Interactions", served.whole).for_training().at(moments, old.feedback_width)


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
    )


def expected_reward(sparse: SparseLogits, wanted: Feedback, quotas: Quotas) -> Float[Array, "B"]:
    """Expected value of the wanted items among K candidates drawn with replacement: sum_a v_a P(a in S)."""

    def one(own: SparseLogits, items: Int[Array, "P"]) -> Float[Array, "P"]:
        share = jnp.exp(own.logits[:, own.positions(items)] - own.log_total()[:, None])
        missed = jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
        return -jnp.expm1(jnp.asarray(quotas, missed.dtype) @ missed)

    return jnp.sum(wanted.values * jax.vmap(one)(sparse, wanted.items), axis=1)


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
