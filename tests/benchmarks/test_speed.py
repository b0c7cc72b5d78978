"""Speed measurements: the limit by counting operations, the fit against known laws, the commands."""

from __future__ import annotations

import inspect
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.speed import scale as scaling
from benchmarks.speed.limit import Rates, Work, hardware_limit, rates_of_device, time_at, work_of
from benchmarks.speed.report import MEASUREMENTS
from benchmarks.speed.scale import fit_power_law
from benchmarks.speed.shapes import Shape, steps_per_call, suited_estimators
from benchmarks.timing import in_turns
from rankpg import ESTIMATORS
from rankpg.errors import ConfigError
from rankpg.runs import memory
from rankpg.runs.run import prepare
from rankpg.training.update import seed_keys, train_chunk

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


# The fit.


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.82, 1.0, 2.0])
def test_fit_recovers_a_power_law(exponent):
    law = fit_power_law({n: 7e-3 * n**exponent for n in (10, 100, 1000, 10_000)})
    assert law is not None
    assert law["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert law["factor"] == pytest.approx(7e-3)
    assert law["points"] == 4


def test_fit_ignores_small_sizes_and_zeros():
    values = {10: 1e9, 100: 2.0, 1000: 0.0, 10_000: 200.0}
    law = fit_power_law(values, fit_from=100)
    assert law == pytest.approx({"exponent": 1.0, "factor": 0.02, "points": 2})
    assert fit_power_law(values, fit_from=1000) is None


def test_fit_is_least_squares_in_logarithms():
    """A factor of e at the middle of five points raises the line by 1/5 and keeps its slope."""
    values = {10**p: 10.0**p for p in range(5)}
    values[100] *= math.e
    law = fit_power_law(values)
    assert law is not None
    assert law["exponent"] == pytest.approx(1.0)
    assert math.log(law["factor"]) == pytest.approx(0.2)


# The limit.


def is_program(value) -> bool:
    """Returns True for a jaxpr, open or closed."""
    return hasattr(value, "eqns")


def count(jaxpr, times: int = 1) -> dict[str, int]:
    """Counts the operations in products and the exponentials of a program, loops included."""
    found = {"flop": 0, "exponentials": 0}
    for equation in jaxpr.eqns:
        size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            found["flop"] += 2 * times * size * terms
        if equation.primitive.name in ("exp", "exp2", "expm1"):
            found["exponentials"] += times * size
        runs = times * equation.params.get("length", 1)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                for kind, number in count(inner, runs).items():
                    found[kind] += number
    return found


def test_work_is_that_of_a_checkpointed_softmax():
    """Forward: a product and an exponential per logit. Backward: the same again and two products."""
    run = prepare(Shape(300, 6, 5, 16).config("top1_pg", num_contexts=20))

    @jax.checkpoint
    def log_sum_exp(vectors, rows):
        logits = vectors @ rows.T
        return jnp.log(jnp.sum(jnp.exp(logits), axis=1)).sum()

    tables = jnp.ones((16, 6)), jnp.ones((300, 6))
    program = jax.make_jaxpr(jax.value_and_grad(log_sum_exp, argnums=(0, 1)))(*tables)
    work = work_of(run)
    assert count(program.jaxpr) == {"flop": work.flop, "exponentials": work.exponentials}
    assert (work.flop, work.exponentials) == (4 * 2 * 16 * 300 * 6, 2 * 16 * 300)
    # Two tables of float32, and an accumulator for each of their numbers.
    numbers = (20 + 300) * 6
    assert work.moved_bytes == 4 * (2 * numbers + 2 * numbers)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 2])
def test_streamed_step_does_little_more_than_the_limit(experts):
    shape = Shape(20_000, 16, 10, 64, experts)
    run = prepare(shape.config("top1_pg", retrieval="streamed", num_contexts=50))
    roots = seed_keys(run.config.seeds, "steps")
    program = jax.make_jaxpr(train_chunk(run.learner, 3))(run.learner, run.state, roots)
    work, found = work_of(run), count(program.jaxpr)
    assert 3 * work.flop <= found["flop"] < 1.3 * 3 * work.flop
    assert 3 * work.exponentials <= found["exponentials"] < 1.3 * 3 * work.exponentials


def test_time_at_given_rates():
    """N = 1e7, D = 64, B = 1024, K = 100 on 400 Tflop/s, 4 Texp/s, 4 TB/s."""
    logits, table = 1024 * 10**7, 4 * 64 * 10**7
    work = Work(8 * 64 * logits, 2 * logits, 4 * table)
    parts = time_at(work, Rates(lambda: 4e14, lambda: 4e12, lambda: 4e12))
    seconds = {name: part() for name, part in parts.items()}
    assert seconds == pytest.approx(
        {"products": 13.107e-3, "exponentials": 5.12e-3, "memory": 2.56e-3}, rel=1e-3
    )


def test_measured_rates_are_plausible():
    """Any device does more than 1e5 and less than 1e18 operations per second."""
    rates = rates_of_device(width=128, elements=2**10, copied=2**16)
    for rate in rates:
        assert 1e5 < rate() < 1e18


def test_limit_combines_the_times_of_its_parts():
    limit = hardware_limit(prepare(Shape(300, 6, 5, 16).config("top1_pg", num_contexts=20)))
    seconds = {name: part() for name, part in limit.parts.items()}
    assert {"products", "exponentials"} < set(seconds)
    assert all(0 < value < 10 for value in seconds.values())
    total = sum(seconds.values()) if jax.default_backend() == "cpu" else max(seconds.values())
    assert limit.of(seconds) == pytest.approx(total)


# Timing.


def test_programs_are_timed_in_turn():
    calls = []

    def arm(name, seconds):
        return lambda: calls.append(name) or next(seconds)

    arms = {"a": arm("a", iter([9.0, 1.0, 5.0, 3.0])), "b": arm("b", iter([9.0, 2.0, 2.0, 2.0]))}
    timing = in_turns(arms, 3)
    assert calls == ["a", "b"] * 4
    assert timing["a"] == {"median": 3.0, "min": 1.0, "max": 5.0, "rounds": 3}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_calls_have_fewer_steps_for_larger_catalogues(name):
    steps = [steps_per_call(Shape(n).config(name), 200_000) for n in (100, 10_000, 10**6)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 1
    assert steps[0] <= 200


def test_exact_score_needs_one_expert_and_dense_retrieval():
    assert suited_estimators(ESTIMATORS, Shape(), "auto") == (list(ESTIMATORS), {})
    for shape, retrieval in ((Shape(num_experts=2), "auto"), (Shape(), "streamed")):
        suited, left_out = suited_estimators(ESTIMATORS, shape, retrieval)
        alone = [n for n, e in ESTIMATORS.items() if e.max_experts and shape.num_experts > 1]
        assert list(left_out) == (alone or ["ca_pg_exact"])
        for name in suited:
            shape.config(name, retrieval=retrieval)
        with pytest.raises(ConfigError):
            shape.config("ca_pg_exact", retrieval=retrieval)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "full"])
@pytest.mark.parametrize("what", MEASUREMENTS)
def test_arguments_of_every_scale_are_valid(what, scale):
    settings = dict(MEASUREMENTS[what].scales[scale])
    inspect.signature(MEASUREMENTS[what].measure).bind(**settings)
    shapes = settings.get("shapes") or [settings["shape"]]
    for shape in shapes:
        assert shape.config("top1_pg").resolve().num_items == shape.num_items
    for size in settings.get("sizes", ()):
        assert size >= shapes[0].num_candidates


# The commands.


def measured(tmp_path_factory, what, *flags):
    out = tmp_path_factory.mktemp(what)
    words = [what, "--scale", "smoke", "--device", jax.default_backend()]
    assert main([*words, *flags, "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {f"{what}.{e}" for e in ("json", "md", "png")}
    assert (out / f"{what}.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((out / f"{what}.json").read_text())
    assert report["benchmark"] == what
    assert report["scale"] == "smoke"
    assert {"jax", "device", "machine"} < set(report["versions"])
    assert report["cores"] >= 1
    assert report["xla_flags"] == os.environ.get("XLA_FLAGS", "")
    return report, (out / f"{what}.md").read_text()


@pytest.mark.slow
def test_throughput_report(tmp_path_factory):
    report, text = measured(
        tmp_path_factory, "throughput", "--estimators", "top1_pg", "ca_pg_exact",
        "--num-items", "50", "--num-experts", "2", "--num-candidates", "6",
    )  # fmt: skip
    assert report["settings"] == {
        "num_items": 50, "embedding_dim": 4, "num_candidates": 6, "batch_size": 8, "num_experts": 2
    }  # fmt: skip
    assert list(report["rows"]) == ["top1_pg"]
    assert "at most 1 expert" in report["left_out"]["ca_pg_exact"]
    row = report["rows"]["top1_pg"]
    for part in (row, row["without_environment"]):
        timing = part["seconds_per_step"]
        assert 0 < timing["min"] <= timing["median"] <= timing["max"]
        assert part["steps_per_second"] == pytest.approx(1 / timing["median"])
        assert timing["rounds"] == report["rounds"] == 2
    assert f"{row['steps_per_second']:,.4g}" in text


@pytest.mark.slow
def test_scale_report(tmp_path_factory):
    """Dense retrieval holds several numbers per logit, streamed fewer, by the compiler's memory plan."""
    sizes = (2000, 8000)
    report, text = measured(
        tmp_path_factory, "scale", "--sizes", *map(str, sizes), "--batch-size", "64"
    )
    streamed, dense = report["rows"]
    assert (streamed["retrieval"], dense["retrieval"]) == ("streamed", "dense")
    for row in (streamed, dense):
        assert list(row["seconds_per_step"]) == list(row["temporary_bytes"]) == ["2000", "8000"]
        assert row["left_out"] == {}
        ratio = row["temporary_bytes"]["8000"] / row["temporary_bytes"]["2000"]
        law = row["growth"]["memory"]
        assert law["exponent"] == pytest.approx(math.log(ratio) / math.log(4))
        medians = [row["seconds_per_step"][str(n)]["median"] for n in sizes]
        slope = np.log(medians[1] / medians[0]) / np.log(4)
        assert row["growth"]["time"]["exponent"] == pytest.approx(slope)
        assert f"{law['exponent']:.2f}" in text
    most = dense["temporary_bytes"]["8000"]
    assert most > 2 * 4 * 64 * 8000
    assert most > 2 * streamed["temporary_bytes"]["8000"]
    assert dense["growth"]["memory"]["exponent"] > streamed["growth"]["memory"]["exponent"]


@pytest.mark.slow
def test_roofline_report(tmp_path_factory):
    report, text = measured(
        tmp_path_factory, "roofline", "--shapes", "600,4,5", "--batch-size", "4"
    )
    (row,) = report["rows"]
    assert row["shape"]["batch_size"] == 4
    assert row["work"]["flop"] == 4 * 2 * 4 * 600 * 4
    medians = [part["median"] for part in row["parts"].values()]
    limit = sum(medians) if row["combined_by"] == "sum" else max(medians)
    assert row["limit_seconds"] == pytest.approx(limit)
    assert row["share_of_limit"] == pytest.approx(limit / row["seconds_per_step"]["median"])
    assert f"{row['share_of_limit']:.0%}" in text


@pytest.mark.slow
def test_dense_is_left_out_if_it_does_not_fit(monkeypatch):
    shape, sizes = Shape(1000, 4, 5, 256), [20_000]

    def needs(retrieval):
        config = Shape(20_000, 4, 5, 256).config("top1_pg", retrieval=retrieval).resolve()
        return memory.estimate_memory(prepare(config).learner, 1).total

    between = (needs("streamed") + needs("dense")) // 2
    monkeypatch.setattr(memory, "available_memory", lambda: between)
    trainings, left_out = scaling._compile(shape, sizes, ["top1_pg"], 1)
    assert list(trainings) == [("top1_pg", "streamed", 20_000)]
    assert list(left_out) == [("top1_pg", "dense", 20_000)]
    assert "this run would need about" in left_out["top1_pg", "dense", 20_000]
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"would need about .* fewer estimators="):
        scaling._compile(shape, sizes, ["top1_pg"], 1)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["throughput", "--rounds", "0"], ["--rounds 0", "at least 1"]),
        (["throughput", "--num-items", "0"], ["--num-items 0", "at least 1"]),
        (["throughput", "--num-candidates", "70"], ["--num-candidates", "70", "60 items"]),
        (["throughput", "--estimators", "reinforce"], ["--estimators", "reinforce", "ca_pg_swr"]),
        (
            ["throughput", "--estimators", "ca_pg_exact", "--retrieval", "streamed"],
            ["--estimators ca_pg_exact leaves nothing", "ca_pg_exact needs", "dense"],
        ),
        (["scale", "--sizes", "100", "3"], ["--sizes 100 3: 3 is too small", "--num-candidates 5"]),
        (["scale", "--sizes"], ["--sizes"]),
        (["scale", "--rounds", "-1"], ["--rounds -1"]),
        (["roofline", "--shapes", "10,10"], ["--shapes 10,10;", "N,D,K"]),
        (["roofline", "--shapes", "10,10,many"], ["10,10,many;"]),
        (["roofline", "--shapes", "10,0,3"], ["embedding_dim=0"]),
        (["roofline", "--rounds", "0"], ["--rounds 0"]),
        (["roofline", "--device", "abacus"], ["--device", "abacus"]),
        (["roofline", "--scale", "tiny"], ["--scale", "tiny"]),
        (["rooflin"], ["rooflin"]),
    ],
)
def test_invalid_arguments_are_refused(words, parts, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--out", str(out)] if words != ["rooflin"] else []
    options += ["--scale", "smoke"] if "--scale" not in words and options else []
    try:
        code = main([*words, *options])
    except SystemExit as end:
        code = end.code
    assert code == 2
    output = capsys.readouterr().err
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("benchmarks")]
    for part in parts:
        assert part in error
    assert not out.exists()


@pytest.mark.skipif(jax.default_backend() == "tpu", reason="has a TPU")
def test_missing_device_is_refused(capsys):
    assert main(["scale", "--scale", "smoke", "--device", "tpu"]) == 2
    error = capsys.readouterr().err
    device = jax.devices()[0]
    assert "--device tpu, but JAX computes on " in error
    assert f"{device.device_kind} ({device.platform})" in error


def test_unwritable_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["roofline", "--scale", "smoke", "--out", str(tmp_path / "file" / "in")]
    assert main(words) == 2
    assert f"{tmp_path / 'file'} is not a writable folder" in capsys.readouterr().err
