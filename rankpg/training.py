"""Training: one update, a scan over updates, a vmap over seeds.

`update` is the data flow:

    contexts -> encoder -> retrieval -> late stage -> rewards
             -> scores -> surrogate loss -> gradient -> optimizer
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.optimizing import norm, step
from rankpg.pipeline import Pipeline
from rankpg.retrieval import Candidates
from rankpg.types import Array, Bool, Environment, Float, Int, Params, PRNGKey, record

__all__ = [
    "FAULTS",
    "REMEDIES",
    "Feedback",
    "StepMetrics",
    "TrainState",
    "init_state",
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
    "The late stage must show L different items of the candidates it is given",
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
class Feedback:
    """What one context's rollout yields."""

    rewards: Float[Array, "L"]
    scores: Float[Array, "L"]
    log_propensity: Float[Array, ""]
    """of the late stage's greedy ranking, where the step size asks for it; else 0."""
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
    """One stream for each station that draws."""

    contexts: PRNGKey
    retrieval: PRNGKey
    late_stage: PRNGKey
    rewards: PRNGKey


def init_state(pipeline: Pipeline, key: PRNGKey) -> TrainState:
    """The state at step 0."""
    params_key, baseline_key = jax.random.split(key)
    params = pipeline.encoder.init(params_key)
    return TrainState(
        params=params,
        optimizer_state=pipeline.optimizer.init(params),
        baseline_state=pipeline.reward_transform.init(baseline_key),
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
    keys = StepKeys(*jax.random.split(key, 4))
    contexts = draw_contexts(keys.contexts, pipeline, environment)

    def surrogate(params):
        rows = split_rows(keys, pipeline.batch_size)
        candidates = pipeline.retrieve(rows.retrieval, params, environment, contexts)
        feedback = jax.vmap(rollout, in_axes=(None, None, 0, 0, 0))(
            pipeline, environment, rows, contexts, candidates
        )
        advantages, baseline = pipeline.reward_transform.apply(
            state.baseline_state, contexts, feedback.rewards
        )
        alpha = jnp.asarray(pipeline.position_weights, advantages.dtype)
        credit = lax.stop_gradient(alpha[None] * advantages)
        return -jnp.mean(jnp.sum(credit * feedback.scores, axis=-1)), (feedback, baseline)

    (loss, (feedback, baseline)), gradient = jax.value_and_grad(surrogate, has_aux=True)(
        state.params
    )
    length = norm(gradient)
    fault = first_fault(feedback, loss, length)
    step_size = None
    if pipeline.adaptive_learning_rate:
        step_size = 1 / jnp.mean(jnp.exp(feedback.log_propensity))  # Eq. 9
    metrics = StepMetrics(
        loss=loss,
        reward=jnp.mean(
            feedback.rewards @ pipeline.position_weights.astype(feedback.rewards.dtype)
        ),
        gradient_norm=length,
    )
    return take_step(pipeline, state, gradient, step_size, baseline, fault), metrics


def rollout(
    pipeline: Pipeline,
    environment: Environment,
    keys: StepKeys,
    context: Int[Array, ""],
    candidates: Candidates,
) -> Feedback:
    """One context's candidates through late stage, rewards and scores."""
    ranking = pipeline.late_stage(keys.late_stage, environment, context, candidates.items)
    rewards = environment.sample_rewards(keys.rewards, context, ranking.items)
    scores = pipeline.estimator.score(candidates, ranking.items, pipeline.quotas)
    log_propensity = jnp.zeros((), scores.dtype)
    if pipeline.adaptive_learning_rate:
        greedy = pipeline.late_stage.greedy(keys.late_stage, environment, context, candidates.items)
        log_propensity = lax.stop_gradient(greedy.log_propensity)
    from_candidates = jnp.any(ranking.items[:, None] == candidates.items[None, :], axis=1)
    same = ranking.items[:, None] == ranking.items[None, :]
    repeated = jnp.any(jnp.tril(same, k=-1), axis=1)
    sound = (
        candidates.sound,
        jnp.all(from_candidates) & ~jnp.any(repeated),
        jnp.all(jnp.isfinite(rewards)),
    )
    return Feedback(
        rewards=rewards, scores=scores, log_propensity=log_propensity, sound=jnp.stack(sound)
    )


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
    """The place in FAULTS of the first station that failed; 0 if none did."""
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

    States and root keys carry a leading axis of seeds. The states are donated. Metrics are means over
    the chunk.
    """

    place = pipeline.placement

    def chunk(environment, state, root):
        def body(state, _):
            key = jax.random.fold_in(root, state.step)
            state, metrics = update(pipeline, environment, state, key)
            return place.constrain(state), metrics

        state, metrics = lax.scan(body, state, length=length)
        return state, jax.tree.map(jnp.mean, metrics)

    def chunks(environment, states, roots):
        states, metrics = of_seeds(environment, states, roots)
        return place.constrain(states), place.copies(metrics)

    def of_seeds(environment, states, roots):
        if len(roots) > 1:
            return jax.vmap(chunk, in_axes=(None, 0, 0))(environment, states, roots)
        # Under vmap a condition becomes a selection, which holds both of its answers.
        only = chunk(environment, *jax.tree.map(lambda x: x[0], (states, roots)))
        return jax.tree.map(lambda x: x[None], only)

    return jax.jit(chunks, donate_argnums=1)
