"""The hardware's limit: the time of the work that no step can avoid, each part measured on this machine.

A step over a catalogue whose logits are not stored needs four products (logits; logits again in the backward
pass; the gradients of both tables) and two exponentials of every logit.

On a CPU the parts run one after the other: their times are summed, and the optimizer's step is timed as well.
On an accelerator they overlap: the longest counts, and the optimizer counts by the bytes that it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import seconds_of
from rankpg.runs.run import Run

__all__ = ["Limit", "Rates", "Work", "hardware_limit", "time_at", "work_of"]

_CHUNK = 4096
"""Rows of a product that fit the processor's cache, as in a step."""

_CHAIN = 128
"""Chained exponentials of one number: they stay in registers, so memory does not limit them."""

_STEPPED = 2**20
"""Least numbers that an optimizer updates in one call, so that the call's overhead is negligible."""


class Work(NamedTuple):
    """Work that no step can avoid."""

    flop: int
    """4 products of B x N x D for every expert, two operations per term."""
    exponentials: int
    """2 for every logit."""
    moved_bytes: int
    """Tables read twice, optimizer state read and written once."""


class Rates(NamedTuple):
    """Rates of a device per second; each is measured when it is called."""

    flop: Callable[[], float]
    exponentials: Callable[[], float]
    moved_bytes: Callable[[], float]


class Limit(NamedTuple):
    """Seconds per step by part; each is measured when it is called."""

    parts: Mapping[str, Callable[[], float]]
    added: bool
    """True if the parts are summed; False if the longest counts."""

    def of(self, seconds: Mapping[str, float]) -> float:
        """Returns the limit, given the seconds of its parts.

        >>> Limit({}, added=True).of({"products": 2.0, "exponentials": 1.0})
        3.0
        >>> Limit({}, added=False).of({"products": 2.0, "exponentials": 1.0})
        2.0
        """
        return sum(seconds.values()) if self.added else max(seconds.values())

    def seconds(self) -> float:
        """Measures every part and returns the limit."""
        return self.of({name: part() for name, part in self.parts.items()})


def work_of(run: Run) -> Work:
    """Counts the work of a step from the shapes of a run of one seed."""
    config, state = run.config, run.state
    logits = config.batch_size * config.num_experts * run.environment.num_items
    moved = 2 * _bytes(state.params) + 2 * _bytes(state.optimizer_state)
    return Work(4 * 2 * logits * config.embedding_dim, 2 * logits, moved)


def hardware_limit(run: Run) -> Limit:
    """Limit of JAX's default device at a run's shape."""
    if jax.default_backend() == "cpu":
        return Limit(_on_a_cpu(run), added=True)
    dtype = run.policy.product_dtype
    return Limit(time_at(work_of(run), rates_of_device(dtype)), added=False)


def time_at(work: Work, rates: Rates) -> dict[str, Callable[[], float]]:
    """Returns the seconds of every part of the work at a device's rates."""
    names = {"flop": "products", "exponentials": "exponentials", "moved_bytes": "memory"}

    def seconds(amount: int, rate: Callable[[], float]) -> float:
        return amount / rate()

    return {
        name: partial(seconds, getattr(work, kind), getattr(rates, kind))
        for kind, name in names.items()
    }


def rates_of_device(
    dtype: Any = jnp.float32, *, width: int = 8192, elements: int = 2**24, copied: int = 2**26
) -> Rates:
    """Peak rates of a square product, of exponentials in registers, and of a copy larger than any cache.

    Args:
      dtype: dtype of the product, at JAX's default precision.
      width: width of the product's matrices.
      elements: number of exponentials.
      copied: float32 numbers that the copy reads and writes.
    """
    matrix = jax.random.normal(
        jax.random.key(0), (width, width), dtype
    )  # zeros and ones cost less power
    numbers = jnp.linspace(0.0, 1.0, elements, dtype=jnp.float32)
    source = jnp.ones((copied,), jnp.float32)

    def chain(x: Any) -> Any:
        for _ in range(_CHAIN):
            x = jnp.exp(-x)
        return x

    product, exponential = jax.jit(jnp.matmul), jax.jit(chain)
    copy = jax.jit(lambda x: x + jnp.float32(1))
    return Rates(
        flop=lambda: 2 * width**3 / _median(lambda: product(matrix, matrix), 10),
        exponentials=lambda: _CHAIN * elements / _median(lambda: exponential(numbers), 10),
        moved_bytes=lambda: 2 * source.nbytes / _median(lambda: copy(source), 10),
    )


def _on_a_cpu(run: Run) -> dict[str, Callable[[], float]]:
    """Parts of a CPU's limit: products and exponentials on cached chunks, the optimizer over all tables."""
    config = run.config
    contexts, dim = config.batch_size * config.num_experts, config.embedding_dim
    chunks = run.environment.num_items / _CHUNK
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.random.normal(keys[0], (_CHUNK, dim), jnp.float32)
    vectors = jax.random.normal(keys[1], (dim, contexts), jnp.float32)
    logits = -jnp.abs(jax.random.normal(keys[2], (_CHUNK, contexts), jnp.float32))
    product, exponential = jax.jit(jnp.matmul), jax.jit(jnp.exp)

    return {
        "products": lambda: 4 * chunks * _median(lambda: product(rows, vectors), 50),
        "exponentials": lambda: 2 * chunks * _median(lambda: exponential(logits), 50),
        "optimizer": _optimizer_step(run.learner.optimizer, run.state.params),
    }


def _optimizer_step(optimizer: optax.GradientTransformation, params: Any) -> Callable[[], float]:
    """Returns a timer of the optimizer's step over tables of these shapes, in place."""
    tables = jax.tree.map(jnp.ones_like, params)
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), tables)
    state = tables, optimizer.init(tables)
    steps = max(1, _STEPPED // sum(x.size for x in jax.tree.leaves(tables)))

    def step(state: Any, gradient: Any) -> Any:
        params, memory = state
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory

    @partial(jax.jit, donate_argnums=0)
    def several(state: Any, gradient: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, state: step(state, gradient), state)

    def call() -> Any:
        nonlocal state
        state = several(state, gradient)
        return state

    return lambda: _median(call, 3) / steps


def _median(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after a warm-up."""
    jax.block_until_ready(call())
    return float(np.median([seconds_of(call) for _ in range(repeats)]))


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))
