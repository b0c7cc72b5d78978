"""Trains a retriever on a Parquet file of clicks under a LightGBM model and exports a FAISS index.

    python clicks_to_index.py clicks.parquet users.parquet items.parquet ranker.txt served 1000

The clicks have the columns user_id, item_id and clicked. Users and items have an id and the model's features.
"""

import sys

import lightgbm
import numpy as np
import pandas as pd

import rankpg
from rankpg.data.features import Features
from rankpg.environments.from_table import from_table

clicks, users, items, ranker, folder, num_steps = sys.argv[1:]
rankpg.export.check_free(folder)  # fail before training
ranker = lightgbm.Booster(model_file=ranker)
users, items = pd.read_parquet(users), pd.read_parquet(items)


def numbers(table: pd.DataFrame, key: str) -> Features:
    return Features(id=key, numeric=[name for name in table if name != key])


data = from_table(
    clicks, columns=("user_id", "item_id", "clicked"), duplicates="mean",
    contexts=users, context_features=numbers(users, "user_id"),
    items=items, item_features=numbers(items, "item_id"),
)  # fmt: skip
users, items = users.set_index("user_id"), items.set_index("item_id")


def rerank(contexts: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    user = users.loc[np.repeat(contexts, candidates.shape[1])].reset_index(drop=True)
    pairs = user.join(items.loc[candidates.ravel()].reset_index(drop=True))
    return ranker.predict(pairs[ranker.feature_name()]).reshape(candidates.shape)


config = rankpg.TrainConfig(
    num_candidates=20, ranking_length=5, context_tower="features", item_tower="features",
    advantage="context", num_steps=int(num_steps), eval_every=int(num_steps), seeds=(0,),
)  # fmt: skip
run = rankpg.online.train(
    rankpg.online.Retriever.new(config, data), rankpg.online.HostReranker(rerank)
)
print(f"clicks of a shown list: {run.policy_value:.3f}")
rankpg.export.export(run, folder, index="faiss")
