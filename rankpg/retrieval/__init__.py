"""Retrieval: from encoded contexts to candidates and their statistics.

A retrieval returns `Candidates`: the drawn items, sparse logits that stand for the whole catalogue, and, for
the estimators that need it, every expert's order. Scores are functions of that record alone, so the three
retrievals are interchangeable.

base.py       the interface: sample, rescore, greedy, peak_bytes, sharding
dense.py      `Dense`: all logits of a batch in memory
streamed.py   `Streamed`: the catalogue in chunks, two passes per update
sharded.py    `Sharded`: many devices, each with a shard of the items and of the batch
layout.py     chunks, blocks and shards of a catalogue
passes.py     logits of a chunk, forward and backward
sharding.py   sharding of a run's arrays
choice.py     the table of names, and the choice that suits a catalogue
"""

from rankpg.core.estimators import Candidates, Statistics
from rankpg.retrieval.base import Retrieval
from rankpg.retrieval.choice import RETRIEVALS, choose_retrieval
from rankpg.retrieval.dense import Dense
from rankpg.retrieval.sharded import Sharded
from rankpg.retrieval.streamed import Streamed

__all__ = [
    "RETRIEVALS",
    "Candidates",
    "Dense",
    "Retrieval",
    "Sharded",
    "Statistics",
    "Streamed",
    "choose_retrieval",
]
