"""Compiled programs that a process keeps: what was compiled once is not compiled again."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import jax

__all__ = ["Program", "compiled"]

_MOST = 64
"""Number of programs that are kept: those that were used last."""

_OUTWARD = re.compile(r"callback|\b(infeed|outfeed|send|recv)\b", re.IGNORECASE)
"""Operations whose effect does not stand in the text."""

_kept: OrderedDict[str, Any] = OrderedDict()
_lock = Lock()


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled function of trees of arrays."""

    executable: Any
    """The function of their leaves."""
    structure: Any
    """That of the arguments."""
    result: Any
    """The structure of the result."""

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if structure != self.structure:
            raise TypeError(f"arguments of structure {structure}; expected {self.structure}")
        return self.result.unflatten(self.executable(*leaves))


def compiled(
    function: Callable[..., Any], *arguments: Any, donate_argnums: tuple[int, ...] = ()
) -> Program:
    """Compiles a function for arguments of these shapes, unless the same program was compiled before.

    Two functions have the same program if they lower to the same text on the same devices. So a second
    training of equal settings traces its functions, and compiles none. `jax.jit` compiles them again, since
    it compares functions by identity, and every run builds its own. A program that calls back to Python is
    never kept, since its text does not name the function that it calls.

    Args:
      function: a pure function of trees of arrays.
      *arguments: its arguments, of which only shapes, dtypes, devices and structure matter.
      donate_argnums: places of the arguments whose memory the results may take.

    Returns:
      The function for arguments of the same shapes and structure.

    >>> import jax.numpy as jnp
    >>> double, again, triple = (compiled(lambda x, a=a: a * x, jnp.ones(3)) for a in (2, 2, 3))
    >>> [float(program(jnp.ones(3)).sum()) for program in (double, again, triple)]
    [6.0, 6.0, 9.0]
    >>> double.executable is again.executable, double.executable is triple.executable
    (True, False)
    """
    leaves, structure = jax.tree.flatten(arguments)
    places = iter(range(len(leaves)))
    of_argument = [[next(places) for _ in jax.tree.leaves(given)] for given in arguments]
    donated = tuple(place for number in donate_argnums for place in of_argument[number])
    results: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        found, result = jax.tree.flatten(function(*structure.unflatten(leaves)))
        results.append(result)
        return found

    # Every argument stays in the text: without those that are not used, it would not say which are.
    jitted = jax.jit(flat, donate_argnums=donated, keep_unused=True)
    lowered = jitted.lower(*leaves)
    return Program(_compiled_once(lowered, leaves), structure, results[0])


def _default_device() -> Any:
    return getattr(jax.config, "jax_default_device", None)


def _placed(leaf: Any) -> str:
    """The devices of an array, in their order, and how it is divided among them."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return "host"
    devices = getattr(sharding, "_device_assignment", None) or sorted(
        sharding.device_set, key=lambda device: device.id
    )
    return f"{sharding} {[device.id for device in devices]}"


def _compiled_once(lowered: Any, leaves: list[Any]) -> Any:
    """The executable of a lowered function, which is kept."""
    text = lowered.as_text()
    if _OUTWARD.search(text) or getattr(jax.config, "jax_use_simplified_jaxpr_constants", False):
        return lowered.compile()
    where = [_placed(leaf) for leaf in leaves], jax.default_backend(), _default_device()
    key = hashlib.sha256(f"{text}{where}".encode()).hexdigest()
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    executable = lowered.compile()
    with _lock:
        _kept[key] = executable
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
    return executable
