"""Text retrieval as an environment: queries are contexts, documents are items, relevance is the reward.

A document without a judgement has the relevance 0. Judgements alone are stored, sorted by query. Embeddings
are features of contexts and items; context_tower='adapter' and item_tower='adapter' start a retriever at
their inner product.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.data.arrays import feature_rows
from rankpg.data.beir import read_collection
from rankpg.data.ids import IdMap, TableError
from rankpg.environments.dataset import Dataset
from rankpg.environments.from_ratings import Duplicates, from_triples

__all__ = ["from_text", "from_text_folder"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any


def from_text_folder(path: str | os.PathLike[str]) -> Dataset:
    r"""Reads a text collection from a folder of BEIR or TREC files; see `data.beir`.

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
    found = read_collection(path)
    return from_text(
        found.queries,
        found.documents,
        found.relevance,
        query_ids=found.query_ids,
        document_ids=found.document_ids,
        query_embeddings=found.query_embeddings,
        document_embeddings=found.document_embeddings,
    )


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
      duplicates: `error` rejects a pair with two judgements; `mean` averages them; `last` keeps the last.

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
    kept = np.unique(rows[worth > 0])
    if not len(kept):
        raise TableError(
            "judgements: no query has one above 0; expected at least one relevant document"
        )
    if query_embeddings is not None:
        query_embeddings = feature_rows(query_embeddings, "query_embeddings", len(every_query))[
            kept
        ]
    if document_embeddings is not None:
        count = len(every_document)
        document_embeddings = feature_rows(document_embeddings, "document_embeddings", count)
    # With those of 0 or below, so that `from_triples` rejects unknown documents and duplicate pairs.
    used = np.isin(rows, kept)
    return from_triples(
        judgements[0][used],
        judgements[1][used],
        np.maximum(worth[used], 0),
        duplicates=duplicates,
        relative_noise=0.0,
        context_ids=every_query[kept],
        item_ids=every_document,
        context_features=query_embeddings,
        item_features=document_embeddings,
    )
