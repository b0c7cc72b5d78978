"""Speed of a training step: `python -m benchmarks throughput | scale | roofline`.

shapes.py       the shape of a step (N, D, K, B, M) and the config that is timed
constant.py     an environment with constant rewards
throughput.py   updates per second of every estimator
scale.py        time and memory against N
limit.py        measures the hardware's limit
roofline.py     the share of that limit that a step reaches
device.py       the platform and the state of the machine
pictures.py     one picture per measurement
report.py       writes JSON, a table and a picture
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
