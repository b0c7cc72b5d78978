"""Live: the re-ranker and the user are outside of the program, and the data flow waits for them.

    draw                                    | wait for the world             | learn
    contexts -> encoder -> retrieval     -> | re-ranker -> rewards       -> | scores -> ... -> optimizer

programs.py     both halves, compiled, from the components that `training.update` is made of
retriever.py    ask and tell: `draw` answers candidates and a token, `learn` takes what came of them
fitness.py      which runs can go live
open_draws.py   the draws that wait for their feedback, and the tokens that name them
snapshot.py     both on disk, beside the run
reranker.py     a function of yours as re-ranker: batches, retries, time limits
answers.py      what it may answer, and what is refused
host_loop.py    draw, call, learn, over and over
log.py          propensities and feedback in Parquet
"""

from rankpg.environments.catalogue import Catalogue, catalogue
from rankpg.online.host_reranker import HostReranker, RerankError
from rankpg.online.log import Log, read_log
from rankpg.online.loop import train, training_loop
from rankpg.online.pending import Draw, TokenError
from rankpg.online.retriever import Retriever, UpdateError, UpdateResult

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
