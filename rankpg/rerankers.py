"""Re-rankers: from K candidates to the ranking of L items that is shown.

The table `RERANKERS` names those that come with the library; `custom` wraps a function of your own. Training
sees what a re-ranker draws; an evaluation takes its `greedy`, most likely, ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from rankpg.core.numerics import centre, largest
from rankpg.core.plackett_luce import full_logits, ordered_log_prob
from rankpg.types import Array, Environment, Float, Int, PRNGKey, Ranking, Reranker

__all__ = [
    "RERANKERS",
    "NeuralScorer",
    "RerankerSettings",
    "anti",
    "by_score",
    "custom",
    "fit_scorer",
    "learned",
    "noisy",
    "optimal",
    "similarity",
    "stored",
    "uniform",
]

Scorer = Callable[[Any, Int[Array, ""], Int[Array, "K"]], Float[Array, "K"]]
"""(environment, context, candidates) -> one score per candidate."""


@dataclass(frozen=True)
class _Reranker:
    """A re-ranker made of two functions of (key, environment, context, candidates)."""

    ranking_length: int
    draw: Callable[..., Ranking]
    most_likely: Callable[..., Ranking]
    scorer: Scorer | None = None
    """The scores by which both sort; None if they do not."""
    keys: Callable[..., tuple[Float[Array, "K"], Float[Array, "n"]]] | None = None
    """The keys by which `draw` sorts, if they are not the scores; see `Reranker.sort_keys`."""

    @property
    def draws(self) -> bool:
        """True if the greedy ranking differs from the drawn one."""
        return self.draw is not self.most_likely

    def __call__(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        return self.draw(key, environment, context, candidates)

    def greedy(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        return self.most_likely(key, environment, context, candidates)

    def scores(
        self, environment: Environment, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"] | None:
        """Returns the scores by which it sorts; None if it does not sort."""
        return None if self.scorer is None else self.scorer(environment, context, items)

    def sort_keys(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
        others: Int[Array, "n"],
    ) -> tuple[Float[Array, "K"], Float[Array, "n"]] | None:
        """Returns the keys by which a call sorts; see `Reranker.sort_keys`."""
        if self.keys is not None:
            return self.keys(key, environment, context, candidates, others)
        if self.scorer is None:
            return None
        score = partial(self.scorer, environment, context)
        return score(candidates), score(others)


def _relevance(
    environment: Environment, context: Int[Array, ""], candidates: Int[Array, "K"]
) -> Float[Array, "K"]:
    return environment.relevance(context, candidates)


def _sorted(scorer: Scorer, ranking_length: int) -> Reranker:
    """Shows the L candidates of largest score, with probability one."""

    def rank(
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        del key
        scores = scorer(environment, context, candidates)
        places = largest(scores, ranking_length)[1]
        return Ranking(items=candidates[places], log_propensity=jnp.zeros((), scores.dtype))

    return _Reranker(ranking_length, rank, rank, scorer)


def _plackett_luce(scorer: Scorer, ranking_length: int, noise: float) -> Callable[..., Ranking]:
    """Draws L of K by Plackett-Luce on the scores; noise=0 gives the most likely ranking."""

    def rank(
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        scores = centre(scorer(environment, context, candidates))
        gumbel = jax.random.gumbel(key, scores.shape, scores.dtype, mode="high")
        places = largest(scores + noise * gumbel, ranking_length)[1]
        log_propensity = ordered_log_prob(full_logits(scores[None]), places, (ranking_length,))
        return Ranking(items=candidates[places], log_propensity=log_propensity)

    return rank


def _plackett_luce_keys(scorer: Scorer) -> Callable[..., tuple[Array, Array]]:
    """The perturbed scores by which `_plackett_luce(scorer, ..., noise=1.0)` sorts, and those of others."""

    def keys(
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
        others: Int[Array, "n"],
    ) -> tuple[Float[Array, "K"], Float[Array, "n"]]:
        scores = scorer(environment, context, candidates)
        centred, top = centre(scores), jnp.max(scores)
        further = scorer(environment, context, others) - jnp.where(jnp.isfinite(top), top, 0)
        gumbel = partial(jax.random.gumbel, dtype=centred.dtype, mode="high")
        own, fresh = gumbel(key, centred.shape), gumbel(jax.random.fold_in(key, 1), further.shape)
        return centred + own, further.astype(centred.dtype) + fresh

    return keys


def optimal(ranking_length: int) -> Reranker:
    """Shows the candidates of largest relevance.

    >>> from rankpg.environments.synthetic import paper_instance
    >>> stage, environment = optimal(1), paper_instance()
    >>> stage(jax.random.key(0), environment, jnp.int32(0), jnp.arange(1000)).items.shape
    (1,)
    """
    return _sorted(_relevance, ranking_length)


def anti(ranking_length: int) -> Reranker:
    """Shows the candidates of smallest relevance: an adversarial re-ranker."""
    return _sorted(lambda *of: -_relevance(*of), ranking_length)


def noisy(ranking_length: int, inverse_temperature: float = 1.0) -> Reranker:
    """Draws from Plackett-Luce on relevance times the inverse temperature."""

    def scorer(
        environment: Environment, context: Int[Array, ""], candidates: Int[Array, "K"]
    ) -> Float[Array, "K"]:
        return inverse_temperature * _relevance(environment, context, candidates)

    return _Reranker(
        ranking_length,
        _plackett_luce(scorer, ranking_length, noise=1.0),
        _plackett_luce(scorer, ranking_length, noise=0.0),
        keys=_plackett_luce_keys(scorer),
    )


def uniform(ranking_length: int) -> Reranker:
    """Shows L candidates at random, also at evaluation: all of its rankings are equally likely."""

    def scorer(
        environment: Environment, context: Int[Array, ""], candidates: Int[Array, "K"]
    ) -> Float[Array, "K"]:
        return jnp.zeros_like(_relevance(environment, context, candidates))

    rank = _plackett_luce(scorer, ranking_length, noise=1.0)
    return _Reranker(ranking_length, rank, rank, keys=_plackett_luce_keys(scorer))


def learned(ranking_length: int, scorer: Scorer) -> Reranker:
    """Shows the candidates that a trained scorer ranks first; `fit_scorer` trains one."""
    return _sorted(scorer, ranking_length)


def by_score(ranking_length: int, score: Scorer) -> Reranker:
    """Shows the candidates of largest score, by a score of your own.

    The same scores are what objective='exposure' trains through. A large array belongs into the environment,
    where `score` finds it, and not into the function: there it would be a constant of the compiled program.

    Args:
      ranking_length: L.
      score: `score(environment, context, items) -> float[n]`, jit-able and unbatched; of equal scores the
        earlier candidate is shown first.

    >>> import numpy as np
    >>> from rankpg.environments import from_matrix
    >>> stage = by_score(2, lambda environment, context, items: -items.astype(float))
    >>> world = from_matrix(np.ones((2, 9))).environment
    >>> stage(jax.random.key(0), world, jnp.int32(0), jnp.array([7, 3, 5])).items
    Array([3, 5], dtype=int32)
    >>> stage.scores(world, jnp.int32(0), jnp.array([7, 3]))
    Array([-7., -3.], dtype=float32)
    """

    def scorer(
        environment: Environment, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        returned = score(environment, context, items)
        found = None if returned is None else jnp.asarray(returned)
        if found is None or found.shape != items.shape or not _is_float(found):
            got = "None" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ValueError(
                f"the score {_name(score)} returned {got} for {items.shape[0]} items; expected one float "
                "for each item"
            )
        return found

    return _sorted(scorer, ranking_length)


def _is_float(values: jax.Array) -> bool:
    return bool(jnp.issubdtype(values.dtype, jnp.floating))


def stored(ranking_length: int) -> Reranker:
    """Shows the candidates of largest score in the table `item_scores` of the environment.

    `Interactions.with_scores` adds the table, and `training.lambdamart.fit_lightgbm` fits one.

    >>> import numpy as np
    >>> from rankpg.environments.interactions import interactions
    >>> world = interactions(np.array([0]), np.array([3]), np.ones(1), 1, 4)
    >>> world = world.with_scores(np.array([[0.1, 0.4, 0.2, 0.3]]))
    >>> stored(2)(jax.random.key(0), world, jnp.int32(0), jnp.arange(3)).items
    Array([1, 2], dtype=int32)
    """

    def scorer(
        environment: Environment, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        table, users = environment.item_scores, environment.context_users
        if table is None:
            raise ValueError(
                f"reranker='stored' sorts by item_scores, which the environment "
                f"{type(environment).__name__} lacks; add them with Interactions.with_scores, give "
                "reranker='lightgbm', by which rankpg.train fits them, or choose another re-ranker"
            )
        return table[context if users is None else users[context], items]

    return _sorted(scorer, ranking_length)


def similarity(ranking_length: int) -> Reranker:
    """Shows the candidates whose features have the largest inner product with those of the context.

    With text embeddings, this is the ranking of the untrained retriever.
    """

    def scorer(
        environment: Environment, context: Int[Array, ""], candidates: Int[Array, "K"]
    ) -> Float[Array, "K"]:
        of_contexts, of_items = environment.context_features, environment.item_features
        if of_contexts is None or of_items is None:
            raise ValueError(
                f"reranker='similarity' needs features of contexts and items, which the environment "
                f"{type(environment).__name__} lacks; give context_features= and item_features= to "
                "environments.from_table, or choose another re-ranker"
            )
        return of_items[candidates] @ of_contexts[context]

    return learned(ranking_length, scorer)


def custom(
    ranking_length: int,
    function: Callable[[PRNGKey, Int[Array, ""], Int[Array, "K"]], Int[Array, "L"]],
) -> Reranker:
    """Wraps a function of your own, `function(key, context, candidates) -> item ids [L]`, best first.

    The function is jit-able and unbatched. Its propensity is unknown, so the adaptive learning rate of Eq. 9
    is not available with it.

    >>> import numpy as np
    >>> from rankpg.environments import from_matrix
    >>> stage = custom(2, lambda key, context, candidates: candidates[:2])
    >>> world = from_matrix(np.ones((2, 9))).environment
    >>> stage(jax.random.key(0), world, jnp.int32(0), jnp.array([7, 3, 5])).items
    Array([7, 3], dtype=int32)
    """

    def rank(
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        del environment
        returned = function(key, context, candidates)
        if returned is None:
            raise ValueError(
                f"the re-ranker {_name(function)} returned None; expected L = {ranking_length} "
                "integer item ids"
            )
        items = jnp.asarray(returned)
        if items.shape != (ranking_length,) or not jnp.issubdtype(items.dtype, jnp.integer):
            raise ValueError(
                f"the re-ranker {_name(function)} returned {items.dtype}{list(items.shape)}; "
                f"expected L = {ranking_length} integer item ids, for one context and its candidates"
            )
        return Ranking(items=items.astype(jnp.int32), log_propensity=jnp.asarray(jnp.nan))

    return _Reranker(ranking_length, rank, rank)


def _name(function: Callable[..., Any]) -> str:
    return repr(getattr(function, "__qualname__", type(function).__name__))


class NeuralScorer(nnx.Module):
    """A perceptron on the features of both sides, or learned embeddings, and their product.

    score(context, item) = MLP([x, e, x * e])
    """

    def __init__(
        self,
        environment: Environment,
        dim: int = 16,
        hidden: tuple[int, ...] = (64, 64),
        *,
        rngs: nnx.Rngs,
    ):
        self.contexts, width = _side(environment, "context", environment.num_contexts, dim, rngs)
        self.project_context = nnx.Linear(width, dim, rngs=rngs)
        self.items, width = _side(environment, "item", environment.num_items, dim, rngs)
        self.project_item = nnx.Linear(width, dim, rngs=rngs)
        self.first = nnx.Linear(3 * dim, hidden[0], rngs=rngs)
        self.second = nnx.Linear(hidden[0], hidden[1], rngs=rngs)
        self.last = nnx.Linear(hidden[1], 1, rngs=rngs)

    def __call__(
        self, environment: Environment, contexts: Int[Array, "n"], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """One score per pair."""
        x = self.project_context(self.contexts(environment)[contexts])
        e = self.project_item(self.items(environment)[items])
        hidden = nnx.relu(self.first(jnp.concatenate([x, e, x * e], axis=-1)))
        return jnp.squeeze(self.last(nnx.relu(self.second(hidden))), axis=-1)


class _Given(nnx.Module):
    """Features that stay in the environment."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, environment: Environment) -> Float[Array, "rows F"]:
        return getattr(environment, self.name)


class _Table(nnx.Module):
    """Learned embeddings, one row an id."""

    def __init__(self, rows: int, dim: int, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (rows, dim)))

    def __call__(self, environment: Environment) -> Float[Array, "rows F"]:
        del environment
        return self.table[...]


def _side(environment: Environment, side: str, count: int, dim: int, rngs: nnx.Rngs):
    """Features or learned embeddings of one side, and their width."""
    name = f"{side}_features"
    features = getattr(environment, name)
    if features is not None:
        return _Given(name), features.shape[1]
    return _Table(count, dim, rngs), dim


def fit_scorer(
    key: PRNGKey,
    environment: Environment,
    *,
    num_steps: int = 2000,
    batch_size: int = 1024,
    learning_rate: float = 3e-3,
) -> Scorer:
    """Fits a NeuralScorer to the rewards of random pairs, by Adam on the squared error.

    Args:
      key: draws the initialisation and the pairs.
      environment: gives the rewards, and features where it has them.
      num_steps: number of updates.
      batch_size: pairs in an update.
      learning_rate: step size of Adam.

    Returns:
      A scorer for `rerankers.learned`.
    """
    init_key, data_key = jax.random.split(key)
    module = NeuralScorer(environment, rngs=nnx.Rngs(params=init_key))
    graphdef, params = nnx.split(module, nnx.Param)
    optimizer = optax.adam(learning_rate)

    def step(environment, carry, step_key):
        params, optimizer_state = carry
        context_key, item_key, reward_key = jax.random.split(step_key, 3)
        contexts = jax.random.randint(context_key, (batch_size,), 0, environment.num_contexts)
        items = jax.random.randint(item_key, (batch_size,), 0, environment.num_items)
        rewards = jax.vmap(lambda k, c, i: environment.sample_rewards(k, c, i[None])[0])(
            jax.random.split(reward_key, batch_size), contexts, items
        )

        def squared_error(params):
            predicted = nnx.merge(graphdef, params)(environment, contexts, items)
            return jnp.mean((predicted - rewards) ** 2)

        loss, gradient = jax.value_and_grad(squared_error)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    keys = jax.random.split(data_key, num_steps)

    @jax.jit
    def run(environment, params):
        return lax.scan(partial(step, environment), (params, optimizer.init(params)), keys)[0]

    params, _ = run(environment, params)

    def scorer(
        environment: Environment, context: Int[Array, ""], candidates: Int[Array, "K"]
    ) -> Float[Array, "K"]:
        contexts = jnp.broadcast_to(context, candidates.shape)
        return nnx.merge(graphdef, params)(environment, contexts, candidates)

    return scorer


@runtime_checkable
class RerankerSettings(Protocol):
    """Settings from which the re-rankers of the table are built; a `TrainConfig` has these fields."""

    @property
    def ranking_length(self) -> int: ...

    @property
    def inverse_temperature(self) -> float: ...

    @property
    def instance_seed(self) -> int | None: ...


def _learned(settings: RerankerSettings, environment: Environment) -> Reranker:
    key = jax.random.key(settings.instance_seed or 0)
    return learned(settings.ranking_length, fit_scorer(key, environment))


RERANKERS: dict[str, Callable[[RerankerSettings, Environment], Reranker]] = {
    "optimal": lambda settings, environment: optimal(settings.ranking_length),
    "noisy": lambda settings, environment: noisy(
        settings.ranking_length, settings.inverse_temperature
    ),
    "uniform": lambda settings, environment: uniform(settings.ranking_length),
    "anti": lambda settings, environment: anti(settings.ranking_length),
    "learned": _learned,
    "similarity": lambda settings, environment: similarity(settings.ranking_length),
    "stored": lambda settings, environment: stored(settings.ranking_length),
    "lightgbm": lambda settings, environment: stored(settings.ranking_length),  # `prepare` fits it
}
"""name -> builder from settings and environment; the values of the setting `reranker`."""
