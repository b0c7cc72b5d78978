"""Text collections in a folder of BEIR or TREC files: ids, relevance judgements and embeddings.

The folder has five parts:

    corpus.jsonl     one document a line, {"_id": ...}; its text is not read
    queries.jsonl    one query a line, {"_id": ...}
    qrels.tsv        query id, document id, relevance (a header is skipped), or TREC's four columns: query id,
                     anything, document id, relevance; also qrels.txt, or .tsv and .txt of a folder qrels/,
                     of which `split` names those to read
    corpus.npy       embeddings of the documents, one row for each line of corpus.jsonl
    queries.npy      embeddings of the queries, one row for each line of queries.jsonl
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rankpg._utils.documents import DocumentError, parse_json
from rankpg._utils.paths import expanded
from rankpg.data.arrays import feature_rows
from rankpg.data.faults import in_one_line
from rankpg.data.files import load_arrays
from rankpg.data.ids import TableError, text_array

__all__ = ["Collection", "Judgements", "read_collection", "read_ids", "read_judgements"]


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
    """float64[num_judgements]; a pair that is judged twice has two"""
    query_embeddings: np.ndarray | None
    """float32[num_queries, F]"""
    document_embeddings: np.ndarray | None
    """float32[N, F]"""
    notes: tuple[str, ...] = ()
    """Sentences about what was read and left out."""


def read_collection(
    path: str | os.PathLike[str],
    *,
    split: Sequence[str] | None = None,
    unknown: str = "error",
    duplicates: str = "error",
) -> Collection:
    """Reads a text collection from a folder and checks every judgement against the ids.

    Args:
      path: the folder.
      split: names of the files of judgements to read, such as train; the only one if None.
      unknown: `error` rejects judgements of ids that the files lack; `drop` omits them.
      duplicates: `error` rejects a pair with several judgements; other policies keep all of them.

    Raises:
      FileNotFoundError: the folder, or a required file of it, does not exist.
      TableError: a line is not JSON; an id is empty or occurs twice; judgements in several files, none of
        which is named, or that a policy rejects; a relevance is not a number; no document is relevant;
        embeddings have another number of rows.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected one with corpus.jsonl, queries.jsonl and qrels"
        )
    documents, queries = (read_ids(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    files = _qrels_of(folder, split)
    judgements = read_judgements(files, queries, documents)
    notes = _check_policies(judgements, files, unknown, duplicates)
    if max(judgements.relevance) <= 0:
        raise TableError(
            f"{folder}: no judgement is above 0: there is nothing to train on or to measure"
        )
    return Collection(
        query_ids=text_array(list(queries), str(folder / "queries.jsonl")),
        document_ids=text_array(list(documents), str(folder / "corpus.jsonl")),
        queries=np.array(judgements.queries),
        documents=np.array(judgements.documents),
        relevance=np.array(judgements.relevance, np.float64),
        query_embeddings=_read_embeddings(folder / "queries.npy", len(queries)),
        document_embeddings=_read_embeddings(folder / "corpus.npy", len(documents)),
        notes=notes,
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
        raise TableError(f"{file}: not UTF-8 text, at byte {cause.start}: convert it") from None
    except OSError as cause:
        raise TableError(f"{file}: cannot be read: {in_one_line(cause)}") from cause


def read_ids(file: Path) -> dict[str, int]:
    """Returns the ids of a jsonl file with their line numbers, in the order of the file."""
    ids: dict[str, int] = {}
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            entry = parse_json(line, where)
        except DocumentError as cause:
            raise TableError(f"{cause}: fix the line or remove it") from None
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


def _qrels_of(folder: Path, split: Sequence[str] | None) -> list[Path]:
    """Returns the files that hold judgements: those of the split, or the only one."""
    single = [folder / name for name in ("qrels.tsv", "qrels.txt") if (folder / name).exists()]
    several = sorted(f for f in (folder / "qrels").glob("*") if f.suffix in (".tsv", ".txt"))
    files = [*single, *several]
    if not files:
        raise FileNotFoundError(
            f"{folder}: no judgements; expected qrels.tsv, qrels.txt, or a folder qrels/ with such files"
        )
    names = list(dict.fromkeys(file.stem for file in files))
    example = next((name for name in names if "train" in name), names[0])
    if not split:
        if len(files) == 1:
            return files
        raise TableError(
            f"{folder}: judgements in {len(files)} files: {', '.join(names)}; say which to train on, and "
            f"keep those out that you test on: qrels_split=({example!r},)"
        )
    for name in split:
        if name not in names:
            raise TableError(
                f"{folder}: qrels_split names {name!r}, and the judgements are in: {', '.join(names)}; give "
                f"one or more of them, qrels_split=({example!r},)"
            )
    return [file for file in files if file.stem in split]


class Judgements(NamedTuple):
    """Judgements in the order of their lines, and what is wrong with some of them."""

    queries: list[str]
    documents: list[str]
    relevance: list[float]
    unknown: list[str]
    """Places and ids of judgements whose query or document the files lack."""
    lines: int


def read_judgements(
    files: list[Path], queries: dict[str, int], documents: dict[str, int]
) -> Judgements:
    """Reads the judgements of some files."""
    found = Judgements([], [], [], [], 0)
    lines = 0
    for file in files:
        for number, line in _lines(file):
            where = f"{file}, line {number}"
            query, document, worth = _columns(line, where)
            is_known = query in queries or document in documents
            if number == 1 and not is_known and math.isnan(_number(worth)):
                continue  # a header
            lines += 1
            if not math.isfinite(_number(worth)):
                raise TableError(
                    f"{where}: the relevance {worth!r} is not a finite number: correct it"
                )
            for label, known, source in (
                (query, queries, "queries.jsonl"),
                (document, documents, "corpus.jsonl"),
            ):
                if label not in known:
                    found.unknown.append(f"{where}: {source} has no id {label!r}")
                    break
            else:
                found.queries.append(query)
                found.documents.append(document)
                found.relevance.append(_number(worth))
    if not lines:
        raise TableError(f"{', '.join(map(str, files))}: no judgements; expected one per line")
    return found._replace(lines=lines)


def _check_policies(
    found: Judgements, files: list[Path], unknown: str, duplicates: str
) -> tuple[str, ...]:
    """Rejects judgements that no policy covers, all of them at once, and returns notes about the others."""
    pairs = Counter(zip(found.queries, found.documents, strict=True))
    again = len(found.queries) - len(pairs)
    source = ", ".join(map(str, files))
    wrong, remedies = [], []
    if found.unknown and unknown == "error":
        wrong.append(
            f"{len(found.unknown)} of {found.lines} judgements name queries or documents that the files lack "
            f"({found.unknown[0]})"
        )
        remedies.append("unknown='drop'")
    if again and duplicates == "error":
        query, document = next(pair for pair, count in pairs.items() if count > 1)
        wrong.append(
            f"pairs are judged more than once ({again} judgements too many), such as query {query!r} "
            f"and document {document!r}"
        )
        remedies.append("duplicates='last' (or mean, or sum)")
    if wrong:
        raise TableError(
            f"{source}: {'; '.join(wrong)}: correct the files, or give {' and '.join(remedies)}"
        )
    notes = [f"Read {found.lines} judgements of {source}."]
    if found.unknown:
        notes.append(
            f"{len(found.unknown)} judgements are left out, whose query or document the files lack."
        )
    if again:
        notes.append(
            f"{again} judgements are of a pair that is judged already: duplicates={duplicates!r}."
        )
    if not found.queries:
        raise TableError(f"{source}: no judgement is of a query and a document of the files")
    return tuple(notes)


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
    except OSError as cause:
        raise TableError(f"{file}: cannot be read: {in_one_line(cause)}") from cause
    (embeddings,) = load_arrays(file)[0].values()
    return feature_rows(embeddings, str(file), count)
