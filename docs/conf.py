"""Configuration of the documentation site, which `make docs` builds into docs/_build/html."""

from __future__ import annotations

import re

import rankpg

project = "rankpg"
author = copyright = "The rankpg contributors"
version = release = rankpg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxarg.ext",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "rankpg"
html_static_path: list[str] = []
pygments_style, pygments_dark_style = "friendly", "github-dark"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "code"
smartquotes = False  # -- in a command must stay two dashes
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

_OUTSIDE_LINK = re.compile(r"(!?)\[([^\]]*)\]\(\.\./(?!\w*\.md)([^)]*)\)")
_FORMULA = re.compile(r"^ {4,}\S")


def mark_formulas(app, what, name, obj, options, lines: list[str]) -> None:
    """Turns an indented paragraph of a docstring, a formula or a table, into a literal block."""
    found: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        if not inside and _FORMULA.match(line) and number and not lines[number - 1].strip():
            above = next((text for text in reversed(lines[: number - 1]) if text.strip()), "")
            if len(above) - len(above.lstrip()) < len(line) - len(line.lstrip()):
                found += ["::", ""]
                inside = True
        elif line.strip() and not _FORMULA.match(line):
            inside = False
        found.append(line if inside else _escape(line))
    lines[:] = found


def _escape(line: str) -> str:
    """Escapes bars outside of backticks, which are absolute values and not substitutions."""
    texts = line.split("`")
    return "`".join(
        text if number % 2 else text.replace("|", r"\|") for number, text in enumerate(texts)
    )


def shorten_types(app, what, name, obj, options, signature, annotation):
    """Shortens the type of an array to the name that the code uses."""
    texts = (
        text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, annotation)
    )
    return tuple(texts)


def replace_outside_links(app, docname: str, source: list[str]) -> None:
    """Replaces links out of docs/, which the site cannot open, by the path of the file."""
    source[0] = _OUTSIDE_LINK.sub(
        lambda link: link.group() if link.group(1) else f"{link.group(2)} (`{link.group(3)}`)",
        source[0],
    )


def setup(app) -> None:
    app.connect("autodoc-process-docstring", mark_formulas, priority=100)  # before Napoleon
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("source-read", replace_outside_links)
