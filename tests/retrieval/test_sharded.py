"""Sharded retrieval: eight fake devices, and several processes, compute what one device does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.run_files import metrics_rows

from rankpg import TrainConfig
from rankpg._utils.distributed import join_processes
from rankpg.errors import ConfigError
from rankpg.retrieval.choice import RetrievalSettings, choose_retrieval
from rankpg.retrieval.layout import Layout, Shard
from rankpg.retrieval.sharding import shard_over
from rankpg.training.build import build_learner

SCRIPT = Path(__file__).parents[1] / "helpers" / "many_devices.py"
ALONE = {"retrieval": "streamed"}


def long(*values):
    """A row that `.ci/run` leaves out: another shows the same, and each takes half a minute."""
    return pytest.param(*values, marks=pytest.mark.long)


def start(devices: int, name: str, *arguments) -> subprocess.Popen:
    flags = re.sub(r"--xla_force_host_platform\S*", "", os.environ["XLA_FLAGS"])
    changed = {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), name, *map(json.dumps, arguments)]
    return subprocess.Popen(
        command, env=os.environ | changed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


def finish(*processes: subprocess.Popen) -> None:
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]


# One device against eight.


@pytest.mark.slow
def test_eight_devices_equal_one():
    finish(start(8, "equal", 2, 4, [("ca_pg_threshold", 1, True, 25)]))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [long((1, 8)), (2, 4), long((8, 1))], ids=str)
@pytest.mark.parametrize("estimator", ["top1_pg", "ca_pg", "ca_pg_threshold", "v_pg", "ca_pg_swap"])
def test_every_mesh_equals_one_device(mesh, estimator):
    finish(start(8, "equal", *mesh, [(estimator, 1, False, 37), (estimator, 3, True, 25)]))


@pytest.mark.slow
def test_eight_devices_equal_one_with_few_eligible_items():
    """Eight items or seven are left of 37, most devices hold none of a context's."""
    cases = [
        ("ca_pg", 1, True, 7),
        ("ca_pg_threshold", 1, True, 7),
        ("ca_pg_threshold", 3, True, 8),
    ]
    finish(start(8, "equal", 1, 8, cases))


@pytest.mark.slow
def test_nan_on_one_device_is_unsound_on_all():
    finish(start(8, "unsound", 2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(1, 8), (2, 4)], ids=str)
def test_no_device_holds_the_whole_item_table(mesh):
    finish(start(8, "spread", *mesh))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        long({}),
        {"estimator": "ca_pg", "num_experts": 2, "seeds": [0, 1], "mesh": [2, 4], "entropy_bonus": 0.2},
        # Not `learned`: its network is fitted first, and rounds in another way on another number of devices.
        long({"reranker": "similarity", "optimizer": "adagrad", "ranking_length": 2}),
        {"reranker": "noisy", "table_dtype": "bfloat16", "advantage": "learned", "mesh": [8, 1]},
    ],
)  # fmt: skip
def test_training_does_not_depend_on_the_number_of_devices(changes, tmp_path):
    """Twenty steps on one device, streamed, and on eight: the same parameters, moments and values."""
    eight = {"num_steps": 20, "retrieval": "sharded", **changes}
    one = {name: value for name, value in eight.items() if name != "mesh"} | ALONE
    finish(start(8, "train", str(tmp_path / "eight"), eight))
    finish(start(1, "train", str(tmp_path / "one"), one))
    loose = (
        {"rtol": 0.02, "atol": 0.02} if "table_dtype" in changes else {"rtol": 1e-4, "atol": 1e-5}
    )
    _same_state(tmp_path / "eight", tmp_path / "one", **loose)
    for found, wanted in zip(*(metrics_rows(tmp_path / n) for n in ("eight", "one")), strict=True):
        assert found["policy_value"] == pytest.approx(wanted["policy_value"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "mesh"), [long("ids", [2, 4]), ("history", [1, 8])])
def test_objectives_do_not_depend_on_the_number_of_devices(tower, mesh, tmp_path):
    """Known feedback and seen items, on one device and on eight: the same parameters and held-out recall."""
    random = np.random.default_rng(0)
    rows = [
        f"{user},{item},{time}"
        for user in range(24)
        for time, item in enumerate(random.permutation(37)[:9])
    ]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(rows))
    settings = {
        "environment": "interactions", "path": str(tmp_path / "log.csv"), "context_tower": tower,
        "objective": "inclusion", "num_steps": 10, "eval_every": 10, "optimizer": "sgd", "num_candidates": 5,
        "batch_size": 16, "learning_rate": 0.1, "num_contexts": 1000, "num_items": 1000,
    }  # fmt: skip
    if tower == "history":
        settings["dropout"] = 0.0
    changes = {"retrieval": "sharded", "mesh": mesh}
    finish(start(8, "train", str(tmp_path / "eight"), settings | changes))
    finish(start(1, "train", str(tmp_path / "one"), settings | ALONE))
    _same_state(tmp_path / "eight", tmp_path / "one", rtol=1e-4, atol=1e-5)
    for found, wanted in zip(*(metrics_rows(tmp_path / n) for n in ("eight", "one")), strict=True):
        assert found["recall@20"] == pytest.approx(wanted["recall@20"], abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "rate"), [("features", 0.1), long("adapter", 0.01)])
def test_towers_over_features_train_alike_on_eight_devices(tower, rate, tmp_path):
    """The embeddings that a perceptron computes are sharded; its parameters, which are few, are not."""
    # An adapter's logits start wide: steps of 0.1 multiply rounding a hundredfold in twenty of them.
    # Not Adam: the items' last bias moves all logits alike, and Adam follows the rounding of its gradient, 0.
    settings = {
        "num_steps": 20, "item_tower": tower, "context_tower": tower, "hidden": [8],
        "optimizer": "sgd", "learning_rate": rate,
    }  # fmt: skip
    for devices, name, changes in ((8, "eight", {"retrieval": "sharded"}), (1, "one", ALONE)):
        finish(start(devices, "train", str(tmp_path / name), settings | changes))
    _same_state(tmp_path / "eight", tmp_path / "one", rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, {"mesh": [2, 4]}), (1, {})),
        long((1, {}), (8, {"mesh": [1, 8]})),
        long((8, {}), (1, ALONE)),
    ],
    ids=["eight to one", "one to eight", "eight to one, streamed"],
)
def test_a_checkpoint_resumes_on_another_number_of_devices(before, after, tmp_path):
    """Ten steps here and ten there are twenty on one device."""
    for steps, (devices, settings) in ((10, before), (20, after)):
        settings = {"retrieval": "sharded", **settings, "num_steps": steps}
        finish(start(devices, "train", str(tmp_path / "both"), settings))
    finish(start(1, "train", str(tmp_path / "one"), {"num_steps": 20} | ALONE))
    _same_state(tmp_path / "both", tmp_path / "one", rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "mesh"), [long(1, [1, 2]), long(1, [2, 1]), (2, [2, 2])], ids=str
)
def test_two_processes_equal_one(devices, mesh, tmp_path):
    """Joined on loopback: three steps, then two more from the checkpoint that the first of them wrote."""
    for steps in (3, 5):
        settings = {"num_steps": steps, "retrieval": "sharded", "mesh": mesh}
        address = f"127.0.0.1:{_free_port()}"
        both = [
            start(devices, "train", str(tmp_path / "two"), settings, address, "2", str(index))
            for index in range(2)
        ]
        finish(*both)
    finish(start(1, "train", str(tmp_path / "one"), {"num_steps": 5} | ALONE))
    _same_state(tmp_path / "two", tmp_path / "one", rtol=1e-4, atol=1e-5)
    assert [row["step"] for row in metrics_rows(tmp_path / "two")] == [0, 3, 5]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _same_state(folder: Path, other: Path, **tolerance) -> None:
    with np.load(folder / "state.npz") as found, np.load(other / "state.npz") as wanted:
        assert found.files == wanted.files
        for name in found.files:
            np.testing.assert_allclose(found[name], wanted[name], **tolerance)


# What one device holds.


@pytest.mark.parametrize(
    ("num_items", "width"), [(n, w) for n in (1, 5, 36, 37, 1000) for w in (1, 4) if w <= n]
)
@pytest.mark.parametrize("devices", [1, 3, 8])
def test_shards_cover_the_catalogue(num_items, devices, width):
    shard = Shard(Layout(num_items, 3 * width, width), devices, "items")
    assert shard.num_blocks * devices >= shard.whole.num_blocks
    assert shard.rows * devices >= num_items
    if devices > 1:
        assert shard.rows % width == 0
    assert shard.layout.num_items == shard.rows
    assert shard.layout.num_blocks == shard.num_blocks
    assert shard.layout.size % width == 0


def test_put_then_gather_returns_the_state():
    sharding = shard_over((1, 1), 37, 4)
    state = {"items": {"table": np.ones((1, 37, 3))}, "contexts": {"table": np.ones((1, 37, 3))}}
    back = sharding.gather(sharding.put(state))
    jax.tree.map(np.testing.assert_array_equal, back, state)
    kernel = (jax.tree_util.DictKey("items"), jax.tree_util.DictKey("kernel_0"))
    assert not sharding.is_item_table(kernel, (1, 37, 3))


# Settings.


def test_auto_shards_a_large_catalogue_over_many_devices():
    known = {"whole_catalogue": False, "towers": True, "platform": "cpu", "devices": 8}
    many = choose_retrieval("auto", RetrievalSettings(10**6, 10), 10**8, **known)
    assert many.name == "sharded"
    assert "8 devices share them" in many.reason
    assert choose_retrieval("auto", RetrievalSettings(100, 10), 10**4, **known).name == "dense"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mesh": (2,)}, r"mesh=\(2,\); expected two numbers of at least 1"),
        ({"mesh": (0, 2)}, r"mesh=\(0, 2\); expected two numbers of at least 1"),
        ({"mesh": (3, 1), "batch_size": 8}, r"batch_size=8 does not divide among the 3 devices"),
        ({"mesh": (1, 2), "retrieval": "dense"}, r"mesh=\(1, 2\) has no effect"),
        ({"estimator": "ca_pg_exact"}, r"needs the logits of the whole catalogue"),
    ],
)
def test_settings_that_cannot_be_sharded_are_rejected(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{"retrieval": "sharded", **settings})


def test_a_mesh_larger_than_the_machine_is_rejected():
    from rankpg.environments.from_ratings import from_matrix

    config = TrainConfig(
        retrieval="sharded", mesh=(1, 4096), num_candidates=2, batch_size=8, seeds=(0,)
    )
    with pytest.raises(ConfigError, match=r"mesh=\(1, 4096\) is 4096 devices, and JAX sees"):
        build_learner(config, from_matrix(np.ones((5, 8))).environment)


@pytest.mark.parametrize(
    "place", [["here"], ["host:1", "2"], ["host:1", "2", "2"], ["host:1", "x", "0"]]
)
def test_malformed_distributed_addresses_are_rejected(place):
    with pytest.raises(ConfigError, match=r"expected nothing .*, else ADDRESS:PORT COUNT INDEX"):
        join_processes(place)
