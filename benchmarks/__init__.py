"""Benchmarks of rankpg, run from the repository; the wheel does not hold them."""
