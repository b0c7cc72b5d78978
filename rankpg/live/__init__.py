"""Live: the late stage and the user are outside of the program, and the data flow waits for them.

    draw                                    | wait for the world             | learn
    contexts -> encoder -> retrieval     -> | late stage -> rewards       -> | scores -> ... -> optimizer

programs.py     both halves, compiled, from the stations that `training.update` is made of
retriever.py    ask and tell: `draw` answers candidates and a token, `learn` takes what came of them
fitness.py      which runs can go live
open_draws.py   the draws that wait for their feedback, and the tokens that name them
snapshot.py     both on disk, beside the run
reranker.py     a function of yours as late stage: batches, retries, time limits
answers.py      what it may answer, and what is refused
host_loop.py    draw, call, learn, over and over
log.py          propensities and feedback in Parquet
"""

from rankpg.environments.catalogue import Catalogue, catalogue
from rankpg.live.host_loop import train, training_loop
from rankpg.live.log import Log, read_log
from rankpg.live.open_draws import TokenError
from rankpg.live.reranker import Reranker, RerankError
from rankpg.live.retriever import Draw, LearnError, Learnt, Retriever

__all__ = [
    "Catalogue",
    "Draw",
    "LearnError",
    "Learnt",
    "Log",
    "RerankError",
    "Reranker",
    "Retriever",
    "TokenError",
    "catalogue",
    "read_log",
    "train",
    "training_loop",
]
