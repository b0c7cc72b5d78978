"""Peers of the training step, in plain PyTorch and plain JAX."""
