"""Diversity measures of a TREC run file, which agree with those of TREC's own tool `ndeval`.

    python -m benchmarks.scripts.trec_run --qrels qrels.diversity --run run.txt

Judgements: lines of topic, subtopic, document and judgement, from https://trec.nist.gov/data/webmain.html.
Run: TREC's six columns, topic, Q0, document, rank, score and name, packed by gzip or not. Documents are in
the order of their scores, and of equal scores in the order of their names. Prints means over the topics of
the run that have a relevant document, at 5, 10 and 20 documents.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np

from benchmarks.markdown import grid
from rankpg.data.text_lines import open_lines
from rankpg.environments import from_subtopics
from rankpg.environments.dataset import Dataset

MEASURES = ("alpha_ndcg", "err_ia", "subtopic_recall")
DEPTHS = (5, 10, 20)


def read_run(file: Path) -> dict[str, list[str]]:
    """Returns the documents of each topic, best first.

    Raises:
      ValueError: a line without six columns.
    """
    scored: dict[str, list[tuple[float, str]]] = defaultdict(list)
    with open_lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if len(cells) != 6:
                raise ValueError(
                    f"{file}, line {number}: {len(cells)} columns; expected topic, Q0, document, rank, score "
                    "and name"
                )
            scored[cells[0]].append((-float(cells[4]), cells[2]))
    return {topic: [name for _, name in sorted(found)] for topic, found in scored.items()}


def mean_values(data: Dataset, lists: dict[str, list[str]], depth: int) -> float:
    """Returns the mean over topics of the reward of the first `depth` documents.

    A document without a judgement covers nothing.
    """
    topics = data.context_ids.find(list(lists))
    nothing = data.environment.num_items  # the row of a document that covers nothing
    shown = np.full((len(lists), depth), nothing, np.int32)
    for place, documents in enumerate(lists.values()):
        rows = data.item_ids.find(np.array(documents[:depth], dtype=str))
        shown[place, : len(rows)] = np.where(rows < 0, nothing, rows)
    known = topics >= 0
    gains = jax.jit(jax.vmap(data.environment.mean_rewards))(topics[known], shown[known])
    return float(np.mean(np.sum(gains, axis=1)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--qrels", type=Path, required=True, help="file of judgements by subtopic")
    parser.add_argument("--run", type=Path, required=True, help="run file")
    arguments = parser.parse_args()
    lists = read_run(arguments.run)
    rows = [["measure", *(f"@{depth}" for depth in DEPTHS)]]
    for measure in MEASURES:
        data = from_subtopics(arguments.qrels, list_reward=measure)
        rows.append([measure, *(f"{mean_values(data, lists, depth):.6f}" for depth in DEPTHS)])
    print(grid(rows))


if __name__ == "__main__":
    main()
