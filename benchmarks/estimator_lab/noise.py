"""Signal and noise of a run's gradient at any size, from independent draws at the same parameters.

With g, g' two independent draws of a gradient, E[g . g'] = |E g|^2 is its signal and E|g - g'|^2 / 2 the
trace of its covariance. For n draws with sum s and q = sum |g|^2 the same, averaged over all pairs, is

    signal = (|s|^2 - q) / (n (n - 1)),        variance = (q - |s|^2 / n) / (n - 1),

both without bias. Inner products of two estimators' draws in the place of squares give their cosine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.runs.run import Run
from rankpg.training.optimizer import Fault
from rankpg.training.update import Learner, TrainState, update
from rankpg.types import Array, Float, Int, PRNGKey, record

__all__ = ["GradientNoise", "gradient_noise", "noise_from_draws", "noise_of_learners"]


@record
class GradientNoise:
    """Signal and noise of several estimators' gradients, in the order of their names.

    Standard errors are over rounds; NaN if there was one.
    """

    signal: Float[Array, "E"]
    """|E g|^2; an estimate, so it may fall below 0."""
    signal_error: Float[Array, "E"]
    variance: Float[Array, "E"]
    """Trace of the covariance of the gradient of one batch."""
    variance_error: Float[Array, "E"]
    inner: Float[Array, "E E"]
    """E g_i . E g_j"""

    @property
    def signal_to_noise(self) -> Float[Array, "E"]:
        """|E g|^2 / trace of the covariance, of one batch."""
        return self.signal / self.variance

    @property
    def cosine(self) -> Float[Array, "E E"]:
        """Between the expected gradients; NaN where a signal was not told from 0."""
        length = jnp.sqrt(jnp.where(self.signal > 0, self.signal, jnp.nan))
        return self.inner / (length[:, None] * length[None, :])


def noise_from_draws(
    sums: Float[Array, "R E P"], products: Float[Array, "R E E"], num_draws: int
) -> GradientNoise:
    """Signal and noise from R rounds of `num_draws` draws of E gradients of P entries.

    Args:
      sums: sum of a round's draws.
      products: sum over a round's draws of g_i . g_j.
      num_draws: draws in a round, at least 2; 2 are a pair.

    >>> draws = jnp.array([[1.0, 2.0], [3.0, 2.0]])  # a pair: inner product 7, half squared distance 2
    >>> noise = noise_from_draws(draws.sum(0)[None, None], jnp.sum(draws**2)[None, None, None], 2)
    >>> float(noise.signal[0]), float(noise.variance[0])
    (7.0, 2.0)
    """
    if num_draws < 2:
        raise ValueError(
            f"num_draws is {num_draws}; expected at least 2, for variance needs a pair"
        )
    rounds = sums.shape[0]
    squares = jnp.einsum("rip,rjp->rij", sums, sums)
    inner = (squares - products) / (num_draws * (num_draws - 1))
    covariance = (products - squares / num_draws) / (num_draws - 1)
    signal, variance = (jnp.diagonal(m, axis1=1, axis2=2) for m in (inner, covariance))

    def error(values):
        if rounds < 2:
            return jnp.full(values.shape[1:], jnp.nan, values.dtype)
        return jnp.std(values, axis=0, ddof=1) / np.sqrt(rounds).astype(values.dtype)

    return GradientNoise(
        signal=jnp.mean(signal, axis=0),
        signal_error=error(signal),
        variance=jnp.mean(variance, axis=0),
        variance_error=error(variance),
        inner=jnp.mean(inner, axis=0),
    )


def gradient_noise(
    run: Run,
    estimators: tuple[str, ...] | None = None,
    *,
    seed: int | None = None,
    num_rounds: int = 8,
    num_draws: int = 16,
) -> dict[str, Any]:
    """Signal and noise of every estimator's gradient at a run's parameters, and the angles between them.

    The gradient is that of `training.update`: of a batch of the run's size, after its advantage, with
    respect to its parameters. All estimators see the same contexts, candidates, rankings and rewards; none
    has the run's entropy bonus, which would be another one for every score.

    Args:
      run: from `run.prepare` (step 0), `train`, or a run folder.
      estimators: names of `ESTIMATORS`; all that are defined for the run's experts but the slow
        `ca_pg_exact` if None. Name `v_pg` to have the angle to the policy gradient.
      seed: which of the run's seeds; the first by default.
      num_rounds: independent repetitions, from which the standard errors come.
      num_draws: batches in a round.

    Returns:
      {"estimators": names, "noise": GradientNoise in their order}.

    Raises:
      ValueError: an unknown estimator or seed, too few draws, or a draw that is not finite.
    """
    quotas = run.policy.quotas
    names = estimators or tuple(
        name
        for name, e in ESTIMATORS.items()
        if name != "ca_pg_exact" and (e.max_experts or len(quotas)) >= len(quotas)
    )
    if seed is not None and seed not in run.config.seeds:
        raise ValueError(f"seed {seed} was not trained; the run has {run.config.seeds}")
    place = run.config.seeds.index(seed) if seed is not None else 0
    state = jax.tree.map(lambda leaf: leaf[place], run.state)
    arms = {
        name: replace(run.learner, estimator=check_estimator(name, len(quotas)), entropy_bonus=0.0)
        for name in names
    }
    key = jax.random.key(run.config.seeds[place])
    noise = noise_of_learners(key, arms, state, num_rounds, num_draws)
    return {"estimators": tuple(arms), "noise": noise}


def noise_of_learners(
    key: PRNGKey,
    learners: Mapping[str, Learner],
    state: TrainState,
    num_rounds: int,
    num_draws: int,
) -> GradientNoise:
    """The same for any learners that share parameters: other scores, transforms, re-rankers, batch sizes.

    Args:
      key: consumed; every draw has one key for all learners.
      learners: by name; the result keeps their order.
      state: one seed's state; its parameters and baseline state are read.
      num_rounds, num_draws: as `gradient_noise`.
    """

    def one_round(learners, state, keys):
        def add(carry, key):
            drawn = [gradient_of(learner, state, key) for learner in learners]
            gradients = jnp.stack([gradient for gradient, _ in drawn])
            sums, products, fault = carry
            worst = jnp.maximum(fault, jnp.max(jnp.stack([fault for _, fault in drawn])))
            return (sums + gradients, products + gradients @ gradients.T, worst), None

        flat = ravel_pytree(state.params)[0]
        count = len(learners)
        start = (
            jnp.zeros((count, flat.size), flat.dtype),
            jnp.zeros((count, count), flat.dtype),
            jnp.zeros((), jnp.int32),
        )
        return lax.scan(add, start, keys)[0]

    measure = jax.jit(one_round)
    keys = jax.random.split(key, (num_rounds, num_draws))
    sums, products, faults = (
        jnp.stack(part)
        for part in zip(*(measure([*learners.values()], state, k) for k in keys), strict=True)
    )
    if int(jnp.max(faults)):
        raise ValueError(
            f"a draw met {Fault(int(jnp.max(faults))).description}; its gradient has no variance"
        )
    return noise_from_draws(sums, products, num_draws)


def gradient_of(
    learner: Learner, state: TrainState, key: PRNGKey
) -> tuple[Float[Array, "P"], Int[Array, ""]]:
    """The ascent direction of one update, and the number of the `Fault` that it met."""
    still = replace(learner, optimizer=optax.set_to_zero(), adaptive_learning_rate=False)
    memory = still.optimizer.init(state.params)
    start = replace(state, optimizer_state=memory, fault=jnp.zeros((), jnp.int32))
    after, step = update(still, start, still.simulate(key))
    return -ravel_pytree(step.gradient)[0], after.fault
