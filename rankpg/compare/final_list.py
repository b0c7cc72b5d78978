"""The final list of every method: its candidates as a fitted re-ranker sorts them, and the loss by stage.

    lists -> the first K -> their order and that of a LambdaMART, fused -> nDCG of the final list

The re-ranker is the same for all methods. It is fitted once in the tuning and once in the final fit, to their
training data. It reads no score of the retriever, so its order and the retriever's are fused by reciprocal
ranks (Cormack, Clarke and Buettcher, 2009), with a weight c of the re-ranker that each method is tuned by:

    score(a) = c / (60 + rank of a by the re-ranker) + (1 - c) / (60 + rank of a by the retriever)

Two losses separate the stages:

    retriever loss   1 - nDCG of the candidates in the best order that they have
    re-ranker loss   that nDCG, less the nDCG of the final list

So the nDCG of the final list and the two losses add up to 1 for each user.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rankpg.compare.results import MOST_CANDIDATES
from rankpg.config.interaction_settings import PAIR_FEATURES
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Interactions
from rankpg.errors import ConfigError, argument
from rankpg.evaluation.ranking import ranking_metrics
from rankpg.types import Float, Int

if TYPE_CHECKING:
    from rankpg.runs.held_out import HeldOutPart
    from rankpg.training.lambdamart import FittedReranker
else:
    FittedReranker = HeldOutPart = Any

__all__ = ["RERANKERS", "RERANKER_WEIGHTS", "FinalList", "final_lists", "losses_of", "metric_of"]

RERANKERS = ("lightgbm", "none")
"""Values of the argument `reranker`."""
RERANKER_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Weights c that a tuning tries: from the order of the re-ranker to that of the retriever."""
_RANK_OFFSET = 60.0
"""Added to ranks, so that the first few do not decide alone; the value of Cormack et al."""

_LARGEST = 2**32
"""Most bytes of the features of all users with all items."""
_LARGEST_UNASKED = 2**30
"""Most bytes of features that are computed by default."""


def metric_of(cutoff: int) -> str:
    """Returns the name of the metric of the final list."""
    return f"final_ndcg@{cutoff}"


def losses_of(cutoff: int) -> tuple[str, str]:
    """Returns the names of the losses of retriever and re-ranker."""
    return f"retriever_loss@{cutoff}", f"reranker_loss@{cutoff}"


@dataclass(frozen=True, eq=False)
class FinalList:
    """A re-ranker that was fitted to the training data of a stage, and scores of what it had to sort."""

    fitted: FittedReranker
    num_candidates: int
    """K"""
    features: Float[np.ndarray, "n N F"]
    """Features of the evaluated users with all items."""
    scores: Float[np.ndarray, "n N"]
    """Scores that were needed so far; NaN for all others. Predicting all of them takes far longer."""
    plain: Dataset
    """Data of the stage, without scores."""

    @classmethod
    def of(cls, data: Dataset, part: HeldOutPart, eligible: int) -> FinalList:
        """Fits a LambdaMART to the training part of the data.

        Args:
          data: its test part is what is evaluated.
          part: the evaluated users.
          eligible: smallest number of items that a user may be shown.

        Raises:
          ConfigError: as `training.lambdamart.fit_lightgbm`.
        """
        from rankpg.training.lambdamart import fit_lightgbm  # needs SciPy and LightGBM

        assert data.parts is not None
        fitted = fit_lightgbm(data)
        features = fitted.features_of(data, data.parts.test().history_ends, part.users)
        scores = np.full(features.shape[:2], np.nan, np.float32)
        return cls(fitted, max(1, min(MOST_CANDIDATES, eligible)), features, scores, data)

    @functools.cached_property
    def data(self) -> Dataset:
        """The data of the stage with the scores, for objectives that train through the re-ranker's order."""
        world, fitted = cast("Interactions", self.plain.environment), self.fitted
        training = fitted.scores(self.plain, fitted.ends)
        scored = world.with_scores(training, training, fitted.ends)  # nothing is served
        return dataclasses.replace(self.plain, environment=scored)

    def metrics(
        self,
        lists: Int[np.ndarray, "n depth"],
        part: HeldOutPart,
        cutoff: int,
        weight: float = 1.0,
    ) -> dict[str, Float[np.ndarray, "n"]]:
        """Returns the nDCG of the final list of every user, and the losses of both stages.

        Of equal scores the earlier candidate is shown first.

        Args:
          lists: a method's order, of which the first K are candidates; -1 after the last item.
          part: the evaluated users, and their later items.
          cutoff: k of ndcg@k, at most the depth of the lists.
          weight: c, 0 to 1.
        """
        candidates = self._candidates(lists)
        there = candidates >= 0
        final = _ndcg(self._fused(candidates, weight), part, cutoff)
        wanted = there & _relevant(candidates, part)
        oracle = _ndcg(_ordered(candidates, np.where(wanted, 2, there)), part, cutoff)
        retriever, reranker = losses_of(cutoff)
        return {metric_of(cutoff): final, retriever: 1 - oracle, reranker: oracle - final}

    def best(
        self, lists: Int[np.ndarray, "n depth"], part: HeldOutPart, cutoff: int
    ) -> tuple[float, float]:
        """Returns the largest mean nDCG of the final list over `RERANKER_WEIGHTS`, and its weight.

        Of equal ones, that with the larger weight. The arguments are those of `metrics`.
        """
        candidates = self._candidates(lists)
        means = [
            float(_ndcg(self._fused(candidates, weight), part, cutoff).mean())
            for weight in RERANKER_WEIGHTS
        ]
        found = int(np.argmax(means))
        return means[found], RERANKER_WEIGHTS[found]

    def _candidates(self, lists: Int[np.ndarray, "n depth"]) -> Int[np.ndarray, "n depth"]:
        return np.where(np.arange(lists.shape[1]) < self.num_candidates, lists, -1)

    def _fused(
        self, candidates: Int[np.ndarray, "n depth"], weight: float
    ) -> Int[np.ndarray, "n depth"]:
        """The candidates by their fused score; -1 stands last."""
        there = candidates >= 0
        scores = np.where(there, self._scores(np.maximum(candidates, 0)), -np.inf)
        by_retriever = np.arange(candidates.shape[1])
        by_reranker = np.argsort(_order(scores), axis=1)
        fused = weight / (_RANK_OFFSET + by_reranker) + (1 - weight) / (_RANK_OFFSET + by_retriever)
        return _ordered(candidates, np.where(there, fused, -np.inf))

    def _scores(self, items: Int[np.ndarray, "n depth"]) -> Float[np.ndarray, "n depth"]:
        """Scores of the items of each evaluated user."""
        row = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
        missing = np.isnan(self.scores[row, items])
        pair = np.unique(row[missing] * self.scores.shape[1] + items[missing])
        user, item = np.divmod(pair, self.scores.shape[1])
        self.scores[user, item] = self.fitted.predict(self.features[user, item])
        return self.scores[row, items]


def _order(scores: np.ndarray) -> Int[np.ndarray, "n depth"]:
    """Places by falling score; of equal ones, the earlier place first."""
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")


def _ordered(items: Int[np.ndarray, "n depth"], scores: np.ndarray) -> Int[np.ndarray, "n depth"]:
    return np.take_along_axis(items, _order(scores), axis=1)


def _ndcg(
    lists: Int[np.ndarray, "n depth"], part: HeldOutPart, cutoff: int
) -> Float[np.ndarray, "n"]:
    return ranking_metrics(lists, part.relevant, at=(cutoff,))[f"ndcg@{cutoff}"]


def _relevant(items: Int[np.ndarray, "n depth"], part: HeldOutPart) -> np.ndarray:
    """Mask of the items that a user took later."""
    starts, later = part.relevant
    width = int(max(items.max(initial=0), later.max(initial=0))) + 1
    pairs = np.repeat(np.arange(len(items)), np.diff(starts)) * width + later
    return np.isin(np.arange(len(items))[:, None] * width + items, pairs)


def final_lists(
    reranker: str | None, stages: tuple[tuple[Dataset, HeldOutPart, int], ...]
) -> tuple[list[FinalList] | None, str]:
    """Fits a re-ranker for each stage, and returns a sentence about them, or why there are none.

    Args:
      reranker: a name in `RERANKERS`; None fits one where LightGBM is installed and the features are few.
      stages: data, evaluated users, and smallest number of eligible items.

    Raises:
      ConfigError: an unknown name, or reranker="lightgbm" and one that cannot be fitted.
    """
    if reranker is not None and reranker not in RERANKERS:
        raise ConfigError(
            f"{argument('reranker', reranker)}; expected one of {', '.join(RERANKERS)}"
        )
    if reranker == "none":
        return None, "No final list was compared: reranker='none'."
    try:
        _check(reranker, stages)
        found = [FinalList.of(*stage) for stage in stages]
    except (ConfigError, ImportError) as error:
        if reranker is not None:
            raise
        return None, f"The final list is left out: {error}"
    left = [f"{one.fitted.metrics['left_out_ndcg@10']:.4f}" for one in found]
    return found, (
        f"The final list is of the best {found[-1].num_candidates} items of each method. Their order fuses "
        "that of the method and that of one LambdaMART for all methods, fitted to the training data of the "
        "tuning and of the final fit; the tuning of each method chooses the weight. For "
        "users that it left out, its nDCG@10 among the items most similar to their history is "
        f"{left[0]} in the tuning and {left[-1]} in the final fit."
    )


def _check(reranker: str | None, stages: tuple[tuple[Dataset, HeldOutPart, int], ...]) -> None:
    """Rejects features that take too much memory, and an installation without LightGBM."""
    if reranker is None and importlib.util.find_spec("lightgbm") is None:
        raise ConfigError("LightGBM is not installed: pip install 'rankpg[rerank]'")
    world = cast("Interactions", stages[-1][0].environment)
    users = max(len(part.users) for _, part, _ in stages)
    needed, most = 4 * len(PAIR_FEATURES) * users * world.num_items, _LARGEST
    if reranker is None:
        most = _LARGEST_UNASKED
    if needed > most:
        remedy = "leave out rare users and items (min_per_user=5, min_per_item=5), or give reranker='none'"
        if needed <= _LARGEST:
            remedy = "give reranker='lightgbm' to compute it in any case"
        raise ConfigError(
            f"the features of {users} users x {world.num_items} items are {needed:,} bytes, and at most "
            f"{most:,} are allowed; {remedy}"
        )
