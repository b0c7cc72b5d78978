"""Settings of a training run: their fields, presets, former names and checks."""

from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError

__all__ = ["ConfigError", "TrainConfig"]
