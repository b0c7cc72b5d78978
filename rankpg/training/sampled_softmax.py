"""The softmax over a sample of the catalogue, for catalogues whose logits are too many.

The negatives are the first wanted item of every context of the batch, and items drawn uniformly (mixed
negative sampling; Yang et al. 2020). From the logit of a drawn item, the log of its probability of being
drawn is subtracted (Bengio and Senecal 2008; Yi et al. 2019), so that the sampled weight of the catalogue is
unbiased:

    W = sum over j in the batch of e^f(j)  +  sum over drawn j of e^f(j) / Q(j),   Q = n / N

The items of the batch are in every sample of that batch, with Q = 1, and are left out of the drawn ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from rankpg.core.numerics import log_sum_exp
from rankpg.core.plackett_luce import SparseLogits, repeats
from rankpg.encoders.two_tower import to_logits
from rankpg.errors import ConfigError
from rankpg.training.moment_sampler import shuffled
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Params, PRNGKey

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:
    Learner = Any

__all__ = ["Sample", "Scored", "check_samples", "draw_negatives", "sampled_logits"]


class Scored(NamedTuple):
    """Sparse logits of the wanted items of a batch."""

    sparse_logits: SparseLogits
    """A record with a leading axis B."""
    sound: Bool[Array, "B"]
    """False where a logit is NaN or infinite."""


class Sample(NamedTuple):
    """Negatives that all contexts of a batch share."""

    items: Int[Array, "C"]
    log_weights: Float[Array, "C"]
    """- log Q(j); -inf for a repeat of an item."""


def draw_negatives(
    key: PRNGKey, in_batch: Int[Array, "B"], num_samples: int, num_items: int
) -> Sample:
    """Draws negatives uniformly, without replacement, and adds the items of the batch.

    Args:
      key: consumed.
      in_batch: wanted items, one of each context; repeats are allowed.
      num_samples: n, number of drawn items; all items from N on, each of which then has weight 1.
      num_items: N.

    >>> sample = draw_negatives(jax.random.key(0), jnp.array([3, 3]), 5, 5)
    >>> jnp.sort(jnp.where(sample.log_weights == 0, sample.items, -1)).tolist()
    [-1, -1, 0, 1, 2, 3, 4]
    """
    count = min(num_samples, num_items)
    places = jnp.arange(count, dtype=jnp.int32)
    drawn = jax.vmap(lambda place: shuffled(key, place, num_items))(places)
    batch = jnp.sort(in_batch)
    again = jnp.isin(drawn, batch)
    zero = jnp.zeros((), jnp.float32)
    weights = jnp.concatenate(
        [
            jnp.where(repeats(batch), -jnp.inf, zero),
            jnp.where(again, -jnp.inf, jnp.log(jnp.float32(num_items / count))),
        ]
    )
    return Sample(jnp.concatenate([batch, drawn]), weights)


def sampled_logits(
    embeddings: Embeddings,
    wanted: Int[Array, "B P"],
    sample: Sample,
    contexts: Int[Array, "B"],
    environment: Environment,
) -> Scored:
    """Returns the logits of the wanted items, and the log of the sampled weight of all others.

    A negative that a context may not be shown, or that is one of its wanted items, does not count for it.

    Args:
      embeddings: those of the contexts, divided by the temperature, and of all items, of which only the rows
        of the wanted and of the sampled items are read.
      wanted: wanted items of each context; repeats are allowed.
      sample: negatives.
      contexts: ids.
      environment: says which items are eligible.
    """

    def one(
        vector: Float[Array, "M D"], negatives: Float[Array, "M C"], mine: Int[Array, "P"], context
    ) -> tuple[SparseLogits, Bool[Array, ""]]:
        items = jnp.sort(mine)
        rows = Embeddings(contexts=vector[None], items=embeddings.items[:, items])
        logits = jnp.where(repeats(items)[None], -jnp.inf, to_logits(rows)[0])
        counts = ~jnp.isin(sample.items, items)
        eligible = environment.eligible(context, sample.items)
        if eligible is not None:
            counts &= eligible
        weighted = negatives + sample.log_weights.astype(negatives.dtype)[None]
        log_rest = log_sum_exp(jnp.where(counts[None], weighted, -jnp.inf))
        sound = (jnp.max(logits) < jnp.inf) & jnp.all(log_rest < jnp.inf)
        return SparseLogits(items=items, logits=logits, log_rest=log_rest), sound

    shared = Embeddings(contexts=embeddings.contexts, items=embeddings.items[:, sample.items])
    return Scored(*jax.vmap(one)(embeddings.contexts, to_logits(shared), wanted, contexts))


def check_samples(learner: Learner, params: Params, num_samples: int) -> None:
    """Rejects a policy whose softmax cannot be sampled.

    Args:
      learner: policy and environment.
      params: parameters, or their shapes.
      num_samples: the setting `softmax_samples`.

    Raises:
      ConfigError: the items are sharded, or the encoder returns logits.
    """
    given, policy = f"softmax_samples={num_samples}", learner.policy
    if policy.retrieval.name == "sharded":
        raise ConfigError(
            f"{given} with retrieval='sharded', in which no device has all items; give "
            "retrieval='streamed', or leave softmax_samples out"
        )
    two = jax.ShapeDtypeStruct((2,), jnp.int32)
    encoded = jax.eval_shape(policy.encoder.encode, params, learner.environment, two)
    if not isinstance(encoded, Embeddings):
        raise ConfigError(
            f"{given} computes logits from the items' embeddings, and the encoder returns the logits of all "
            "items; return rankpg.types.Embeddings, or leave softmax_samples out"
        )
