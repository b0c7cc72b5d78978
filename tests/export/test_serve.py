"""The example server (docs/examples/serve.py) and the command that exports for it."""

from __future__ import annotations

import json
import runpy
import shutil

import numpy as np
import pytest
from helpers.exports import SCRIPT, USERS, Server, make_run, manifest_of, run_python

from rankpg.cli.main import main
from rankpg.environments.from_ratings import from_matrix
from rankpg.export.folder import export
from rankpg.runs.storage.load import load_run

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


def test_server_merge_skips_taken_items():
    fill = runpy.run_path(str(SCRIPT))["fill_slots"]
    orders = [np.array([[4, 1, 2, 0]]), np.array([[1, 4, 3, 2]]), np.array([[4, 3, 1, 9]])]
    assert fill(orders, [2, 1, 1]).tolist() == [[4, 1, 3, 9]]
    assert fill(orders, [1, 0, 3]).tolist() == [[4, 3, 1, 9]]


@pytest.fixture(scope="module")
def integer_export(tmp_path_factory, as_a_user):
    """A run with integer context ids, and its export."""
    ids = np.array([7, 2**63, 9, 10, 11], np.uint64)
    run = make_run(from_matrix(np.eye(5), context_ids=ids), num_candidates=3)
    folder = tmp_path_factory.mktemp("integers") / "out"
    return run, export(run, folder, index="none", platforms=("cpu",))


def test_script_converts_integer_ids(integer_export, capsys):
    run, folder = integer_export
    main_of_script = runpy.run_path(str(SCRIPT))["main"]
    assert main_of_script([str(folder), "--contexts", str(2**63), "9"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == run.candidates(np.array([2**63, 9], np.uint64)).tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/none", "--contexts", "7"], "is not an export: it has no export.json"),
        (["{folder}", "--contexts", "7", "ann"], "unknown context 'ann'"),
        (["{folder}", "--contexts", "7", "--search", "faiss"], "no index of faiss"),
        (["{folder}", "--features", "{folder}/none.npy"], "pass --contexts"),
    ],
)
def test_script_errors_are_one_line(integer_export, capsys, arguments, words):
    argv = [text.format(folder=integer_export[1]) for text in arguments]
    assert runpy.run_path(str(SCRIPT))["main"](argv) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.slow
def test_server_reads_format_1(exported, tmp_path):
    """Format 1 has the checksums under another key."""
    run, folder = exported()
    old = shutil.copytree(folder, tmp_path / "old")
    manifest = manifest_of(old)
    manifest["sums"] = manifest.pop("checksums")
    (old / "export.json").write_text(json.dumps(manifest | {"format": 1}))
    np.testing.assert_array_equal(Server(old).candidates(USERS), run.candidates(USERS))


def test_server_rejects_unknown_format(exported, tmp_path):
    folder = shutil.copytree(exported()[1], tmp_path / "copy")
    (folder / "export.json").write_text(json.dumps(manifest_of(folder) | {"format": 3}))
    with pytest.raises(ValueError, match=r"has format 3; expected one of \[1, 2\]"):
        Server(folder)


@pytest.mark.parametrize("damage", ["changed", "missing", "more"])
def test_server_rejects_damaged_export(exported, tmp_path, damage):
    folder = shutil.copytree(exported()[1], tmp_path / "copy")
    file = folder / "items.safetensors"
    if damage == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        file = folder / "faiss_9.faiss"
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{file.name} is missing or not as it was exported"):
        Server(folder)


@pytest.mark.slow
def test_server_runs_without_rankpg(exported, tmp_path):
    """Runs the script in a process in which rankpg, flax, optax and orbax cannot be imported."""
    not_needed = ("rankpg", "flax", "optax", "orbax", "chex", "yaml", "pyarrow")
    run, folder = exported("features", 1, exact_below=1000)
    features = np.asarray(run.environment.context_features)[:3]
    np.save(tmp_path / "features.npy", features)
    blocked = run_python(SCRIPT, folder, "--features", tmp_path / "features.npy", "--search", "faiss",
                         blocked=(*not_needed, "usearch"))  # fmt: skip
    assert blocked.returncode == 0, blocked.stderr
    found = [json.loads(line) for line in blocked.stdout.splitlines()]
    assert found == run.candidates(USERS[:3]).tolist()
    # Negative control: a package that the script needs.
    assert run_python(SCRIPT, folder, "--features", tmp_path / "features.npy",
                      blocked=("safetensors",)).returncode != 0  # fmt: skip


@pytest.mark.slow
def test_export_command(tmp_path, capsys):
    data = tmp_path / "rewards.csv"
    rows = [f"{user},{item},{(user * item) % 7 + 1}" for user in range(6) for item in range(30)]
    data.write_text("\n".join(["user_id,item_id,value", *rows]) + "\n")
    flags = ["--num-candidates", "4", "--num-steps", "2", "--eval-every", "2", "--seeds", "0", "1"]
    flags += ["--environment", "ratings", "--path", str(data)]
    assert main(["train", *flags, "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "deep" / "out"
    command = ["export", str(tmp_path / "run"), "--out", str(out)]
    capsys.readouterr()
    assert main([*command, "--seed", "1", "--index", "usearch", "--platforms", "cpu"]) == 0
    assert "recall@4 1.0000 of the candidates" in capsys.readouterr().out
    server = Server(out, "usearch")
    assert server.program.platforms == ("cpu",)
    run = load_run(tmp_path / "run")
    np.testing.assert_array_equal(server.candidates(range(6)), run.candidates(range(6), seed=1))
    last = run.metrics[-1]
    assert (last["seed"], last["step"]) == (1, 2)
    assert f"policy_value: {last['policy_value']:.5g}" in (out / "CARD.md").read_text()
    with pytest.raises(ValueError, match="unknown context 77"):
        server.candidates([77])
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
