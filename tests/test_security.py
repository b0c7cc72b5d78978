"""The promises of SECURITY.md about files: no loader runs code."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

import rankpg
from rankpg.environments.from_file import from_file
from rankpg.runs.storage.load import load_settings

SOURCES = sorted(Path(rankpg.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
"""Modules that run code when they load a file."""
FUNCTIONS = {"eval", "exec", "compile", "__import__"}


def forbidden(source: str) -> list[str]:
    """Returns loaders that run code, and calls that evaluate text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in FUNCTIONS:
                found.append(called.id)
            if isinstance(called, ast.Attribute) and called.attr in ("load", "load_all"):
                allowed = {k.arg: ast.unparse(k.value) for k in node.keywords}
                of_yaml = ast.unparse(called.value) in ("yaml", "_yaml()")
                if of_yaml or allowed.get("allow_pickle", "False") != "False":
                    found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_no_source_loads_code(file):
    assert forbidden(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "yaml.load(text)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_forbidden_loaders_are_found(source):
    assert forbidden(source)


class Bomb:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_pickle_in_a_numpy_file_is_not_loaded(suffix, tmp_path):
    gone_off, file = tmp_path / "gone off", tmp_path / f"matrix{suffix}"
    bombs = np.array([[Bomb(gone_off)]], dtype=object)
    np.save(file, bombs) if suffix == ".npy" else np.savez(file, matrix=bombs)
    with pytest.raises(ValueError, match="matrix"):
        from_file(file)
    assert not gone_off.exists()
    pickle.loads(pickle.dumps(Bomb(gone_off)))  # it would have gone off
    assert gone_off.exists()


def test_yaml_objects_are_not_made(tmp_path):
    gone_off, file = tmp_path / "gone off", tmp_path / "config.yaml"
    file.write_text(f"estimator: !!python/object/apply:os.mkdir ['{gone_off}']\n")
    with pytest.raises(ValueError, match=r"config\.yaml, line 1: not valid YAML"):
        load_settings(file)
    assert not gone_off.exists()
