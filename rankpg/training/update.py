"""Training: one update, a scan over updates, a vmap over seeds.

`update` is the data flow:

    contexts -> encoder -> retrieval -> re-ranker -> rewards
             -> scores -> surrogate loss -> gradient -> optimizer

Where the re-ranker or the user is not to be had inside the program, live/ puts a wait between its first line
and its second: what is drawn there is scored, judged and stepped along here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.advantages import entropy_bonus
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import Candidates
from rankpg.policy import Pipeline
from rankpg.training.optimizer import norm, step
from rankpg.types import Array, Bool, Environment, Float, Int, Params, PRNGKey, record

__all__ = [
    "FAULTS",
    "REMEDIES",
    "Feedback",
    "Shown",
    "StepKeys",
    "StepMetrics",
    "TrainState",
    "assess",
    "credit_of",
    "draw_contexts",
    "follow",
    "init_state",
    "over_seeds",
    "seed_keys",
    "show",
    "split_rows",
    "surrogate_loss",
    "surrogate_of_draw",
    "train_chunk",
    "update",
]

FAULTS = (
    "none",
    "a logit that is NaN or +inf",
    "a ranking with an item that was no candidate, or with one item twice",
    "a reward that is NaN or infinite",
    "a loss that is NaN or infinite",
    "a gradient that is NaN or infinite",
    "parameters that are NaN or infinite",
)
"""What can stop a seed; `TrainState.fault` is the place in this list."""

_SMALLER = "A smaller --learning-rate may help"
REMEDIES = (
    "",
    _SMALLER,
    "The re-ranker must show L different items of the candidates it is given",
    "The environment must answer finite rewards",
    _SMALLER,
    _SMALLER,
    _SMALLER,
)
"""What to do about each of FAULTS."""


@record
class TrainState:
    """All that changes in training. Nothing random is in it: a step's key is fold_in(root, step)."""

    params: Params
    optimizer_state: Any
    baseline_state: Any
    step: Int[Array, ""]
    fault: Int[Array, ""]
    """0 while training is sound; else why this state is the last good one."""


@record
class Shown:
    """What became of one context's candidates: the ranking that was shown, and what it earned."""

    items: Int[Array, "L"]
    rewards: Float[Array, "L"]
    log_propensity: Float[Array, ""]
    """of the re-ranker's greedy ranking, where the step size asks for it; else 0."""


@record
class Feedback:
    """What one context's draw contributes to the surrogate loss."""

    candidates: Candidates
    shown: Shown
    scores: Float[Array, "L"]
    sound: Bool[Array, "3"]
    """Whether logits, ranking and rewards are what they must be, in the order of FAULTS."""


@record
class StepMetrics:
    """Diagnostics of one update."""

    loss: Float[Array, ""]
    reward: Float[Array, ""]
    """Mean over the batch of sum_l alpha_l r_l."""
    gradient_norm: Float[Array, ""]


class StepKeys(NamedTuple):
    """One stream for each component that draws."""

    contexts: PRNGKey
    retrieval: PRNGKey
    reranker: PRNGKey
    rewards: PRNGKey


def init_state(pipeline: Pipeline, key: PRNGKey) -> TrainState:
    """The state at step 0."""
    params_key, baseline_key = jax.random.split(key)
    params = pipeline.encoder.init(params_key)
    return TrainState(
        params=params,
        optimizer_state=pipeline.optimizer.init(params),
        baseline_state=pipeline.advantage.init(baseline_key),
        step=jnp.zeros((), jnp.int32),
        fault=jnp.zeros((), jnp.int32),
    )


def update(
    pipeline: Pipeline, environment: Environment, state: TrainState, key: PRNGKey
) -> tuple[TrainState, StepMetrics]:
    """One step of the policy gradient, gradient = E[ sum_l alpha_l * A_l * grad score_l ].

    A step whose logits, ranking, rewards, loss, gradient or new parameters are unsound changes nothing but
    `fault`.
    """
    _, surrogate = surrogate_of_draw(pipeline, environment, state.baseline_state, key)
    return follow(pipeline, state, surrogate)


def surrogate_of_draw(
    pipeline: Pipeline, environment: Environment, baseline_state: Any, key: PRNGKey
) -> tuple[Int[Array, "B"], Callable[[Params], Any]]:
    """One draw of a batch: its contexts, and `surrogate(params)`, which answers what `surrogate_loss` does.

    Args:
      pipeline: the run's components.
      environment: answers rewards.
      baseline_state: of the advantage.
      key: of the step.
    """
    keys = StepKeys(*jax.random.split(key, 4))
    contexts = draw_contexts(keys.contexts, pipeline, environment)
    rows = split_rows(keys, pipeline.batch_size)

    def surrogate(params):
        candidates = pipeline.retrieve(rows.retrieval, params, environment, contexts)
        shown = jax.vmap(show, in_axes=(None, None, 0, 0, 0))(
            pipeline, environment, rows, contexts, candidates.items
        )
        feedback = assess(pipeline, candidates, shown)
        return surrogate_loss(pipeline, baseline_state, contexts, feedback)

    return contexts, surrogate


def show(
    pipeline: Pipeline,
    environment: Environment,
    keys: StepKeys,
    context: Int[Array, ""],
    candidates: Int[Array, "K"],
) -> Shown:
    """One context's candidates through re-ranker and rewards."""
    ranking = pipeline.reranker(keys.reranker, environment, context, candidates)
    rewards = environment.sample_rewards(keys.rewards, context, ranking.items)
    log_propensity = jnp.zeros((), rewards.dtype)
    if pipeline.adaptive_learning_rate:
        greedy = pipeline.reranker.greedy(keys.reranker, environment, context, candidates)
        log_propensity = lax.stop_gradient(greedy.log_propensity)
    return Shown(items=ranking.items, rewards=rewards, log_propensity=log_propensity)


def assess(pipeline: Pipeline, candidates: Candidates, shown: Shown) -> Feedback:
    """The scores of what was shown, and whether every component did its part; of a batch."""

    def one(candidates: Candidates, shown: Shown) -> Feedback:
        from_candidates = jnp.any(shown.items[:, None] == candidates.items[None, :], axis=1)
        same = shown.items[:, None] == shown.items[None, :]
        repeated = jnp.any(jnp.tril(same, k=-1), axis=1)
        sound = (
            candidates.sound,
            jnp.all(from_candidates) & ~jnp.any(repeated),
            jnp.all(jnp.isfinite(shown.rewards)),
        )
        scores = pipeline.estimator.score(candidates, shown.items, pipeline.quotas)
        return Feedback(candidates=candidates, shown=shown, scores=scores, sound=jnp.stack(sound))

    return jax.vmap(one)(candidates, shown)


def surrogate_loss(
    pipeline: Pipeline,
    baseline_state: Any,
    contexts: Int[Array, "B"],
    feedback: Feedback,
    weights: Float[Array, "B L"] | None = None,
) -> tuple[Float[Array, ""], tuple[Feedback, Any]]:
    """- mean over the batch of sum_l w_l * alpha_l * A_l * score_l, and the next state of the baseline.

    Only the scores carry a gradient.

    Args:
      pipeline: the run's components.
      baseline_state: of the advantage.
      contexts: of the batch.
      feedback: with a leading axis B.
      weights: w_l of draws that another policy made; None is 1.
    """
    credit, baseline = credit_of(pipeline, baseline_state, contexts, feedback)
    if weights is not None:
        credit = credit * lax.stop_gradient(weights)
    return -jnp.mean(jnp.sum(credit * feedback.scores, axis=-1)), (feedback, baseline)


def credit_of(
    pipeline: Pipeline,
    baseline_state: Any,
    contexts: Int[Array, "B"],
    feedback: Feedback,
) -> tuple[Float[Array, "B L"], Any]:
    """alpha_l * A_l, which multiplies the scores and carries no gradient, and the next baseline state."""
    rewards = feedback.shown.rewards
    if pipeline.entropy_bonus:
        slots = 1 if pipeline.estimator.credit_assigned else sum(pipeline.quotas)
        rewards = entropy_bonus(rewards, feedback.scores, pipeline.entropy_bonus, slots)
    advantages, baseline = pipeline.advantage.apply(baseline_state, contexts, rewards)
    alpha = jnp.asarray(pipeline.position_weights, advantages.dtype)
    return lax.stop_gradient(alpha[None] * advantages), baseline


def follow(
    pipeline: Pipeline, state: TrainState, surrogate: Callable[[Params], Any]
) -> tuple[TrainState, StepMetrics]:
    """The optimizer's step along the gradient of a surrogate loss.

    Args:
      pipeline: the run's components.
      state: before the step.
      surrogate: `surrogate(params)` answers what `surrogate_loss` does.
    """
    (loss, (feedback, baseline)), gradient = jax.value_and_grad(surrogate, has_aux=True)(
        state.params
    )
    length = norm(gradient)
    fault = first_fault(feedback, loss, length)
    step_size = None
    if pipeline.adaptive_learning_rate:
        step_size = 1 / jnp.mean(jnp.exp(feedback.shown.log_propensity))  # Eq. 9
    rewards = feedback.shown.rewards
    metrics = StepMetrics(
        loss=loss,
        reward=jnp.mean(rewards @ pipeline.position_weights.astype(rewards.dtype)),
        gradient_norm=length,
    )
    return take_step(pipeline, state, gradient, step_size, baseline, fault), metrics


def draw_contexts(key: PRNGKey, pipeline: Pipeline, environment: Environment) -> Int[Array, "B"]:
    """B contexts, uniform with replacement; draws of one context stand next to each other."""
    distinct = pipeline.batch_size // pipeline.draws_per_context
    training = pipeline.training_contexts
    contexts = jax.random.randint(key, (distinct,), 0, len(training), jnp.int32)
    if len(training) < environment.num_contexts:  # some are held out
        contexts = jnp.asarray(training)[contexts]
    return jnp.repeat(contexts, pipeline.draws_per_context)


def split_rows(keys: StepKeys, rows: int) -> StepKeys:
    """A key of every stream for every row of the batch."""
    return StepKeys(*(jax.random.split(key, rows) for key in keys))


def first_fault(
    feedback: Feedback, loss: Float[Array, ""], gradient_norm: Float[Array, ""]
) -> Int[Array, ""]:
    """The place in FAULTS of the first component that failed; 0 if none did."""
    finite = jnp.stack([jnp.isfinite(loss), jnp.isfinite(gradient_norm)])
    sound = jnp.concatenate([jnp.ones(1, bool), jnp.all(feedback.sound, axis=0), finite])
    return jnp.argmin(sound).astype(jnp.int32)


def take_step(
    pipeline: Pipeline,
    state: TrainState,
    gradient: Params,
    step_size: Float[Array, ""] | None,
    baseline: Any,
    fault: Int[Array, ""],
) -> TrainState:
    """The state after this step; but for `fault` the old one, if this step or an earlier one was unsound."""
    take = (state.fault == 0) & (fault == 0)
    stepped = step(
        pipeline.optimizer, state.params, state.optimizer_state, gradient, step_size, take
    )
    fault = jnp.where((fault == 0) & ~stepped.sound, len(FAULTS) - 1, fault)
    kept = jax.tree.map(
        lambda old, new: jnp.where(take & stepped.sound, new, old),
        (state.baseline_state, state.step),
        (baseline, state.step + 1),
    )
    return TrainState(
        params=stepped.params,
        optimizer_state=stepped.optimizer_state,
        baseline_state=kept[0],
        step=kept[1],
        fault=jnp.where(state.fault > 0, state.fault, fault),
    )


def train_chunk(pipeline: Pipeline, length: int) -> Any:
    """`chunk(environment, states, roots) -> (states, metrics)`: `length` updates of every seed, compiled.

    States and root keys carry a leading axis of seeds. The states are donated. Metrics [seeds, length] are
    those of every update, so that nobody's sums depend on where a chunk ends.
    """

    place = pipeline.placement

    def chunk(environment, state, root):
        def body(state, _):
            key = jax.random.fold_in(root, state.step)
            state, metrics = update(pipeline, environment, state, key)
            return place.constrain(state), metrics

        return lax.scan(body, state, length=length)

    def chunks(environment, states, roots):
        states, metrics = over_seeds(chunk)(environment, states, roots)
        return place.constrain(states), place.copies(metrics)

    return jax.jit(chunks, donate_argnums=1)


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(environment, state, key)` of every seed: states and keys have a leading axis of seeds.

    Under vmap a condition becomes a selection, which holds both of its answers; so one seed goes alone.
    """

    def of_all(environment, states, keys):
        if len(keys) > 1:
            return jax.vmap(function, in_axes=(None, 0, 0))(environment, states, keys)
        only = function(environment, *jax.tree.map(lambda x: x[0], (states, keys)))
        return jax.tree.map(lambda x: x[None], only)

    return of_all


def seed_keys(config: TrainConfig, stream: str) -> Any:
    """One key a seed, of a stream of its own."""
    streams = ("start", "steps", "evaluation", "diagnostics")
    seeds = jnp.asarray(config.seeds, jnp.uint32)
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), streams.index(stream)))(seeds)
