"""The online retriever: `act` draws candidates, `update` learns from their feedback when it arrives."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rankpg._utils.paths import expanded
from rankpg.advantages import can_leave_out
from rankpg.config.train_config import TrainConfig
from rankpg.data.ids import ArrayLike
from rankpg.environments.dataset import Dataset
from rankpg.online import snapshot
from rankpg.online.noise import check_stream, fresh_stream, key_words, stream_root
from rankpg.online.pending import Draw, FeedbackRows, OpenDraws, Rows, UpdateResult, join
from rankpg.online.programs import compile_programs
from rankpg.online.short_lists import pad_short_lists
from rankpg.online.update import FeedbackBatch, Importance, LoggedDraw, inclusion_method
from rankpg.online.validation import RewardBounds, check_online, check_ranking, check_rewards
from rankpg.runs.recommend import allowed_items, fill_value
from rankpg.runs.run import Run, prepare
from rankpg.training.optimizer import Fault
from rankpg.types import Environment, PRNGKey

__all__ = ["Retriever", "UpdateError", "UpdateResult"]

if TYPE_CHECKING:
    from rankpg.online.log import Log


class UpdateError(ValueError):
    """Raised for an update that met a fault; the parameters are those before it."""


class Retriever:
    """A policy that learns in a running system, where rewards arrive from outside and later.

    `act` returns candidates and a token. `update` takes the rankings that were shown and their rewards, in
    any order, for some rows of a draw now and for others later. Feedback waits until it fills a batch of
    `batch_size` rows; then one update is made, by `training.update`. Every member may be used from several
    threads, also while an update runs.

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
        stream: int | None = None,
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
          stream: number of the stream of noise, see online/noise.py. None: 0, the noise of training, for a
            run without updates, and else a fresh one, so that two servers of one run draw differently.
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
        if stream is None:
            stream = fresh_stream() if self.step else 0
        self.stream = check_stream(stream)
        """The stream of noise."""
        self.clipped_rewards = 0
        """Rewards outside of the bounds so far, which were clipped."""
        low, high = run.config.reward_bounds
        self._bounds = RewardBounds(low, high, run.config.outside_bounds == "clip")
        self._queue = tuple(queue or ())
        self._saves: dict[Path, str] = {}
        """folder -> name of the last save that this retriever made or loaded there"""
        self._lock = threading.RLock()
        self._programs = compile_programs(importance, clip)

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
        stream: int | Literal["saved"] | None = None,
        **overrides: Any,
    ) -> Retriever:
        """Loads a saved retriever: state, open draws, and waiting feedback.

        Every load has noise of its own: two servers of one folder, or one that starts again after a crash,
        do not repeat each other's draws.

        Args:
          path: the folder.
          importance, clip: None keeps the saved values.
          log: records draws and feedback from now on.
          stream: number of the stream of noise; None chooses a fresh one. "saved" draws what the retriever
            that saved would have drawn next: for one process that goes on with training.
          **overrides: as in `load_run`.

        Raises:
          ConfigError, CheckpointError: the folder does not exist, or is damaged.
        """
        found = snapshot.load(expanded(path), **overrides)
        if stream is None:
            stream = fresh_stream()
        retriever = cls(
            found.run,
            importance=importance or found.owner.importance,
            clip=found.owner.clip if clip is None else clip,
            log=log,
            stream=found.owner.stream if stream == "saved" else stream,
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
        if self.log is not None:  # before the lock, so that no draw waits for the disk of the log
            try:
                self.log.flush()
            except OSError as error:
                warnings.warn(
                    f"saved without the log: {self.log.waiting} of its rows stay in memory ({error})",
                    stacklevel=2,
                )
        with self._lock:
            owner = snapshot.Owner(self.draws.identity, self.importance, self.clip, self.stream)
            queue = list(self._queue)
            self._saves[folder] = snapshot.save(
                expanded(path), owner, self._saves.get(folder), self.run, self.draws, queue
            )

    @property
    def step(self) -> int:
        """Updates made so far, up to 2^31 - 1; further ones are made and not counted."""
        return int(self.run.state.step[0])

    @property
    def inclusion_method(self) -> str:
        """The method of `Draw.log_inclusion`: exact, greedy, or swr (sampling with replacement)."""
        return inclusion_method(self._learner)

    @property
    def waiting(self) -> int:
        """Rows of feedback that wait until they fill a batch."""
        return sum(len(part.rewards) for part in self._queue)

    def act(self, contexts: ArrayLike, *, eligible: ArrayLike | None = None) -> Draw:
        """Draws K candidates for each context.

        Args:
          contexts: one context id, or a list of them.
          eligible: items that may be drawn, as ids or as a mask bool[N] or bool[contexts, N], whose labels
            are followed if it is a data frame. A context with fewer than K of them gets those, and the fill
            value of `Run.candidates` after them. Feedback on such a row is accepted and logged; nothing is
            learnt from it.

        Raises:
          ValueError: no context, no eligible item, or an unknown one.
          UpdateError: the policy has a logit that is not finite.
        """
        rows, allowed = self._rows_and_mask(contexts, eligible)
        with self._lock:
            return self._draw(rows, allowed)

    def _rows_and_mask(
        self, contexts: ArrayLike, eligible: ArrayLike | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Row numbers of contexts, and the mask bool[n, N] of their eligible items; None for every item."""
        rows = self.run.context_rows(contexts)
        allowed = allowed_items(eligible, self.run.dataset, contexts)
        if allowed is not None:
            allowed = np.broadcast_to(allowed, (len(rows), self.run.environment.num_items))
        return rows, allowed

    def act_on_batch(self) -> Draw:
        """Draws candidates for a batch of training contexts, as `Learner.update` does at this step."""
        with self._lock:
            root, word = self._keys(self.stream, self.draws.serials)
            contexts = self._programs.contexts(self._learner, root, word)
            return self._draw(np.asarray(contexts), None)

    def redraw(
        self, stream: int, serial: int, contexts: ArrayLike, *, eligible: ArrayLike | None = None
    ) -> np.ndarray:
        """Repeats a draw of the log under the present parameters, without a token.

        Args:
          stream: number of the stream, from the log.
          serial: number of the draw, the second part of its token.
          contexts: all contexts of the draw, in order.
          eligible: as in `act`.

        Returns:
          Item ids [n, K]: those of the draw, if the parameters are those of its step.

        Raises:
          ValueError: a serial number that no draw has.
        """
        if not 0 <= serial < 2**63:
            raise ValueError(f"serial={serial}; expected a whole number from 0 to 2^63 - 1")
        rows, allowed = self._rows_and_mask(contexts, eligible)
        drawn, choice = self._sampled(rows, allowed, check_stream(stream), serial)
        return self._named(drawn.items, choice)

    def _keys(self, stream: int, serial: int) -> tuple[PRNGKey, np.uint32]:
        """The root key of a draw, and the number that is folded into it."""
        epoch, word = key_words(serial)
        return stream_root(self.run.config.seeds[0], stream, epoch), word

    def _sampled(
        self, contexts: np.ndarray, allowed: np.ndarray | None, stream: int, serial: int
    ) -> tuple[Any, np.ndarray]:
        """A `LoggedDraw` of NumPy arrays, and the number of items to choose from in each row, K at most."""
        count, most = len(contexts), self.run.config.num_candidates
        places = np.arange(self._padded(count)) % count
        padded = contexts.astype(np.int32)[places]
        mask = None if allowed is None else allowed[places]
        root, word = self._keys(stream, serial)
        found = self._programs.draw(self._learner, self.run.state.params, root, word, padded, mask)
        drawn: Any = jax.tree.map(lambda x: np.array(x)[:count], found)
        choice = np.full(count, most)
        if mask is not None:
            counts = np.asarray(self._programs.count(self._learner, padded, mask))[:count]
            choice = np.minimum(counts, most)
        if not drawn.sound[choice == most].all():
            raise UpdateError(
                f"nothing was drawn: the policy has {Fault.LOGITS.description}. {Fault.LOGITS.remedy}"
            )
        for row in np.flatnonzero(choice < most):
            own = drawn.items[row, : choice[row]]
            others = np.setdiff1d(np.arange(most), own)  # they keep the places of missing items
            drawn.items[row, choice[row] :] = others[: most - choice[row]]
            drawn.log_propensity[row] = drawn.log_inclusion[row] = np.nan
        return drawn, choice

    def _named(self, items: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Ids of items [n, K], with the fill value where a row had too few."""
        ids = self.run.dataset.item_ids
        found, missing = ids[items], np.arange(items.shape[1])[None] >= choice[:, None]
        if not missing.any():
            return found
        return np.where(missing, np.asarray(fill_value(ids)).astype(found.dtype), found)

    def _draw(self, contexts: np.ndarray, allowed: np.ndarray | None) -> Draw:
        contexts = contexts.astype(np.int32)
        drawn, choice = self._sampled(contexts, allowed, self.stream, self.draws.serials)
        step, none = self.step, np.zeros((len(contexts), 0), np.uint8)
        rows = Rows(
            contexts,
            drawn.items,
            drawn.log_propensity,
            drawn.log_inclusion,
            np.full(len(contexts), step, np.int32),
            none if allowed is None else np.packbits(allowed, axis=1),
        )
        draw = Draw(
            token=self.draws.issue(rows, self.stream),
            contexts=self.run.dataset.context_ids[contexts],
            candidates=self._named(drawn.items, choice),
            log_propensity=drawn.log_propensity.copy(),
            log_inclusion=drawn.log_inclusion.copy(),
            step=step,
            stream=self.stream,
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
          ranking: item ids [n, L] as shown, best first, each a candidate of its row. A list that shows fewer
            than L items is shorter, or is filled up by None or the fill value of the ids.
          rewards: rewards [n, L] of the shown items.
          rows: the n row numbers of the draw; all rows if None. Rows that share a context
            (`draws_per_context`) need their feedback together.

        Raises:
          TokenError: see `OpenDraws.find`.
          ValueError: rows that do not exist or have feedback already, an item that is not a candidate, or a
            reward that is not finite, or outside of the bounds. Nothing has changed then.
          UpdateError: the update met a fault. Its rows are dropped; the parameters are those before it.
        """
        with self._lock:
            draw, config, source = self.draws.find(token), self.run.config, f"draw {token}"
            indices = draw.row_indices(token, rows, config.draws_per_context)
            candidates = draw.rows.candidates[indices]
            length, ids = config.ranking_length, self.run.dataset.item_ids
            ranking, rewards, seen = pad_short_lists(
                ranking, rewards, candidates, length, source, ids
            )
            shown = check_ranking(ranking, candidates, length, indices, source, ids)
            earned, clipped = check_rewards(
                rewards, (len(indices), length), indices, source, self._bounds, seen
            )
            self._check_leaves_out(seen, source)
            self.draws.settle(draw, indices)
            self.clipped_rewards += clipped
            usable = np.isfinite(draw.rows.log_propensity[indices])
            if usable.any():
                feedback = FeedbackRows(draw.rows.take(indices), shown, earned, seen)
                self._queue = (*self._queue, feedback.take(usable))
            if self.log is not None:
                lists = [own[there].tolist() for own, there in zip(ids[shown], seen, strict=True)]
                values = [own[there].tolist() for own, there in zip(earned, seen, strict=True)]
                self.log.log_feedback(token, indices, lists, values, self.step)
            metrics = []
            while self.waiting >= config.batch_size:
                metrics.append(self._update())
            unusable = int(np.sum(~usable))
            return UpdateResult(self.step, self.waiting, tuple(metrics), clipped, unusable)

    def _check_leaves_out(self, seen: np.ndarray, source: str) -> None:
        """Rejects short lists where the advantage compares whole ones."""
        if not seen.all() and not can_leave_out(self._learner.advantage):
            raise ValueError(
                f"{source}: the ranking shows fewer than L items, and the advantage "
                f"({self.run.config.advantage}) compares whole lists; give whole lists, or make the "
                "retriever with advantage='none', 'batch', 'context' or 'learned'"
            )

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
        root, word = self._keys(found.stream, found.serial)
        rewards = self._programs.rewards(self._learner, root, word, found.rows.contexts, shown)
        return np.asarray(rewards)

    def _padded(self, rows: int) -> int:
        """The batch size, or the next power of two: so few programs serve all sizes."""
        return rows if rows == self.run.config.batch_size else 1 << (rows - 1).bit_length()

    def _update(self) -> dict[str, float]:
        """Makes one update on the first batch of waiting feedback."""
        queue, size = join(self._queue), self.run.config.batch_size
        batch, rest = queue.take(slice(0, size)), queue.take(slice(size, None))
        self._queue = (rest,) if len(rest.rewards) else ()
        rows, items = batch.rows, self.run.environment.num_items
        feedback = FeedbackBatch(
            context=jnp.asarray(rows.contexts),
            drawn=LoggedDraw(
                items=jnp.asarray(rows.candidates),
                log_propensity=jnp.asarray(rows.log_propensity),
                log_inclusion=jnp.asarray(rows.log_inclusion),
                sound=jnp.ones(size, bool),
            ),
            ranking=jnp.asarray(batch.ranking),
            rewards=jnp.asarray(batch.rewards),
            age=jnp.asarray(self.step - rows.step),
            seen=None if batch.seen.all() else jnp.asarray(batch.seen),
            allowed=_unpacked(rows.allowed, items),
        )
        before = self.run.state
        state, metrics = self._programs.update(self._learner, before, feedback)
        fault = int(state.fault[0])
        if fault:
            raise UpdateError(
                f"update {self.step + 1} was not made: it met {Fault(fault).description}. The parameters are "
                f"those before it, its {size} rows are dropped. {Fault(fault).remedy}"
            )
        self.run.state = state
        metrics = jax.device_get(metrics)
        flat = {**vars(metrics), **vars(metrics.step)}
        return {name: float(value) for name, value in flat.items() if name != "step"}


def _unpacked(allowed: np.ndarray, num_items: int) -> jax.Array | None:
    """The mask bool[B, N] of packed bits; None where there is none, or every item is eligible."""
    if not allowed.shape[1] or (allowed == 255).all():
        return None
    return jnp.asarray(np.unpackbits(allowed, axis=1, count=num_items).astype(bool))
