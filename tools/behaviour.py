"""Digests of small trainings: shows that a change of the code changed no number.

    python tools/behaviour.py --out before.json      # on one commit
    python tools/behaviour.py --out after.json --against before.json    # on another one

Every training is run on eight fake CPU devices. For each, the digest (SHA-256) of its metrics, its candidates
and every leaf of its final state is written: equal digests mean equal bits. Metrics and settings are compared
under their present names; `RENAMED` maps those of earlier commits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np

import rankpg

RENAMED = {
    "late_stage": "reranker",
    "late_stage_regret": "reranker_regret",
    "reward_transform": "advantage",
    "share_of_optimum": "normalised_value",
}
"""Names of earlier commits, and what they are now, of settings and of metrics."""

_TIMES = ("steps_per_second", "seconds")
_SMALL = {
    "num_contexts": 40,
    "num_items": 60,
    "num_features": 6,
    "instance_seed": 3,
    "num_candidates": 6,
    "embedding_dim": 5,
    "batch_size": 16,
    "num_steps": 30,
    "eval_every": 15,
    "seeds": (0, 1),
    "retrieval": "dense",
}
ESTIMATORS = (
    "v_pg", "v_pg_swr", "ca_pg", "ca_pg_exact", "ca_pg_swr", "top1_pg", "ca_pg_threshold",
)  # fmt: skip

CASES: dict[str, dict] = {
    **{f"dense {name}": {"estimator": name} for name in ESTIMATORS},
    **{
        f"five experts {name}": {"estimator": name, "num_experts": 5, "num_candidates": 7}
        for name in ESTIMATORS
        if name != "ca_pg_exact"
    },
    **{
        f"streamed {name}": {
            "estimator": name, "retrieval": "streamed", "num_items": 300, "num_experts": 2,
        }
        for name in ("v_pg", "ca_pg", "ca_pg_threshold")
    },
    **{
        f"sharded {name}": {
            "estimator": name, "retrieval": "sharded", "mesh": (2, 4), "num_items": 301,
            "num_experts": experts,
        }
        for name, experts in (("ca_pg_swr", 1), ("ca_pg", 2))
    },
    "features": {
        "context_tower": "features", "item_tower": "features", "held_out_contexts": 8,
        "hidden": (7,),
    },
    "features streamed": {
        "item_tower": "features", "retrieval": "streamed", "num_items": 300, "seeds": (4,),
    },
    "group": {"reranker": "noisy", "advantage": "group", "draws_per_context": 4},
    "batch baseline": {"advantage": "batch", "ranking_length": 3, "position_weights": "dcg"},
    "context baseline and bonus": {
        "reranker": "uniform", "advantage": "context", "entropy_bonus": 0.3,
    },
    "learned baseline": {"reranker": "anti", "advantage": "learned", "estimator": "v_pg"},
    "learned re-ranker": {"reranker": "learned", "num_steps": 15},
    "paper preset": {"preset": "paper", "reranker": "noisy", "ranking_length": 2},
    "bfloat16": {"table_dtype": "bfloat16", "product_dtype": "bfloat16"},
    "adapter": {"context_tower": "adapter", "item_tower": "given", "embedding_dim": 10},
}  # fmt: skip


def present_names(settings: dict) -> dict:
    """Settings under the names that this commit's TrainConfig has."""
    known = rankpg.TrainConfig.__dataclass_fields__
    old = {new: name for name, new in RENAMED.items()}
    return {name if name in known else old[name]: value for name, value in settings.items()}


def config(**settings) -> rankpg.TrainConfig:
    """A small run with some settings of its own."""
    return rankpg.TrainConfig(**present_names({**_SMALL, **settings}))


def digest(*arrays) -> str:
    """SHA-256 of dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def digest_of_metrics(rows: list[dict]) -> str:
    """Of all numbers of all evaluations but times, by their present names."""
    named = [
        sorted(
            (RENAMED.get(name, name), value) for name, value in row.items() if name not in _TIMES
        )
        for row in rows
    ]
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]


def digest_of_state(state) -> str:
    """Of parameters, optimizer, baseline and step, leaf by leaf."""
    parts = state.params, state.optimizer_state, state.baseline_state, state.step
    return digest(*jax.device_get(jax.tree.leaves(parts)))


def digests(run) -> dict[str, str]:
    """Of a trained run: metrics, candidates, state."""
    return {
        "metrics": digest_of_metrics(run.metrics),
        "candidates": digest(run.candidates(np.arange(run.environment.num_contexts))),
        "state": digest_of_state(run.state),
    }


def resumed() -> dict[str, str]:
    """A run that stops half way, and goes on from its folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        rankpg.train(config(estimator="v_pg", num_steps=15), out=out)
        run = rankpg.train(config(estimator="v_pg", num_steps=30), out=out, resume=True)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return digests(run) | {"metrics.jsonl": digest_of_metrics(rows)}


def on_ids() -> dict[str, str]:
    """A run on a matrix with ids and features."""
    generator = np.random.default_rng(0)
    rewards = generator.gamma(1.0, size=(40, 60))
    data = rankpg.environments.from_matrix(
        rewards, noise_std=0.3, item_features=generator.normal(size=(60, 4)).astype(np.float32)
    )
    settings = {"num_candidates": 5, "num_steps": 20, "eval_every": 10, "seeds": (0,)}
    return digests(rankpg.train(rankpg.TrainConfig(batch_size=16, **settings), data))


def online(importance: str, estimator: str) -> dict[str, str]:
    """Draws that wait for two updates before their feedback comes."""
    try:
        from rankpg import online as room
    except ImportError:
        from rankpg import live as room
    matrix = np.random.default_rng(1).gamma(1.0, size=(40, 60))
    data = rankpg.environments.from_matrix(matrix)
    settings = {"num_candidates": 5, "ranking_length": 2, "batch_size": 8, "seeds": (0,)}
    retriever = room.Retriever.new(
        rankpg.TrainConfig(estimator=estimator, **settings), data, importance=importance
    )
    act = getattr(retriever, "act", None) or retriever.draw
    update = getattr(retriever, "update", None) or retriever.learn
    waiting, drawn = [], []
    for number in range(12):
        contexts = np.random.default_rng(number).integers(0, 40, 8)
        draw = act(contexts)
        drawn += [draw.candidates, draw.log_propensity, draw.log_inclusion]
        waiting.append((contexts, draw))
        if len(waiting) > 2:
            contexts, draw = waiting.pop(0)
            shown = draw.candidates[:, :2]
            update(draw.token, shown, matrix[contexts[:, None], shown])
    return {"draws": digest(*drawn), "state": digest_of_state(retriever.run.state)}


def measure() -> dict[str, dict[str, str]]:
    """All cases."""
    found: dict[str, dict[str, str]] = {}
    for name, settings in CASES.items():
        found[name] = digests(rankpg.train(config(**settings)))
        print(name, *found[name].values(), flush=True)
    found["resume"], found["ids and features"] = resumed(), on_ids()
    for importance, estimator in (("set", "v_pg"), ("item", "ca_pg"), ("none", "ca_pg_swr")):
        found[f"online {importance} {estimator}"] = online(importance, estimator)
    for name in list(found)[len(CASES) :]:
        print(name, *found[name].values(), flush=True)
    return found


def main() -> int:
    """Measure, write, compare; 1 where a digest differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file of digests")
    parser.add_argument("--against", type=Path, help="JSON file of another commit")
    arguments = parser.parse_args()
    found = measure()
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.against is None:
        return 0
    before = json.loads(arguments.against.read_text())
    differ = [
        f"{name}: {part}"
        for name, parts in before.items()
        for part, value in parts.items()
        if found.get(name, {}).get(part) != value
    ]
    print(
        f"{len(before)} trainings compared;", "all equal" if not differ else "different:", *differ
    )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
