"""Text retrieval as an environment: queries are contexts, documents are items, relevance is the reward.

A document without a judgement has the relevance 0. Judgements alone are stored, sorted by query. Embeddings
are features of contexts and items; context_tower='adapter' and item_tower='adapter' start a retriever at
their inner product.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp
import numpy as np

from rankpg.data.arrays import feature_rows
from rankpg.data.beir import read_collection
from rankpg.data.ids import IdMap, TableError
from rankpg.data.labels import aligned, labelled_features
from rankpg.environments.dataset import Dataset
from rankpg.environments.from_ratings import Duplicates, from_triples, with_features

__all__ = ["OwnDocument", "Unknown", "from_text", "from_text_folder"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    OwnDocument = Literal["leave_out", "keep"]
    Unknown = Literal["error", "drop"]
else:  # checked here, with messages of our own
    ArrayLike = OwnDocument = Unknown = Any


def from_text_folder(
    path: str | os.PathLike[str],
    *,
    split: Sequence[str] | str | None = None,
    unknown: Unknown = "error",
    duplicates: Duplicates = "error",
    own_document: OwnDocument = "leave_out",
) -> Dataset:
    r"""Reads a text collection from a folder of BEIR or TREC files; see `data.beir`.

    Args:
      path: the folder.
      split: names of the files in qrels/ whose judgements are read, such as "train"; needed where there are
        several, so that a test split is never trained on unawares.
      unknown: `error` rejects judgements of queries and documents that the files lack; `drop` leaves them out
        and counts them.
      duplicates, own_document: as for `from_text`.

    Raises:
      FileNotFoundError, TableError: as for `data.beir.read_collection`.

    >>> import pathlib, tempfile
    >>> import jax.numpy as jnp
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "a cat"}\n{"_id": "d2"}\n')
    >>> _ = (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "cats"}\n')
    >>> _ = (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    >>> data = from_text_folder(folder)
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.array(data.item_ids.rows(["d2", "d1"])))
    Array([0., 2.], dtype=float32)
    """
    names = (split,) if isinstance(split, str) else split
    found = read_collection(path, split=names, unknown=unknown, duplicates=duplicates)
    data = from_text(
        found.queries,
        found.documents,
        found.relevance,
        query_ids=found.query_ids,
        document_ids=found.document_ids,
        query_embeddings=found.query_embeddings,
        document_embeddings=found.document_embeddings,
        duplicates=duplicates,
        own_document=own_document,
    )
    notes = [note for note in data.notes if not note.startswith(("Read ", "Without "))]
    return dataclasses.replace(data, notes=(*found.notes, *notes))


def from_text(
    queries: ArrayLike,
    documents: ArrayLike,
    relevance: ArrayLike,
    *,
    query_ids: ArrayLike,
    document_ids: ArrayLike,
    query_embeddings: ArrayLike | None = None,
    document_embeddings: ArrayLike | None = None,
    duplicates: Duplicates = "error",
    eligible: ArrayLike | None = None,
    own_document: OwnDocument = "leave_out",
) -> Dataset:
    """Builds a dataset from a text collection in memory: a query id, a document id and a relevance each.

    Queries without a relevant document are left out. A judgement of 0 or below, which TREC uses for documents
    that are not relevant, counts as 0, like a missing judgement.

    Args:
      queries, documents: ids, one of each per judgement.
      relevance: numbers, graded or 1.
      query_ids: all queries, in the order of `query_embeddings`.
      document_ids: the whole catalogue, in the order of `document_embeddings`.
      query_embeddings, document_embeddings: [num_queries, F] and [N, G], used as they are: normalise them for
        cosine similarity.
      duplicates: `error` rejects a pair with two judgements; `mean` averages them; `sum` adds them up; `last`
        keeps the last.
      eligible: bool[num_queries, N], in the order of `query_ids` and `document_ids`; all documents if None.
      own_document: `leave_out` keeps a document with the id of the query, which is the query itself (ArguAna,
        Quora), out of its candidates, unless it is judged relevant; `keep` does not.

    Raises:
      TableError: the lists have different lengths, an id occurs twice, a pair has two judgements, no query
        has a relevant document, or embeddings have another number of rows.
      UnknownIdError: a judgement has an unknown id.

    >>> data = from_text(
    ...     ["q1", "q3"], ["d2", "d1"], [1, 2], query_ids=["q1", "q2", "q3"], document_ids=["d1", "d2"]
    ... )
    >>> data.context_ids.ids.tolist()
    ['q1', 'q3']
    """
    judgements = [np.asarray(column) for column in (queries, documents, relevance)]
    if any(column.ndim != 1 or column.shape != judgements[0].shape for column in judgements):
        shapes = ", ".join(str(list(column.shape)) for column in judgements)
        raise TableError(
            f"judgements: queries, documents and relevance must be lists of one length, got shapes {shapes}"
        )
    worth = judgements[2]
    if worth.dtype.kind not in "fiub" or not np.all(np.isfinite(worth)):
        raise TableError(
            f"judgements: relevance must be finite numbers, got {worth.dtype}"
            + (", some of them NaN or infinite" if worth.dtype.kind == "f" else "")
        )
    every_query, every_document = np.asarray(query_ids), np.asarray(document_ids)
    rows = IdMap(every_query, "query").rows(judgements[0])
    worth, own, notes = _without_own(judgements, rows, every_query, every_document, own_document)
    kept = np.unique(rows[worth > 0])
    if not len(kept):
        raise TableError(
            "judgements: no query has one above 0; expected at least one relevant document"
        )
    if query_embeddings is not None:
        query_embeddings = _rows_of(query_embeddings, "query_embeddings", every_query)[kept]
    if document_embeddings is not None:
        document_embeddings = _rows_of(document_embeddings, "document_embeddings", every_document)
    if eligible is not None:
        ids = IdMap(every_query, "query"), IdMap(every_document, "item")
        eligible = np.asarray(aligned(eligible, "eligible", *ids))[kept]
    # With those of 0 or below, so that `from_triples` rejects unknown documents and duplicate pairs.
    used = np.isin(rows, kept)
    data = from_triples(
        judgements[0][used],
        judgements[1][used],
        np.maximum(worth[used], 0),
        duplicates=duplicates,
        relative_noise=0.0,
        eligible=eligible,
        context_ids=every_query[kept],
        item_ids=every_document,
    )
    data = with_features(data, query_embeddings, document_embeddings, as_given=True)
    if own is None:
        return data
    world: Any = data.environment
    world = dataclasses.replace(world, own=jnp.asarray(own[kept]))
    return dataclasses.replace(data, environment=world, notes=(*data.notes, *notes))


def _rows_of(table: ArrayLike, name: str, ids: np.ndarray) -> np.ndarray:
    return feature_rows(labelled_features(table, name, IdMap(ids, "query")), name, len(ids))


def _without_own(
    judgements: list[np.ndarray],
    rows: np.ndarray,
    queries: np.ndarray,
    documents: np.ndarray,
    own_document: str,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Returns the relevance, the row of each query's own document, and a note; None where there is none.

    A document that is judged relevant to the query of its id is another text with the same id.
    """
    worth = judgements[2]
    if own_document not in ("leave_out", "keep"):
        raise ValueError(f"own_document={own_document!r}; expected 'leave_out' or 'keep'")
    if own_document == "keep":
        return worth, None, ()
    own = IdMap(documents, "item").find(queries)
    same = judgements[0] == judgements[1]
    own[rows[same & (worth > 0)]] = -1
    count = int(np.sum(own >= 0))
    if not count:
        return worth, None, ()
    note = (
        f"{count} of {len(queries)} queries have the id of a document, which is never their candidate "
        "(own_document='leave_out')."
    )
    return worth, own, (note,)
