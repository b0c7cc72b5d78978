"""Export for serving: a trained policy as files that a server reads without this library.

context_tower.py  the context tower as a program of jax.export, for several platforms
indexes.py        FAISS and usearch behind one interface; INDEXES maps names to classes
recall.py         exact search, merging of experts, recall of an index
parts.py          embeddings, context tower and ids of one seed, validated
manifest.py       the fields of export.json
card.py           CARD.md: results, settings, versions, limits
folder.py         writes the export folder atomically, with checksums

docs/examples/serve.py is a server that reads such a folder.
"""

from rankpg.export.folder import check_free, export
from rankpg.export.indexes import INDEXES, ItemIndex

__all__ = ["INDEXES", "ItemIndex", "check_free", "export"]
