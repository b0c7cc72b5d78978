"""The scripts behind the figures of the docs: `python -m benchmarks.scripts.NAME`."""
