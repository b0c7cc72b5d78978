"""Table 5: relative error of the greedy approximation of an inclusion probability (Eq. 8).

Both are computed in float64 for every item of a catalogue of normal logits, divided by a temperature:

    relative error of item a = |P_greedy(a in S) - P(a in S)| / P(a in S)

The choice of the items in the average matters more than the draw of the logits, so several averages are
reported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.paper.published import TABLE5, TABLE5_COLUMNS
from rankpg._utils.plots import mean_interval
from rankpg.core.inclusion import log_inclusion
from rankpg.types import Array, Float, Int

__all__ = ["DEFINITIONS", "inclusion_of_all", "measure"]

_Both = Callable[[np.ndarray, np.ndarray], float | None]
"""(exact [N], greedy [N]) -> one number; None if no item qualifies."""


def _relative(exact: np.ndarray, greedy: np.ndarray) -> np.ndarray:
    return np.abs(greedy - exact) / exact


def _mean_where(chosen: np.ndarray, errors: np.ndarray) -> float | None:
    return float(errors[chosen].mean()) if chosen.any() else None


def _relative_log(exact: np.ndarray, greedy: np.ndarray) -> float:
    """Mean of |log P_greedy - log P| / |log P| over the items whose inclusion is not certain."""
    open_ = exact < 1 - 1e-9
    ratio = np.log(greedy[open_]) / np.log(exact[open_])
    return float(np.abs(ratio - 1).mean())


DEFINITIONS: dict[str, _Both] = {
    "all items": lambda p, g: float(_relative(p, g).mean()),
    "P > 0.02": lambda p, g: _mean_where(p > 0.02, _relative(p, g)),
    "0.04 < P < 0.4": lambda p, g: _mean_where((p > 0.04) & (p < 0.4), _relative(p, g)),
    "largest": lambda p, g: float(_relative(p, g).max()),
    "weighted by P": lambda p, g: float(np.abs(g - p).sum() / p.sum()),
    "excess of the sum": lambda p, g: float(abs(g.sum() / round(p.sum()) - 1)),
    "most likely item": lambda p, g: float(_relative(p, g)[np.argmax(p)]),
    "absolute": lambda p, g: float(np.abs(g - p).mean()),
    "absolute, median item": lambda p, g: float(np.median(np.abs(g - p))),
    "of log P": _relative_log,
}
"""Ways to summarise the errors of N items in one number.

"Weighted by P" is the average error of a drawn candidate: the summed absolute error divided by K. It is at
least the "excess of the sum", |sum_a P_greedy / K - 1|, which needs no exact probabilities: they sum to K."""


@dataclass(frozen=True)
class Effort:
    """Size of the measurement."""

    num_items: int
    draws: int
    temperatures: tuple[float, ...]
    candidates: tuple[int, ...]


EFFORT = {
    "smoke": Effort(100, 2, (1.0, 0.2), (5,)),
    "laptop": Effort(1000, 3, tuple(TABLE5), TABLE5_COLUMNS),
    "full": Effort(1000, 10, tuple(TABLE5), TABLE5_COLUMNS),
}
"""scale -> size of the measurement. The paper has no number for the smoke scale's smaller catalogue."""


def measure(scale: str) -> dict[str, Any]:
    """Measures the error by every definition at every temperature and K: mean over draws of the logits."""
    effort = EFFORT[scale]
    normal = [np.random.default_rng(d).normal(size=effort.num_items) for d in range(effort.draws)]
    cells = []
    for temperature in effort.temperatures:
        for k in effort.candidates:
            draws = [inclusion_of_all(logits / temperature, k) for logits in normal]
            paper = TABLE5[temperature][TABLE5_COLUMNS.index(k)]
            cells.append(
                {
                    "temperature": temperature,
                    "num_candidates": k,
                    "paper": paper if effort.num_items == 1000 else None,
                    "errors": {
                        name: _summary(error(exact, greedy) for exact, greedy in draws)
                        for name, error in DEFINITIONS.items()
                    },
                }
            )
    return {"num_items": effort.num_items, "definitions": list(DEFINITIONS), "cells": cells}


def inclusion_of_all(logits: np.ndarray, num_candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns P(a in S) of every item, exact and greedy, in float64.

    >>> exact, greedy = inclusion_of_all(np.array([1.0, 0.0, -1.0]), 2)
    >>> f"{exact.sum():.6f} {greedy.sum():.3f}"  # the exact ones sum to K
    '2.000000 2.092'
    """
    with _float64():
        f = jnp.asarray(logits, jnp.float64)
        exact, greedy = (
            np.exp(np.asarray(_log_of_all(f, num_candidates, m))) for m in ("exact", "greedy")
        )
    return exact, greedy


@partial(jax.jit, static_argnums=(1, 2))
def _log_of_all(logits: Float[Array, "N"], num_candidates: int, method: str) -> Float[Array, "N"]:
    def one(item: Int[Array, ""]) -> Float[Array, ""]:
        return log_inclusion(logits[None], item, (num_candidates,), method)

    items = jnp.arange(logits.shape[0], dtype=jnp.int32)
    return jax.lax.map(one, items, batch_size=min(16, items.shape[0]))


def _summary(values: Iterable[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "half_width_95": None, "draws": 0}
    mean, half = mean_interval(known)
    return {"mean": mean, "half_width_95": half, "draws": len(known)}


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Enables float64 within the block, in old and new versions of JAX."""
    switch = getattr(jax, "enable_x64", None)
    if switch is None:
        from jax import experimental

        switch = getattr(experimental, "enable_x64")  # noqa: B009  removed in newer versions
    with switch(True):
        yield
