"""The shape of the package: imports, sizes, types, and what the wheel holds."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import measure_house

ROOT = Path(__file__).resolve().parent.parent

_DATA_WITHOUT_JAX = """
import importlib, pkgutil, sys, types

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "optax", "chex"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
package = types.ModuleType("rankpg")  # the package imports everything; its folder of readers need not
package.__path__ = [sys.argv[1]]
sys.modules["rankpg"] = package
data = importlib.import_module("rankpg.data")
modules = [module.name for module in pkgutil.iter_modules(data.__path__, "rankpg.data.")]
for name in modules:
    importlib.import_module(name)
assert len(modules) > 5, modules
assert "jax" not in sys.modules
"""


@pytest.fixture(scope="module")
def findings():
    found = [
        *measure_house.measure_imports(),
        measure_house.measure_types(),
        *measure_house.measure_sizes(),
    ]
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize(
    "name",
    [
        "import depth",
        "import circles",
        "share of parameters without a type",
        "functions above 60 lines",
        "files above 500 lines",
    ],
)
def test_within_its_limit(findings, name):
    finding = findings[name]
    assert not finding.too_large, "\n".join([f"{name}: {finding.value:.3g}", *finding.details])


def test_tables_are_read_without_jax():
    command = [sys.executable, "-c", _DATA_WITHOUT_JAX, str(ROOT / "rankpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_library_alone():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"] == {"targets": {"wheel": {"packages": ["rankpg"]}}}
    names = {path.name for path in (ROOT / "rankpg").rglob("*") if "__pycache__" not in path.parts}
    assert not names & {"benchmarks", "scripts", "tests"}
