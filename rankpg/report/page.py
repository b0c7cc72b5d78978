"""The page: what stands on it, as plain data, and the one HTML file that it becomes.

Every text goes through Jinja2 with autoescape on, so an id, a name or a path stays text. The page forbids
itself scripts and the network (its Content-Security-Policy), and its pictures are in it.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path
from typing import Any

from rankpg._utils.files import atomic_write_text

__all__ = ["Panel", "Section", "Table", "render", "write"]

_TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Unicode's controls of the direction of text."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a head; `colors`, if any, are swatches before the first cell of each row."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: str = ""
    colors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """A picture, and the sentence that says how to read it and what to do about it."""

    title: str
    image: str
    """an address that holds the picture: data:..."""
    reading: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; `notes` say what is missing, and why."""

    title: str
    words: str = ""
    tables: list[Table] = dataclasses.field(default_factory=list)
    panels: list[Panel] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What a link to it is called."""
        return self.title.lower().replace(" ", "-")


def render(title: str, words: str, sections: list[Section]) -> str:
    """The page as HTML.

    >>> page = render("<runs>", "", [Section("Summary", tables=[Table(("run",), [("<b>",)])])])
    >>> "<b>" in page, "&lt;b&gt;" in page, "&lt;runs&gt;" in page
    (False, True, True)
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_in_order,
    )  # fmt: skip
    template = resources.files(__package__ or "").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, words=words, sections=sections)


def _in_order(value: Any) -> Any:
    """Text without the controls that would turn what stands beside it round."""
    return _TURNS.sub("?", value) if type(value) is str else value  # a Markup is ours


def write(page: str, file: Path) -> None:
    """Write the page whole or not at all; what UTF-8 does not hold (a path of odd bytes) is spelled out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, page.encode("utf-8", errors="backslashreplace"))
