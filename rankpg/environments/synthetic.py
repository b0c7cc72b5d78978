"""The synthetic problem of the paper: the instance behind its tables, and a generator for any size."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.types import Array, Environment, Float, Int, PRNGKey, record

__all__ = ["Synthetic", "generate", "paper_instance"]


@record
class Synthetic(Environment):
    """Rewards from two mixed bilinear forms (Kiyohara et al. 2026, Sec. 5.1).

        eta(x, a) = sqrt(sigmoid(x.c + 3) * sigmoid(e.d + 3))
        q(x, a)   = scale * x^T ((1 - eta) M_0 + eta M_z) e
        reward    ~ Normal(softplus(q) + 1, noise_scale * sigmoid(x^T C e + 1))

    x is the context's feature vector, e the item's. The re-rankers order by q.
    """

    context_features: Float[Array, "contexts F"]
    item_features: Float[Array, "N F"]
    projection: Float[Array, "F F"]
    """M_0"""
    latent_projection: Float[Array, "F F"]
    """M_z"""
    context_reactiveness: Float[Array, "F"]
    """c"""
    item_reactiveness: Float[Array, "F"]
    """d"""
    noise_projection: Float[Array, "F F"]
    """C"""
    scale: float = struct.field(pytree_node=False, default=10.0)
    noise_scale: float = struct.field(pytree_node=False, default=1.0)

    @property
    def num_contexts(self) -> int:
        return self.context_features.shape[0]

    @property
    def num_items(self) -> int:
        return self.item_features.shape[0]

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns q(x, a)."""
        x, e = self.context_features[context], self.item_features[items]
        reactive = jax.nn.sigmoid(x @ self.context_reactiveness + 3)
        eta = jnp.sqrt(reactive * jax.nn.sigmoid(e @ self.item_reactiveness + 3))
        plain, latent = e @ (x @ self.projection), e @ (x @ self.latent_projection)
        return self.scale * ((1 - eta) * plain + eta * latent)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns softplus(q) + 1."""
        return jax.nn.softplus(self.relevance(context, items)) + 1

    def reward_std(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns noise_scale * sigmoid(x^T C e + 1)."""
        x, e = self.context_features[context], self.item_features[items]
        return self.noise_scale * jax.nn.sigmoid(e @ (x @ self.noise_projection) + 1)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples the mean plus Gaussian noise."""
        mean, std = self.mean_rewards(context, items), self.reward_std(context, items)
        return mean + std * jax.random.normal(key, mean.shape, mean.dtype)


def paper_instance(noise_scale: float = 1.0) -> Synthetic:
    """Loads the instance behind the paper's tables: 1000 contexts, 1000 items, 10 features; optimum 9.109.

    Both sides were drawn with one seed, so contexts equal items and M_0 equals M_z.

    Args:
      noise_scale: factor of the standard deviation of rewards; 1 in the paper.

    >>> environment = paper_instance()
    >>> best = jax.vmap(lambda c: environment.mean_rewards(c, jnp.arange(1000)).max())(jnp.arange(1000))
    >>> f"{best.mean():.3f}"
    '9.109'
    """
    file = resources.files("rankpg.environments") / "paper_instance.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        return Synthetic(
            context_features=jnp.asarray(arrays["contexts"]),
            item_features=jnp.asarray(arrays["items"]),
            projection=jnp.asarray(arrays["proj"]),
            latent_projection=jnp.asarray(arrays["latent_proj"]),
            context_reactiveness=jnp.asarray(arrays["context_reactiveness"]),
            item_reactiveness=jnp.asarray(arrays["item_reactiveness"]),
            noise_projection=jnp.asarray(arrays["noise_proj"]),
            noise_scale=noise_scale,
        )


def generate(
    key: PRNGKey,
    num_contexts: int = 1000,
    num_items: int = 1000,
    num_features: int = 10,
    *,
    scale: float = 10.0,
    noise_scale: float = 1.0,
) -> Synthetic:
    """Draws an instance of any size as in the paper, every array from its own key.

    Features are U[-1, 1]^F, normalised to length 1; M_0 and M_z are normal with normalised rows; C, c and d
    are normal.

    Args:
      key: random key.
      num_contexts: number of contexts.
      num_items: N.
      num_features: F, of contexts and of items.
      scale: factor of q.
      noise_scale: factor of the standard deviation of rewards.

    Raises:
      ValueError: a size is below 1.

    >>> generate(jax.random.key(0), 5, 7, 3).mean_rewards(jnp.int32(0), jnp.arange(7)).shape
    (7,)
    """
    sizes = {"num_contexts": num_contexts, "num_items": num_items, "num_features": num_features}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}; expected at least 1")
    keys = jax.random.split(key, 7)

    def features(key, count):
        return _unit_rows(jax.random.uniform(key, (count, num_features), minval=-1.0, maxval=1.0))

    def projection(key):
        return _unit_rows(jax.random.normal(key, (num_features, num_features)))

    return Synthetic(
        context_features=features(keys[0], num_contexts),
        item_features=features(keys[1], num_items),
        projection=projection(keys[2]),
        latent_projection=projection(keys[3]),
        context_reactiveness=jax.random.normal(keys[4], (num_features,)),
        item_reactiveness=jax.random.normal(keys[5], (num_features,)),
        noise_projection=jax.random.normal(keys[6], (num_features, num_features)),
        scale=scale,
        noise_scale=noise_scale,
    )


def _unit_rows(x: Float[Array, "n F"]) -> Float[Array, "n F"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
