"""Out of the door: a trained policy as files that serve without this library.

context_tower.py   the context tower as a program of jax.export, for several platforms
exact.py           the policy's candidates from embeddings, exactly, with the items in blocks
indexes.py         FAISS and usearch behind one face
recall.py          what an index finds of them, measured
parts.py           what of a run is exported, checked
card.py            the card that goes with it
folder.py          the folder: all of these, with sums, whole or not at all

A server that reads it is docs/examples/serve.py.
"""

from rankpg.export.folder import check_free, export

__all__ = ["check_free", "export"]
