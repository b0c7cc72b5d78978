"""Judgements by subtopic as an environment: topics are contexts, documents are items.

The relevance of a document to a topic, by which the built-in re-rankers sort, is its highest grade for any
subtopic. The reward is a measure of the shown list over all subtopics, such as alpha-nDCG.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rankpg.data.diversity_qrels import SubtopicJudgements, judgements_of, read_diversity_qrels
from rankpg.environments.dataset import Dataset
from rankpg.environments.from_ratings import from_triples
from rankpg.environments.subtopic_rewards import LIST_REWARDS
from rankpg.environments.subtopics import ContextSubtopics, context_subtopics
from rankpg.environments.with_list_reward import with_list_reward

__all__ = ["EligibleDocuments", "from_subtopics"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    EligibleDocuments = Literal["judged", "all"]
else:  # checked here, with messages of our own
    ArrayLike = EligibleDocuments = Any


def from_subtopics(
    judgements: str | os.PathLike[str] | Sequence[ArrayLike],
    *,
    list_reward: str | None = "alpha_ndcg",
    eligible: EligibleDocuments = "judged",
    context_features: ArrayLike | None = None,
    item_features: ArrayLike | None = None,
) -> Dataset:
    r"""Reads judgements of TREC's diversity tasks: topic, subtopic, document, judgement.

    Topics without a relevant document are left out. Items are in the order of their names, so that the ideal
    list of alpha-nDCG breaks ties as TREC's tool does.

    Args:
      judgements: a text file, or four lists of one length: topics, subtopics, documents and grades.
      list_reward: measure of the shown list: `alpha_ndcg`, `err_ia` (that of TREC's tool), `subtopic_recall`,
        or `coverage`, where a grade g of at most h is the probability (2^g - 1) / 2^h. None: the reward of a
        document is its relevance, the highest grade of its subtopics.
      eligible: `judged`: a topic's candidates are the documents that were judged for it; `all`: all.
      context_features, item_features: data frames with the ids of topics and documents, for feature towers.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: as for `data.diversity_qrels.read_diversity_qrels`.
      ValueError: an option has an unknown value.

    >>> import jax.numpy as jnp
    >>> data = from_subtopics((["q"] * 3, [1, 1, 2], ["a", "b", "c"], [1, 1, 1]))
    >>> items = jnp.array(data.item_ids.rows(["a", "b"]))
    >>> data.environment.mean_rewards(jnp.int32(0), items).round(3).tolist()
    [0.613, 0.193]
    """
    if list_reward is not None and list_reward not in LIST_REWARDS:
        raise ValueError(
            f"list_reward={list_reward!r}; expected {', '.join(LIST_REWARDS)}, or None"
        )
    if eligible not in ("judged", "all"):
        raise ValueError(f"eligible={eligible!r}; expected 'judged' or 'all'")
    if isinstance(judgements, str | os.PathLike):
        found = read_diversity_qrels(judgements)
    else:
        if len(judgements) != 4:
            raise ValueError(
                f"judgements holds {len(judgements)} lists; expected four: topics, subtopics, documents and "
                "grades"
            )
        found = judgements_of(*judgements)
    found, notes = _with_relevant_topics(found)
    data, rows = _relevance(found, eligible, context_features, item_features)
    data = dataclasses.replace(data, notes=notes)
    if list_reward is None:
        return data
    table = _subtopics(found, rows, data, graded=list_reward == "coverage")
    return with_list_reward(data, LIST_REWARDS[list_reward](table))


def _with_relevant_topics(
    found: SubtopicJudgements,
) -> tuple[SubtopicJudgements, tuple[str, ...]]:
    """Returns the judgements of topics with a relevant document, and notes."""
    relevant = np.unique(found.topics[found.grades > 0])
    kept = np.isin(found.topics, relevant)
    left_out = len(np.unique(found.topics[~kept]))
    columns = ("topics", "subtopics", "documents", "grades")
    notes = [f"Read {len(kept)} judgements of {found.source}."]
    if left_out:
        notes.append(
            f"{left_out} topics without a relevant document are left out, with their judgements."
        )
    chosen = {name: getattr(found, name)[kept] for name in columns}
    return dataclasses.replace(found, **chosen), tuple(notes)


def _relevance(
    found: SubtopicJudgements,
    eligible: str,
    context_features: ArrayLike | None,
    item_features: ArrayLike | None,
) -> tuple[Dataset, tuple[np.ndarray, np.ndarray]]:
    """Returns the dataset whose reward is the highest grade, and the rows of every judgement."""
    topic_ids, topics = np.unique(found.topics, return_inverse=True)
    document_ids, documents = np.unique(found.documents, return_inverse=True)
    pairs, entry = np.unique(topics * len(document_ids) + documents, return_inverse=True)
    grade = np.zeros(len(pairs))
    np.maximum.at(grade, entry, found.grades)
    topic, document = np.divmod(pairs, len(document_ids))
    mask = None
    if eligible == "judged":
        mask = np.zeros((len(topic_ids), len(document_ids)), bool)
        mask[topic, document] = True
    data = from_triples(
        topic_ids[topic],
        document_ids[document],
        grade,
        relative_noise=0.0,
        eligible=mask,
        context_ids=topic_ids,
        item_ids=document_ids,
        context_features=context_features,
        item_features=item_features,
        id_type="text",
    )
    return data, (topics, documents)


def _subtopics(
    found: SubtopicJudgements,
    rows: tuple[np.ndarray, np.ndarray],
    data: Dataset,
    *,
    graded: bool,
) -> ContextSubtopics:
    """Returns what each document covers: 0 or 1, or the probability of its grade."""
    relevant = found.grades > 0
    topics, documents = (part[relevant] for part in rows)
    _, subtopics = np.unique(found.subtopics[relevant], return_inverse=True)
    grades = found.grades[relevant].astype(np.float64)
    values = (2**grades - 1) / 2 ** grades.max() if graded else np.ones(len(grades))
    num_items = len(data.item_ids)
    pairs, entry = np.unique(topics * num_items + documents, return_inverse=True)
    table = np.zeros((len(pairs), int(subtopics.max()) + 1), np.float32)
    table[entry, subtopics] = values
    topic, document = np.divmod(pairs, num_items)
    return context_subtopics(topic, document, table, len(data.context_ids), num_items)
