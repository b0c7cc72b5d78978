"""Retrieval: from logits to candidates and their statistics.

A retrieval answers with `Candidates`: the drawn items, a listing that stands for the whole catalogue, and,
for the estimators that ask for it, every expert's order. Scores are functions of that record alone.
"""

from rankpg.retrieval.dense import Candidates, describe, retrieve

__all__ = ["Candidates", "describe", "retrieve"]
