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
# # Retrieval for RAG
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/rag.ipynb)
#
# This notebook trains a text retriever on the relevance of the documents that are shown, starting from given embeddings. The
# collection is built from the documentation of Python's standard library, so nothing is downloaded. It takes about a minute on a
# laptop.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
import ast
import inspect
import re
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

import rankpg
from rankpg import rerankers

# %% [markdown]
# ## A collection
#
# A document is the docstring of a function in the standard library, without its first sentence. The query is the first sentence, and
# the document of the same function is the relevant one.

# %%
MODULES = """
    argparse ast asyncio calendar collections concurrent.futures configparser contextlib csv datetime decimal difflib
    email.message fractions functools glob gzip heapq html http.client imaplib inspect ipaddress itertools json logging
    mailbox multiprocessing.pool os pathlib pickle platform random re sched shutil socket sqlite3 ssl statistics string
    subprocess tarfile tempfile textwrap threading tokenize trace typing unittest urllib.parse urllib.request uuid weakref
    xml.dom.minidom xml.etree.ElementTree zipfile
"""


def documented(name):
    """Yields qualified name and docstring of every documented function and class in a module's source."""
    try:
        source = inspect.getsource(importlib.import_module(name))
    except (ImportError, OSError, TypeError):  # not on this platform, or written in C
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield f"{name}.{node.name}", text


collection = {}
for module in MODULES.split():
    for name, text in documented(module):
        first, _, rest = text.partition(". " if ". " in text.split("\n\n")[0] else "\n")
        if len(first.split()) >= 4 and len(rest.split()) >= 12:
            collection.setdefault(name, (first, rest))
names = list(collection)
queries, documents = ([collection[name][part] for name in names] for part in (0, 1))
print(len(names), "documents;", "a query:", queries[0])

# %% [markdown]
# ## Embeddings
#
# Yours come from a model. Here they are log word counts, reduced to 128 dimensions by an SVD and normalised. Words are not weighted,
# which leaves something to learn, as with a model that was not made for this collection.


# %%
def words(text):
    return re.findall(r"[a-z]{3,}", text.lower())


counts = Counter(word for text in documents for word in set(words(text)))
vocabulary = {word: i for i, word in enumerate(word for word, many in counts.items() if many > 1)}


def log_counts(texts):
    table = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            if word in vocabulary:
                table[row, vocabulary[word]] += 1
    return np.log1p(table)


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


table = log_counts(documents)
directions = np.linalg.svd(unit(table), full_matrices=False)[2][:128]
document_embeddings = unit(table @ directions.T)
query_embeddings = unit(log_counts(queries) @ directions.T)

# %% [markdown]
# ## Train
#
# The towers are *adapters*: the given embeddings plus a learned change that is initialised to 0. A quarter of the queries is held
# out, and all metrics below are computed on them.

# %%
data = rankpg.environments.from_text(
    names,
    names,
    np.ones(len(names)),
    query_ids=names,
    document_ids=names,
    query_embeddings=query_embeddings,
    document_embeddings=document_embeddings,
)
config = rankpg.TrainConfig(
    context_tower="adapter",
    item_tower="adapter",
    hidden=(),
    temperature=0.05,
    learning_rate=1e-3,
    num_candidates=10,
    ranking_length=3,
    held_out_contexts=len(names) // 4,
    batch_size=128,
    num_steps=200,
    eval_every=50,
    seeds=(0, 1),
)
run = rankpg.train(config, data)

figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for seed in config.seeds:
    rows = [row for row in run.metrics if row["seed"] == seed]
    axis.plot(
        [row["step"] for row in rows],
        [row["relevant_recall"] for row in rows],
        "o-",
        label=f"seed {seed}",
    )
axis.set(xlabel="steps", ylabel="recall@10")
axis.legend(frameon=False)
plt.show()

for step in (0, config.num_steps):
    recall = np.mean([row["relevant_recall"] for row in run.metrics if row["step"] == step])
    print(f"step {step:3}: recall@10 {recall:.3f} (mean of 2 seeds, held-out queries)")

# %% [markdown]
# The gain is a few hundredths on about two hundred held-out queries; `docs/text.md` shows how to test such a difference. If the
# held-out curve falls while the training reward rises, the adapter overfits: use fewer steps, a smaller step size, or weight decay.
#
# ## What goes into the prompt
#
# The re-ranker shows three of the ten candidates. Here it is the inner product of the given embeddings.

# %%
shown = rankpg.train(config, data, reranker=rerankers.similarity(3))
for name in shown.candidates(names[:2]).tolist():
    print(name[:3])
