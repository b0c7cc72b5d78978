"""How much memory a run will need, told before anything large is made."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace
from typing import Any
import jax
import jax.numpy as jnp
import os

from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluation_block
from rankpg.policy import Pipeline
from rankpg.training.optimizer import stepped_in_place
from rankpg.training.optimizer import widened
from rankpg.training.update import init_state
from rankpg.types import Embeddings
from rankpg.types import Environment

__all__ = ['DoesNotFit', 'Memory', 'available_memory', 'check_memory', 'estimate_memory']

_FLOAT = 4


class DoesNotFit(ConfigError):
    """A run that needs more memory than there is."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run, by what they hold."""

    environment: int
    parameters: int
    gradient: int
    embeddings: int
    """of the items, and their gradient, where a tower computes them"""
    optimizer: int
    retrieval: int
    evaluation: int
    diagnostics: int
    """a gradient and a sum of several"""

    @property
    def total(self) -> int:
        """Training, evaluation and diagnostics take turns, so the largest counts."""
        held = self.environment + self.parameters + self.optimizer
        step = max(self.gradient, self.diagnostics) + self.embeddings + self.retrieval
        return held + max(step, self.evaluation)

    def __str__(self) -> str:
        parts = {name: size for name, size in vars(self).items() if size >= 2**20}
        inside = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
        return f"{_size(self.total)}" + (f" ({inside})" if inside else "")


def estimate_memory(pipeline: Pipeline, environment: Environment, seeds: int) -> Memory:
    """What a run of so many seeds will need on one device, from shapes alone.

    The factors are what XLA's buffers came to on a CPU, rounded up. Gradient: 3 times the parameters, with
    what the optimizer makes of it; once where a large model is stepped in place. Dense retrieval: 6 times the
    logits of a batch. Streamed: 6 times those of a chunk, 4 times the sums of all blocks, and what is opened.
    Items that a tower embeds: 3 times their embeddings, with the gradient of these. Diagnostics: a gradient,
    and a sum of several in float32.
    """
    state = jax.eval_shape(lambda: init_state(pipeline, jax.random.key(0)))
    state = pipeline.placement.on_a_device(state)
    parameters, optimizer = _bytes(state.params), _bytes(state.optimizer_state)
    experts, num_items = len(pipeline.quotas), environment.num_items
    depth = min(num_items, sum(pipeline.quotas) + 1)
    embedded, share = _embedded(pipeline, environment, state.params), 1.0
    if pipeline.retrieval.name == "dense":
        retrieval = 6 * pipeline.batch_size * experts * num_items * _FLOAT
    else:
        contexts, layout = pipeline.placement.share(pipeline.batch_size, num_items, depth)
        share = layout.num_items / num_items
        chunk = 6 * min(layout.size, num_items)
        numbers = chunk + 4 * layout.num_blocks + 4 * depth * layout.width
        retrieval = contexts * experts * numbers * _FLOAT
    block = evaluation_block(num_items, pipeline.quotas)
    return Memory(
        environment=_bytes(environment),
        parameters=seeds * parameters,
        gradient=(1 if seeds == 1 and stepped_in_place(state.params) else 3) * seeds * parameters,
        embeddings=3 * seeds * int(share * embedded),
        optimizer=seeds * optimizer,
        retrieval=seeds * retrieval,
        evaluation=seeds * block.size_of_one * block.contexts,
        diagnostics=seeds * (parameters + _bytes(jax.eval_shape(widened, state.params))),
    )


def _embedded(pipeline: Pipeline, environment: Environment, params: Any) -> int:
    """Bytes of the item embeddings that an encoder computes; 0 where they are its parameters."""
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    encoded = jax.eval_shape(pipeline.encoder.encode, params, environment, one)
    if not isinstance(encoded, Embeddings):
        return 0
    tables = {leaf.shape for leaf in jax.tree.leaves(params)}
    return 0 if encoded.items.shape in tables else _bytes(encoded.items)


def check_memory(pipeline: Pipeline, environment: Environment, seeds: int) -> Memory:
    """The estimate, where it fits the device.

    Raises:
      DoesNotFit: it does not; the message says what would.
    """
    needed, free = estimate_memory(pipeline, environment, seeds), available_memory()
    if free is None or needed.total <= free:
        return needed
    batch = max(1, pipeline.batch_size // 4)
    streamed = replace(pipeline, retrieval=pipeline.retrieval._replace(name="streamed"))
    ways = {
        "--retrieval streamed": (streamed, seeds),
        f"--batch-size {batch}": (replace(pipeline, batch_size=batch), seeds),
        "one of the --seeds at a time": (pipeline, 1),
        "--retrieval streamed with one seed at a time": (streamed, 1),
    }
    if pipeline.retrieval.name != "dense" or pipeline.estimator.statistics == "catalogue":
        ways = {way: how for way, how in ways.items() if "streamed" not in way}
    sizes = {way: estimate_memory(how, environment, s).total for way, (how, s) in ways.items()}
    fitting = [f"{way} ({_size(size)})" for way, size in sizes.items() if size <= free]
    advice = " or ".join(fitting[:2]) or _smaller(environment.num_items, needed.total / free)
    raise DoesNotFit(
        f"this run would need about {needed}, and {jax.devices()[0]} has {_size(free)} free. "
        f"What would fit: {advice}"
    )


def _smaller(num_items: int, times: float) -> str:
    """What helps a run that is too large whatever its settings: most of it grows with the items."""
    fewer = float(f"{num_items / times:.2g}")
    return (
        f"about {fewer:,.0f} items, {times:.2g} times less of --embedding-dim, towers over "
        "features (--item-tower features) in place of a table and its moments, --table-dtype bfloat16, "
        "more devices (--retrieval sharded), or a larger machine"
    )


def available_memory() -> int | None:
    """Bytes that JAX's first device can still give; None where it does not tell."""
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
    """In MiB below 1 GiB, else in GiB."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
