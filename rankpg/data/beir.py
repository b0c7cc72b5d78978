"""Text collections in a folder of BEIR or TREC files: ids, relevance judgements and embeddings.

The folder has five parts:

    corpus.jsonl     one document a line, {"_id": ...}; its text is not read
    queries.jsonl    one query a line, {"_id": ...}
    qrels.tsv        query id, document id, relevance (a header is skipped), or TREC's four columns: query id,
                     anything, document id, relevance; also qrels.txt, or all .tsv and .txt of a folder qrels/
    corpus.npy       embeddings of the documents, one row for each line of corpus.jsonl
    queries.npy      embeddings of the queries, one row for each line of queries.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rankpg._utils.files import expanded
from rankpg.data.arrays import feature_rows
from rankpg.data.ids import TableError
from rankpg.data.ratings_table import in_one_line, numpy_fault

__all__ = ["Collection", "read_collection"]


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """A text collection; judgement j gives document documents[j] the relevance relevance[j] to queries[j]."""

    query_ids: np.ndarray
    """str[num_queries], in the order of the file"""
    document_ids: np.ndarray
    """str[N]"""
    queries: np.ndarray
    """str[num_judgements], each of them in `query_ids`"""
    documents: np.ndarray
    """str[num_judgements]"""
    relevance: np.ndarray
    """float64[num_judgements]"""
    query_embeddings: np.ndarray | None
    """float32[num_queries, F]"""
    document_embeddings: np.ndarray | None
    """float32[N, F]"""


def read_collection(path: str | os.PathLike[str]) -> Collection:
    """Reads a text collection from a folder and checks every judgement against the ids.

    Raises:
      FileNotFoundError: the folder, or a required file of it, does not exist.
      TableError: a line is not JSON; an id is empty, occurs twice or is unknown; a relevance is not a number;
        a pair has two judgements; no document is relevant; embeddings have another number of rows.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected one with corpus.jsonl, queries.jsonl and qrels"
        )
    documents, queries = (_read_ids(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    judgements = _read_judgements(_qrels_of(folder), queries, documents, folder)
    if max(judgements.values()) <= 0:
        raise TableError(
            f"{folder}: no judgement is above 0: there is nothing to train on or to measure"
        )
    return Collection(
        query_ids=np.array(list(queries)),
        document_ids=np.array(list(documents)),
        queries=np.array([query for query, _ in judgements]),
        documents=np.array([document for _, document in judgements]),
        relevance=np.array(list(judgements.values()), np.float64),
        query_embeddings=_read_embeddings(folder / "queries.npy", len(queries)),
        document_embeddings=_read_embeddings(folder / "corpus.npy", len(documents)),
    )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of the lines that are not blank, counted from 1."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a text collection requires it")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as cause:
        raise TableError(f"{file}: not UTF-8 text ({in_one_line(cause)}): convert it") from None
    except OSError as cause:
        raise TableError(f"{file}: cannot be read: {in_one_line(cause)}") from cause


def _read_ids(file: Path) -> dict[str, int]:
    """Returns the ids of a jsonl file with their line numbers, in the order of the file."""
    ids: dict[str, int] = {}
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as cause:
            raise TableError(
                f"{where}: not JSON ({in_one_line(cause)}): fix the line or remove it"
            ) from None
        label = entry.get("_id") if isinstance(entry, dict) else None
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)  # judgements are text
        if not isinstance(label, str) or not label.strip():
            raise TableError(
                f'{where}: the id is missing; expected an object with a text "_id", such as {{"_id": "d1"}}'
            )
        if label in ids:
            raise TableError(
                f"{where}: the id {label!r} is already on line {ids[label]}: make it unique"
            )
        ids[label] = number
    if not ids:
        raise TableError(f"{file}: the file has no lines; expected one object per line")
    return ids


def _qrels_of(folder: Path) -> list[Path]:
    """Returns the files that hold judgements."""
    single = [folder / name for name in ("qrels.tsv", "qrels.txt") if (folder / name).exists()]
    several = sorted(f for f in (folder / "qrels").glob("*") if f.suffix in (".tsv", ".txt"))
    if not single and not several:
        raise FileNotFoundError(
            f"{folder}: no judgements; expected qrels.tsv, qrels.txt, or a folder qrels/ with such files"
        )
    return [*single, *several]


def _read_judgements(
    files: list[Path], queries: dict[str, int], documents: dict[str, int], folder: Path
) -> dict[tuple[str, str], float]:
    """Returns the relevance by (query, document)."""
    found: dict[tuple[str, str], float] = {}
    places: dict[tuple[str, str], str] = {}
    for file in files:
        for number, line in _lines(file):
            where = f"{file}, line {number}"
            query, document, worth = _columns(line, where)
            is_known = query in queries or document in documents
            if number == 1 and not is_known and math.isnan(_number(worth)):
                continue  # a header
            for label, known, source in (
                (query, queries, "queries.jsonl"),
                (document, documents, "corpus.jsonl"),
            ):
                if label not in known:
                    raise TableError(
                        f"{where}: the id {label!r} is not in {folder / source}: add it there or remove the "
                        "line"
                    )
            pair = query, document
            if pair in found:
                raise TableError(
                    f"{where}: query {query!r} and document {document!r} have a judgement already, in "
                    f"{places[pair]}: keep one of the lines"
                )
            found[pair], places[pair] = _number(worth), where
            if not math.isfinite(found[pair]):
                raise TableError(
                    f"{where}: the relevance {worth!r} is not a finite number: correct it"
                )
    if not found:
        raise TableError(f"{', '.join(map(str, files))}: no judgements; expected one per line")
    return found


def _columns(line: str, where: str) -> tuple[str, str, str]:
    """Splits a line of three or four columns into (query, document, relevance), at tabs if it has any."""
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    if len(cells) not in (3, 4):
        raise TableError(
            f"{where}: {len(cells)} columns; expected query id, document id and relevance, or TREC's four: "
            "query id, 0, document id, relevance"
        )
    return cells[0], cells[-2], cells[-1]


def _number(text: str) -> float:
    """Returns NaN where the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_embeddings(file: Path, count: int) -> np.ndarray | None:
    """Returns float32[count, F], or None where the file does not exist."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened:
            if opened.read(6) != b"\x93NUMPY":
                raise TableError(f"{file}: not a NumPy array: write it with numpy.save")
        embeddings = np.load(file, allow_pickle=False)
    except MemoryError as cause:
        raise TableError(
            f"{file}: too large for memory, or damaged: {in_one_line(cause)}"
        ) from cause
    except (ValueError, EOFError, OSError) as cause:
        if isinstance(cause, TableError):
            raise
        raise numpy_fault(file, cause) from cause
    return feature_rows(embeddings, str(file), count)
