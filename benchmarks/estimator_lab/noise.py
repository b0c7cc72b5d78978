"""Signal and noise of a run's gradient at any size, from independent draws at the same parameters.

For two independent draws g, g' of a gradient, E[g . g'] = |E g|^2 is the signal, and E|g - g'|^2 / 2 is the
trace of the covariance. Averaged over all pairs of n draws with sum s and q = sum |g|^2 they are

    signal = (|s|^2 - q) / (n (n - 1)),        variance = (q - |s|^2 / n) / (n - 1),

both unbiased. Inner products of two estimators' draws instead of squares give their cosine.
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

from rankpg.advantages import identity
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.runs.run import Run
from rankpg.training.optimizer import Fault
from rankpg.training.update import Learner, TrainState, update
from rankpg.types import Array, Float, Int, PRNGKey, record

__all__ = ["GradientNoise", "gradient_noise", "noise_from_draws", "noise_of_learners"]


@record
class GradientNoise:
    """Signal and noise of the gradients of E estimators.

    Standard errors are over rounds; NaN for a single round.
    """

    signal: Float[Array, "E"]
    """|E g|^2; an estimate, so it may be negative."""
    signal_error: Float[Array, "E"]
    variance: Float[Array, "E"]
    """Trace of the covariance of one batch's gradient."""
    variance_error: Float[Array, "E"]
    inner: Float[Array, "E E"]
    """E g_i . E g_j"""

    @property
    def signal_to_noise(self) -> Float[Array, "E"]:
        """|E g|^2 divided by the trace of the covariance of one batch's gradient."""
        return self.signal / self.variance

    @property
    def cosine(self) -> Float[Array, "E E"]:
        """Cosine between expected gradients; NaN where the estimate of a signal is not positive."""
        length = jnp.sqrt(jnp.where(self.signal > 0, self.signal, jnp.nan))
        return self.inner / (length[:, None] * length[None, :])


def noise_from_draws(
    sums: Float[Array, "R E P"], products: Float[Array, "R E E"], num_draws: int
) -> GradientNoise:
    """Computes signal and noise from R rounds of `num_draws` draws of E gradients of P entries.

    Args:
      sums: sum of a round's draws.
      products: sum over a round's draws of g_i . g_j.
      num_draws: number of draws in a round, at least 2.

    >>> draws = jnp.array([[1.0, 2.0], [3.0, 2.0]])  # a pair: inner product 7, half squared distance 2
    >>> noise = noise_from_draws(draws.sum(0)[None, None], jnp.sum(draws**2)[None, None, None], 2)
    >>> float(noise.signal[0]), float(noise.variance[0])
    (7.0, 2.0)
    """
    if num_draws < 2:
        raise ValueError(
            f"num_draws={num_draws}; expected at least 2, since a variance needs a pair"
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
    """Measures signal, noise and angles of every estimator's gradient at a run's parameters.

    The gradient is that of `training.update`: of a batch of the run's size, with its advantage, with respect
    to its parameters. All estimators see the same contexts, candidates, rankings and rewards; the run's
    entropy bonus is left out, since it differs between scores. `ca_pg_swap` has no advantage.

    Args:
      run: a run from `prepare` (step 0), `train`, or a run folder.
      estimators: names in `ESTIMATORS`; by default all that support the run's number of experts, without
        the slow `ca_pg_exact`. Include `v_pg` for the angle to the policy gradient.
      seed: one of the run's seeds; the first by default.
      num_rounds: independent repetitions, for the standard errors.
      num_draws: batches per round.

    Returns:
      {"estimators": names, "noise": GradientNoise in their order}.

    Raises:
      ValueError: the estimator or seed is unknown, there are too few draws, or a draw is not finite.
    """
    quotas = run.policy.quotas
    names = estimators or tuple(
        name
        for name, e in ESTIMATORS.items()
        if name != "ca_pg_exact"
        and not e.by_predictions
        and (e.max_experts or len(quotas)) >= len(quotas)
    )
    if seed is not None and seed not in run.config.seeds:
        raise ValueError(f"seed={seed} was not trained; expected one of {run.config.seeds}")
    place = run.config.seeds.index(seed) if seed is not None else 0
    state = jax.tree.map(lambda leaf: leaf[place], run.state)
    arms = {
        name: replace(
            run.learner,
            estimator=estimator,
            entropy_bonus=0.0,
            advantage=identity() if estimator.by_swaps else run.learner.advantage,
        )
        for name in names
        for estimator in [check_estimator(name, len(quotas))]
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
    """Measures signal and noise for learners that share parameters but differ in any other component.

    Args:
      key: consumed; all learners share the key of a draw.
      learners: name -> learner; the result keeps their order.
      state: one seed's state; its parameters and baseline state are used.
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
    """Returns the ascent direction of one update, and its `Fault`."""
    still = replace(learner, optimizer=optax.set_to_zero(), adaptive_learning_rate=False)
    memory = still.optimizer.init(state.params)
    start = replace(state, optimizer_state=memory, fault=jnp.zeros((), jnp.int32))
    after, step = update(still, start, still.simulate(key))
    return -ravel_pytree(step.gradient)[0], after.fault
