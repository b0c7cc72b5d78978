"""Effect of the entropy bonus: share of the attainable value by weight of the bonus, 2 seeds.

    python -m benchmarks.scripts.entropy_bonus [--num-steps 5000]

The tuned preset on a generated instance (seed 1), not the paper's, with the optimal and the uniform
re-ranker. Also the standard deviation of the mean rewards within a context, the natural unit of the weight.
The share is relative to the value of the best candidates under the same re-ranker.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.hard_problems.reach import find_limit
from benchmarks.scripts.common import fill_products, num_steps_given
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval
from rankpg.runs.run import prepare

RERANKERS = ("optimal", "uniform")
SCORES = (("ca_pg_swr", "none"), ("ca_pg_swr", "context"), ("v_pg_swr", "context"))
WEIGHTS = (0.0, 0.1, 0.3, 1.0)


def measure(reranker: str, score: tuple[str, str], num_steps: int) -> dict[str, Any]:
    """Measures the share of the attainable value after the last step by weight, over seeds."""
    base = TrainConfig(
        reranker=reranker,
        estimator=score[0],
        advantage=score[1],
        instance_seed=1,
        num_steps=num_steps,
        eval_every=num_steps,
        seeds=(0, 1),
    )
    limit = find_limit(base, "policy_value")
    shares, stopped = {}, []
    for weight in WEIGHTS:
        run = train(TrainConfig.from_dict(base.to_dict() | {"entropy_bonus": weight}))
        last = [row["policy_value"] / limit for row in run.metrics if row["step"] == run.step]
        mean, half = mean_interval(last)
        shares[f"{weight:g}"] = {"mean": mean, "half_width_95": half, "seeds": last}
        stopped += [f"bonus {weight:g}: {sentence}" for sentence in run.stopped()]
    return {
        "steps": num_steps,
        "limit": limit,
        "spread_of_rewards": spread(base),
        "share_of_limit": shares,
        "stopped": stopped,
        "summary": ", ".join(f"{weight}: {share['mean']:.3f}" for weight, share in shares.items()),
    }


def spread(config: TrainConfig) -> float:
    """Standard deviation of a context's mean rewards over the catalogue, averaged over contexts."""
    world = prepare(config).environment
    items = jnp.arange(world.num_items, dtype=jnp.int32)
    contexts = jnp.arange(world.num_contexts, dtype=jnp.int32)
    of_context = jax.vmap(lambda context: jnp.std(world.mean_rewards(context, items)))
    return float(jnp.mean(of_context(contexts)))


def main() -> None:
    fill_products("entropy_bonus", measure, num_steps_given(__doc__, 5000), RERANKERS, SCORES)


if __name__ == "__main__":
    main()
