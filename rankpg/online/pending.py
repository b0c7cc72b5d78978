"""The draws that wait for their feedback, and the tokens that name them.

A token is `<retriever>.<serial>.<seal>`: who drew, the how many-th draw, and the first digits of a sum over
what was drawn. The retriever keeps the draw itself, so a token holds nothing that a client could change.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Draw", "FeedbackRows", "OpenDraw", "OpenDraws", "Rows", "TokenError"]


class TokenError(ValueError):
    """A token that names no open draw of this retriever."""


class Rows(NamedTuple):
    """Draws, one a row."""

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

    def take(self, index: np.ndarray) -> Rows:
        return Rows(*(column[index] for column in self))


class FeedbackRows(NamedTuple):
    """Draws and what came of them, one a row."""

    rows: Rows
    ranking: np.ndarray
    """int32[n, L]"""
    rewards: np.ndarray
    """float32[n, L]"""

    def take(self, index: np.ndarray | slice) -> FeedbackRows:
        rows = Rows(*(column[index] for column in self.rows))
        return FeedbackRows(rows, self.ranking[index], self.rewards[index])


def join(parts: Sequence[FeedbackRows]) -> FeedbackRows:
    """One after the other."""
    rows = Rows(
        *(np.concatenate(columns) for columns in zip(*(p.rows for p in parts), strict=True))
    )
    ranking = np.concatenate([part.ranking for part in parts])
    return FeedbackRows(rows, ranking, np.concatenate([part.rewards for part in parts]))


@dataclass
class OpenDraw:
    """A draw some rows of which wait."""

    serial: int
    seal: str
    rows: Rows
    told: np.ndarray
    """bool[n]: which rows wait no more"""

    def places(self, token: str, rows: Any, group: int) -> np.ndarray:
        """The rows that are meant, as an array; all of them by None.

        Args:
          token: for messages.
          rows: what was given.
          group: rows that share a context and are told together.

        Raises:
          ValueError: rows that are not there, twice, or less than a group.
          TokenError: rows that wait no more.
        """
        size = len(self.told)
        places = np.atleast_1d(np.arange(size) if rows is None else np.asarray(rows))
        some = places.ndim == 1 and len(places) > 0 and np.issubdtype(places.dtype, np.integer)
        if not some or places.min() < 0 or places.max() >= size:
            raise ValueError(
                f"rows is {rows!r}; expected some of the rows 0 to {size - 1} of draw {token}"
            )
        if len(np.unique(places)) < len(places):
            raise ValueError(f"rows is {rows!r}; expected every row of draw {token} at most once")
        if self.told[places].any():
            raise TokenError(
                f"row {int(places[self.told[places]][0])} of draw {token} was learnt or forgotten "
                "already; a row "
                "is learnt once. Leave it out of rows="
            )
        starts = places[::group] // group * group
        whole = (starts[:, None] + np.arange(group)).ravel()
        if not np.array_equal(whole, places):
            raise ValueError(
                f"rows is {rows!r}; expected whole groups of draws_per_context = {group} rows that share a "
                f"context, such as {list(range(group))}, of draw {token}"
            )
        return places


@dataclass
class OpenDraws:
    """All draws of one retriever that wait.

    >>> draws = OpenDraws()
    >>> rows = Rows(*(np.zeros((1, 2)[:n]) for n in (1, 2, 1, 2, 1)))
    >>> token = draws.issue(rows)
    >>> draws.find(token).serial
    0
    """

    identity: str = field(default_factory=lambda: secrets.token_hex(6))
    serials: int = 0
    """How many draws there have been."""
    waiting: dict[int, OpenDraw] = field(default_factory=dict)

    def issue(self, rows: Rows) -> str:
        """Keep a draw; answers its token."""
        seal = hashlib.sha256(secrets.token_bytes(16))
        for column in rows:
            seal.update(np.ascontiguousarray(column).tobytes())
        told = np.zeros(len(rows.contexts), bool)
        draw = OpenDraw(self.serials, seal.hexdigest()[:8], rows, told)
        self.waiting[draw.serial] = draw
        self.serials += 1
        return self.token(draw)

    def token(self, draw: OpenDraw) -> str:
        """The name of a draw."""
        return f"{self.identity}.{draw.serial}.{draw.seal}"

    def find(self, token: str) -> OpenDraw:
        """The open draw that a token names.

        Raises:
          TokenError: it is no token, of another retriever, unknown, or of a draw that waits no more.
        """
        parts = token.split(".") if isinstance(token, str) else []
        number = parts[1] if len(parts) == 3 else ""
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise TokenError(f"token is {token!r}; expected one that `draw` answered, as it was")
        if parts[0] != self.identity:
            raise TokenError(
                f"token {token} was drawn by the retriever {parts[0]}, and this one is {self.identity}; "
                "tell the "
                "one that drew, or load its run folder"
            )
        serial = int(number)
        draw = self.waiting.get(serial)
        if serial >= self.serials or (draw is not None and draw.seal != parts[2]):
            raise TokenError(
                f"token {token} is unknown to this retriever: it was drawn after the last save, before a "
                "restart, "
                "or never. That draw cannot be learnt from; save more often to lose fewer"
            )
        if draw is None:
            raise TokenError(
                f"token {token} is used up: every row of that draw was learnt or forgotten. A row is "
                "learnt once"
            )
        return draw

    def settle(self, draw: OpenDraw, rows: np.ndarray) -> None:
        """These rows wait no more."""
        draw.told[rows] = True
        if draw.told.all():
            self.waiting.pop(draw.serial, None)


@dataclass(frozen=True)
class Draw:
    """Candidates for some contexts."""

    token: str
    """Names this draw when its feedback is told."""
    contexts: np.ndarray
    """ids [n], as they were asked for"""
    candidates: np.ndarray
    """item ids [n, K], in slot order"""
    log_propensity: np.ndarray
    """float32[n]: log P of the ordered candidate set"""
    log_inclusion: np.ndarray
    """float32[n, K]: log P of every candidate to be one, by `Retriever.inclusion_method`"""
    step: int
    """Updates made before the draw."""
