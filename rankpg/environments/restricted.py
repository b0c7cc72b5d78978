"""An environment that has lost some items, where their row numbers must stay: a table of ids goes by them."""

from __future__ import annotations

from typing import Any

from rankpg.environments.catalogue import Catalogue
from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey, record

__all__ = ["Restricted", "knows_rewards"]


@record
class Restricted:
    """An environment some of whose items nobody may have any more."""

    whole: Any
    """An Environment."""
    allowed: Bool[Array, "N"]

    @property
    def num_contexts(self) -> int:
        return self.whole.num_contexts

    @property
    def num_items(self) -> int:
        return self.whole.num_items

    @property
    def context_features(self) -> Float[Array, "num_contexts F"] | None:
        return getattr(self.whole, "context_features", None)

    @property
    def item_features(self) -> Float[Array, "N G"] | None:
        return getattr(self.whole, "item_features", None)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Those of the whole."""
        return self.whole.mean_rewards(context, items)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Those of the whole."""
        return self.whole.sample_rewards(key, context, items)

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """That of the whole."""
        return self.whole.relevance(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Allowed, and eligible in the whole."""
        allowed, before = self.allowed[items], self.whole.eligible(context, items)
        return allowed if before is None else allowed & before


def knows_rewards(environment: Environment) -> bool:
    """Whether anything is known of what an item earns."""
    whole = environment.whole if isinstance(environment, Restricted) else environment
    return not isinstance(whole, Catalogue)
