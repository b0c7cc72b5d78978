"""Settings by which tables and judgements are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankpg.config.fields import setting
from rankpg.environments.subtopic_rewards import LIST_REWARDS

__all__ = ["TABLES", "TableSettings"]

TABLES = "tables and judgements"

_RATINGS = {"environment": "ratings"}
_TEXT = {"environment": "text"}
_SUBTOPICS = {"environment": "subtopics"}
_TABLES = {"environment": ("ratings", "interactions")}


@dataclass(frozen=True)
class TableSettings:
    """Settings that say what a table or a collection of texts does not say itself."""

    missing: Literal["zero", "error"] = setting(
        "zero",
        TABLES,
        "ratings: value of a pair without a row; error rejects the file",
        needs=_RATINGS,
    )
    duplicates: Literal["mean", "sum", "last", "error"] = setting(
        "error",
        TABLES,
        "ratings, text: value of a pair with several rows; sum: of plays, clicks or purchases; error rejects "
        "the file",
        needs={"environment": ("ratings", "text")},
    )
    unknown: Literal["error", "drop"] = setting(
        "error",
        TABLES,
        "text: judgements of queries or documents that the files lack; drop leaves them out and counts them; "
        "error rejects them",
        needs=_TEXT,
    )
    qrels_split: tuple[str, ...] | None = setting(
        None,
        TABLES,
        "text: judgements to train on, by the names of their files in qrels/, such as train; the others are "
        "kept out",
        needs=_TEXT,
        default_help="the only file",
        metavar="NAME",
    )
    own_document: Literal["leave_out", "keep"] = setting(
        "leave_out",
        TABLES,
        "text: document that has the id of the query, where a query is itself a document; leave_out: never a "
        "candidate, unless a judgement makes it relevant",
        needs=_TEXT,
    )
    list_reward: str = setting(
        "alpha_ndcg",
        TABLES,
        "subtopics: measure of the shown list that is its reward; err_ia: that of TREC's tool",
        LIST_REWARDS,
        needs=_SUBTOPICS,
    )
    eligible_documents: Literal["judged", "all"] = setting(
        "judged",
        TABLES,
        "subtopics: candidates of a topic: the documents that were judged for it, or all of them",
        needs=_SUBTOPICS,
    )
    header: bool = setting(
        True,
        TABLES,
        "first line of a text file holds the names of its columns; without, columns are named by their "
        "places from 0",
        needs=_TABLES,
    )
    id_type: tuple[str, ...] = setting(
        ("auto",),
        TABLES,
        "type of the ids in all tables, one for both roles, or that of users and that of items; auto: whole "
        "numbers where all ids of a text file are, else as in the file",
        choices=("auto", "text", "integer"),
        needs=_TABLES,
        metavar="auto|text|integer",
    )
