# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/own_data.ipynb)
#
# This notebook reads tables of clicks, users and items in several formats, trains on them, and returns candidates by id: also for
# users and items that training never saw. It takes about a minute on a laptop.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli,data] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa

import rankpg
from rankpg.environments import Features, from_table

# %% [markdown]
# ## Tables
#
# Here, clicks come from a CSV file, users from pandas, and items from pyarrow. Each could also come from polars, Parquet or NumPy.
# Clicks depend on the columns of the tables, so the features are informative.

# %%
rng = np.random.default_rng(0)
NUM_USERS, NUM_ITEMS = 300, 400
countries, brands = np.array(["de", "fr", "jp"]), np.array(["red", "green", "blue"])
users = pd.DataFrame(
    {
        "user_id": [f"u{i:03d}" for i in range(NUM_USERS)],
        "age": rng.normal(40, 12, NUM_USERS).round(),
        "country": rng.choice(countries, NUM_USERS),
    }
)
items = pa.table(
    {
        "sku": [f"sku-{i:03d}" for i in range(NUM_ITEMS)],
        "price": rng.gamma(2.0, 10.0, NUM_ITEMS).round(2),
        "brand": rng.choice(brands, NUM_ITEMS),
        "vector": list(rng.normal(size=(NUM_ITEMS, 4)).round(3)),
    }
)
wealth = (users["age"].to_numpy() - 40) / 12
price = np.log(items["price"].to_numpy()) - 2.7
same = (
    users["country"].map(dict(zip(countries, brands, strict=True))).to_numpy()[:, None]
    == items["brand"].to_numpy()
)
liking = 1.5 * wealth[:, None] * price + 2 * same - 3
seen = rng.uniform(size=liking.shape) < 0.3  # who was shown what
rows, columns = np.nonzero(seen)
clicked = rng.uniform(size=len(rows)) < 1 / (1 + np.exp(-liking[seen]))
file = Path(tempfile.mkdtemp()) / "clicks.csv"
clicks = pd.DataFrame(
    {
        "user_id": users["user_id"].to_numpy()[rows],
        "sku": items["sku"].to_numpy()[columns],
        "clicked": clicked.astype(int),
    }
)
clicks.to_csv(file, index=False)
print(
    clicks.head(3).to_string(index=False), f"\n{len(clicks):,} rows, {clicked.mean():.1%} clicked"
)

# %% [markdown]
# ## One call
#
# Features are declared by column: numbers are standardised, categories are hashed, vectors are used unchanged. Invalid input is
# rejected with the place and the remedy.

# %%
people = Features(id="user_id", numeric=["age"], categorical=["country"], buckets=16)
shop = Features(
    id="sku", numeric=["price"], categorical=["brand"], embedding=["vector"], buckets=16
)
data = from_table(
    file,
    columns=("user_id", "sku", "clicked"),
    contexts=users,
    context_features=people,
    items=items,
    item_features=shop,
)
print(
    len(data.context_ids),
    "users,",
    len(data.item_ids),
    f"items; {data.missing_share:.1%} of all pairs were never shown",
)

try:
    from_table(file, columns=("sku", "user_id", "clicked"), contexts=users, context_features=people)
except ValueError as mistake:
    print(mistake)

# %% [markdown]
# ## Train
#
# A pair without a row has reward 0 (`missing="zero"`). 60 users are held out, and all metrics are computed on them.

# %%
config = rankpg.TrainConfig(
    num_candidates=10,
    ranking_length=5,
    context_tower="features",
    item_tower="features",
    held_out_contexts=60,
    num_steps=300,
    eval_every=50,
    seeds=(0, 1),
)
run = rankpg.train(config, data)
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for seed in config.seeds:
    own = [row for row in run.metrics if row["seed"] == seed]
    axis.plot(
        [row["step"] for row in own],
        [row["policy_value"] for row in own],
        "o-",
        label=f"seed {seed}",
    )
axis.set(xlabel="steps", ylabel="recorded clicks of 5 shown", ylim=0)
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Ids in, ids out

# %%
print(run.candidates(["u007", "u123"]))

# %% [markdown]
# An unknown user is an error by default. With `unknown="mean"` it gets the candidates of the mean user, and a warning counts such
# users.

# %%
some = ["u007", "a stranger"]
print("known:", run.known(some))
print(run.candidates(some, unknown="mean")[1])

# %% [markdown]
# With a tower over features, a new user needs features only:

# %%
newcomers = pd.DataFrame(
    {"user_id": ["new-1", "new-2"], "age": [25.0, 60.0], "country": ["jp", "jp"]}
)
wider = run.with_contexts(newcomers)
price_of = dict(zip(items["sku"].to_pylist(), items["price"].to_pylist(), strict=True))
for user in ("new-1", "new-2"):
    prices = [price_of[sku] for sku in wider.candidates([user])[0]]
    print(user, "candidates cost", np.round(np.median(prices), 2), "(median)")

# %% [markdown]
# ## Add and remove items
#
# This needs no training: the item tower embeds the rows of the new table.

# %%
first = run.candidates(["u007"])[0][0]
fewer = run.without_items([first])
print(first, "is gone:", first not in fewer.candidates(["u007"]))

arrivals = pa.table(
    {
        "sku": ["new-sku"],
        "price": [price_of[first]],
        "brand": ["red"],
        "vector": [[0.0, 0.0, 0.0, 0.0]],
    }
)
more = run.with_items(arrivals)
everyone = data.context_ids.ids.tolist()
share = np.mean([("new-sku" in row) for row in more.candidates(everyone)])
print(f"new-sku is a candidate of {share:.0%} of the users")

# %% [markdown]
# `run.candidates(users, eligible=[...])` restricts the candidates of one call. A run folder keeps ids and features, so
# `rankpg.load_run(folder)` works with ids too. `docs/data.md` lists all options.
