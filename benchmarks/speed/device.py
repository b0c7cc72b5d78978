"""Selects the platform, and records the load of the machine."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import jax

from rankpg.errors import ConfigError

__all__ = ["PLATFORMS", "circumstances", "use_platform"]

PLATFORMS = ("cpu", "gpu", "tpu")


def use_platform(platform: str) -> None:
    """Makes JAX compute on a platform; must be called before JAX is used.

    Raises:
      ConfigError: JAX computes on another platform; the message lists the devices.

    >>> use_platform(jax.default_backend())
    """
    if platform == "cpu":  # else JAX takes an accelerator if it finds one
        jax.config.update("jax_platforms", "cpu")
    found = jax.default_backend()
    if found == platform:
        return
    kinds = Counter(f"{device.device_kind} ({device.platform})" for device in jax.devices())
    present = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    wish = os.environ.get("JAX_PLATFORMS")
    cause = f" (JAX_PLATFORMS={wish})" if wish else ""
    remedy = {"gpu": " (NVIDIA: pip install 'rankpg[cuda]')", "tpu": " (pip install 'jax[tpu]')"}
    raise ConfigError(
        f"device={platform!r}, but JAX computes on {present}{cause}; expected device={found!r}, or a JAX "
        f"installation that supports a {platform}{remedy.get(platform, '')}"
    )


def circumstances() -> dict[str, Any]:
    """Cores and XLA flags of this process, and the machine's load over the last minute."""
    whole = os.cpu_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else whole
    return {
        "cores": cores,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_before": round(os.getloadavg()[0], 2),
    }
