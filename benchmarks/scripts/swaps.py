"""Noise and cost of `ca_pg_swap`: variance of one draw's gradient, and seconds per step.

    python -m benchmarks.scripts.swaps [--num-draws 20000] [--rounds 9]

One context of 200 items, standard normal logits, rewards softplus(2 z) + 1, and a re-ranker that shows the
three candidates of largest reward, or of largest score of its own. A list earns the sum of its rewards, or
the sum over topics of the best of each. The variance is the trace of the covariance of the gradient in the
logits.
`v_pg` and `v_pg_set` have the policy value as their baseline. Rewards have no noise.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scripts.common import one_core, write
from benchmarks.speed.shapes import Shape, steps_per_call
from benchmarks.timing import in_turns, training_call
from rankpg.core.estimators import ESTIMATORS, Candidates, draw_candidates, swaps_of
from rankpg.types import Array, Float, Int, PRNGKey

NUM_ITEMS, SHOWN, TOPICS = 200, 3, 8
CANDIDATES = (5, 20, 50)
WHOLE_SET = ("v_pg", "v_pg_set")

Earned = Callable[[Int[Array, "K"]], Float[Array, ""]]
"""The reward of the list that the re-ranker makes of a set."""


def rewards_of_sets(seed: int, *, aligned: bool, topics: bool) -> Earned:
    """Returns the reward of a set behind a re-ranker that sorts by the reward or by a score of its own."""
    random = np.random.default_rng(seed)
    worth = jnp.asarray(1 + np.logaddexp(0, 2 * random.normal(size=NUM_ITEMS)))
    score = worth if aligned else jnp.asarray(random.normal(size=NUM_ITEMS))
    topic = jnp.asarray(random.integers(TOPICS, size=NUM_ITEMS))

    def earned(items: Int[Array, "K"]) -> Float[Array, ""]:
        shown = items[jax.lax.top_k(score[items], SHOWN)[1]]
        rewards = worth[shown]
        if not topics:
            return jnp.sum(rewards)
        same = topic[shown][:, None] == topic[shown][None, :]
        return jnp.sum(
            jnp.where(jnp.max(jnp.where(same, rewards, 0), axis=1) == rewards, rewards, 0)
        )

    return earned


def variances(
    key: PRNGKey, num_candidates: int, earned: Earned, num_draws: int
) -> dict[str, float]:
    """Trace of the covariance of one draw's gradient, for each estimator."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, NUM_ITEMS)))
    quotas = (num_candidates,)

    def scores(name: str, key: PRNGKey, logits: Float[Array, "1 N"]) -> Float[Array, "n"]:
        estimator = ESTIMATORS[name]
        drawn = draw_candidates(key, logits, quotas, estimator.statistics)
        return estimator.score(drawn, drawn.items[:1], quotas)

    def credit(name: str, drawn: Candidates, value: Float[Array, ""]) -> Float[Array, "n"]:
        reward = earned(drawn.items)
        if name in WHOLE_SET:
            return (reward - value)[None]
        swaps = swaps_of(drawn, quotas)
        without = jax.vmap(lambda slot, into: earned(drawn.items.at[slot].set(into)))
        return reward - without(swaps.slot, swaps.into)

    @jax.jit
    def moments(keys):
        draw = partial(draw_candidates, logits=logits, quotas=quotas, statistics="swaps")
        value = jnp.mean(jax.lax.map(lambda k: earned(draw(k).items), keys, batch_size=500))

        def one(name, key):
            _, pull = jax.vjp(partial(scores, name, key), logits)
            return pull(credit(name, draw(key), value))[0][0]

        found = {}
        for name in (*WHOLE_SET, "ca_pg_swap"):
            drawn = jax.lax.map(partial(one, name), keys, batch_size=500)
            found[name] = jnp.sum(jnp.var(drawn, axis=0))
        return found

    return {name: float(v) for name, v in moments(jax.random.split(key, num_draws)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-draws", type=int, default=20_000, help="draws [%(default)s]")
    parser.add_argument("--rounds", type=int, default=9, help="timing repetitions [%(default)s]")
    arguments = parser.parse_args()
    one_core()
    rows: dict[str, Any] = {}
    for aligned, topics in itertools.product((True, False), (False, True)):
        for count in CANDIDATES:
            earned = rewards_of_sets(0, aligned=aligned, topics=topics)
            found = variances(jax.random.key(1), count, earned, arguments.num_draws)
            name = (
                f"{'aligned' if aligned else 'own score'}/{'topics' if topics else 'sum'}/K={count}"
            )
            rows[name] = found | {f"{e}_to_swap": found[e] / found["ca_pg_swap"] for e in WHOLE_SET}
            print(name, {k: round(v, 3) for k, v in rows[name].items()}, file=sys.stderr)
    arms = {}
    for name in ("ca_pg_swr", "ca_pg_swap", "v_pg", "v_pg_set"):
        config = Shape().config(name, num_contexts=1000)
        arms[name] = training_call(config, steps_per_call(config, 200_000)).seconds_per_step
    timing = in_turns(arms, arguments.rounds)
    ratios = {name: t["median"] / timing["ca_pg_swr"]["median"] for name, t in timing.items()}
    print(timing, ratios, file=sys.stderr)
    write("swaps", {"variance": rows, "num_draws": arguments.num_draws,
                    "seconds_per_step": timing, "ratio_to_ca_pg_swr": ratios})  # fmt: skip


if __name__ == "__main__":
    main()
