"""Estimate of the memory that a run needs, before anything large is allocated."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluation_block
from rankpg.retrieval.streamed import Streamed
from rankpg.training.optimizer import stepped_in_place, widened
from rankpg.training.update import Learner
from rankpg.types import Embeddings, Params

__all__ = ["DoesNotFit", "Memory", "available_memory", "check_memory", "estimate_memory"]

_FLOAT = 4


class DoesNotFit(ConfigError):
    """Raised for a run that needs more memory than the device has."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run, by content."""

    environment: int
    parameters: int
    gradient: int
    embeddings: int
    """Item embeddings that a tower computes, and their gradient."""
    optimizer: int
    retrieval: int
    evaluation: int
    diagnostics: int
    """A gradient, and a sum of several."""

    @property
    def total(self) -> int:
        """Peak bytes: training, evaluation and diagnostics take turns, so the largest counts."""
        held = self.environment + self.parameters + self.optimizer
        step = max(self.gradient, self.diagnostics) + self.embeddings + self.retrieval
        return held + max(step, self.evaluation)

    def __str__(self) -> str:
        parts = {name: size for name, size in vars(self).items() if size >= 2**20}
        inside = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
        return f"{_size(self.total)}" + (f" ({inside})" if inside else "")


def estimate_memory(learner: Learner, seeds: int) -> Memory:
    """Estimates the memory that a run of some seeds needs on one device, from shapes alone.

    The factors are what XLA's buffers came to on a CPU, rounded up. Gradient: 3 times the parameters, with
    the optimizer's updates; once where a large model is stepped in place. Item embeddings of a tower: 3
    times, with their gradient. Diagnostics: a gradient, and a sum of several in float32. Retrieval: see
    `Retrieval.peak_bytes`.
    """
    policy, environment = learner.policy, learner.environment
    num_items, sharding = environment.num_items, policy.retrieval.sharding
    state = jax.eval_shape(lambda: learner.init(jax.random.key(0)))
    state = sharding.device_shapes(state)
    parameters, optimizer = _bytes(state.params), _bytes(state.optimizer_state)
    embedded = _embedded(learner, state.params) * sharding.rows_per_device(num_items) / num_items
    retrieval = policy.retrieval.peak_bytes(
        learner.sampler.batch_size, len(policy.quotas), num_items, policy.num_candidates
    )
    block = evaluation_block(num_items, policy.quotas)
    return Memory(
        environment=_bytes(environment),
        parameters=seeds * parameters,
        gradient=(1 if seeds == 1 and stepped_in_place(state.params) else 3) * seeds * parameters,
        embeddings=3 * seeds * int(embedded),
        optimizer=seeds * optimizer,
        retrieval=seeds * retrieval,
        evaluation=seeds * block.size_of_one * block.contexts,
        diagnostics=seeds * (parameters + _bytes(jax.eval_shape(widened, state.params))),
    )


def _embedded(learner: Learner, params: Params) -> int:
    """Bytes of the item embeddings that an encoder computes; 0 where they are its parameters."""
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    encode = learner.policy.encoder.encode
    encoded = jax.eval_shape(encode, params, learner.environment, one)
    if not isinstance(encoded, Embeddings):
        return 0
    tables = {leaf.shape for leaf in jax.tree.leaves(params)}
    return 0 if encoded.items.shape in tables else _bytes(encoded.items)


def check_memory(learner: Learner, seeds: int) -> Memory:
    """Returns the estimate where it fits the device.

    Raises:
      DoesNotFit: it does not; the message names settings that would.
    """
    needed, free = estimate_memory(learner, seeds), available_memory()
    if free is None or needed.total <= free:
        return needed
    batch = max(1, learner.sampler.batch_size // 4)
    smaller = replace(learner, sampler=learner.sampler._replace(batch_size=batch))
    ways = {f"batch_size={batch}": (smaller, seeds), "one of the seeds at a time": (learner, 1)}
    dense = learner.policy.retrieval.name == "dense"
    if dense and learner.estimator.statistics != "catalogue":
        streamed = replace(learner, policy=replace(learner.policy, retrieval=Streamed()))
        ways = {"retrieval='streamed'": (streamed, seeds), **ways}
        ways["retrieval='streamed' with one seed at a time"] = (streamed, 1)
    sizes = {way: estimate_memory(how, count).total for way, (how, count) in ways.items()}
    fitting = [f"{way} ({_size(size)})" for way, size in sizes.items() if size <= free]
    num_items = learner.environment.num_items
    advice = " or ".join(fitting[:2]) or _smaller(num_items, needed.total / free)
    raise DoesNotFit(
        f"this run would need about {needed}, and {jax.devices()[0]} has {_size(free)} free. "
        f"These settings would fit: {advice}"
    )


def _smaller(num_items: int, times: float) -> str:
    """Advice for a run that is too large under any settings: most of it grows with the items."""
    fewer = float(f"{num_items / times:.2g}")
    return (
        f"about {fewer:,.0f} items, {times:.2g} times less of embedding_dim, towers over "
        "features (item_tower='features') in place of a table and its moments, table_dtype='bfloat16', "
        "more devices (retrieval='sharded'), or a larger machine"
    )


def available_memory() -> int | None:
    """Free bytes of JAX's first device; None where it is unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))


def _size(size: int) -> str:
    """A size in MiB below 1 GiB, else in GiB."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
