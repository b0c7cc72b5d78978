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
# # Scaling
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/scaling.ipynb)
#
# This notebook estimates the memory of a run, shows how candidates are drawn without holding all logits, and measures time and
# memory of a step as the catalogue grows. It takes about two minutes on a laptop. `docs/scaling.md` covers a million items and many
# devices.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

if (
    importlib.util.find_spec("benchmarks") is None
):  # scripts of the repository, not part of the package
    clone = ["git", "clone", "--quiet", "--depth", "1", "<this repository>", "rankpg-checkout"]
    subprocess.run(clone, check=True)
    sys.path.append("rankpg-checkout")

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import rankpg
from benchmarks.speed.scale import measure
from benchmarks.speed.shapes import Shape
from rankpg.core.sampling import block_race, block_width, gumbel_top_k
from rankpg.runs.run import prepare

# %% [markdown]
# ## Memory of a run
#
# rankpg estimates the memory before a run starts. `retrieval="auto"` chooses dense, streamed or sharded retrieval.

# %%
for num_items in (1000, 100_000):
    config = rankpg.TrainConfig(
        num_items=num_items,
        num_contexts=200,
        embedding_dim=32,
        num_candidates=50,
        batch_size=64,
        seeds=(0,),
    )
    run = prepare(config)
    print(f"N = {num_items:,}: {run.policy.retrieval.name}; {run.memory}")

# %% [markdown]
# A run that does not fit is rejected, with a suggestion:

# %%
try:
    prepare(rankpg.TrainConfig(num_items=10**9, embedding_dim=64, seeds=(0,)))
except ValueError as error:
    print(error)

# %% [markdown]
# ## The draw: a race of blocks
#
# Gumbel-top-k draws one random number per item. A race between *blocks* of items, and then within the first blocks, has the same
# distribution and needs only about 2 √(N K) random numbers.

# %%
num_items, depth, draws = 200, 3, 20_000
logits = 2 * jax.random.normal(jax.random.key(0), (1, num_items))
keys = jax.random.split(jax.random.key(1), draws)
width = block_width(num_items, depth)


def frequency(draw):
    items = jax.jit(jax.vmap(draw))(keys)[0][:, 0]
    return np.bincount(np.asarray(items).ravel(), minlength=num_items) / draws


race = frequency(lambda key: block_race(key, logits, depth, width))
plain = frequency(lambda key: gumbel_top_k(key, logits, depth))
figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.loglog(plain, race, ".", ms=4)
axis.loglog([1e-4, 1], [1e-4, 1], color="0.6", lw=1)
axis.set(xlabel="frequency, Gumbel top-K", ylabel=f"frequency, race of blocks of {width}")
plt.show()

# %% [markdown]
# ## Time and memory against N
#
# Measured on this machine. Streamed retrieval holds nothing of size B × N; dense retrieval does.

# %%
found = measure(
    Shape(embedding_dim=16, num_candidates=20, batch_size=32),
    sizes=(2000, 8000, 32_000),
    rounds=3,
    items_per_call=60_000,
    fit_from=2000,
    estimators=("ca_pg_swr",),
)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for row in found["rows"]:
    sizes = [int(n) for n in row["seconds_per_step"]]
    seconds = [timing["median"] for timing in row["seconds_per_step"].values()]
    memory = [size / 2**20 for size in row["temporary_bytes"].values()]
    exponent = row["growth"]["time"]["exponent"]
    axes[0].loglog(
        sizes, np.multiply(1000, seconds), "o-", label=f"{row['retrieval']}: N^{exponent:.2f}"
    )
    axes[1].loglog(sizes, memory, "o-", label=row["retrieval"])
axes[0].set(xlabel="N", ylabel="milliseconds per step")
axes[1].set(xlabel="N", ylabel="temporary memory, MiB")
for axis in axes:
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes], minor=False)
    axis.minorticks_off()
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Training with many items
#
# With towers over features, every step changes all items, so a few dozen large steps suffice even for large N. A random choice of
# K = 50 of 20,000 items has a recall of 0.25 %.

# %%
config = rankpg.TrainConfig(
    num_items=20_000, num_contexts=2000, num_features=10, embedding_dim=16, num_candidates=50, retrieval="streamed",
    context_tower="features", item_tower="features", recall_depth=10, learning_rate=1e-2,
    num_steps=60, eval_every=30, eval_contexts=64, seeds=(0,),
)  # fmt: skip
run = rankpg.train(config)
for row in run.metrics:
    print(
        f"step {row['step']:3}: {row['candidate_recall']:.1%} of each context's true ten best are candidates"
    )
