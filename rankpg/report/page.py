"""The report page: tables, panels and sections as data, and the HTML file that shows them.

Jinja2 escapes all text, so ids, names and paths cannot become markup. The Content-Security-Policy of the page
forbids scripts and network access; figures are embedded.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

from rankpg._utils.files import atomic_write_text

__all__ = ["Panel", "Section", "Table", "encoded", "render", "write"]

_DIRECTION_CONTROLS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Unicode controls of text direction"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header; `colors` are swatches before the first cell of each row.

    Cells of `strong`, pairs of row and column, are bold.
    """

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str = ""
    colors: tuple[str, ...] = ()
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure with a text that says how to read it and what to do about it."""

    title: str
    image: str
    """data URI of the figure"""
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page; `notes` say what is missing and why."""

    title: str
    text: str = ""
    tables: list[Table] = dataclasses.field(default_factory=list)
    panels: list[Panel] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return self.title.lower().replace(" ", "-")


def render(title: str, text: str, sections: list[Section]) -> str:
    """Returns the page as HTML.

    >>> page = render("<runs>", "", [Section("Summary", tables=[Table(("run",), [("<b>",)])])])
    >>> "<b>" in page, "&lt;b&gt;" in page, "&lt;runs&gt;" in page
    (False, True, True)
    >>> bold = Table(("run",), [("a",), ("b",)], strong=frozenset({(1, 0)}))
    >>> "<strong>b</strong>" in render("runs", "", [Section("Summary", tables=[bold])])
    True
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_without_direction_controls,
    )  # fmt: skip
    template = resources.files(__package__ or "").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, text=text, sections=sections)


def _without_direction_controls(value: object) -> object:
    """Replaces controls that would change the direction of adjacent text."""
    return (
        _DIRECTION_CONTROLS.sub("?", value) if type(value) is str else value
    )  # a Markup is a part of the template


def encoded(page: str) -> bytes:
    """Returns the page in UTF-8; escapes what it cannot encode, such as bytes of a path."""
    return page.encode("utf-8", errors="backslashreplace")


def write(page: str, file: Path) -> None:
    """Writes the page atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, encoded(page))
