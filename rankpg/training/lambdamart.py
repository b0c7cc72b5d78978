"""A re-ranker fitted to the log that the retriever is trained on: LambdaMART, by LightGBM.

    moments of the training part -> candidates -> features of pairs -> LambdaMART -> table of scores

The table is `item_scores` of the environment, by which `rerankers.stored` sorts, in training as in serving.
The fit sees moments of the training part whose feedback comes later in the training part, never the
validation or test part. Needs `pip install 'rankpg[rerank]'`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rankpg._utils.documents import read_json
from rankpg._utils.files import atomic_write_text
from rankpg.config.train_config import TrainConfig
from rankpg.data.faults import in_one_line
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Interactions, Moments, Parts
from rankpg.errors import ConfigError, argument
from rankpg.rerankers import RERANKERS
from rankpg.training.pair_features import FEATURES, ItemStatistics, histories, pair_features

if TYPE_CHECKING:
    from lightgbm import Booster
else:
    Booster = Any

__all__ = ["FittedReranker", "attached", "fit_lightgbm", "load_fitted", "save_fitted"]

MODEL, FIT = "reranker.txt", "reranker.json"
"""Files of a run folder: the model in LightGBM's text format, and the rest of the fit."""

_CELLS = 2**24
"""Numbers of features that are in memory at once."""
_LEFT_OUT = 0.2
"""Share of the users that the fit leaves out, for its metrics."""
_OPTIONS = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "learning_rate": 0.08,
    "num_leaves": 7,
    "min_data_in_leaf": 200,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
"""Small trees: a few hundred users say little about pairs of features."""


@dataclass(frozen=True, eq=False)
class FittedReranker:
    """A LambdaMART on `pair_features.FEATURES`, with the moments that it was fitted on."""

    booster: Booster
    """LightGBM's own object; `save_model` writes it."""
    ends: np.ndarray
    """int[num_users], ends of the histories of the fit."""
    metrics: dict[str, float]
    """nDCG@10 among the candidates of the fit: of the users it was fitted on, and of those it left out."""
    threads: int = 1

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it reads, in their order."""
        return tuple(self.booster.feature_name())

    @property
    def note(self) -> str:
        """A sentence about the fit and its metrics."""
        own, left = (self.metrics[f"{side}_ndcg@10"] for side in ("fitted", "left_out"))
        return (
            f"A LambdaMART was fitted to {self.metrics['users']:.0f} users of the training part, a fifth of "
            f"whom it left out; its nDCG@10 among their candidates is {own:.4f}, and {left:.4f} for those "
            f"left out. It reads {', '.join(self.features)}."
        )

    def scores(
        self, data: Dataset, ends: np.ndarray, users: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores of every user with all items, from histories with these ends.

        Args:
          data: with the users and items of the fit.
          ends: int[num_users], places in the sequences, such as those of `data.parts.test().history_ends`.
          users: rows of the users who are scored; all of them if None. Other rows are 0.

        Returns:
          float32[num_users, N].
        """
        world, parts = _sequences(data)
        found = np.zeros((world.num_users, world.num_items), np.float32)
        for some, features in _blocks(world, parts, ends, users):
            rows = features[:, :, self._columns].reshape(-1, len(self._columns))
            found[some] = self.predict(rows).reshape(len(some), -1)
        return found

    def features_of(self, data: Dataset, ends: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Returns the features of some users with all items, for `predict`.

        Args:
          data, ends: as for `scores`.
          users: rows of the users.

        Returns:
          float32[n, N, F], F being the number of `features`.
        """
        world, parts = _sequences(data)
        found = np.empty((len(users), world.num_items, len(self._columns)), np.float32)
        start = 0
        for some, features in _blocks(world, parts, ends, users):
            found[start : start + len(some)] = features[:, :, self._columns]
            start += len(some)
        return found

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the scores float32[n] of rows of features, float[n, F]."""
        if not len(features):
            return np.zeros(0, np.float32)
        found = self.booster.predict(features, num_threads=self.threads)
        return np.asarray(found, np.float32)

    @property
    def _columns(self) -> list[int]:
        return [FEATURES.index(name) for name in self.features]

    def on(self, data: Dataset) -> Dataset:
        """Returns the dataset with the scores of the served moments, and of those of the fit for training.

        Args:
          data: the dataset of the fit. The served moments are those before its test part.
        """
        world, parts = _sequences(data)
        served = self.scores(data, parts.test().history_ends)
        scored = world.with_scores(served, self.scores(data, self.ends), self.ends)
        return dataclasses.replace(data, environment=scored)


def fit_lightgbm(
    data: Dataset,
    *,
    moments: Moments | None = None,
    features: Sequence[str] | None = None,
    candidates: int = 150,
    trees: int = 100,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    threads: int = 1,
) -> FittedReranker:
    """Fits a LambdaMART to what users of the training part took after a moment (Burges 2010).

    The candidates of a user are the unseen items nearest to the history (`near_all_items`), as an item-based
    retriever returns them, whether the user took them or not. Items that were taken but are not among them
    are left out: added, they would teach that what was taken is far away. A fifth of the users is left out
    of the fit, for its metrics.

    Args:
      data: a dataset of `environments.from_interactions`.
      moments: at most one moment of each training user, with feedback in the training part; the last quarter
        of the training part if None.
      features: names in `pair_features.FEATURES`, which the trees may read; all of them if None.
      candidates: number of candidates of a user.
      trees: number of trees.
      options: further parameters of LightGBM, which take the place of those here.
      seed: seed of the users left out, and of the trees.
      threads: number of threads.

    Returns:
      The re-ranker, to be passed as `rankpg.train(config, data, reranker=...)`. `.on(data)` is a dataset with
      its scores, on which reranker="stored" sorts by them.

    Raises:
      ConfigError: LightGBM is not installed, the data has no parts, a feature is unknown, or moments reach
        into the validation or test part.
    """
    lightgbm = _lightgbm()
    chosen = _checked_features(features)
    world, parts = _sequences(data)
    moments = parts.forward(0.25) if moments is None else moments
    ends = _checked_ends(parts, moments)
    rows, labels, groups = _examples(world, parts, moments, ends, candidates)
    left_out = np.random.default_rng(seed).random(len(groups)) < _LEFT_OUT
    left_out[:2] = False, True  # neither side is empty
    of_row, columns = np.repeat(left_out, groups), [FEATURES.index(name) for name in chosen]
    rows = rows[:, columns]
    fitted, held = (
        lightgbm.Dataset(
            rows[of_row == side],
            labels[of_row == side],
            group=groups[left_out == side],
            feature_name=list(chosen),
        )
        for side in (False, True)
    )
    record: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        _OPTIONS | {"num_threads": threads, "seed": seed} | dict(options or {}),
        fitted,
        num_boost_round=trees,
        valid_sets=[fitted, held],
        valid_names=["fitted", "left_out"],
        callbacks=[lightgbm.record_evaluation(record)],
    )
    metrics = {f"{side}_ndcg@10": record[side]["ndcg@10"][-1] for side in record}
    metrics["users"] = float(len(groups))
    return FittedReranker(booster, ends, metrics, threads)


def _lightgbm() -> ModuleType:
    try:
        import lightgbm
    except ImportError:
        raise ConfigError(
            "a LambdaMART (reranker='lightgbm') needs the package lightgbm, which is not installed: "
            "pip install 'rankpg[rerank]'"
        ) from None
    return lightgbm


def save_fitted(folder: Path, fitted: FittedReranker) -> None:
    """Saves a re-ranker as reranker.txt, in LightGBM's text format, and reranker.json.

    Raises:
      OSError: a file cannot be written.
    """
    rest = {
        "metrics": fitted.metrics,
        "threads": fitted.threads,
        "ends": np.asarray(fitted.ends).tolist(),
    }
    atomic_write_text(folder / FIT, json.dumps(rest) + "\n")
    atomic_write_text(folder / MODEL, fitted.booster.model_to_string())


def load_fitted(folder: Path) -> FittedReranker | None:
    """Returns the re-ranker that `save_fitted` saved; None if the folder has none.

    Raises:
      ConfigError: a file is damaged, or LightGBM is not installed.
    """
    if not (folder / MODEL).exists():
        return None
    lightgbm = _lightgbm()
    try:
        rest = read_json(folder / FIT)
        booster = lightgbm.Booster(model_str=(folder / MODEL).read_text())
        ends, metrics = np.array(rest["ends"], np.int32), dict(rest["metrics"])
        return FittedReranker(booster, ends, metrics, int(rest["threads"]))
    except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
        raise ConfigError(
            f"{folder / MODEL} and {FIT} cannot be read ({in_one_line(error)}); restore copies of "
            "them, or pass a re-ranker: load_run(path, reranker=...)"
        ) from None


def with_scores(
    config: TrainConfig, data: Dataset, components: dict[str, Any], free: int | None
) -> tuple[Dataset, FittedReranker | None, dict[str, Any]]:
    """Returns the dataset with the scores of a fitted re-ranker, the re-ranker, and the components with it.

    Args:
      config: has `reranker_features`.
      data: interactions with a training part.
      components: `reranker` is a fitted one, or missing: then one is fitted.
      free: bytes of memory that are free; None if unknown.

    Raises:
      ConfigError: as `attached`, or data without a training part.
    """
    given = components.get("reranker")
    if given is not None and not isinstance(given, FittedReranker):
        return data, None, components  # of another kind: `build_learner` rejects it
    if data.parts is None:
        raise ConfigError(
            "reranker='lightgbm' is fitted to a log of interactions, and the data is a "
            f"{type(data.environment).__name__}; give environment='interactions' and path=, or another "
            "reranker"
        )
    data, fitted = attached(data, given, config.reranker_features, free)
    stage = RERANKERS["lightgbm"](config, data.environment)
    return data, fitted, components | {"reranker": stage}


def attached(
    data: Dataset,
    fitted: FittedReranker | None,
    features: Sequence[str] | None = None,
    free: int | None = None,
) -> tuple[Dataset, FittedReranker]:
    """Returns the dataset with the scores of a re-ranker and a note about it, and the re-ranker.

    Args:
      data: interactions with a training part.
      fitted: the re-ranker; one is fitted to the training part if None.
      features: those of the fit.
      free: bytes of memory that are free; None if unknown.

    Raises:
      ConfigError: as `fit_lightgbm`, other users than those of the fit, or tables of scores that take more
        than half of the memory.
    """
    world, _ = _sequences(data)
    _check_tables(world, free)
    if fitted is None:
        fitted = fit_lightgbm(data, features=features)
    elif len(fitted.ends) != world.num_users:
        raise ConfigError(
            f"the re-ranker was fitted to {len(fitted.ends)} users, and the data has {world.num_users}; "
            "expected the dataset of the fit: fit_lightgbm(data)"
        )
    scored = fitted.on(data)
    return dataclasses.replace(scored, notes=(*data.notes, fitted.note)), fitted


_TABLES = 3
"""Tables of scores of a run: at the moments of the test, validation and training part."""


def _check_tables(world: Interactions, free: int | None) -> None:
    needed = _TABLES * 4 * world.num_users * world.num_items
    if free is not None and needed > free // 2:
        raise ConfigError(
            f"reranker='lightgbm' keeps {_TABLES} tables of scores of {world.num_users} users x "
            f"{world.num_items} items, {needed:,} bytes in all, and half of the {free:,} bytes that are free "
            "would not hold them; leave out rare users and items (min_per_user=5, min_per_item=5), or sort "
            "by a score that is computed when it is needed (rerankers.by_score)"
        )


def _checked_features(features: Sequence[str] | None) -> tuple[str, ...]:
    if features is None:
        return FEATURES
    unknown = isinstance(features, str) or [name for name in features if name not in FEATURES]
    if unknown or not features or len(set(features)) < len(features):
        raise ConfigError(
            f"{argument('features', features)}; expected one or more of {', '.join(FEATURES)}"
        )
    return tuple(features)


def _sequences(data: Dataset) -> tuple[Interactions, Parts]:
    if data.parts is None or not isinstance(data.environment, Interactions):
        raise ConfigError(
            f"data holds a {type(data.environment).__name__} without parts; expected a dataset of "
            "environments.from_interactions"
        )
    return cast("Interactions", data.environment), data.parts


def _checked_ends(parts: Parts, moments: Moments) -> np.ndarray:
    """Returns the end of every user's history, and rejects moments outside of the training part."""
    users = moments.users
    late = (moments.feedback_ends > parts.train_ends[users]) | ~parts.trains[users]
    if late.any():
        raise ConfigError(
            f"moments: the feedback of {int(late.sum())} of {len(users)} moments is outside of the training "
            "part, which makes it a re-ranker fitted on the test part; expected moments of the training "
            "part, such as data.parts.forward(0.25)"
        )
    if len(np.unique(users)) < len(users):
        raise ConfigError(
            "moments: a user has several; expected one moment of each user, as it has one row of scores"
        )
    ends = parts.train_ends.copy()
    ends[users] = moments.history_ends
    return ends


def _blocks(
    world: Interactions, parts: Parts, ends: np.ndarray, users: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields users, a block at a time, and their features with all items."""
    statistics = ItemStatistics.of(world, parts, ends)
    every = np.arange(world.num_users) if users is None else users
    size = max(1, _CELLS // (world.num_items * len(FEATURES)))
    for start in range(0, len(every), size):
        some = every[start : start + size]
        yield some, pair_features(world, statistics, ends, some)


def _examples(
    world: Interactions, parts: Parts, moments: Moments, ends: np.ndarray, candidates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, F] and labels [n] of the candidates of every user, and the number of them.

    Users without a candidate that they took are left out.
    """
    seen, later = histories(world, ends), ends.copy()
    later[moments.users] = moments.feedback_ends
    wanted = histories(world, later)  # with the history, which is not among the candidates
    near = FEATURES.index("near_all_items")
    rows, labels, groups = [], [], []
    for users, features in _blocks(world, parts, ends):
        closeness = np.where(seen[users].toarray() > 0, -np.inf, features[:, :, near])
        order = np.argsort(-closeness, axis=1, kind="stable")[:, :candidates]
        for place, user in enumerate(users):
            items = order[place][closeness[place, order[place]] > -np.inf]
            taken = np.isin(items, wanted.indices[wanted.indptr[user] : wanted.indptr[user + 1]])
            if taken.any():
                rows.append(features[place, items])
                labels.append(taken.astype(np.int32))
                groups.append(len(items))
    if len(groups) < 2:
        raise ConfigError(
            f"candidates={candidates}: {len(groups)} users took one of them after their moment; expected two "
            "users or more: give more candidates, or more interactions"
        )
    return np.concatenate(rows), np.concatenate(labels), np.array(groups)
