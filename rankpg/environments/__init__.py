"""Environments: contexts, items, and the rewards of items that are shown.

The protocol is `rankpg.types.Environment`.
"""

from rankpg.data.features import Features, Featurizer
from rankpg.environments import from_ratings as ratings
from rankpg.environments import from_text as text
from rankpg.environments import list_gains, list_rewards, synthetic
from rankpg.environments.catalogue import catalogue
from rankpg.environments.dataset import Dataset, LeftOut
from rankpg.environments.from_file import from_file
from rankpg.environments.from_interactions import from_interactions
from rankpg.environments.from_ratings import from_matrix, from_triples
from rankpg.environments.from_subtopics import from_subtopics
from rankpg.environments.from_table import from_table
from rankpg.environments.from_text import from_text, from_text_folder
from rankpg.environments.generated_log import generate_log
from rankpg.environments.interactions import Interactions
from rankpg.environments.registry import ENVIRONMENTS
from rankpg.environments.synthetic import Synthetic, generate, paper_instance
from rankpg.environments.with_embeddings import with_embeddings
from rankpg.environments.with_list_reward import with_list_reward

__all__ = [
    "ENVIRONMENTS",
    "Dataset",
    "Features",
    "Featurizer",
    "Interactions",
    "LeftOut",
    "Synthetic",
    "catalogue",
    "from_file",
    "from_interactions",
    "from_matrix",
    "from_subtopics",
    "from_table",
    "from_text",
    "from_text_folder",
    "from_triples",
    "generate",
    "generate_log",
    "list_gains",
    "list_rewards",
    "paper_instance",
    "ratings",
    "synthetic",
    "text",
    "with_embeddings",
    "with_list_reward",
]
