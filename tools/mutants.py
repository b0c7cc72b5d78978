"""Runs the tests of the core mathematics against faulty copies of it: a mutation test.

    python tools/mutants.py                  the fixed sample; exit status 1 if too many survive
    python tools/mutants.py ID...            some mutants, with what the tests print
    python tools/mutants.py --show ID...     the changed line of some mutants

A mutant is the code with one change: another operator, another number, a condition reversed. Tests that fail
kill it, and one that all tests pass survives. The changes are those of the package cosmic-ray. The sample is
fixed: the `SAMPLE` mutants with the smallest ids. An id is a checksum of the changed line and its function:
it stays when other lines change.

At least `LEAST` of the sample must be killed, and each survivor must stand in tools/mutants.md with the
reason why no test should kill it. One that runs out of time counts as killed, since the tests
would never end.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.machinery
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
MODULES = (
    "candidate_set", "estimators", "expected_list", "exposure", "exposure_fast", "inclusion",
    "inclusion_exact", "inclusion_large", "known_feedback", "numerics", "plackett_luce", "quotas",
    "sampling", "swaps", "theory",
)  # fmt: skip
FIRST_TESTS = {
    "exposure": ["test_exact_exposure", "test_policy_value"],
    "inclusion_exact": ["test_inclusion_exact", "test_oracle"],
    "quotas": ["test_sampling", "test_candidate_set"],
    "sampling": ["test_sampling", "test_block_race", "test_gumbel_noise"],
}
"""Files of tests/core that come first, where a module has none of its own name or more than that."""
SAMPLE, LEAST, SECONDS = 150, 0.95, 120
EXPLAINED = HERE / "tools" / "mutants.md"

_SWAPS = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Div", "Mod_Div")
_COMPARISONS = ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Lt_GtE", "Gt_LtE")
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{name}" for name in _SWAPS),
    *(f"core/ReplaceComparisonOperator_{name}" for name in _COMPARISONS),
    *(f"core/ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Invert", "Not")),
    *(f"core/{name}" for name in ("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue")),
    *(f"core/{name}" for name in ("ReplaceAndWithOr", "ReplaceOrWithAnd", "NumberReplacer")),
)
"""Changes that change what a formula computes. Others of cosmic-ray are of types or of control flow."""


@dataclass(frozen=True)
class Mutant:
    """One changed line."""

    id: str
    file: Path
    line: int
    before: str
    after: str
    code: str
    """The whole changed file."""

    def __str__(self) -> str:
        place = f"{self.file.relative_to(HERE)}:{self.line}"
        return f"{self.id}  {place}\n    - {self.before.strip()}\n    + {self.after.strip()}"


def mutants() -> list[Mutant]:
    """Returns all mutants of the modules, those of the smallest id first."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    found, same = [], Counter[str]()
    for name in MODULES:
        file = HERE / "rankpg" / "core" / f"{name}.py"
        code = file.read_text()
        functions = _functions(code)
        for operator in OPERATORS:
            for occurrence in range(10_000):
                changed = mutate_code(code, get_operator(operator)(), occurrence)
                if changed is None:
                    break
                line, before, after = _difference(code, changed)
                where = f"{name}.{functions.get(line, '')}: {before.strip()} -> {after.strip()}"
                if line not in functions or before.lstrip().startswith(("@", "def ", "raise ")):
                    continue  # constants, signatures and messages
                same[where] += 1
                text = f"{where} {same[where]}"
                id = hashlib.sha256(text.encode()).hexdigest()[:10]
                found.append(Mutant(id, file, line, before, after, changed))
    return sorted(found, key=lambda mutant: mutant.id)


def _functions(code: str) -> dict[int, str]:
    """Name of the innermost function of each line of a body; docstrings and messages are left out."""
    found = dict[int, str]()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        skipped = set[int]()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Raise | ast.JoinedStr):
                skipped |= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
        first = node.body[0].lineno
        for line in range(first, (node.end_lineno or first) + 1):
            if line not in skipped:
                found[line] = node.name
    return found


def _difference(code: str, changed: str) -> tuple[int, str, str]:
    """The first changed line, counted from 1, before and after."""
    lines = zip(code.splitlines(), changed.splitlines(), strict=True)
    for number, (before, after) in enumerate(lines, start=1):
        if before != after:
            return number, before, after
    raise ValueError("nothing changed: " + "".join(difflib.ndiff([code], [changed]))[:80])


# --- tests of one mutant --------------------------------------------------------------------------


def _tests(mutant: Mutant) -> list[str]:
    """Files of tests, those of the module first."""
    folder, name = HERE / "tests" / "core", mutant.file.stem
    first = [f"{file}.py" for file in FIRST_TESTS.get(name, [f"test_{name}"])]
    others = sorted(file.name for file in folder.glob("test_*.py") if file.name not in first)
    return [
        *(str(folder / file) for file in first),
        str(mutant.file),
        *(str(folder / file) for file in others),
    ]


def _run(mutant: Mutant, output: Path) -> int:
    """Runs the tests in a fork of this process, which has imported what does not change; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        with output.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.chdir(HERE)
        _read_changed(mutant)
        import pytest

        status = int(
            pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *_tests(mutant)])
        )
    finally:
        os._exit(status)


def _read_changed(mutant: Mutant) -> None:
    """Makes the import of the file read the changed code, and none that was compiled before."""
    loader, code = importlib.machinery.SourceFileLoader, mutant.code.encode()
    get_data, sources = loader.get_data, str(mutant.file)
    compiled = re.compile(rf".*__pycache__/{mutant.file.stem}\.[^/]*pyc(\.\d+)?")

    def changed(self: importlib.machinery.SourceFileLoader, path: str) -> bytes:
        if path == sources:
            return code
        if compiled.fullmatch(path) and "/core/" in path:
            raise OSError("compiled before the change")
        return get_data(self, path)

    loader.get_data = changed
    sys.dont_write_bytecode = True


def _preloaded() -> None:
    """Imports what takes long and does not change. Flags of JAX are read at its import: as in conftest.py."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="rankpg-mutants-"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    import beartype
    import flax.nnx
    import hypothesis
    import jax.scipy.special
    import jaxtyping
    import optax
    import pytest
    import scipy.stats

    del beartype, flax, hypothesis, jax, jaxtyping, optax, pytest, scipy


def killed(
    chosen: list[Mutant], jobs: int, seconds: float = SECONDS, show: bool = False
) -> dict[str, bool]:
    """Runs the tests against each mutant; returns whether they killed it, by id."""
    _preloaded()
    folder = Path(tempfile.mkdtemp(prefix="rankpg-mutants-"))
    waiting, running, found = list(chosen), dict[int, tuple[Mutant, float]](), dict[str, bool]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop(0)
            running[_run(mutant, folder / mutant.id)] = mutant, time.monotonic()
        time.sleep(0.05)
        for child, (mutant, began) in list(running.items()):
            late = time.monotonic() - began > seconds
            if late:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if done:
                del running[child]
                code = os.waitstatus_to_exitcode(status)
                found[mutant.id] = code != 0
                text = (folder / mutant.id).read_text(errors="replace")
                if code not in (0, 1) and not late:
                    print(f"{mutant}\n    the tests did not run: {code}\n{text[-1500:]}")
                if show or not found[mutant.id]:
                    print(f"{'killed' if found[mutant.id] else 'SURVIVED'} {mutant}", flush=True)
                if show:
                    print(text[-2500:])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", help="mutants [the sample]")
    parser.add_argument("--show", action="store_true", help="print the changed lines alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes [%(default)s]")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="longest time of one mutant [%(default)s]"
    )
    given = parser.parse_args()
    known = mutants()
    chosen = [mutant for mutant in known if mutant.id in given.ids] if given.ids else known[:SAMPLE]
    if given.show:
        print("\n".join(map(str, chosen)))
        return 0
    began = time.monotonic()
    found = killed(chosen, given.jobs, given.seconds, show=bool(given.ids))
    explained = (
        set(re.findall(r"`([0-9a-f]{10})`", EXPLAINED.read_text())) if EXPLAINED.exists() else set()
    )
    survivors = [id for id, dead in found.items() if not dead]
    share = 1 - len(survivors) / len(found)
    print(
        f"{len(found) - len(survivors)} of {len(found)} mutants killed ({share:.1%}; at least {LEAST:.0%}), "
        f"of {len(known)} in all, in {time.monotonic() - began:.0f} s"
    )
    unexplained = [id for id in survivors if id not in explained]
    if unexplained:
        print(f"not explained in {EXPLAINED.relative_to(HERE)}: {', '.join(unexplained)}")
    return int(share < LEAST or bool(unexplained))


if __name__ == "__main__":
    sys.exit(main())
