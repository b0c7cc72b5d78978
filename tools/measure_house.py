"""Measures the shape of the package: imports, traced files, annotations, sizes and the content of the wheel.

    python tools/measure_house.py             prints every number and what is behind it
    python tools/measure_house.py --check     exits 1 when a number is beyond its limit
    python tools/measure_house.py --static    leaves out what trains or builds: takes a second

How each number is counted:

import depth    Files on the longest chain of imports between files of rankpg. Every import statement counts,
                at the top of a file or in a function, but not under TYPE_CHECKING. `from rankpg.a import b`
                is an import of rankpg/a/b.py if there is such a file, else of rankpg/a/__init__.py. Files
                that import each other in a circle stand on the chain together.
circles         Strongly connected sets of files, with the imports under TYPE_CHECKING counted too.
files entered   Files of rankpg of which a function, method, lambda or comprehension is called
                (sys.setprofile), not module and class bodies. One update is that of the default estimator,
                traced by jax.make_jaxpr in a run that is set up before. `train()` is one call with the
                synthetic environment, two steps and no folder.
types           Parameters of all functions and methods, inner ones too, lambdas not, that have no annotation,
                or `Any`, or a union with `Any`. `list[Any]` has a type. self and cls do not count.
function lines  From the first statement after the docstring to the last, without blank lines and comments.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "rankpg"

LIMITS = {
    "import depth": 16,
    "import circles": 0,
    # The aims are 10, 13 and 25. These limits are what is reached: they may only fall.
    "files entered by a dense update": 14,
    "files entered by a streamed update": 17,
    "files entered by train()": 35,
    "share of parameters without a type": 0.04,
    "functions above 60 lines": 0,
    "files above 500 lines": 0,
    "files of the wheel outside rankpg": 0,
}
LONGEST_FUNCTION = 60
LONGEST_FILE = 500


class Finding(NamedTuple):
    """A number, and the lines that explain it."""

    name: str
    value: float
    details: list[str]

    @property
    def too_large(self) -> bool:
        """True beyond the limit."""
        return self.value > LIMITS[self.name]


class Import(NamedTuple):
    """One import statement of one file of the package."""

    target: str
    line: int
    typing_only: bool


# --- source files -------------------------------------------------------------------------------


def source_files() -> dict[str, Path]:
    """Files of the package by module name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def imports_of(module: str, files: dict[str, Path]) -> Iterator[Import]:
    """Imports of other files of the package, in the order of the lines."""

    def visit(node: ast.AST, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, typing_only)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node, files)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in files else base, node.lineno, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, typing_only)

    for found in visit(parsed(files[module]), False):
        if found.target in files and found.target != module:
            yield found


def _absolute(module: str, node: ast.ImportFrom, files: dict[str, Path]) -> str:
    if not node.level:
        return node.module or ""
    is_package = files[module].name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def import_graph(files: dict[str, Path], *, typing_too: bool = False) -> dict[str, set[str]]:
    """The files that each file imports."""
    return {
        module: {i.target for i in imports_of(module, files) if typing_too or not i.typing_only}
        for module in files
    }


def components_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components, each after those it imports (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == order[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Modules of the longest chain of imports, from the top; a circle counts with all its files."""
    chains: dict[int, list[str]] = {}
    place = {}
    components = components_of(graph)
    for number, members in enumerate(components):
        below = {place[t] for m in members for t in graph[m] if t not in members}
        best = max((chains[b] for b in sorted(below)), key=len, default=[])
        chains[number] = [*members, *best]
        place.update(dict.fromkeys(members, number))
    return max(chains.values(), key=len)


def measure_imports() -> list[Finding]:
    """Depth and circles."""
    files = source_files()
    chain = longest_chain(import_graph(files))
    circles = [c for c in components_of(import_graph(files, typing_too=True)) if len(c) > 1]
    details = []
    for upper, lower in zip(chain, [*chain[1:], None], strict=True):
        line = next((i.line for i in imports_of(upper, files) if i.target == lower), None)
        details.append(f"{_relative(files[upper])}{f':{line}' if line else ''}")
    return [
        Finding("import depth", len(chain), details),
        Finding("import circles", len(circles), [" <-> ".join(circle) for circle in circles]),
    ]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- annotations and sizes ----------------------------------------------------------------------


class Function(NamedTuple):
    """A function or method of the package."""

    path: Path
    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    is_method: bool


def functions_of(path: Path) -> Iterator[Function]:
    """Functions and methods of a file, inner ones too."""

    def visit(node: ast.AST, prefix: str, in_class: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(path, prefix + child.name, child, in_class)
                yield from visit(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.", True)
            else:
                yield from visit(child, prefix, in_class)

    return visit(parsed(path), "", False)


def parameters_of(function: Function) -> list[ast.arg]:
    """Parameters in order, without self and cls."""
    arguments = function.node.args
    listed = [*arguments.posonlyargs, *arguments.args]
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.node.decorator_list
    )
    if function.is_method and not static:
        listed = listed[1:]
    return [
        *listed,
        *([arguments.vararg] if arguments.vararg else []),
        *arguments.kwonlyargs,
        *([arguments.kwarg] if arguments.kwarg else []),
    ]


def is_untyped(parameter: ast.arg) -> bool:
    """True for no annotation, `Any`, and a union with `Any`."""

    def holds_any(node: ast.expr | None) -> bool:
        if node is None:
            return True
        if isinstance(node, ast.BinOp):
            return holds_any(node.left) or holds_any(node.right)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value == "Any"
        return ast.unparse(node) in ("Any", "typing.Any")

    return holds_any(parameter.annotation)


def body_lines(function: Function) -> int:
    """Lines of code after the docstring, without blank lines and comments."""
    body = function.node.body
    if ast.get_docstring(function.node, clean=False) is not None:
        body = body[1:]
    if not body:
        return 0
    lines = function.path.read_text().splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def measure_types() -> Finding:
    """Parameters without a type, by folder and function."""
    total, untyped = 0, []
    inner = 0
    for path in source_files().values():
        for function in functions_of(path):
            parameters = parameters_of(function)
            total += len(parameters)
            bad = [p.arg for p in parameters if is_untyped(p)]
            untyped += [(path, function, name) for name in bad]
            inner += len(bad) * _is_inner(function)
    folders = Counter(_folder(path) for path, _, _ in untyped)
    details = [f"{len(untyped)} of {total} parameters ({inner} of them of inner functions)"]
    for folder, count in folders.most_common():
        details.append(f"{folder}: {count}")
        by_function: dict[str, list[str]] = {}
        for path, function, name in untyped:
            if _folder(path) == folder:
                where = f"{_relative(path)}:{function.node.lineno} {function.name}"
                by_function.setdefault(where, []).append(name)
        details += [f"    {where}({', '.join(names)})" for where, names in by_function.items()]
    return Finding("share of parameters without a type", len(untyped) / total, details)


def _is_inner(function: Function) -> bool:
    tops = set(parsed(function.path).body)
    classes = [n for n in tops if isinstance(n, ast.ClassDef)]
    return function.node not in tops and not any(function.node in c.body for c in classes)


def _folder(path: Path) -> str:
    return str(path.relative_to(ROOT).parent) if path.parent != ROOT / PACKAGE else _relative(path)


def measure_sizes() -> list[Finding]:
    """Functions and files that are too long."""
    files = source_files().values()
    long = [
        f"{_relative(path)}:{function.node.lineno} {function.name}: {body_lines(function)}"
        for path in files
        for function in functions_of(path)
        if body_lines(function) > LONGEST_FUNCTION
    ]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    large = [f"{_relative(p)}: {n}" for p, n in lines.items() if n > LONGEST_FILE]
    return [
        Finding("functions above 60 lines", len(long), long),
        Finding("files above 500 lines", len(large), large),
    ]


# --- files entered ------------------------------------------------------------------------------


def files_entered(action: Callable[[], object]) -> Counter[str]:
    """Calls of functions of the package while `action` runs, by file."""
    calls: Counter[str] = Counter()
    inside = f"{ROOT / PACKAGE}/"
    optimized = 0x1  # CO_OPTIMIZED: functions have it; bodies of modules and classes do not

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_flags & optimized and code.co_filename.startswith(inside):
            calls[str(Path(code.co_filename).relative_to(ROOT))] += 1

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


_SMALL = {
    "num_contexts": 12,
    "num_items": 40,
    "num_candidates": 4,
    "batch_size": 8,
    "num_steps": 2,
    "eval_every": 2,
    "seeds": (0,),
}


def one_update(**settings) -> Callable[[], object]:
    """Traces one update of a run that is set up already."""
    import jax

    import rankpg
    from rankpg.runs.run import prepare

    run = prepare(rankpg.TrainConfig(**(_SMALL | settings)))
    state = jax.tree.map(lambda x: x[0], run.state)
    key = jax.random.key(0)
    return lambda: jax.make_jaxpr(run.learner.update)(state, key)


def one_training() -> object:
    """One call of `train` with all defaults but its size."""
    import rankpg

    return rankpg.train(rankpg.TrainConfig(**_SMALL))


def measure_entered() -> list[Finding]:
    """Files of the package entered by an update and by `train()`."""
    import jax

    measured = [
        ("files entered by a dense update", one_update(retrieval="dense")),
        ("files entered by a streamed update", one_update(retrieval="streamed")),
        ("files entered by train()", one_training),
    ]
    found = []
    for name, action in measured:
        jax.clear_caches()  # what an earlier one traced is traced anew
        calls = files_entered(action)
        details = [f"{path}: {count} calls" for path, count in calls.most_common()]
        found.append(Finding(name, len(calls), details))
    return found


# --- the wheel ----------------------------------------------------------------------------------


def measure_wheel() -> Finding:
    """Files of the wheel that do not belong to the package."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_wheel_builder(), folder, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        (wheel,) = Path(folder).glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
    own = [n for n in names if n.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))]
    lines = sum(len(path.read_text().splitlines()) for path in source_files().values())
    foreign = sorted(set(names) - set(own))
    details = [f"{len(own)} files of {PACKAGE}, {lines} lines of Python", *foreign]
    return Finding("files of the wheel outside rankpg", len(foreign), details)


def _wheel_builder() -> list[str]:
    """Command that builds a wheel into the folder named next; uv's in an environment without pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir"]
    uv = shutil.which("uv") or Path(sys.prefix) / "uv" / "bin" / "uv"
    return [str(uv), "build", "--wheel", "--quiet", "--out-dir"]


# --- the command --------------------------------------------------------------------------------


def measure(*, static: bool) -> list[Finding]:
    """All numbers."""
    found = [*measure_imports(), measure_types(), *measure_sizes()]
    return found if static else [*found, *measure_entered(), measure_wheel()]


def main() -> int:
    """Measures and prints; exits 1 with --check when a number is beyond its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 beyond a limit")
    parser.add_argument("--static", action="store_true", help="neither train nor build")
    parser.add_argument("--brief", action="store_true", help="details only beyond a limit")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # what is imported is what is measured
    found = measure(static=arguments.static)
    for finding in found:
        mark = "  TOO LARGE" if finding.too_large else ""
        print(f"{finding.name}: {finding.value:.3g} (limit {LIMITS[finding.name]:g}){mark}")
    for finding in found:
        if finding.too_large or not arguments.brief:
            print(f"\n== {finding.name}: {finding.value:.3g}", *finding.details, sep="\n  ")
    return 1 if arguments.check and any(finding.too_large for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
