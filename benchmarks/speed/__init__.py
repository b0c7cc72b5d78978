"""How fast a step is: `python -m benchmarks throughput | scale | roofline`.

shapes.py       what a step's time depends on, and the configs that are timed
constant.py     an environment that costs nothing
throughput.py   updates per second of every estimator
scale.py        time and memory against N
limit.py        the hardware's limit, measured
roofline.py     the share of it that a step reaches
device.py       which platform computes
pictures.py     one picture a measurement
report.py       JSON, a table and the picture
"""

from benchmarks.speed.limit import Work, hardware_limit, work_of
from benchmarks.speed.report import MEASUREMENTS, benchmark
from benchmarks.speed.scale import fit_power_law
from benchmarks.speed.shapes import Shape

__all__ = [
    "MEASUREMENTS",
    "Shape",
    "Work",
    "benchmark",
    "fit_power_law",
    "hardware_limit",
    "work_of",
]
