"""Origin of the settings of a run, and errors that name it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from rankpg.cli.flags import first_argument, with_flags
from rankpg.errors import ConfigError

__all__ = ["Origin", "SettingsFileError"]


class SettingsFileError(ConfigError):
    """A setting of a file that cannot be used; the message names the file, and flags as flags."""


@dataclass(frozen=True)
class Origin:
    """A settings file, and the flags in its place.

    >>> origin = Origin(Path("mine.yaml"), in_file={"ranking_length"}, in_flags={"num_candidates"})
    >>> with origin.named():
    ...     raise ConfigError("ranking_length=4 exceeds num_candidates=3")
    Traceback (most recent call last):
    rankpg.cli.origin.SettingsFileError: mine.yaml: ranking_length=4 exceeds --num-candidates 3
    """

    file: Path | None
    """The file; None if there is none."""

    in_file: Collection[str]
    """Names of the settings of the file."""

    in_flags: Collection[str]
    """Names of the settings that are given as flags, which override the file."""

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Names the file in errors of the block that reject one of its settings.

        Raises:
          SettingsFileError: in place of such an error; others stay as they are.
        """
        try:
            yield
        except ValueError as error:
            rejected = first_argument(str(error), {*self.in_file, *self.in_flags})
            if rejected is None or rejected in self.in_flags:
                raise
            message = f"{self.file}: {with_flags(str(error), self.in_flags)}"
            raise SettingsFileError(message) from error
