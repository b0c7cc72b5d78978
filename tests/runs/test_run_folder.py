"""The folder of a run: its files, what a crash leaves, and bit-identical resumption."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.run_files import metrics_rows

from rankpg import TrainConfig
from rankpg.cli.main import main
from rankpg.config.renamed import RENAMED
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.runs.evaluator import evaluate_run
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Progress, prepare
from rankpg.runs.storage import checkpoint, checkpoint_files
from rankpg.runs.storage import folder as run_folder
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_config, load_run, load_state
from rankpg.runs.train import train
from rankpg.training import optimizer as optimizing

ENABLE_X64 = False


pytestmark = pytest.mark.usefixtures("as_a_user")


def settings(**changes) -> TrainConfig:
    small = {
        "num_contexts": 20, "num_items": 30, "num_candidates": 3, "batch_size": 8,
        "embedding_dim": 4, "seeds": (0, 1), "num_steps": 8, "eval_every": 4,
        "advantage": "context",
    }  # fmt: skip
    return TrainConfig(**(small | changes))


def finish(run, folder, until=None):
    """Trains as the command line does; `until` leaves at a step, as after a power cut."""
    for progress in training_loop(run):
        folder.on_progress(run, progress)
        if until is not None and progress.phase == "evaluate" and progress.step >= until:
            return run
    folder.close(run)
    return run


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """A model that is updated in place has no copy in memory: the one on disk stays."""
    monkeypatch.setattr(optimizing, "_COPIED", 0)
    world = from_matrix(1e8 * np.random.default_rng(0).uniform(1, 2, (20, 30))).environment
    config = settings(
        seeds=(0,), optimizer="sgd", learning_rate=1e38, advantage="none", preset="paper",
        adaptive_learning_rate=False, estimator="top1_pg",
    )  # fmt: skip
    run, folder = prepare(config, world), RunFolder(tmp_path / "run")
    good = jax.device_get(run.state.params)
    folder.open(run)
    finish(run, folder)
    assert not all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(run.state.params)))
    assert "seed 0 stopped" in run.stopped()[0]
    step, kept = checkpoint.restore(
        tmp_path / "run" / "checkpoint", jax.eval_shape(lambda: run.state)
    )
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, kept.params, good)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 2T steps, its folder, and its folder as it was after T."""
    base = tmp_path_factory.mktemp("runs")
    folder, run = RunFolder(base / "whole"), prepare(settings())
    folder.open(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
        if progress.phase == "evaluate" and progress.step == 4:
            shutil.copytree(folder.path, base / "interrupted")
    folder.close(run)
    return run, folder.path, base / "interrupted"


@pytest.fixture(scope="module")
def whole(straight):
    return straight[:2]


@pytest.fixture(scope="module")
def interrupted(straight):
    return straight[2]


@pytest.fixture
def half(interrupted, tmp_path):
    """A copy of the interrupted run, to be damaged."""
    return shutil.copytree(interrupted, tmp_path / "run")


@pytest.fixture(scope="module")
def resumed(interrupted, tmp_path_factory):
    path = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(interrupted, path)
    run, folder = prepare(load_config(path)), RunFolder(path)
    folder.resume(run)
    assert run.step == 4
    return finish(run, folder), path


def without_speed(rows):
    return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows]


def same(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


# Going on.


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(whole, resumed):
    (one, its_path), (other, path) = whole, resumed
    assert same(one.state, other.state)
    assert one.state.step.tolist() == [8, 8]
    assert without_speed(metrics_rows(its_path)) == without_speed(metrics_rows(path))
    assert (
        float(one.state.baseline_state.visits[..., 0].sum()) == 2 * 8 * 8
    )  # the baseline's counts went along
    assert load_config(path) == one.config


def test_a_saved_state_is_the_state(whole):
    run, path = whole
    assert same(load_run(path).state, run.state)


@pytest.mark.slow
def test_evaluation_from_the_folder_is_the_last_row(whole):
    _, path = whole
    for again, row in zip(evaluate_run(load_run(path)), metrics_rows(path)[-2:], strict=True):
        common = (set(again) & set(row)) - {"steps_per_second"}
        assert {"policy_value", "candidate_recall", "ndcg", "seed", "step"} <= common
        assert {k: again[k] for k in common} == {k: row[k] for k in common}


@pytest.mark.slow
@pytest.mark.parametrize(("eval_every", "until"), [(2, 2), (3, 3), (3, 6)])
def test_halves_at_other_places(tmp_path, eval_every, until):
    """Compiled chunks of the halves have other lengths than those of the whole."""
    config = settings(eval_every=eval_every, num_steps=7, seeds=(5,))
    straight = train(config)
    run, folder = prepare(config), RunFolder(tmp_path / "run")
    folder.open(run)
    finish(run, folder, until)
    run = prepare(load_config(folder.path))
    folder.resume(run)
    assert same(finish(run, folder).state, straight.state)


@pytest.mark.slow
def test_more_steps_than_before(tmp_path):
    config = settings(num_steps=3, eval_every=2)
    run, folder = prepare(config), RunFolder(tmp_path / "run")
    folder.open(run)
    finish(run, folder)
    more = prepare(settings(num_steps=8, eval_every=2))
    folder.resume(more)
    assert load_config(folder.path).num_steps == 8
    assert same(finish(more, folder).state, train(settings(num_steps=8, eval_every=2)).state)
    assert sorted({row["step"] for row in metrics_rows(folder.path)}) == [0, 2, 3, 4, 6, 8]


# What a crash leaves behind.


def test_a_row_that_was_cut_off_is_dropped(half):
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "seed": 0, "poli')
    run = load_run(half)
    assert run.step == 4
    assert len(run.metrics) == 4


def test_rows_beyond_the_checkpoint_are_dropped(half):
    rows = metrics_rows(half)
    with (half / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row | {"step": 8}) + "\n" for row in rows[-2:])
    run = prepare(settings())
    RunFolder(half).resume(run)
    assert run.step == 4
    assert [row["step"] for row in metrics_rows(half)] == [0, 0, 4, 4]


@pytest.mark.parametrize("rows_left", [2, 3])
def test_a_checkpoint_without_its_rows_is_refused(half, rows_left):
    """Rows are written first, so only an editor leaves this; the step would be wrong."""
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text("".join(lines[:rows_left]))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl lacks rows of step 4"):
        load_run(half)


def test_a_crash_while_the_state_is_saved_loses_one_evaluation(half, monkeypatch):
    def crash(*_, **__):
        raise OSError("no space left on device")

    run, folder = prepare(settings()), RunFolder(half)
    folder.resume(run)
    monkeypatch.setattr(checkpoint, "save", crash)
    rows = tuple(row | {"step": 8} for row in run.metrics[-2:])
    with pytest.raises(OSError, match="no space"):
        folder.on_progress(run, Progress("evaluate", 8, 1.0, rows))
    again = load_run(half)
    assert again.step == 4
    assert again.state.step.tolist() == [4, 4]


def test_a_broken_row_in_the_middle_is_named(half):
    lines = (half / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    (half / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: not JSON"):
        load_run(half)


def test_no_rows_at_all(half):
    (half / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read"):
        load_run(half)


def state_like():
    return {"a": jnp.arange(5.0), "b": (jnp.int32(3), jnp.zeros((2, 3)))}


def test_checkpoints_there_and_back(tmp_path):
    state = state_like()
    checkpoint.save(tmp_path, 4, state)
    checkpoint.save(tmp_path, 8, jax.tree.map(lambda x: x + 1, state))
    step, back = checkpoint.restore(tmp_path, jax.eval_shape(state_like))
    assert step == checkpoint.latest_step(tmp_path) == 8
    assert same(back, jax.tree.map(lambda x: x + 1, state))
    assert [entry.name for entry in tmp_path.iterdir()] == ["8"]  # the older one is dropped


def test_a_half_written_checkpoint_never_counts(tmp_path):
    checkpoint.save(tmp_path, 4, state_like())
    for left in (
        "8.partial.orbax-checkpoint-tmp",
        "8.partial",
    ):  # within Orbax's write, and after it
        shutil.copytree(tmp_path / "4", tmp_path / left)
    assert checkpoint.latest_step(tmp_path) == 4
    assert checkpoint.restore(tmp_path, state_like())[0] == 4
    checkpoint.save(tmp_path, 8, state_like())
    assert [entry.name for entry in tmp_path.iterdir()] == ["8"]


@pytest.mark.parametrize("where", ["nothing", "no folder"])
def test_no_checkpoint(tmp_path, where):
    folder = tmp_path if where == "nothing" else tmp_path / "none"
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.restore(folder, state_like())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"a": jnp.arange(6.0), "b": state_like()["b"]},
            r"\['a'\] is float32\[5\] there, .*float32\[6\]",
        ),
        (
            {"a": jnp.arange(5), "b": state_like()["b"]},
            r"\['a'\] is float32\[5\] there, .*int32\[5\]",
        ),
        ({"a": jnp.arange(5.0)}, r"\['b'\].* this config needs absent"),
        (state_like() | {"c": jnp.zeros(1)}, r"\['c'\] is absent there, .*float32\[1\]"),
    ],
)
def test_a_checkpoint_of_another_config(tmp_path, template, message):
    checkpoint.save(tmp_path, 4, state_like())
    with pytest.raises(CheckpointError, match=f"of another config: {message}"):
        checkpoint.restore(tmp_path, template)


def files_of(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["empty", "half", "gone", "a flipped bit"])
def test_a_damaged_file_is_named(tmp_path, damage):
    """Every file of a checkpoint, the manifest included: Orbax reads many of these as if all were well."""
    state = state_like()
    checkpoint.save(tmp_path / "good", 4, state)
    files = files_of(tmp_path / "good")
    assert len(files) >= 5
    for number, file in enumerate(files):
        copy = shutil.copytree(tmp_path / "good", tmp_path / str(number))
        damaged, content = copy / file.relative_to(tmp_path / "good"), bytearray(file.read_bytes())
        if damage == "gone":
            damaged.unlink()
        elif damage == "a flipped bit":
            content[len(content) // 2] ^= 1
            damaged.write_bytes(content)
        else:
            damaged.write_bytes(content[: len(content) // 2 if damage == "half" else 0])
        with pytest.raises(CheckpointError) as refusal:
            checkpoint.restore(copy, state)
        said = str(refusal.value)
        assert f"{copy / '4'} cannot be read" in said
        assert file.relative_to(tmp_path / "good" / "4").as_posix() in said
        assert "\n" not in said


def test_a_flipped_bit_of_a_parameter_is_noticed(tmp_path):
    checkpoint.save(tmp_path, 4, {"a": jnp.asarray(np.random.default_rng(0).normal(size=4000))})
    file = max(files_of(tmp_path), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(
        CheckpointError, match=rf"its file .*{file.name} is missing or differs from its checksum"
    ):
        checkpoint.restore(tmp_path, {"a": jnp.zeros(4000)})


def test_a_checkpoint_without_a_manifest_is_refused(tmp_path):
    checkpoint.save(tmp_path, 4, state_like())
    (tmp_path / "4" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="no manifest SHA256SUMS"):
        checkpoint.restore(tmp_path, state_like())


def test_the_manifest_is_what_sha256sum_reads(tmp_path):
    checkpoint.save(tmp_path, 4, state_like())
    lines = (tmp_path / "4" / "SHA256SUMS").read_text().splitlines()
    checksums = dict(reversed(line.split("  ")) for line in lines)
    there = {p.relative_to(tmp_path / "4").as_posix(): p for p in files_of(tmp_path)}
    assert checksums.keys() == there.keys() - {"SHA256SUMS"}
    for name, digest in checksums.items():
        assert digest == hashlib.sha256(there[name].read_bytes()).hexdigest()


# Refusals.


def test_a_folder_that_holds_a_run_is_refused(half):
    run = prepare(settings())
    message = r"already has a run \(metrics\.jsonl, checkpoint\); .*resume=True"
    with pytest.raises(ConfigError, match=message):
        RunFolder(half).open(run)


def test_a_folder_that_cannot_be_made(tmp_path):
    with pytest.raises(ConfigError, match=r"out='/proc/runs' cannot be written"):
        RunFolder("/proc/runs").open(prepare(settings()))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out='.*file' is a file; expected the name of a folder"):
        RunFolder(tmp_path / "file").open(prepare(settings()))


def test_other_settings_and_finished_runs_are_refused(whole):
    folder = RunFolder(whole[1])
    with pytest.raises(
        ConfigError, match=r"was trained with learning_rate=0\.01, not learning_rate=0\.5"
    ):
        folder.resume(prepare(settings(learning_rate=0.5)))
    with pytest.raises(
        ConfigError, match=r"is already at step 8; resume=True needs num_steps above 8"
    ):
        folder.resume(prepare(settings()))
    assert load_config(folder.path) == whole[0].config  # a refusal writes nothing


# What is written.


def test_the_folder_of_a_finished_run(whole):
    run, path = whole
    names = {
        "config.yaml", "metrics.jsonl", "learning_curve.png", "checkpoint", "RUN.md", "folder.json",
        "writer.lock",
    }  # fmt: skip
    assert {entry.name for entry in path.iterdir()} == names
    assert yaml.safe_load((path / "config.yaml").read_text()) == run.config.to_dict()
    assert load_config(path) == run.config
    rows = metrics_rows(path)
    assert [(row["step"], row["seed"]) for row in rows] == [
        (s, k) for s in (0, 4, 8) for k in (0, 1)
    ]
    assert all(isinstance(row["policy_value"], float) for row in rows)
    speeds = [row["steps_per_second"] for row in rows]
    assert speeds[:2] == [None, None]
    assert all(speed > 0 for speed in speeds[2:])
    card = (path / "RUN.md").read_text()
    value = np.mean([row["policy_value"] for row in rows[-2:]])
    assert f"policy_value: {value:.5g}" in card
    for part in ("step 8", "learning_rate: 0.01", "jax:", "cores", "Limits"):
        assert part in card, part


def test_the_learning_curve_is_drawn(whole):
    content = (whole[1] / "learning_curve.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert width > 500
    assert height > 300
    import matplotlib.image

    pixels = matplotlib.image.imread(whole[1] / "learning_curve.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_without_matplotlib_the_rest_is_written(half, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("a plot needs matplotlib: pip install 'rankpg[cli]'")

    monkeypatch.setattr(run_folder, "learning_curves", missing)
    run = load_run(half)
    assert "matplotlib" in RunFolder(half).close(run)
    assert (half / "RUN.md").exists()


# Folders of an earlier version.

FORMER_COLUMNS = {"normalised_value": "share_of_optimum", "reranker_regret": "late_stage_regret"}


def former(names, mapping):
    """Returns a mapping under the names of an earlier version."""
    return {names.get(name, name): value for name, value in mapping.items()}


@pytest.fixture
def of_an_earlier_version(half):
    """The interrupted run, under the former names of settings, columns and metadata."""
    settings = {current: old for old, current in RENAMED.items()}
    config = former(settings, yaml.safe_load((half / "config.yaml").read_text()))
    assert {"late_stage", "reward_transform"} <= config.keys()
    (half / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [former(FORMER_COLUMNS, row) for row in metrics_rows(half)]
    assert all({"share_of_optimum", "late_stage_regret"} <= row.keys() for row in rows)
    (half / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = half / "checkpoint" / "4"
    metadata = former({"accumulator": "stretch"}, json.loads((path / "notes.json").read_text()))
    metadata["config"] = former(settings, metadata["config"])
    (path / "notes.json").write_text(json.dumps(metadata))
    lines = (f"{digest}  {name}\n" for name, digest in checkpoint_files.checksums_of(path).items())
    (path / "SHA256SUMS").write_text("".join(lines))
    return half


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_is_resumed(of_an_earlier_version, whole):
    path, (one, its_path) = of_an_earlier_version, whole
    assert load_run(path).step == 4
    assert main(["train", "--resume", "--out", str(path)]) == 0
    assert same(load_run(path).state, one.state)
    assert without_speed(metrics_rows(path)) == without_speed(metrics_rows(its_path))
    assert load_config(path) == one.config


def test_settings_of_an_earlier_version_are_compared(of_an_earlier_version):
    changed = dataclasses.replace(load_config(of_an_earlier_version), reranker="uniform")
    with pytest.raises(ConfigError, match="with reranker='optimal', not reranker='uniform'"):
        RunFolder(of_an_earlier_version).resume(prepare(changed))


# From Python, with one call.


@pytest.mark.slow
def test_train_resumes_after_an_error(tmp_path, monkeypatch, whole):
    """An error during training releases the folder; the resumed run equals the whole one."""
    (one, its_path), path, world = whole, tmp_path / "run", from_matrix(np.eye(20, 30))

    def fail(run, progress):
        if progress.step == 4:
            raise RuntimeError("the callback failed")

    with pytest.raises(RuntimeError, match="the callback failed"):
        train(settings(), out=path, on_progress=fail)
    with pytest.raises(ConfigError, match=r"already has a run .* continue it with resume=True"):
        train(settings(), world, out=path)
    other = train(settings(), out=RunFolder(path, keep_best=True), resume=True)
    assert same(one.state, other.state)
    assert without_speed(metrics_rows(path)) == without_speed(metrics_rows(its_path))
    assert json.loads((path / "folder.json").read_text())["keep_best"]
    assert (path / "RUN.md").exists()
    with pytest.raises(ConfigError, match="is already at step 8"):
        train(settings(), out=path, resume=True)

    monkeypatch.setattr(run_folder, "card", lambda run: _full())
    with pytest.warns(UserWarning, match=r"no RUN.md: .*No space left"):
        train(settings(num_steps=4), out=tmp_path / "full")


def _full():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_train_refuses_a_folder_before_it_reads_anything(tmp_path, monkeypatch):
    module = sys.modules["rankpg.runs.train"]  # `rankpg.runs.train` is also its function
    monkeypatch.setattr(module, "prepare", lambda *_, **__: pytest.fail("prepared"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"is a file; expected the name of a folder"):
        train(settings(), out=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="resume=True needs out="):
        train(settings(), resume=True)
    absent = r"absent holds no run to resume; leave out resume=True to start one"
    with pytest.raises(ConfigError, match=absent):
        train(settings(), out=tmp_path / "absent", resume=True)
    assert not (tmp_path / "absent").exists()


@pytest.mark.slow
def test_a_refused_run_releases_the_folder(half):
    keeper = RunFolder(half)
    with pytest.raises(ConfigError, match="was trained with batch_size=8, not batch_size=4"):
        train(settings(batch_size=4), out=keeper, resume=True)
    assert train(settings(), out=half, resume=True).step == 8


# What the rows of a run say afterwards.


def test_candidates_are_the_greedy_ones_of_a_seed():
    means = np.random.default_rng(0).uniform(size=(4, 6))
    run = prepare(settings(num_steps=1, seeds=(7, 9), num_candidates=2), from_matrix(means))
    x, e = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(run.state.params))
    for index, seed in ((0, None), (0, 7), (1, 9)):
        expected = np.argsort(-(x[index, 0] @ e[index, 0].T), axis=1)[:, :2]
        assert run.candidates([0, 3, 2], seed=seed).tolist() == expected[[0, 3, 2]].tolist()
    assert run.candidates(1).shape == (1, 2)


def test_unknown_contexts_are_refused():
    run = prepare(settings())
    for context in (20, -1):
        with pytest.raises(ValueError, match=rf"context {context} is unknown; .* 0 to 19"):
            run.candidates([0, context])


def test_an_unknown_seed_is_named():
    with pytest.raises(ValueError, match=r"seed 5 was not trained; .*\(0, 1\)"):
        prepare(settings()).candidates([0], seed=5)


def test_a_value_that_is_not_finite_can_be_reported(half):
    run = load_run(half)
    for row in run.metrics:
        row |= {"policy_value": None, "stopped_at_step": 0, "stopped_by": "a reward"}
    assert np.isnan(run.policy_value)
    assert RunFolder(half).close(run) is None


# Files that were edited.


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "x"), ("seed", [1]), ("policy_value", "abc"), ("step", None), ("ndcg", "good")],
)
def test_a_row_that_was_edited_is_named(half, name, value):
    lines = (half / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {name: value})
    (half / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2 is not a row of metrics"):
        load_run(half)


@pytest.mark.slow
def test_files_that_are_nested_too_deeply(half, tmp_path):
    (half / "metrics.jsonl").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1: .*nested too deeply"):
        load_run(half)
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(ConfigError, match=r"deep\.yaml: nested too deeply"):
        load_config(tmp_path / "deep.yaml")


def test_other_folders_are_not_checkpoints(half):
    (half / "checkpoint" / "²").mkdir()
    assert load_run(half).step == 4


TABLE = "user,item,value\n" + "".join(
    f"u{u},i{i},{0.5 + (u * i) % 3}\n" for u in range(4) for i in range(5)
)


@pytest.fixture(scope="module")
def from_a_table(tmp_path_factory):
    """A run, and the table that it was trained on."""
    base = tmp_path_factory.mktemp("table")
    (base / "ratings.csv").write_text(TABLE)
    config = TrainConfig(
        environment="ratings", path=str(base / "ratings.csv"), num_candidates=2, seeds=(0,)
    )  # fmt: skip
    run, folder = prepare(config), RunFolder(base / "run")
    folder.open(run)
    row = {"step": 0, "seed": 0, "policy_value": 1.0}  # as after an evaluation at the start
    folder.on_progress(run, Progress("evaluate", 0, None, (row,)))
    return folder.path, base / "ratings.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("u1,", "x1,", "context ids"),
        (",i1,", ",x1,", "item ids"),
        (",0.5\n", ",0.25\n", "numbers"),
    ],
)
def test_a_run_belongs_to_the_table_it_was_trained_on(from_a_table, old, new, named):
    """Both tables have as many users and items, but a row of the policy would stand for another."""
    folder, table = from_a_table
    table.write_text(TABLE)
    assert load_run(folder).step == 0
    table.write_text(TABLE.replace(old, new))
    with pytest.raises(ConfigError, match=f"was trained on other data: the checksum of {named} of"):
        load_run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kept_as", ["dataset", "environment"])
def test_a_run_on_data_from_python_is_not_resumed_on_the_generated_problem(
    tmp_path, capsys, kept_as
):
    """Data of the same shape, so that every array of the checkpoint would fit."""
    data = from_matrix(np.random.default_rng(0).uniform(size=(20, 30)))
    world = data if kept_as == "dataset" else data.environment
    folder = tmp_path / "run"
    writer = RunFolder(folder)
    run = prepare(settings(), world)
    writer.open(run)
    finish(run, writer)
    before = (folder / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", "--out", str(folder), "--num-steps", "12"]) == 2
    assert "was trained on" in (message := capsys.readouterr().err)
    assert "RunFolder(path).resume(prepare(config, environment))" in message
    assert (folder / "metrics.jsonl").read_bytes() == before

    again = prepare(settings(num_steps=12), world)
    writer = RunFolder(folder)
    writer.resume(again)
    assert finish(again, writer).step == 12
    card = (folder / "RUN.md").read_text()
    assert f"- environment: yours ({type(run.environment).__name__}): 20 contexts, 30 items" in card
    assert "num_features" not in card
    assert "](learning_curve.png)" in card
    assert ("SHA-256 of numbers" in card) == (kept_as == "dataset")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b $x <c> &'\"q é#%?*", "lr=[0.1]", "a\\b [x", "-dash"])
def test_odd_folder_names(name, tmp_path):
    folder = tmp_path / name / "run"
    writer, run = RunFolder(folder), prepare(settings(num_steps=4))
    writer.open(run)
    finish(run, writer)
    assert load_run(folder).step == 4


def test_component_under_its_former_name_is_refused():
    with pytest.raises(ConfigError, match="late_stage= is now named reranker="):
        train(settings(), late_stage=None)


# Which checkpoints stay.


@pytest.mark.slow
def test_resuming_from_an_earlier_step_removes_what_came_after(tmp_path):
    config = settings(seeds=(0,), num_steps=6, eval_every=2)
    run, folder = prepare(config), RunFolder(tmp_path / "run", keep_last=3)
    folder.open(run)
    finish(run, folder)
    steps = tmp_path / "run" / "checkpoint"
    assert checkpoint.saved_steps(steps) == [2, 4, 6]  # the last three, and not that of step 0
    again, folder = prepare(config), RunFolder(tmp_path / "run")
    folder.resume(again, step=4)
    assert checkpoint.saved_steps(steps) == [2, 4]
    assert [row["step"] for row in metrics_rows(tmp_path / "run")] == [0, 2, 4]
    folder.close(again)


@pytest.mark.slow
def test_running_means_between_two_evaluations_are_resumed(tmp_path):
    config = settings(seeds=(0,))
    run, folder = prepare(config), RunFolder(tmp_path / "run")
    folder.open(run)
    folder.on_progress(run, next(p for p in training_loop(run) if p.phase == "evaluate"))
    run.accumulator.add({"loss": np.float32([[0.25, 0.5, 0.75]])}, 1.5)
    run.state = run.state.replace(step=run.state.step + 3)
    folder.save(run)
    folder.close(run)
    again = prepare(config)
    load_state(again, tmp_path / "run")
    assert (again.accumulator.steps, again.accumulator.seconds) == (3, 1.5)
    assert again.accumulator.means()["loss"].tolist() == [0.5]
    assert again.step == 3
