"""Online learning: the re-ranker and the user are outside the program, and the data flow waits for them.

    act                                    | outside                | update
    contexts -> encoder -> candidates   -> | re-ranker -> rewards ->| scores -> credit -> ... -> optimizer

update.py         both halves of an update, on the same function as training
retriever.py      `Retriever`: `act` draws candidates, `update` takes their feedback, `discard` gives it up
validation.py     runs and feedback that are rejected
pending.py        draws that wait for their feedback, and their tokens
snapshot.py       a retriever on disk, beside its run
host_reranker.py  a Python function as re-ranker: batches, retries, timeouts
loop.py           the training loop around such a re-ranker
log.py            propensities and feedback in Parquet
"""

from rankpg.environments.catalogue import Catalogue, catalogue
from rankpg.online.host_reranker import HostReranker, RerankError
from rankpg.online.log import Log, read_log
from rankpg.online.loop import train, training_loop
from rankpg.online.pending import Draw, TokenError, UpdateResult
from rankpg.online.retriever import Retriever, UpdateError

__all__ = [
    "Catalogue",
    "Draw",
    "HostReranker",
    "Log",
    "RerankError",
    "Retriever",
    "TokenError",
    "UpdateError",
    "UpdateResult",
    "catalogue",
    "read_log",
    "train",
    "training_loop",
]
