"""Relevance judgements by subtopic, as TREC's diversity tasks publish them.

A line has four columns, separated by white space: topic, subtopic, document, judgement. A judgement above 0
says that the document is relevant to the subtopic.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable

import numpy as np

from rankpg._utils.paths import expanded
from rankpg.data.faults import in_one_line
from rankpg.data.ids import ArrayLike, TableError, text_array
from rankpg.data.text_lines import open_lines

__all__ = ["SubtopicJudgements", "judgements_of", "read_diversity_qrels"]

_WHOLE = re.compile(r"[+-]?\d{1,9}")


@dataclasses.dataclass(frozen=True, eq=False)
class SubtopicJudgements:
    """Judgement j gives document documents[j] a grade for a subtopic of a topic."""

    source: str
    """The file, for messages."""
    topics: np.ndarray
    """str[R]"""
    subtopics: np.ndarray
    """int64[R]"""
    documents: np.ndarray
    """str[R]"""
    grades: np.ndarray
    """int64[R]; 0 and below: not relevant."""


def read_diversity_qrels(path: str | os.PathLike[str]) -> SubtopicJudgements:
    r"""Reads judgements from a text file, which may be packed by gzip.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: a line has another number of columns, or a subtopic or judgement that is not a whole number;
        a document is judged twice for one subtopic; or nothing is relevant.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "qrels.diversity"
    >>> _ = file.write_text("51 1 clueweb09-en0000-00-00001 1\n51 2 clueweb09-en0000-00-00001 0\n")
    >>> read_diversity_qrels(file).grades.tolist()
    [1, 0]
    """
    file = expanded(path)
    if file.is_dir():
        raise TableError(
            f"{file} is a folder; expected a file of lines: topic, subtopic, document, judgement"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected judgements by subtopic")
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        with open_lines(file) as lines:
            for number, line in enumerate(lines, start=1):
                cells = line.split()
                if not cells:
                    continue
                _check_line(cells, f"{file}, line {number}")
                rows.append(cells)
                numbers.append(number)
    except OSError as cause:
        raise TableError(f"{file}: cannot be read: {in_one_line(cause)}") from cause
    if not rows:
        raise TableError(
            f"{file}: the file has no lines; expected topic, subtopic, document and judgement"
        )
    places = [f"line {number}" for number in numbers]
    return _checked(str(file), zip(*rows, strict=True), places)


def judgements_of(
    topics: ArrayLike, subtopics: ArrayLike, documents: ArrayLike, grades: ArrayLike
) -> SubtopicJudgements:
    """Returns judgements that are in memory, checked as those of a file.

    Raises:
      TableError: as for `read_diversity_qrels`, or columns of different lengths.

    >>> judgements_of([7], [1], ["d"], [2]).topics.tolist()
    ['7']
    """
    columns = [
        [str(value) for value in np.asarray(column).tolist()]
        for column in (topics, subtopics, documents, grades)
    ]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1 or lengths == {0}:
        listed = ", ".join(str(len(column)) for column in columns)
        raise TableError(
            "judgements: topics, subtopics, documents and grades must be lists of one length, at least "
            f"1; got {listed}"
        )
    for row, cells in enumerate(zip(*columns, strict=True)):
        _check_line([cells[0] or "", *cells[1:]], f"judgements, row {row}")
    places = [f"row {row}" for row in range(len(columns[0]))]
    return _checked("judgements", columns, places)


def _check_line(cells: list[str], where: str) -> None:
    """Rejects a line that is not topic, subtopic, document and judgement."""
    if len(cells) != 4:
        kind = ", which are those of judgements without subtopics" if len(cells) == 3 else ""
        raise TableError(
            f"{where}: {len(cells)} columns{kind}; expected topic, subtopic, document and judgement"
        )
    for name, value in (("subtopic", cells[1]), ("judgement", cells[3])):
        if not _WHOLE.fullmatch(value):
            raise TableError(
                f"{where}: the {name} {value!r} is not a whole number: correct or remove the line; expected "
                "topic, subtopic, document and judgement"
            )


def _checked(
    source: str, columns: Iterable[Iterable[str]], places: list[str]
) -> SubtopicJudgements:
    """Returns the columns of checked lines, after a look for repeated and for relevant ones."""
    topics, subtopics, documents, grades = (list(column) for column in columns)
    first: dict[tuple[str, int, str], int] = {}
    of_subtopic = np.array(subtopics, np.int64)
    keys = zip(topics, of_subtopic.tolist(), documents, strict=True)
    for row, key in enumerate(keys):
        before = first.setdefault(key, row)
        if before != row:
            raise TableError(
                f"{source}, {places[row]}: document {key[2]!r} is judged for subtopic {key[1]} of topic "
                f"{key[0]!r} on {places[before]} already: remove one of the two"
            )
    grade = np.array(grades, np.int64)
    if grade.max() <= 0:
        raise TableError(
            f"{source}: no judgement is above 0: there is nothing to train on or to measure"
        )
    return SubtopicJudgements(
        source, text_array(topics, source), of_subtopic, text_array(documents, source), grade
    )
