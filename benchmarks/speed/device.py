"""Which platform computes, and how busy the machine is."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import jax

from rankpg.errors import ConfigError

__all__ = ["PLATFORMS", "circumstances", "use_platform"]

PLATFORMS = ("cpu", "gpu", "tpu")


def use_platform(platform: str) -> None:
    """See to it that JAX computes on a platform; to be called before JAX does anything.

    Raises:
      ConfigError: it does not; the message names what there is.

    >>> use_platform(jax.default_backend())
    """
    if platform == "cpu":  # an accelerator that is there is taken unless it is told otherwise
        jax.config.update("jax_platforms", "cpu")
    found = jax.default_backend()
    if found == platform:
        return
    kinds = Counter(f"{device.device_kind} ({device.platform})" for device in jax.devices())
    there = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    wish = os.environ.get("JAX_PLATFORMS")
    cause = f", and JAX_PLATFORMS is {wish}" if wish else ""
    remedy = {"gpu": " (NVIDIA: pip install 'rankpg[cuda]')", "tpu": " (pip install 'jax[tpu]')"}
    raise ConfigError(
        f"--device is {platform}, but JAX computes on {there}{cause}; expected --device {found}, or a "
        f"JAX that sees a {platform}{remedy.get(platform, '')}"
    )


def circumstances() -> dict[str, Any]:
    """The cores and flags of this process, and what the machine was doing before: its load of a minute."""
    whole = os.cpu_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else whole
    return {
        "cores": cores,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_before": round(os.getloadavg()[0], 2),
    }
