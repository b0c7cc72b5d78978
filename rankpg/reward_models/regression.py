"""Reward models that are fitted by gradient descent on the squared error: two towers, a perceptron, your own.

    r^(x, a) = centre + scale * g(x, a),    loss = mean (g - (r - centre) / scale)^2 + penalty / observed

Centre and scale are the mean and the standard deviation of the first batch, so that learning rate and penalty
have no unit. The penalty is divided by the number of rewards observed so far: the minimum is that of a
Gaussian prior on the parameters (ridge regression; for two towers, Salakhutdinov and Mnih 2007).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from rankpg.encoders.two_tower import TOWERS, Tower, TowerSettings
from rankpg.errors import ConfigError
from rankpg.reward_models.base import RewardModel
from rankpg.reward_models.replay import Memory, Observed, Replay
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Params, PRNGKey, record

__all__ = ["Fitted", "custom", "falling_adam", "two_tower"]

Network = Callable[[Params, Environment, Int[Array, "B"], Int[Array, "B n"]], Float[Array, "B n"]]
"""(params, environment, contexts, items) -> one number for each item of each context."""
Penalty = Callable[[Params, Environment, Int[Array, "B"], Int[Array, "B n"]], Float[Array, "B n"]]
"""(params, environment, contexts, items) -> cost of each pair's parameters, times the number observed."""

_HALVES_AFTER = 2000
"""Updates after which the learning rate of a reward model is half of the first one."""
_SMALLEST_SCALE = 1e-6
"""Rewards of a first batch that spread less are not scaled."""


@record
class Fitted:
    """State of a model that is fitted by gradient descent."""

    params: Params
    optimizer_state: optax.OptState
    key_data: Array
    """Numbers of the key that draws remembered rewards; a checkpoint holds no keys."""
    memory: Memory | None
    """Earlier rewards; None without replay."""
    observed: Float[Array, ""]
    """Number of rewards observed so far."""
    centre: Float[Array, ""]
    """Mean of the first batch of rewards; 0 before it."""
    scale: Float[Array, ""]
    """Standard deviation of the first batch of rewards; 1 before it, and where they are equal."""


def custom(
    init: Callable[[PRNGKey], Params],
    apply: Network,
    optimizer: optax.GradientTransformation | None = None,
    *,
    penalty: Penalty | None = None,
    replay: Replay | None = None,
    embed: Callable[[Params, Environment, Int[Array, "B"]], Embeddings] | None = None,
) -> RewardModel:
    """Makes a reward model of a network of your own, fitted by the squared error.

    Without replay, `learn` makes one step of the optimizer on the batch. The first batch standardises the
    rewards.

    Args:
      init: parameters from a key.
      apply: `apply(params, environment, contexts[B], items[B, n]) -> float[B, n]`, jit-able; outputs of
        size 1 are typical, and 0 is the mean.
      optimizer: any of optax; `falling_adam` from a learning rate of 0.01 by default.
      penalty: cost of the parameters of each pair, with the arguments of `apply`. The loss has its mean over
        the observed pairs, divided by the number of rewards observed so far.
      replay: memory of earlier rewards, and steps on them; None for one step on every batch.
      embed: `embed(params, environment, contexts[B])`, embeddings (M = 1) whose inner products are the
        outputs up to a constant of each context; None if there are none.

    >>> from rankpg.environments import from_matrix
    >>> world = from_matrix(jnp.eye(3)).environment
    >>> model = custom(
    ...     lambda key: jnp.zeros((3, 3)), lambda table, world, x, a: table[x[:, None], a], optax.sgd(0.5)
    ... )
    >>> state, contexts, shown = model.init(jax.random.key(0)), jnp.array([0, 1]), jnp.array([[0], [2]])
    >>> for _ in range(20):
    ...     state = model.learn(state, world, contexts, shown, jnp.array([[1.0], [0.0]]), None)
    >>> model.predict(state, world, contexts, shown).round(2).tolist()
    [[1.0], [0.0]]
    """
    fit = falling_adam(1e-2, replay) if optimizer is None else optimizer

    def start(key: PRNGKey) -> Fitted:
        of_params, of_replay = jax.random.split(key)
        params, zero = init(of_params), jnp.zeros((), jnp.float32)
        return Fitted(
            params=params,
            optimizer_state=fit.init(params),
            key_data=jax.random.key_data(of_replay),
            memory=None if replay is None else Memory.empty(replay.capacity),
            observed=zero,
            centre=zero,
            scale=zero + 1,
        )

    def predict(
        state: Fitted, environment: Environment, contexts: Int[Array, "B"], items: Int[Array, "B n"]
    ) -> Float[Array, "B n"]:
        found = _checked(apply, state.params, environment, contexts, items)
        return state.centre.astype(found.dtype) + state.scale.astype(found.dtype) * found

    def descend(state: Fitted, environment: Environment, batch: Observed) -> Fitted:
        return _descended(state, environment, batch, apply, fit, penalty)

    def learn(
        state: Fitted,
        environment: Environment,
        contexts: Int[Array, "B"],
        items: Int[Array, "B L"],
        rewards: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> Fitted:
        new = _flat(contexts, items, rewards, observed)
        state = _counted(state, new)
        again, stored = replay, state.memory  # the new rewards are not in it yet
        if again is None or stored is None:
            return descend(state, environment, new)
        key = jax.random.wrap_key_data(state.key_data)
        key, of_memory, *keys = jax.random.split(key, 2 + again.steps)

        def step(state: Fitted, key: PRNGKey) -> tuple[Fitted, None]:
            both = zip(new, stored.draw(key, again.batch_size), strict=True)
            batch = Observed(*(jnp.concatenate(parts) for parts in both))
            return descend(state, environment, batch), None

        state, _ = lax.scan(step, state, jnp.stack(keys))
        memory = stored.add(of_memory, new)
        return dataclasses.replace(state, key_data=jax.random.key_data(key), memory=memory)

    def embeddings(
        state: Fitted, environment: Environment, contexts: Int[Array, "B"]
    ) -> Embeddings:
        assert embed is not None  # it is not offered otherwise
        found = embed(state.params, environment, contexts)
        scaled = state.scale.astype(found.contexts.dtype) * found.contexts
        return Embeddings(contexts=scaled, items=found.items)

    return RewardModel(
        start,
        predict,
        learn,
        embed=None if embed is None else embeddings,
        unit=lambda state: state.scale,
    )


def _descended(
    state: Fitted,
    environment: Environment,
    batch: Observed,
    apply: Network,
    optimizer: optax.GradientTransformation,
    penalty: Penalty | None,
) -> Fitted:
    """Makes one step of the optimizer; none on a batch of which nothing was seen."""
    count = jnp.sum(batch.seen)

    def loss(params: Params) -> Float[Array, ""]:
        pairs = batch.contexts, batch.items[:, None]
        found = _checked(apply, params, environment, *pairs)
        target = (batch.rewards - state.centre) / state.scale
        cost = (found - target[:, None].astype(found.dtype)) ** 2
        if penalty is not None:
            price = penalty(params, environment, *pairs)
            cost = cost + price / jnp.maximum(state.observed, 1).astype(found.dtype)
        total = jnp.sum(jnp.where(batch.seen[:, None], cost, 0))
        return total / jnp.maximum(count, 1).astype(found.dtype)

    gradient = jax.grad(loss)(state.params)
    updates, memory = optimizer.update(gradient, state.optimizer_state, state.params)
    moved = optax.apply_updates(state.params, updates), memory
    # A batch of which nothing was observed moves nothing, not even the moments of Adam.
    old = state.params, state.optimizer_state
    params, memory = jax.tree.map(lambda n, o: jnp.where(count > 0, n, o), moved, old)
    return dataclasses.replace(state, params=params, optimizer_state=memory)


def _checked(
    apply: Network,
    params: Params,
    environment: Environment,
    contexts: Int[Array, "B"],
    items: Int[Array, "B n"],
) -> Float[Array, "B n"]:
    """The network's output, whose shape is that of the items."""
    found: Any = apply(params, environment, contexts, items)
    shape = getattr(found, "shape", None)
    if shape != items.shape:
        got = "None" if found is None else f"an array of shape {shape}"
        raise ValueError(
            f"the network of a reward model returned {got} for items of shape {items.shape}; expected one "
            "number for each item of each context"
        )
    return found


def _flat(
    contexts: Int[Array, "B"],
    items: Int[Array, "B L"],
    rewards: Float[Array, "B L"],
    observed: Bool[Array, "B L"] | None,
) -> Observed:
    """The pairs of a batch in one row, without gradients."""
    seen = jnp.ones(rewards.shape, bool) if observed is None else observed
    values = jnp.where(seen, lax.stop_gradient(rewards), 0).astype(jnp.float32)
    pairs = jnp.repeat(contexts, items.shape[1]), items.reshape(-1)
    return Observed(*pairs, values.reshape(-1), seen.reshape(-1))


def _counted(state: Fitted, new: Observed) -> Fitted:
    """Counts the new rewards; the first ones give the centre and the scale."""
    weights = new.seen.astype(jnp.float32)
    count = jnp.sum(weights)
    mean = jnp.sum(new.rewards * weights) / jnp.maximum(count, 1)
    spread = jnp.sqrt(jnp.sum((new.rewards - mean) ** 2 * weights) / jnp.maximum(count, 1))
    first = (state.observed == 0) & (count > 0)
    wide = spread > _SMALLEST_SCALE * jnp.maximum(1, jnp.abs(mean))
    return dataclasses.replace(
        state,
        observed=state.observed + count,
        centre=jnp.where(first, mean, state.centre),
        scale=jnp.where(first, jnp.where(wide, spread, 1), state.scale),
    )


def falling_adam(
    learning_rate: float, replay: Replay | None = None
) -> optax.GradientTransformation:
    """Adam with a learning rate that falls like 1 / (1 + updates / 2000), so that its noise averages out.

    Args:
      learning_rate: the first one.
      replay: gives the number of steps in an update; None for one.
    """
    half = _HALVES_AFTER * (1 if replay is None else replay.steps)
    return optax.adam(lambda count: learning_rate / (1 + count / half))


# --- two towers -------------------------------------------------------------------------------------------


def two_tower(
    environment: Environment,
    dim: int = 32,
    optimizer: optax.GradientTransformation | None = None,
    *,
    context_tower: str = "ids",
    item_tower: str = "ids",
    hidden: tuple[int, ...] = (64,),
    init_scale: float = 0.1,
    penalty: float = 1.0,
    replay: Replay | None = None,
) -> RewardModel:
    """Builds a reward model of two towers, with biases of the context, of the item, and of all pairs.

        g(x, a) = <u_x, v_a> + b_x + b_a + c

    The penalty is that of a Gaussian prior: penalty * (sum_x |u_x|^2 + sum_a |v_a|^2), biases included,
    estimated on the observed pairs as if contexts and items occurred equally often. With it, a width above
    that of the policy does not overfit.

    Args:
      environment: numbers of contexts and items, and their features.
      dim: width of the embeddings without the biases.
      optimizer: any of optax; `falling_adam` from a learning rate of 0.01 by default.
      context_tower, item_tower: "ids", a table, or "features", a perceptron over features.
      hidden: widths of the perceptrons' hidden layers.
      init_scale: standard deviation of the embeddings at initialisation.
      penalty: ratio of the variance of a reward's noise to that of an embedding's entries, both in units of
        standardised rewards; 0 for none.
      replay: memory of earlier rewards, and steps on them; None for one step on every batch.

    Raises:
      ConfigError: another tower, or one over features that the environment lacks.

    >>> from rankpg.environments import from_matrix
    >>> model = two_tower(from_matrix(jnp.eye(3)).environment, dim=2)
    >>> state = model.init(jax.random.key(0))
    >>> model.predict(state, from_matrix(jnp.eye(3)).environment, jnp.array([1]), jnp.array([[0, 2]])).shape
    (1, 2)
    """
    sides = _sides(environment, context_tower, item_tower)
    sizes = [
        TowerSettings(*side.sizes, dim + 1, 1, init_scale, hidden, jnp.float32) for side in sides
    ]
    kinds = [TOWERS[side.tower] for side in sides]

    def build(key: PRNGKey) -> _Towers:
        rngs = nnx.Rngs(params=key)
        return _Towers(*(kind.build(size, rngs) for kind, size in zip(kinds, sizes, strict=True)))

    graph, _ = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))), nnx.Param)

    def rows(
        params: Params, world: Environment, contexts: Int[Array, "B"], items: Int[Array, "B n"]
    ) -> tuple[Float[Array, "B W"], Float[Array, "B n W"]]:
        module = nnx.merge(graph, params)
        users = contexts if world.context_users is None else world.context_users[contexts]
        flat, features = items.reshape(-1), (world.context_features, world.item_features)
        of_contexts, of_items = (
            ids if tower == "ids" or own is None else own[ids]
            for tower, ids, own in zip(
                (context_tower, item_tower), (users, flat), features, strict=True
            )
        )
        found = module.contexts(of_contexts)[0], module.items(of_items)[0]
        return found[0], found[1].reshape(*items.shape, dim + 1)

    def apply(
        params: Params, world: Environment, contexts: Int[Array, "B"], items: Int[Array, "B n"]
    ) -> Float[Array, "B n"]:
        u, v = rows(params, world, contexts, items)
        inner = jnp.sum(u[:, None, :dim] * v[:, :, :dim], axis=-1)
        constant = nnx.merge(graph, params).constant[...]
        return inner + u[:, None, dim] + v[:, :, dim] + constant

    def price(
        params: Params, world: Environment, contexts: Int[Array, "B"], items: Int[Array, "B n"]
    ) -> Float[Array, "B n"]:
        u, v = rows(params, world, contexts, items)
        of_context = sides[0].degrees * jnp.sum(u**2, axis=-1)
        return penalty * (of_context[:, None] + sides[1].degrees * jnp.sum(v**2, axis=-1))

    def embed(params: Params, world: Environment, contexts: Int[Array, "B"]) -> Embeddings:
        module = nnx.merge(graph, params)
        items = module.items() if item_tower == "ids" else module.items(world.item_features)
        u = rows(params, world, contexts, jnp.zeros((len(contexts), 0), jnp.int32))[0]
        return Embeddings(contexts=u.at[:, dim].set(1)[:, None], items=items)

    return custom(
        lambda key: nnx.split(build(key), nnx.Param)[1],
        apply,
        optimizer,
        penalty=price if penalty else None,
        replay=replay,
        embed=embed,
    )


class _Towers(nnx.Module):
    """Two towers whose last column is the bias, and a constant."""

    def __init__(self, contexts: Tower, items: Tower):
        self.contexts, self.items = contexts, items
        self.constant = nnx.Param(jnp.zeros((), jnp.float32))


class _Side(NamedTuple):
    """One side of the towers."""

    tower: str
    num_ids: int
    num_features: int

    @property
    def sizes(self) -> tuple[int, int]:
        return self.num_ids, self.num_features

    @property
    def degrees(self) -> int:
        """Number of rows that are free: ids, or features."""
        return self.num_ids if self.tower == "ids" else min(self.num_ids, self.num_features)


def _sides(environment: Environment, context_tower: str, item_tower: str) -> list[_Side]:
    """Both sides; rejects towers that are not for rewards, or lack their features."""
    found = []
    for side, tower, count, features in (
        ("context", context_tower, environment.num_users, environment.context_features),
        ("item", item_tower, environment.num_items, environment.item_features),
    ):
        if tower not in ("ids", "features"):
            raise ConfigError(
                f"{side}_tower={tower!r} in a reward model; expected 'ids' or 'features'"
            )
        if tower == "features" and features is None:
            raise ConfigError(
                f"{side}_tower='features' in a reward model, and the environment "
                f"{type(environment).__name__} has no {side}_features; give {side}_tower='ids'"
            )
        width = features.shape[1] if tower == "features" and features is not None else 0
        found.append(_Side(tower, count, width))
    return found
