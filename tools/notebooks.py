"""Write notebooks/*.ipynb from their sources, notebooks/*.py (Jupytext, percent format), executed.

python tools/notebooks.py [NAME ...]        # all of them by default
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

__all__ = ["FOLDER", "execute", "main", "read"]

FOLDER = Path(__file__).parent.parent / "notebooks"


def read(source: Path) -> Any:
    """A source as a notebook, with cell ids that do not change from one reading to the next."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(notebook: Any, timeout: int = 1800) -> Any:
    """Run it in a kernel of this Python, in its folder; CellExecutionError where a cell raises."""
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    )
    return client.execute()


def main(names: list[str]) -> None:
    sources = [FOLDER / f"{name}.py" for name in names] or sorted(FOLDER.glob("*.py"))
    for source in sources:
        print(source.name, flush=True)
        notebook = execute(read(source))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
        nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
