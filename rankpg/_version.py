"""The version of the package, and those that a result depends on."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import jax

__version__ = "0.1.0"

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Returns the versions and the hardware that a result depends on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    found = {"python": platform.python_version(), "rankpg": __version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    device = jax.devices()[0]
    found["device"] = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return found
