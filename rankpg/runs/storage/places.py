"""Places of the files that a run's settings name, also after run and files have moved together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankpg._utils.documents import read_json
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.storage.contents import KEEP

__all__ = [
    "PATHS",
    "MovedDataError",
    "check_data_is_there",
    "has_data",
    "relative_paths",
    "relocated",
]

PATHS = ("path", "items_path", "init_embeddings", "init_ids")
"""Settings that name a file or a folder."""

_IN_FILE = "::"
"""Separates the name of a file from names of arrays in it."""


class MovedDataError(ConfigError):
    """Data of a run that is needed and is not where the settings say."""


def relative_paths(folder: Path, config: TrainConfig) -> dict[str, str]:
    """Returns the files that settings name, as paths that start at the run folder, by setting.

    >>> config = TrainConfig(environment="ratings", path="/data/ratings.csv")
    >>> relative_paths(Path("/data/runs/first"), config)
    {'path': '../../ratings.csv'}
    """
    found = {}
    for name in PATHS:
        value = getattr(config, name)
        if value is not None:
            file, separator, rest = value.partition(_IN_FILE)
            relative = os.path.relpath(os.path.realpath(file), os.path.realpath(folder))
            found[name] = f"{relative}{separator}{rest}"
    return found


def relocated(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, with each missing file looked up at its place relative to the run folder."""
    found = dict(settings)
    for name, relative in _saved_paths(folder).items():
        value = settings.get(name)
        if isinstance(value, str) and not _exists(value):
            candidate = os.path.normpath(os.path.join(os.path.realpath(folder), relative))
            if _exists(candidate):
                found[name] = candidate
    return found


def has_data(config: TrainConfig) -> bool:
    """Returns False if the settings name a table or folder of data that does not exist."""
    return config.path is None or Path(config.path).exists()


def check_data_is_there(config: TrainConfig, run: Path) -> None:
    """Rejects settings whose data is not there.

    Args:
      config: settings of a run.
      run: the run folder, which the message names.

    Raises:
      MovedDataError: names the file, and what to do.
    """
    if not has_data(config):
        raise MovedDataError(
            f"the data of {run} is not at {config.path}; if it has moved, pass its present place, path=; its "
            "checksums must be those of the run"
        )


def _saved_paths(folder: Path) -> dict[str, str]:
    """Returns the relative paths in folder.json; none if it holds none or cannot be read."""
    try:
        saved = read_json(folder / KEEP)["paths"]
        return {name: saved[name] for name in PATHS if isinstance(saved.get(name), str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _exists(value: str) -> bool:
    return os.path.exists(value.partition(_IN_FILE)[0])
