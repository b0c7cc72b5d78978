"""Held-out metrics of a run on interactions: each user's best items, compared with what came later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.core.quotas import expert_quotas
from rankpg.environments.dataset import choose_contexts
from rankpg.environments.interactions import Interactions, Moments
from rankpg.environments.with_list_reward import items_alone
from rankpg.evaluation.diagnostics import Diagnostics
from rankpg.evaluation.ranking import ranking_metrics
from rankpg.policy import Policy
from rankpg.training.update import StepMetrics
from rankpg.types import Array, Environment, Int, Params, Reranker

if TYPE_CHECKING:
    from rankpg.runs.run import Run
else:
    Run = Any

__all__ = [
    "CUTOFFS",
    "HeldOut",
    "HeldOutPart",
    "in_sample",
    "is_final",
    "part_of",
    "relevant_items",
]

CUTOFFS = (10, 20, 100)
"""Cut-offs k of the held-out metrics."""

_REPORTED = ("recall@20", "recall@100", "ndcg@10")
"""Metrics in the rows of an evaluation during training."""


_OF_TRAINING = {field.name for kind in (StepMetrics, Diagnostics) for field in fields(kind)}


def part_of(name: str) -> str:
    """Returns the part of the interactions that a metric of a run's rows is computed on, for tables.

    >>> [part_of(name) for name in ("recall@20", "validation_ndcg@10", "reward")]
    ['held out, test part', 'held out, validation part', 'training part']
    """
    if name.startswith("validation_"):
        return "held out, validation part"
    return "training part" if name in _OF_TRAINING else "held out, test part"


_FINAL = "final_"


def is_final(name: str) -> bool:
    """Returns True for a metric of the final list, the candidates as the re-ranker sorts them.

    >>> [is_final(name) for name in ("ndcg@10", "final_ndcg@10", "validation_final_ndcg@10")]
    [False, True, True]
    """
    return name.removeprefix("validation_").startswith(_FINAL)


class HeldOutPart(NamedTuple):
    """The users of a held-out part, and what they took in it."""

    world: Environment
    """Its contexts are the users; what came before the part is their history."""
    users: np.ndarray
    """int32[n], users with a held-out item."""
    relevant: tuple[np.ndarray, np.ndarray]
    """Their held-out items: where those of each user start, and the items."""

    @classmethod
    def of(cls, world: Environment, moments: Moments, most: int | None = None) -> HeldOutPart:
        """Returns the part that follows these moments, of at most `most` users, a fixed random choice.

        Args:
          world: interactions, some of whose items may have been removed.
          moments: one for each user.
          most: largest number of users; all if None.
        """
        whole = cast("Interactions", world.whole)
        moved: Environment = whole.at(moments)
        if world.allowed is not None:
            moved = dataclasses.replace(world, whole=moved)  # pyright: ignore[reportArgumentType]
        users = np.flatnonzero(moments.feedback_ends > moments.history_ends).astype(np.int32)
        users = users if most is None else choose_contexts(users, most)
        return cls(moved, users, relevant_items(whole, moments, users))


def relevant_items(
    world: Interactions, moments: Moments, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the feedback of some moments in CSR form: row_starts [n + 1], items."""
    begin = np.asarray(world.row_starts)[moments.users[users]] + moments.history_ends[users]
    count = (moments.feedback_ends - moments.history_ends)[users]
    starts = np.concatenate([[0], np.cumsum(count)])
    entry = np.repeat(begin - starts[:-1], count) + np.arange(starts[-1])
    return starts, np.asarray(world.sequence)[entry]


class HeldOut:
    """Compiled lists of the best items of users, by the retriever's own order, and their metrics."""

    def __init__(self, run: Run, cutoffs: Sequence[int] = CUTOFFS, most: int | None = None):
        parts, world = run.dataset.parts, run.environment
        assert parts is not None
        self.cutoffs = tuple(k for k in cutoffs if k <= world.num_items) or (world.num_items,)
        found = {"": parts.test(), "validation_": parts.validation()}
        self.parts = {
            prefix: part
            for prefix, moments in found.items()
            if len((part := HeldOutPart.of(world, moments, most)).users)
        }
        depth = max(self.cutoffs, default=1)
        quotas = expert_quotas(depth, len(run.policy.quotas))
        policy = dataclasses.replace(run.policy, quotas=quotas)

        def lists(params, world, users):
            items, available = policy.greedy(params, world, users)
            place = jnp.arange(depth, dtype=jnp.int32)[None]
            return jnp.where(place < available[:, None], items, -1)

        sharding = run.policy.retrieval.sharding
        self._replicate = sharding.replicate
        self._lists = jax.jit(lambda *inputs: sharding.replicated(lists(*inputs)))
        shown = partial(_final_lists, run.policy, run.learner.reranker)
        self._final = jax.jit(lambda *inputs: sharding.replicated(shown(*inputs)))
        self._length = run.learner.reranker.ranking_length
        self._scored = _scored_parts(run, self.parts)

    def lists(self, params: Params, part: HeldOutPart) -> np.ndarray:
        """Returns the best items int[n, depth] of every user of a part; -1 where there are too few."""
        inputs = self._replicate((part.world, jnp.asarray(part.users)))
        return np.asarray(self._lists(params, *inputs))

    def metrics(self, params: Params, prefix: str = "") -> dict[str, np.ndarray]:
        """Returns every metric of every user of a part: `evaluation.ranking.ranking_metrics`.

        Args:
          params: parameters of one seed.
          prefix: empty for the test part, `validation_` for the validation part.
        """
        part = self.parts[prefix]
        return ranking_metrics(self.lists(params, part), part.relevant, at=self.cutoffs)

    def final_metrics(self, params: Params, prefix: str = "") -> dict[str, np.ndarray]:
        """Returns final_ndcg@min(L, 10) and final_recall@L of every user, L being the length of the list.

        They are of the K greedy candidates as the re-ranker sorts them, by scores that are known before the
        part. Empty where the run has no such scores.

        Args:
          params, prefix: as for `metrics`.
        """
        part = self._scored().get(prefix)
        if part is None:
            return {}
        inputs = self._replicate((part.world, jnp.asarray(part.users)))
        shown = np.asarray(self._final(params, *inputs))
        first = min(self._length, CUTOFFS[0])
        found = ranking_metrics(shown, part.relevant, at=sorted({first, self._length}))
        names = f"ndcg@{first}", f"recall@{self._length}"
        return {_FINAL + name: found[name] for name in names}

    def columns(self, params: Params) -> dict[str, np.ndarray]:
        """Returns the means over users of the reported metrics, [seeds] by name.

        Of a catalogue that is smaller than every cut-off: ndcg@N.

        Args:
          params: parameters of all seeds, with a leading axis.
        """
        columns: dict[str, list[float]] = {}
        for seed in range(len(jax.tree.leaves(params)[0])):
            own = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
            for prefix in self.parts:
                found = self.metrics(own, prefix)
                names = [name for name in _REPORTED if name in found]
                found = {name: found[name] for name in names or [f"ndcg@{self.cutoffs[0]}"]}
                for name, values in (found | self.final_metrics(own, prefix)).items():
                    columns.setdefault(prefix + name, []).append(float(values.mean()))
        return {name: np.array(values) for name, values in columns.items()}


def _final_lists(
    policy: Policy,
    reranker: Reranker,
    params: Params,
    world: Environment,
    users: Int[Array, "n"],
) -> Int[Array, "n L"]:
    """Returns the greedy candidates of users as the re-ranker sorts them."""
    candidates, _ = policy.greedy(params, world, users)
    key = jax.random.key(0)  # a sort by scores draws nothing
    return jax.vmap(lambda user, items: reranker.greedy(key, world, user, items).items)(
        users, candidates
    )


def _scored_parts(run: Run, parts: dict[str, HeldOutPart]) -> Callable[[], dict[str, HeldOutPart]]:
    """Returns a function that computes the parts with scores known before them, once.

    Scores at the moment of the test part are in the environment. They have read the validation part, so that
    for this part a fitted re-ranker computes others, and a table of the user's own is not used.
    """

    @cache
    def scored() -> dict[str, HeldOutPart]:
        sorts = run.fitted is not None or run.config.reranker == "stored"
        if run.environment.item_scores is None or not sorts:
            return {}
        found = {prefix: part for prefix, part in parts.items() if not prefix}
        before, data = parts.get("validation_"), run.dataset
        if before is not None and run.fitted is not None and data.environment.allowed is None:
            assert data.parts is not None
            ends, users = data.parts.validation().history_ends, before.users
            scores = jnp.asarray(run.fitted.scores(data, ends, users))
            world = dataclasses.replace(cast("Interactions", before.world), item_scores=scores)
            found["validation_"] = before._replace(world=world)
        return found

    return scored


def in_sample(config: TrainConfig, environment: Environment) -> str | None:
    """Returns what to say of values that were measured on the rewards that were trained on; None otherwise.

    A generated problem is its own truth, and contexts or interactions that were held out are left out of
    training.
    """
    alone = items_alone(environment)
    stored = any(getattr(alone, name, None) is not None for name in ("values", "means"))
    if not stored or config.environment == "interactions" or config.held_out_contexts:
        return None
    measured = "values" if environment.rewards_interact else "values, optimum and recall"
    return (
        f"In-sample: {measured} were measured on the rewards that were trained on. They do "
        "not say how well the run does on rewards that it has not seen. For held-out measures, give a log of "
        "interactions (environment='interactions'), or hold out contexts (held_out_contexts) if they have "
        "features"
    )
