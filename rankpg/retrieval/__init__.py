"""Retrieval: from logits to candidates and their statistics.

A retrieval returns `Candidates`: the drawn items, sparse logits that stand for the whole catalogue, and,
for the estimators that ask for it, every expert's order. Scores are functions of that record alone.

dense.py      all logits of a batch in memory
streamed.py   the catalogue in chunks, two passes a step
sharded.py    the same on many devices, each with its part of the items and of the batch
layout.py     how it is cut into chunks and blocks
part.py       the blocks of one device, and how the parts are put together
noise.py      of a race, keyed by place
choice.py     which of the three suits a catalogue
"""

from rankpg.core.estimators import Candidates, Statistics, draw_candidates, rescore_candidates
from rankpg.retrieval.choice import Choice, choose_retrieval
from rankpg.retrieval.dense import mask
from rankpg.retrieval.sharded import retrieve_sharded
from rankpg.retrieval.streamed import describe_streamed, retrieve_streamed

__all__ = [
    "Candidates",
    "Choice",
    "Statistics",
    "choose_retrieval",
    "describe_streamed",
    "draw_candidates",
    "mask",
    "rescore_candidates",
    "retrieve_sharded",
    "retrieve_streamed",
]
