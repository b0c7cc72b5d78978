"""Tables from files and from memory: ids, ratings, features. NumPy only, without JAX."""
