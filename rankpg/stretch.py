"""What the updates since the last evaluation had: kept between chunks, and in a checkpoint between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Stretch"]


@dataclass
class Stretch:
    """Updates since the last evaluation, the seconds they took, and the sums of their metrics.

    Sums are float64 and taken update by update, so they are the same wherever chunks end.

    >>> whole, halves = Stretch(), Stretch()
    >>> loss = np.float32([[0.1, 0.2, 0.3]])  # [seeds, updates]
    >>> whole.add({"loss": loss}, 1.0)
    >>> halves.add({"loss": loss[:, :1]}, 0.4)
    >>> halves = Stretch.from_notes(halves.notes())
    >>> halves.add({"loss": loss[:, 1:]}, 0.6)
    >>> bool(halves.means()["loss"] == whole.means()["loss"])
    True
    """

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Count a chunk in: metrics [seeds, updates] by name."""
        (length,) = {values.shape[1] for values in metrics.values()}
        for name, values in metrics.items():
            before = self.sums.get(name, np.zeros(len(values)))
            terms = np.concatenate([before[:, None], values.astype(np.float64)], axis=1)
            self.sums[name] = np.add.accumulate(terms, axis=1)[:, -1]
        self.steps += length
        self.seconds += seconds

    @property
    def speed(self) -> float | None:
        """Updates a second; None before the first."""
        return self.steps / self.seconds if self.steps else None

    def means(self) -> dict[str, np.ndarray]:
        """By name, [seeds]."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def notes(self) -> dict[str, Any]:
        """As JSON holds it: None for a sum that is not finite, whose mean is not told either."""
        sums = {
            name: [float(x) if np.isfinite(x) else None for x in total]
            for name, total in self.sums.items()
        }
        return {"steps": self.steps, "seconds": self.seconds, "sums": sums}

    @classmethod
    def from_notes(cls, notes: dict[str, Any]) -> Stretch:
        """What `notes` told.

        Raises:
          ValueError, KeyError, TypeError: these are no such notes.
        """
        sums = {
            name: np.array([np.nan if x is None else x for x in total], np.float64)
            for name, total in notes["sums"].items()
        }
        return cls(int(notes["steps"]), float(notes["seconds"]), sums)
