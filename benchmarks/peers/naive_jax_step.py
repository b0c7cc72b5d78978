"""The step of top1_pg in plain JAX: all logits, one Gumbel variate per item, top-k, autodiff.

`benchmarks/scripts/speed.py` compares with it. The problem is the paper's; only candidates have rewards.
"""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import optax

__all__ = ["Problem", "seconds_per_step"]


class Problem:
    """Features, tables and an optimizer; `step` is one compiled update with donated state."""

    def __init__(
        self, num_contexts: int, num_items: int, dim: int, num_candidates: int, batch: int
    ):
        keys = jax.random.split(jax.random.key(0), 6)
        features = (
            2 * jax.random.uniform(k, (n, 10)) - 1
            for k, n in zip(keys, (num_contexts, num_items), strict=False)
        )
        self.features = [f / jnp.linalg.norm(f, axis=1, keepdims=True) for f in features]
        self.projection = jax.random.normal(keys[2], (10, 10)) / 10**0.5
        params = {
            "contexts": jax.random.normal(keys[3], (num_contexts, dim)),
            "items": jax.random.normal(keys[4], (num_items, dim)),
        }
        optimizer = optax.adagrad(1e-2)
        self.state = params, optimizer.init(params), keys[5]

        @partial(jax.jit, donate_argnums=0)
        def step(state, x, e, projection):
            params, memory, key = state
            key, contexts_key, gumbel_key, reward_key = jax.random.split(key, 4)
            context = jax.random.randint(contexts_key, (batch,), 0, num_contexts)

            def loss(params):
                logits = params["contexts"][context] @ params["items"].T
                gumbel = jax.random.gumbel(gumbel_key, logits.shape)
                candidates = jax.lax.top_k(jax.lax.stop_gradient(logits) + gumbel, num_candidates)[
                    1
                ]
                q = jnp.einsum("bf,bkf->bk", x[context] @ projection, e[candidates])
                mean = jax.nn.softplus(10 * q) + 1
                best = jnp.argmax(mean, axis=1, keepdims=True)
                shown = jnp.take_along_axis(candidates, best, axis=1)
                reward = jnp.take_along_axis(mean, best, axis=1)[:, 0]
                reward += jax.random.normal(reward_key, (batch,))
                log_policy = jax.nn.log_softmax(logits)
                return -jnp.mean(reward * jnp.take_along_axis(log_policy, shown, axis=1)[:, 0])

            updates, memory = optimizer.update(jax.grad(loss)(params), memory, params)
            return optax.apply_updates(params, updates), memory, key

        self._step = step

    def step(self) -> None:
        """Trains one step."""
        self.state = self._step(self.state, *self.features, self.projection)


def seconds_per_step(problem: Problem, steps: int) -> float:
    """Wall time of `steps` further steps, in seconds per step."""
    began = time.perf_counter()
    for _ in range(steps):
        problem.step()
    jax.block_until_ready(problem.state)
    return (time.perf_counter() - began) / steps
