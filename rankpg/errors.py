"""Settings as dataclass fields: their help, their types and choices, and one door for their values."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A setting that cannot be; the message names its flag and says what would do."""
