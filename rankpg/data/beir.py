"""A text collection in a folder, as BEIR and TREC lay it out: ids, judgements and embeddings. No JAX here.

corpus.jsonl     one document a line, {"_id": ...}; its text is for whoever embeds it, and not read
queries.jsonl    one query a line, {"_id": ...}
qrels.tsv        query id, document id, relevance (a header is skipped), or TREC's four columns: query id,
                 anything, document id, relevance; also qrels.txt, or every .tsv and .txt of a folder qrels/
corpus.npy       the documents' embeddings, a row a line of corpus.jsonl, in that order
queries.npy      the queries' embeddings, likewise
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rankpg.data.features import feature_rows
from rankpg.data.ids import TableError
from rankpg.data.ratings_table import in_one_line, numpy_fault

__all__ = ["Collection", "read_collection"]


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """What a folder holds: judgement j says that document documents[j] is worth relevance[j] to query
    queries[j]."""

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
    """Read a folder; every judgement is checked against the ids.

    Raises:
      FileNotFoundError: the folder, or a file that it must hold, is not there.
      TableError: a line that is no JSON, an id that is empty, occurs twice or is judged but unknown, a
        relevance that is no number, a pair that is judged twice, no relevant document at all, embeddings of
        another number of rows.
    """
    folder = Path(path)
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
    """(number, line) of those that hold something, counted from 1."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, and a text collection needs it")
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
    """The ids of a jsonl file and the lines they stand on, in the order of the file."""
    ids: dict[str, int] = {}
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as cause:
            raise TableError(
                f"{where}: no JSON ({in_one_line(cause)}): mend the line or remove it"
            ) from None
        label = entry.get("_id") if isinstance(entry, dict) else None
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)  # judgements are text
        if not isinstance(label, str) or not label.strip():
            raise TableError(
                f'{where}: no id: expected an object with a text "_id", such as {{"_id": "d1", ...}}'
            )
        if label in ids:
            raise TableError(
                f"{where}: the id {label!r} stands on line {ids[label]} already: make it unique"
            )
        ids[label] = number
    if not ids:
        raise TableError(f"{file}: no lines: expected one object a line")
    return ids


def _qrels_of(folder: Path) -> list[Path]:
    """The files with judgements."""
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
    """Relevance by (query, document)."""
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
                    f"{where}: query {query!r} and document {document!r} are judged in {places[pair]} "
                    "already: keep one of the lines"
                )
            found[pair], places[pair] = _number(worth), where
            if not math.isfinite(found[pair]):
                raise TableError(f"{where}: the relevance {worth!r} is no finite number: mend it")
    if not found:
        raise TableError(f"{', '.join(map(str, files))}: no judgements: expected one a line")
    return found


def _columns(line: str, where: str) -> tuple[str, str, str]:
    """(query, document, relevance) of three or four columns, separated by tabs if there are any."""
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    if len(cells) not in (3, 4):
        raise TableError(
            f"{where}: {len(cells)} columns: expected query id, document id and relevance, or TREC's four: "
            "query id, 0, document id, relevance"
        )
    return cells[0], cells[-2], cells[-1]


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_embeddings(file: Path, count: int) -> np.ndarray | None:
    """float32[count, F]; None where there is no such file."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened:
            if opened.read(6) != b"\x93NUMPY":
                raise TableError(f"{file}: not a NumPy array: write it with numpy.save")
        embeddings = np.load(file, allow_pickle=False)
    except MemoryError as cause:
        raise TableError(
            f"{file}: more than memory holds, or a damaged file: {in_one_line(cause)}"
        ) from cause
    except (ValueError, EOFError, OSError) as cause:
        if isinstance(cause, TableError):
            raise
        raise numpy_fault(file, cause) from cause
    return feature_rows(embeddings, str(file), count)
