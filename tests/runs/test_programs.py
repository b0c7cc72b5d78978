"""Programs that are compiled once: what makes two of them one, and what does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from rankpg._utils import programs
from rankpg._utils.programs import compiled


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_functions_with_other_constants_are_other_programs(size, kind):
    """Constants that differ in their last entry alone, short or long."""

    def adds(last):
        values = np.ones(size, np.float32)
        values[-1] = last
        constant = kind(values)
        return compiled(lambda x: x + constant, jnp.zeros(size, jnp.float32))

    one, two, again = adds(2.0), adds(3.0), adds(2.0)
    assert [float(program(jnp.zeros(size, jnp.float32))[-1]) for program in (one, two, again)] == [
        2,
        3,
        2,
    ]
    assert one.executable is again.executable


def test_functions_of_other_structure_share_a_program():
    def of_dict(given):
        return {"sum": given["a"] + given["b"]}

    def of_pair(given):
        return given[0] + given[1]

    ones = jnp.ones(2, jnp.float32)
    named, paired = {"a": ones, "b": 2 * ones}, (ones, 3 * ones)
    by_name, by_place = compiled(of_dict, named), compiled(of_pair, paired)
    assert by_name.executable is by_place.executable
    np.testing.assert_array_equal(by_name(named)["sum"], 3 * ones)
    np.testing.assert_array_equal(by_place(paired), 4 * ones)
    with pytest.raises(TypeError, match="arguments of structure"):
        by_name(paired)


def test_donated_arguments_are_given_up():
    kept, given = jnp.ones(4, jnp.float32), jnp.ones(4, jnp.float32)
    program = compiled(lambda x, y: (x + y, x.sum()), kept, given, donate_argnums=(1,))
    found = program(kept, given)
    assert given.is_deleted()
    assert not kept.is_deleted()
    np.testing.assert_array_equal(found[0], 2)
    plain = compiled(lambda x, y: (x + y, x.sum()), kept, kept)
    assert plain.executable is not program.executable


def test_other_dtypes_shapes_and_devices_are_other_programs():
    def double(x):
        return x + x

    known = [
        jnp.ones(2, jnp.float32), jnp.ones(3, jnp.float32), jnp.ones(2, jnp.int32),
        jax.device_put(jnp.ones(2, jnp.float32), jax.devices()[0]),
    ]  # fmt: skip
    for given in known:
        np.testing.assert_array_equal(compiled(double, given)(given), 2)


def test_a_limited_number_of_programs_is_kept(monkeypatch):
    monkeypatch.setattr(programs, "_MOST", 2)
    monkeypatch.setattr(programs, "_kept", type(programs._kept)())
    x = jnp.ones(2, jnp.float32)
    made = [compiled(lambda x, a=a: a * x, x) for a in (2, 3, 4)]
    assert len(programs._kept) == 2
    assert compiled(lambda x: 4 * x, x).executable is made[2].executable
    assert compiled(lambda x: 2 * x, x).executable is not made[0].executable


def test_programs_that_read_or_return_other_arguments_differ():
    """The text of a program would not name an argument that it does not use."""
    one, two = jnp.full(3, 1.0, jnp.float32), jnp.full(3, 2.0, jnp.float32)
    for first, second in (
        (lambda a, b: a * 2, lambda a, b: b * 2),
        (lambda a, b: (a,), lambda a, b: (b,)),
    ):
        found = [jax.tree.leaves(compiled(f, one, two)(one, two))[0] for f in (first, second)]
        np.testing.assert_array_equal(found[1], 2 * found[0])


@pytest.mark.parametrize("call", ["pure_callback", "io_callback"])
def test_programs_that_call_python_are_never_shared(call):
    calls = {"pure_callback": jax.pure_callback, "io_callback": io_callback}[call]
    x = jnp.ones(3, jnp.float32)

    def times(factor):
        def of_host(values):
            return np.asarray(factor * values, np.float32)

        return compiled(lambda values: calls(of_host, x, values), x)

    programs = [times(2), times(3)]
    assert [float(program(x)[0]) for program in programs] == [2, 3]
