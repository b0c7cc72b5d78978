"""The result of one method: its trials, and the metrics of every user; saved as soon as it is finished."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.documents import parse_json
from rankpg._utils.files import atomic_write
from rankpg._version import __version__
from rankpg.environments.dataset import Dataset
from rankpg.evaluation.intervals import Interval, bootstrap_interval
from rankpg.types import Float

__all__ = [
    "MOST_CANDIDATES",
    "Result",
    "Schedule",
    "Trial",
    "Tuned",
    "key_of",
    "load_result",
    "load_trials",
    "remove_trials",
    "result_file",
    "save_result",
    "save_trials",
]

MOST_CANDIDATES = 100
"""K, number of candidates of each user, unless a user may be shown fewer items."""


@dataclass(frozen=True)
class Schedule:
    """Number of updates of a method; all 0 for a method without updates."""

    steps: int = 0
    """Updates after which the validation metric was best."""
    num_steps: int = 0
    """Updates that the learning rate and the curriculum are laid out for."""
    start_steps: int = 0
    """Updates of the objective that came first, if there was one."""
    limited: bool = False
    """True if the time of a trial, not the number of passes over the data, set `num_steps`."""


@dataclass(frozen=True)
class Tuned:
    """The outcome of one trial: its validation metric, and the number of updates that it needs."""

    score: float
    schedule: Schedule = field(default_factory=Schedule)
    final_score: float | None = None
    """The metric of the final list; None without a re-ranker."""
    final_steps: int = 0
    """Updates after which it was best."""
    reranker_weight: float = 1.0
    """Weight of the re-ranker in the order of the final list by which it was best."""


@dataclass(frozen=True)
class Trial:
    """One entry of a method's grid, and its validation metric."""

    settings: Mapping[str, Any]
    score: float | None
    """None for a trial that failed."""
    schedule: Schedule = field(default_factory=Schedule)
    seconds: float = 0.0
    failure: str = ""
    """The reason, if it failed."""
    final_score: float | None = None
    """Validation metric of the final list; None without a re-ranker."""
    final_steps: int = 0
    """Updates after which it was best."""
    reranker_weight: float = 1.0
    """Weight of the re-ranker in the order of the final list by which it was best."""
    most_seconds: float | None = None
    """Seconds that the time of the comparison left for it; None without such a limit."""

    @property
    def final_schedule(self) -> Schedule:
        """The schedule by which the final list was best."""
        return dataclasses.replace(self.schedule, steps=self.final_steps)


@dataclass(frozen=True, eq=False)
class Result:
    """The trials of one method, and the metrics on the test part of the best of them."""

    name: str
    trials: tuple[Trial, ...]
    values: Mapping[str, Float[np.ndarray, "seeds n"]]
    """Metrics of every user: one row for each seed, one row for a method without seeds."""
    catalogue: Mapping[str, float]
    """Metrics of the catalogue, mean over seeds."""
    fit_seconds: float
    """Wall time of the final fit of all seeds, with its lists."""
    fit_limited: bool = False
    """True if the time of the comparison ended the final fit early."""

    @property
    def chosen(self) -> Trial:
        """The trial of the largest validation metric; the first of equal ones, or of those without one."""
        found = [trial for trial in self.trials if trial.score is not None]
        return max(found or self.trials, key=lambda trial: trial.score or 0.0)

    @property
    def chosen_for_final(self) -> Trial | None:
        """The trial of the largest validation metric of the final list; None without a re-ranker."""
        found = [trial for trial in self.trials if trial.final_score is not None]
        return max(found, key=lambda trial: trial.final_score or 0.0, default=None)

    @property
    def tuning_seconds(self) -> float:
        """Wall time of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def num_seeds(self) -> int:
        """Number of final fits, each with a seed of its own."""
        return max((len(table) for table in self.values.values()), default=0)

    @functools.cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Mean and bootstrap interval of every metric, over users."""
        return {name: bootstrap_interval(self.users(name)) for name in self.values}

    def users(self, metric: str) -> Float[np.ndarray, "n"]:
        """Returns a metric of every user, mean over seeds."""
        return np.asarray(self.values[metric]).mean(axis=0)


def key_of(data: Dataset, **settings: Any) -> str:
    """Returns the SHA-256 of data, parts and settings, which a saved result belongs to.

    Args:
      data: interactions with parts.
      **settings: plain values that a result depends on.

    >>> from rankpg.environments import from_interactions
    >>> data = from_interactions({"user": [1, 1, 1], "item": [5, 6, 7]}, split="none")
    >>> key_of(data, trials=1) == key_of(data, trials=1), key_of(data, trials=1) == key_of(data, trials=2)
    (True, False)
    """
    digest = hashlib.sha256()
    for part in data.parts or ():
        digest.update(np.ascontiguousarray(part).tobytes())
    plain = {"data": data.fingerprint(), "rankpg": __version__, "settings": settings}
    digest.update(json.dumps(plain, sort_keys=True, default=list).encode())
    return digest.hexdigest()


def result_file(folder: Path, name: str, key: str) -> Path:
    """Returns the file of a method's result; other data or settings have another file.

    >>> result_file(Path("out"), "ease", "0123456789abcdef").name
    'ease-0123456789ab.npz'
    """
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"name={name!r}; expected letters, digits and underscores")
    return folder / "methods" / f"{name}-{key[:12]}.npz"


def save_result(file: Path, result: Result, key: str) -> None:
    """Saves a result atomically.

    Args:
      file: from `result_file`.
      result: that of a finished method.
      key: from `key_of`.

    Raises:
      OSError: it cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "ease.npz"
    >>> values = {"ndcg@10": np.ones((1, 2))}
    >>> save_result(file, Result("ease", (Trial({"l2": 1.0}, 0.5),), values, {}, 2.0), "key")
    >>> load_result(file, "key").chosen.settings, load_result(file, "other")
    ({'l2': 1.0}, None)
    """
    record = {
        "key": key,
        "name": result.name,
        "trials": [dataclasses.asdict(trial) for trial in result.trials],
        "catalogue": dict(result.catalogue),
        "fit_seconds": result.fit_seconds,
        "fit_limited": result.fit_limited,
    }
    arrays: dict[str, Any] = {f"value:{name}": table for name, table in result.values.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, record=np.array(json.dumps(record)), **arrays)


def load_result(file: Path, key: str) -> Result | None:
    """Returns a saved result; None if there is none, if it is damaged, or if it has another key.

    Args:
      file: from `result_file`.
      key: from `key_of`.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            record = parse_json(str(saved["record"]), str(file))
            if record["key"] != key:
                return None
            values = {
                name.removeprefix("value:"): saved[name]
                for name in saved.files
                if name.startswith("value:")
            }
        trials = tuple(_trial(saved) for saved in record["trials"])
        seconds, limited = record["fit_seconds"], record["fit_limited"]
        return Result(record["name"], trials, values, record["catalogue"], seconds, limited)
    except Exception:  # whatever a damaged archive makes NumPy raise: the result is computed again
        return None


def save_trials(file: Path, trials: Sequence[Trial], key: str) -> None:
    """Saves the trials of a method that is not fitted yet, atomically.

    Args:
      file: from `result_file`; the trials have one beside it.
      trials: in the order of the grid.
      key: from `key_of`.

    Raises:
      OSError: it cannot be written.
    """
    record = {"key": key, "trials": [dataclasses.asdict(trial) for trial in trials]}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(_of_trials(file)) as partial:
        partial.write_text(json.dumps(record))


def load_trials(file: Path, key: str) -> tuple[Trial, ...]:
    """Returns the trials of `save_trials`; none if the file is missing, damaged or of another key.

    Args:
      file: from `result_file`.
      key: from `key_of`.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "ease.npz"
    >>> save_trials(file, [Trial({"l2": 1.0}, 0.5)], "key")
    >>> load_trials(file, "key")[0].score, load_trials(file, "other")
    (0.5, ())
    """
    try:
        record = parse_json(_of_trials(file).read_text(), str(file))
        return tuple(map(_trial, record["trials"])) if record["key"] == key else ()
    except Exception:  # whatever a damaged file makes of it: the trials are made again
        return ()


def remove_trials(file: Path) -> None:
    """Removes the trials of a method whose result is saved."""
    _of_trials(file).unlink(missing_ok=True)


def _of_trials(file: Path) -> Path:
    return file.with_suffix(".trials.json")


def _trial(saved: Mapping[str, Any]) -> Trial:
    return Trial(**{**saved, "schedule": Schedule(**saved["schedule"])})
