"""Runs a measurement of speed and writes JSON, a table and a picture."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.markdown import grid
from benchmarks.speed import pictures, roofline, scale, throughput
from benchmarks.speed.device import circumstances, use_platform
from benchmarks.speed.shapes import Shape
from benchmarks.sweeps.files import write_json
from rankpg._utils.plots import pyplot
from rankpg._version import versions
from rankpg.errors import ConfigError

__all__ = ["MEASUREMENTS", "Measurement", "benchmark", "markdown"]

Row = list[str]


class Measurement(NamedTuple):
    """A measurement: how it is taken, tabulated and drawn."""

    title: str
    measure: Callable[..., dict[str, Any]]
    scales: dict[str, dict[str, Any]]
    """scale -> the arguments of `measure`"""
    table: Callable[[dict[str, Any]], list[Row]]
    draw: Callable[[Any, dict[str, Any]], Any]
    notes: str


def benchmark(
    what: str,
    scale: str = "laptop",
    out: Path | str | None = None,
    *,
    device: str | None = None,
    **given: Any,
) -> list[Path]:
    """Measures on one platform, and writes WHAT.json, WHAT.md and WHAT.png.

    Args:
      what: a name in `MEASUREMENTS`.
      scale: smoke, laptop or full: the size of the measurement.
      out: output folder; runs/WHAT/SCALE by default.
      device: cpu, gpu or tpu; chosen by JAX if None.
      **given: arguments of the measurement and fields of its shape, which replace the scale's.

    Returns:
      The files written.

    Raises:
      ConfigError: the device is missing, or an argument is invalid.
      ModuleNotFoundError: matplotlib is missing; the message names the extra.
    """
    kind = MEASUREMENTS[what]
    if device is not None:
        use_platform(device)
    plt = pyplot()  # raises before the measurement if matplotlib is missing
    folder = Path(out or Path("runs") / what / scale)
    settings = _with_shape(kind.scales[scale], given)
    _check_writable(folder)
    head = {
        "benchmark": what,
        "scale": scale,
        "title": kind.title,
        "versions": versions(),
        **circumstances(),
    }
    report = head | {"rounds": settings["rounds"]} | kind.measure(**settings)
    files = [folder / f"{what}.{ending}" for ending in ("json", "md", "png")]
    write_json(files[0], report)
    files[1].write_text(f"# {kind.title}\n\n{markdown(report)}\n")
    figure = kind.draw(plt, report)
    figure.suptitle(f"{kind.title}\n{_hardware(report)}", fontsize=10)
    figure.savefig(files[2], dpi=130)
    plt.close(figure)
    return files


def markdown(report: dict[str, Any]) -> str:
    """Returns a report as markdown: table, meaning of the columns, hardware and versions."""
    kind = MEASUREMENTS[report["benchmark"]]
    on = f"{_hardware(report)}; {report['rounds']} rounds; load before {report['load_before']}"
    return "\n\n".join([grid(kind.table(report)), kind.notes, f"*{on}*"])


def _with_shape(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a measurement; given fields of a shape replace those of every shape."""
    fields = {field.name for field in dataclasses.fields(Shape)}
    numbers = {name: value for name, value in given.items() if name in fields}
    merged = settings | {name: value for name, value in given.items() if name not in fields}
    if "shape" in merged:
        merged["shape"] = dataclasses.replace(merged["shape"], **numbers)
    if "shapes" in merged:
        merged["shapes"] = [dataclasses.replace(shape, **numbers) for shape in merged["shapes"]]
    return merged


def _check_writable(folder: Path) -> None:
    """Rejects an output folder that cannot be created or written; creates nothing."""
    whole = folder.absolute()
    nearest = next(place for place in (whole, *whole.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(
            f"out={str(folder)!r} cannot be written: {nearest} is not a writable folder"
        )


def _hardware(report: dict[str, Any]) -> str:
    known = report["versions"]
    cores = f"{report['cores']} of {known['machine'].split(', ', 1)[1]}"
    return f"{known['device']}; {cores}; jax {known['jax']}, python {known['python']}"


def _throughput_rows(report: dict[str, Any]) -> list[Row]:
    head = ["estimator", "retrieval", "steps per second", "without the environment"]
    body = [
        [
            f"`{name}`",
            row["retrieval"],
            f"{row['steps_per_second']:,.4g}",
            f"{row['without_environment']['steps_per_second']:,.4g}",
        ]
        for name, row in report["rows"].items()
    ]
    left = [[f"`{name}`", "—", "—", reason] for name, reason in report["left_out"].items()]
    return [head, *body, *left]


def _scale_rows(report: dict[str, Any]) -> list[Row]:
    head = ["estimator", "retrieval", "", *(f"N = {n:,}" for n in report["sizes"]), "exponent"]
    lines = [head]
    for row in report["rows"]:
        who = [f"`{row['estimator']}`", row["retrieval"]]
        seconds, memory = row["seconds_per_step"], row["temporary_bytes"]
        growth = row["growth"]
        times = {n: f"{1e3 * timing['median']:.3g}" for n, timing in seconds.items()}
        sizes = {n: f"{size / 2**20:.3g}" for n, size in memory.items()}
        for unit, cells, law in (("ms", times, growth["time"]), ("MiB", sizes, growth["memory"])):
            exponent = "—" if law is None else f"{law['exponent']:.2f}"
            by_size = (cells.get(str(n), "—") for n in report["sizes"])
            lines.append([*who, unit, *by_size, exponent])
    return lines


def _roofline_rows(report: dict[str, Any]) -> list[Row]:
    parts = list(report["rows"][0]["parts"])
    shape = report["rows"][0]["shape"]
    head = [
        f"B = {shape['batch_size']}", "retrieval", f"`{report['estimator']}`", *parts, "limit", "share",
    ]  # fmt: skip
    return [
        head,
        *(
            [
                row["title"],
                row["retrieval"],
                _milliseconds(row["seconds_per_step"]["median"]),
                *(_milliseconds(row["parts"][part]["median"]) for part in parts),
                _milliseconds(row["limit_seconds"]),
                f"{row['share_of_limit']:.0%}",
            ]
            for row in report["rows"]
        ),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


MEASUREMENTS: dict[str, Measurement] = {
    "throughput": Measurement(
        "Updates per second of one seed",
        throughput.measure,
        throughput.SCALES,
        _throughput_rows,
        pictures.throughput,
        "Without the environment: all rewards are constant, so that the learner is timed alone.",
    ),
    "scale": Measurement(
        "A step against the size of the catalogue",
        scale.measure,
        scale.SCALES,
        _scale_rows,
        pictures.scale,
        "ms: time of a step, median over the rounds. MiB: memory that the compiler plans for the step beyond "
        "parameters, gradient and optimizer state. Exponent: of N, by least squares in logarithms.",
    ),
    "roofline": Measurement(
        "A step against the hardware's limit",
        roofline.measure,
        roofline.SCALES,
        _roofline_rows,
        pictures.roofline,
        "The limit is the time of the work that no step can avoid, each part measured separately. On a CPU "
        "it is the sum of 4 products of B x N x D, 2 B N exponentials and the optimizer's step. On an "
        "accelerator it is the longest of three: the products at their peak rate, the exponentials, and "
        "reading the tables twice and the optimizer state once, and writing it once, at the rate of a copy.",
    ),
}
"""name -> measurement"""
