"""The scripts that measure the numbers in the docs: `python -m benchmarks.scripts.NAME`."""
