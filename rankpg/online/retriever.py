"""The online retriever: `act` draws candidates, `update` learns from their feedback when it arrives."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rankpg._utils.paths import expanded
from rankpg.config.train_config import TrainConfig
from rankpg.data.ids import ArrayLike
from rankpg.environments.dataset import Dataset
from rankpg.online import snapshot
from rankpg.online.pending import Draw, FeedbackRows, OpenDraws, Rows, UpdateResult, join
from rankpg.online.update import (
    FeedbackBatch,
    Importance,
    LoggedDraw,
    UpdateMetrics,
    act,
    inclusion_method,
    keys_of_draw,
    sample_rewards,
    training_contexts,
    update_from_feedback,
)
from rankpg.online.validation import check_online, check_ranking, check_rewards
from rankpg.runs.run import Run, prepare
from rankpg.training.optimizer import Fault
from rankpg.training.update import Learner, TrainState, seed_keys
from rankpg.types import Array, Environment, Float, Int, Params, PRNGKey

__all__ = ["Retriever", "UpdateError", "UpdateResult"]

if TYPE_CHECKING:
    from rankpg.online.log import Log


Tree = TypeVar("Tree")


class UpdateError(ValueError):
    """Raised for an update that met a fault; the parameters are those before it."""


class Retriever:
    """A policy that learns in a running system, where rewards arrive from outside and later.

    `act` returns candidates and a token. `update` takes the rankings that were shown and their rewards, in
    any order, for some rows of a draw now and for others later. Feedback waits until it fills a batch of
    `batch_size` rows; then one update is made, by `training.update`. Both may be called from several threads.

    >>> config = TrainConfig(num_candidates=2, ranking_length=1, batch_size=2, seeds=(0,))
    >>> from rankpg.online import catalogue
    >>> retriever = Retriever.new(config, catalogue(num_contexts=3, num_items=5))
    >>> drawn = retriever.act([0, 2])
    >>> drawn.candidates.shape
    (2, 2)
    >>> retriever.update(drawn.token, drawn.candidates[:, :1], [[1.0], [0.0]]).step
    1
    """

    def __init__(
        self,
        run: Run,
        *,
        importance: Importance = "set",
        clip: float = 10.0,
        log: Log | None = None,
        draws: OpenDraws | None = None,
        queue: list[FeedbackRows] | None = None,
    ):
        """Starts from a run of one seed, new or trained before.

        Args:
          run: a run of `runs.prepare`, `rankpg.train` or `load_run`.
          importance: importance weights of draws of an older policy: "set", "item" or "none"; see
            online/update.py.
          clip: the largest weight.
          log: records draws and feedback.
          draws, queue: open draws and waiting feedback of an earlier process.

        Raises:
          ConfigError: several seeds, or a component that needs the re-ranker inside the program.
        """
        check_online(run, importance, clip)
        self.importance: Importance = importance
        self.run, self.clip, self.log = run, clip, log
        self._learner = run.server  # it leaves out what a context has seen
        if log is not None:
            data = run.dataset
            log.declare(data.context_ids, data.item_ids)
        # A resumed run draws with the keys of its next steps, not again with those of earlier ones.
        self.draws = draws or OpenDraws(serials=self.step)
        self._queue = queue or []
        self._saves: dict[Path, str] = {}
        """folder -> name of the last save that this retriever made or loaded there"""
        self._root = seed_keys(run.config.seeds, "steps")[0]
        self._lock = threading.RLock()
        self._compile()

    @classmethod
    def new(
        cls,
        config: TrainConfig,
        environment: Environment | Dataset,
        *,
        importance: Importance = "set",
        clip: float = 10.0,
        log: Log | None = None,
        **components: Any,
    ) -> Retriever:
        """Makes a retriever at step 0.

        Args:
          config: settings with one seed.
          environment: contexts and items; `online.catalogue` if the rewards are unknown.
          importance, clip, log: as in `Retriever`.
          **components: as in `rankpg.train`.
        """
        run = prepare(config, environment, **components)
        return cls(run, importance=importance, clip=clip, log=log)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        importance: Importance | None = None,
        clip: float | None = None,
        log: Log | None = None,
        **overrides: Any,
    ) -> Retriever:
        """Loads a saved retriever: state, open draws, and waiting feedback.

        Args:
          path: the folder.
          importance, clip: None keeps the saved values.
          log: records draws and feedback from now on.
          **overrides: as in `load_run`.

        Raises:
          ConfigError, CheckpointError: the folder does not exist, or is damaged.
        """
        found = snapshot.load(expanded(path), **overrides)
        retriever = cls(
            found.run,
            importance=importance or found.owner.importance,
            clip=found.owner.clip if clip is None else clip,
            log=log,
            draws=found.draws,
            queue=found.queue,
        )
        retriever._saves[expanded(path).resolve()] = found.owner.last_save
        return retriever

    def save(self, path: Path | str) -> None:
        """Saves run, open draws and waiting feedback, so that tokens survive a restart.

        Raises:
          ConfigError: the folder holds another run, or later updates of another process, or cannot be
            created.
          OSError: the disk cannot be written; the earlier save stays.
        """
        folder = expanded(path).resolve()
        with self._lock:
            if self.log is not None:
                self.log.flush()
            owner = snapshot.Owner(self.draws.identity, self.importance, self.clip)
            self._saves[folder] = snapshot.save(
                expanded(path), owner, self._saves.get(folder), self.run, self.draws, self._queue
            )

    @property
    def step(self) -> int:
        """Updates made so far."""
        return int(self.run.state.step[0])

    @property
    def inclusion_method(self) -> str:
        """The method of `Draw.log_inclusion`: exact, greedy, or swr (sampling with replacement)."""
        return inclusion_method(self._learner)

    @property
    def waiting(self) -> int:
        """Rows of feedback that wait until they fill a batch."""
        return sum(len(part.rewards) for part in self._queue)

    def act(self, contexts: ArrayLike) -> Draw:
        """Draws K candidates for each context.

        Args:
          contexts: one context id, or a list of them.

        Raises:
          ValueError: an unknown context.
          UpdateError: the policy has a logit that is not finite.
        """
        rows = self.run.context_rows(contexts)
        with self._lock:
            return self._draw(rows)

    def act_on_batch(self) -> Draw:
        """Draws candidates for a batch of training contexts, as `Learner.update` does at this step."""
        with self._lock:
            contexts = self._contexts(self._learner, self._root, self._serial)
            return self._draw(np.asarray(contexts))

    def _draw(self, contexts: np.ndarray) -> Draw:
        contexts = contexts.astype(np.int32)
        padded = np.resize(contexts, self._padded(len(contexts)))
        drawn = self._draws(self._learner, self.run.state.params, self._root, self._serial, padded)
        drawn = jax.tree.map(lambda x: np.asarray(x)[: len(contexts)], drawn)
        if not drawn.sound.all():
            raise UpdateError(
                f"nothing was drawn: the policy has {Fault.LOGITS.description}. {Fault.LOGITS.remedy}"
            )
        step = self.step
        rows = Rows(
            contexts,
            drawn.items,
            drawn.log_propensity,
            drawn.log_inclusion,
            np.full(len(contexts), step, np.int32),
        )
        token, data = self.draws.issue(rows), self.run.dataset
        draw = Draw(
            token=token,
            contexts=data.context_ids[contexts],
            candidates=data.item_ids[drawn.items],
            log_propensity=drawn.log_propensity,
            log_inclusion=drawn.log_inclusion,
            step=step,
        )
        if self.log is not None:
            self.log.log_draw(draw, self.inclusion_method)
        return draw

    def update(
        self, token: str, ranking: ArrayLike, rewards: ArrayLike, rows: ArrayLike | None = None
    ) -> UpdateResult:
        """Takes the feedback of a draw, and makes an update when a batch is full.

        Everything is validated before anything changes. Rows without feedback stay open.

        Args:
          token: the token of the draw.
          ranking: item ids [n, L] as shown, best first, each a candidate of its row.
          rewards: rewards [n, L] of the shown items.
          rows: the n row numbers of the draw; all rows if None. Rows that share a context
            (`draws_per_context`) need their feedback together.

        Raises:
          TokenError: see `OpenDraws.find`.
          ValueError: rows that do not exist or have feedback already, an item that is not a candidate, or a
            reward that is not finite. Nothing has changed then.
          UpdateError: the update met a fault. Its rows are dropped; the parameters are those before it.
        """
        with self._lock:
            draw = self.draws.find(token)
            indices = draw.row_indices(token, rows, self.run.config.draws_per_context)
            candidates = draw.rows.candidates[indices]
            length, ids = self.run.config.ranking_length, self.run.dataset.item_ids
            shown = check_ranking(ranking, candidates, length, indices, f"draw {token}", ids)
            earned = check_rewards(rewards, (len(indices), length), indices, f"draw {token}")
            self.draws.settle(draw, indices)
            self._queue.append(FeedbackRows(draw.rows.take(indices), shown, earned))
            if self.log is not None:
                self.log.log_feedback(token, indices, ids[shown], earned, self.step)
            metrics = []
            while self.waiting >= self.run.config.batch_size:
                metrics.append(self._update())
            return UpdateResult(self.step, self.waiting, tuple(metrics))

    def discard(self, token: str, rows: ArrayLike | None = None) -> None:
        """Discards the feedback of some rows of a draw; of all open rows if None.

        Raises:
          TokenError, ValueError: as in `update`.
        """
        with self._lock:
            draw = self.draws.find(token)
            open_rows = np.flatnonzero(~draw.settled)
            indices = (
                open_rows
                if rows is None
                else draw.row_indices(token, rows, self.run.config.draws_per_context)
            )
            self.draws.settle(draw, indices)

    def discard_older_than(self, updates: int) -> int:
        """Discards every open draw that is older than a number of updates, and returns how many."""
        with self._lock:
            old = [d for d in self.draws.waiting.values() if self.step - d.rows.step[0] > updates]
            for draw in old:
                self.draws.settle(draw, np.arange(len(draw.settled)))
            return len(old)

    def sample_rewards(self, draw: Draw, ranking: np.ndarray) -> np.ndarray:
        """Draws the environment's rewards, float32[n, L], for a ranking of an open draw."""
        found = self.draws.find(draw.token)
        shown = self.run.dataset.item_ids.rows(ranking).astype(np.int32)
        rewards = self._rewards(
            self._learner, self._root, np.int32(found.serial), found.rows.contexts, shown
        )
        return np.asarray(rewards)

    @property
    def _serial(self) -> np.int32:
        return np.int32(self.draws.serials)

    def _padded(self, rows: int) -> int:
        """The batch size, or the next power of two: so few programs serve all sizes."""
        return rows if rows == self.run.config.batch_size else 1 << (rows - 1).bit_length()

    def _update(self) -> dict[str, float]:
        """Makes one update on the first batch of waiting feedback."""
        queue, size = join(self._queue), self.run.config.batch_size
        batch, rest = queue.take(slice(0, size)), queue.take(slice(size, None))
        self._queue = [rest] if len(rest.rewards) else []
        batch_of_rows = FeedbackBatch(
            context=jnp.asarray(batch.rows.contexts),
            drawn=LoggedDraw(
                items=jnp.asarray(batch.rows.candidates),
                log_propensity=jnp.asarray(batch.rows.log_propensity),
                log_inclusion=jnp.asarray(batch.rows.log_inclusion),
                sound=jnp.ones(size, bool),
            ),
            ranking=jnp.asarray(batch.ranking),
            rewards=jnp.asarray(batch.rewards),
            age=jnp.asarray(self.step - batch.rows.step),
        )
        self.run.state, metrics = self._updates(self._learner, self.run.state, batch_of_rows)
        fault = int(self.run.state.fault[0])
        if fault:
            state = self.run.state
            self.run.state = dataclasses.replace(state, fault=jnp.zeros_like(state.fault))
            raise UpdateError(
                f"update {self.step + 1} was not made: it met {Fault(fault).description}. The parameters are "
                f"those before it, its {size} rows are dropped. {Fault(fault).remedy}"
            )
        metrics = jax.device_get(metrics)
        flat = {**vars(metrics), **vars(metrics.step)}
        return {name: float(value) for name, value in flat.items() if name != "step"}

    def _compile(self) -> None:
        """Compiles both halves of an update; the state keeps its axis of seeds, of length 1."""

        def only(tree: Tree) -> Tree:
            return jax.tree.map(lambda x: x[0], tree)

        def draws(
            learner: Learner,
            params: Params,
            root: PRNGKey,
            serial: Int[Array, ""],
            contexts: Int[Array, "B"],
        ) -> LoggedDraw:
            keys = keys_of_draw(root, serial, len(contexts)).candidates
            return act(learner, only(params), keys, contexts)

        def rewards(
            learner: Learner,
            root: PRNGKey,
            serial: Int[Array, ""],
            contexts: Int[Array, "B"],
            ranking: Int[Array, "B L"],
        ) -> Float[Array, "B L"]:
            keys = keys_of_draw(root, serial, len(contexts)).rewards
            return sample_rewards(learner, keys, contexts, ranking)

        def updates(
            learner: Learner, state: TrainState, batch: FeedbackBatch
        ) -> tuple[TrainState, UpdateMetrics]:
            state, metrics = update_from_feedback(
                learner, self.importance, self.clip, only(state), batch
            )
            return jax.tree.map(lambda x: x[None], state), metrics

        self._contexts = jax.jit(training_contexts)
        self._draws, self._rewards = jax.jit(draws), jax.jit(rewards)
        self._updates = jax.jit(updates, donate_argnums=1)
