"""Draws that wait for their feedback, and the tokens that name them.

A token is `<retriever>.<serial>.<seal>`: the identity of the retriever, the serial number of the draw, and
the first digits of a checksum of the draw. The retriever keeps the draw itself, so a client cannot change it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rankpg.data.ids import ArrayLike

__all__ = ["Draw", "FeedbackRows", "OpenDraw", "OpenDraws", "Rows", "TokenError", "UpdateResult"]


class TokenError(ValueError):
    """Raised for a token that does not name an open draw of this retriever."""


class Rows(NamedTuple):
    """Draws, one in each row."""

    contexts: np.ndarray
    """int32[n]"""
    candidates: np.ndarray
    """int32[n, K], in slot order"""
    log_propensity: np.ndarray
    """float32[n]"""
    log_inclusion: np.ndarray
    """float32[n, K]"""
    step: np.ndarray
    """int32[n], updates made before the draw"""
    allowed: np.ndarray
    """uint8[n, N / 8]: eligible items, packed to bits; of width 0 if all were"""

    def take(self, index: np.ndarray | slice) -> Rows:
        return Rows(*(column[index] for column in self))


class FeedbackRows(NamedTuple):
    """Draws and their feedback, one in each row."""

    rows: Rows
    ranking: np.ndarray
    """int32[n, L]"""
    rewards: np.ndarray
    """float32[n, L]"""
    seen: np.ndarray
    """bool[n, L]: False for a position that was not shown; its item and reward have no effect"""

    def take(self, index: np.ndarray | slice) -> FeedbackRows:
        return FeedbackRows(self.rows.take(index), *(column[index] for column in self[1:]))


def join(parts: Sequence[FeedbackRows]) -> FeedbackRows:
    """Concatenates rows."""
    width = max(part.rows.allowed.shape[1] for part in parts)
    columns = zip(*(_widened(part.rows, width) for part in parts), strict=True)
    rows = Rows(*(np.concatenate(column) for column in columns))
    feedback = zip(*(part[1:] for part in parts), strict=True)
    return FeedbackRows(rows, *(np.concatenate(column) for column in feedback))


def _widened(rows: Rows, width: int) -> Rows:
    """Rows with a mask of this width; all items are eligible where there was none."""
    if rows.allowed.shape[1] == width:
        return rows
    return rows._replace(allowed=np.full((len(rows.step), width), 255, np.uint8))


@dataclass
class OpenDraw:
    """A draw with rows that wait for feedback."""

    serial: int
    seal: str
    rows: Rows
    settled: np.ndarray
    """bool[n]: True for rows that have feedback or were discarded."""
    stream: int = 0
    """The noise that it was drawn with; see noise.py."""

    def row_indices(self, token: str, rows: ArrayLike | None, group: int) -> np.ndarray:
        """Validates row numbers and returns them as an array; all rows if None.

        Args:
          token: name of the draw, for messages.
          rows: row numbers of the draw.
          group: number of rows that share a context and need their feedback together.

        Raises:
          ValueError: rows that do not exist, are given twice, or are less than a group.
          TokenError: rows that are settled.
        """
        size = len(self.settled)
        indices = np.atleast_1d(np.arange(size) if rows is None else np.asarray(rows))
        some = indices.ndim == 1 and len(indices) > 0 and np.issubdtype(indices.dtype, np.integer)
        if not some or indices.min() < 0 or indices.max() >= size:
            raise ValueError(
                f"rows={rows!r}; expected some of the rows 0 to {size - 1} of draw {token}"
            )
        if len(np.unique(indices)) < len(indices):
            raise ValueError(f"rows={rows!r}; expected every row of draw {token} at most once")
        if self.settled[indices].any():
            raise TokenError(
                f"row {int(indices[self.settled[indices]][0])} of draw {token} already has feedback or was "
                "discarded; leave it out of rows="
            )
        starts = indices[::group] // group * group
        whole = (starts[:, None] + np.arange(group)).ravel()
        if not np.array_equal(whole, indices):
            raise ValueError(
                f"rows={rows!r}; expected whole groups of draws_per_context={group} rows that share a "
                f"context, such as {list(range(group))}, of draw {token}"
            )
        return indices


@dataclass
class OpenDraws:
    """All open draws of one retriever.

    >>> draws = OpenDraws()
    >>> rows = Rows(*(np.zeros((1, 2)[:n]) for n in (1, 2, 1, 2, 1, 2)))
    >>> token = draws.issue(rows)
    >>> draws.find(token).serial
    0
    """

    identity: str = field(default_factory=lambda: secrets.token_hex(6))
    serials: int = 0
    """Number of draws so far."""
    waiting: dict[int, OpenDraw] = field(default_factory=dict)

    def issue(self, rows: Rows, stream: int = 0) -> str:
        """Keeps a draw and returns its token."""
        seal = hashlib.sha256(secrets.token_bytes(16))
        for column in rows:
            seal.update(np.ascontiguousarray(column).tobytes())
        settled = np.zeros(len(rows.contexts), bool)
        draw = OpenDraw(self.serials, seal.hexdigest()[:8], rows, settled, stream)
        self.waiting[draw.serial] = draw
        self.serials += 1
        return self.token(draw)

    def token(self, draw: OpenDraw) -> str:
        """Token of a draw."""
        return f"{self.identity}.{draw.serial}.{draw.seal}"

    def find(self, token: str) -> OpenDraw:
        """Looks up the open draw of a token.

        Raises:
          TokenError: not a token, a token of another retriever or of an unknown draw, or a settled draw.
        """
        parts = token.split(".") if isinstance(token, str) else []
        number = parts[1] if len(parts) == 3 else ""
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise TokenError(f"token={token!r}; expected a token that `act` returned, unchanged")
        if parts[0] != self.identity:
            raise TokenError(
                f"token {token} belongs to the retriever {parts[0]}, and this one is {self.identity}; pass "
                "the feedback to the retriever that drew, or load its folder"
            )
        serial = int(number)
        draw = self.waiting.get(serial)
        if serial >= self.serials or (draw is not None and draw.seal != parts[2]):
            raise TokenError(
                f"token {token} is unknown to this retriever: the draw was made after the last save and "
                "before a restart, or never. It cannot be used; save more often to lose fewer draws"
            )
        if draw is None:
            raise TokenError(
                f"token {token} is used up: every row of that draw has feedback or was discarded, and each "
                "row is used once"
            )
        return draw

    def settle(self, draw: OpenDraw, rows: np.ndarray) -> None:
        """Marks rows as settled."""
        draw.settled[rows] = True
        if draw.settled.all():
            self.waiting.pop(draw.serial, None)


@dataclass(frozen=True)
class Draw:
    """Candidates for some contexts, as `Retriever.act` returns them."""

    token: str
    """Names this draw when its feedback arrives."""
    contexts: np.ndarray
    """Ids [n], as they were passed."""
    candidates: np.ndarray
    """Item ids [n, K], in slot order."""
    log_propensity: np.ndarray
    """float32[n]: log P(S) of the ordered candidate set under the policy that drew."""
    log_inclusion: np.ndarray
    """float32[n, K]: log P(a in S) of every candidate, by `Retriever.inclusion_method`."""
    step: int
    """Updates made before the draw."""
    stream: int = 0
    """The stream of noise; with the serial number in the token, it makes the draw reproducible."""


@dataclass(frozen=True)
class UpdateResult:
    """The result of passing feedback."""

    step: int
    """Updates made so far."""
    waiting: int
    """Rows of feedback that wait until they fill a batch."""
    metrics: tuple[dict[str, float], ...] = ()
    """Metrics of every update that this call made."""
    clipped: int = 0
    """Rewards of this call outside of the bounds, which were clipped."""
    unusable: int = 0
    """Rows of this call that nothing can be learnt from: fewer items were eligible than K."""
