"""What a category is called: one text for one value, whatever kind of table it came in. No JAX here."""

from __future__ import annotations

import datetime
import re
from typing import Any

from rankpg.environments.ids import is_missing

__all__ = ["category"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?")
_WHOLE = re.compile(r"-?(?:0|[1-9]\d*)(?:\.0+|(?:\.\d+)?[eE]\+\d+)")
"""A whole number as floats are written."""


def category(value: Any) -> str | None:
    """A value of a column of categories as text; None where it is missing.

    A CSV holds text where other tables hold booleans, floats and dates, so text that reads as one of these
    is that one. Times are in UTC, and midnight is the day.

    >>> category(1.0), category("1.0"), category(datetime.date(2020, 1, 2)), category("2020-01-02 00:00:00")
    ('1', '1', '2020-01-02', '2020-01-02')
    """
    if is_missing(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.timedelta):  # pandas' say it differently
        return str(datetime.timedelta(value.days, value.seconds, value.microseconds))
    if isinstance(value, datetime.date):
        return _time(value.isoformat())
    return _of_text(str(value))


def _of_text(text: str) -> str:
    if text in ("True", "False"):
        return text.lower()
    if _WHOLE.fullmatch(text) and (number := float(text)).is_integer():
        return str(int(number))
    return _time(text)


def _time(text: str) -> str:
    """A time without what adds nothing to it; other text as it is."""
    parts = _TIME.fullmatch(text)
    if parts is None:
        return text
    day, minute, second, fraction, zone = parts.groups()
    fraction = (fraction or "").rstrip("0")
    clock = minute + (second or ":00")
    try:
        moment = datetime.datetime.fromisoformat(f"{day}T{clock}{zone or ''}")
    except ValueError:  # the 30th of February
        return text
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    if fraction or moment.time() != datetime.time():
        return moment.isoformat() + (f".{fraction}" if fraction else "")
    return moment.date().isoformat()
