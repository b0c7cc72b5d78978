"""The command line: exit codes, one message per error, and the files of a run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.run_files import metrics_rows

import rankpg
from rankpg import TrainConfig
from rankpg.cli.flags import flag, with_flags
from rankpg.cli.main import main
from rankpg.runs.storage.load import load_config, load_run

ENABLE_X64 = False


pytestmark = pytest.mark.usefixtures("as_a_user")


def call(*arguments) -> int:
    """Returns the exit code of a command."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)


USERS = ["ann", "bob", "cy", "dee", "eve", "flo"]
FILMS = ["alien", "brazil", "casablanca", "dune", "eraserhead", "fargo", "gilda", "heat"]
TABLE = np.random.default_rng(0).uniform(0.5, 5, (6, 8)).round(3)
TABLE[[0, 2, 4], [1, 1, 7]] = np.nan  # three pairs were never rated
CSV = "user_id,item_id,rating\n" + "".join(
    f"{user},{film},{TABLE[u, f]}\n"
    for u, user in enumerate(USERS)
    for f, film in enumerate(FILMS)
    if not np.isnan(TABLE[u, f])
)
SMALL = (
    "--num-candidates", 3, "--batch-size", 8, "--embedding-dim", 4, "--num-steps", 4,
    "--eval-every", 2, "--seeds", 0, 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "ratings.csv"
    file.write_text(CSV)
    return file


@pytest.fixture(scope="module")
def trained(ratings, tmp_path_factory):
    """A run of a ratings file: its folder, stdout and stderr."""
    out = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        said = {"out": [], "err": []}
        patch.setattr(sys, "stdout", _Tee(said["out"]))
        patch.setattr(sys, "stderr", _Tee(said["err"]))
        code = call("train", "--environment", "ratings", "--path", ratings, *SMALL, "--out", out)
    assert code == 0, "".join(said["err"])
    return out, "".join(said["out"]), "".join(said["err"])


class _Tee:
    """Keeps what is written."""

    encoding = "utf-8"

    def __init__(self, parts):
        self.write = lambda text: parts.append(text) or len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


# What a run leaves.


@pytest.mark.slow
def test_files_of_the_folder(trained):
    out, *_ = trained
    names = {
        "config.yaml", "metrics.jsonl", "learning_curve.png", "checkpoint", "data.json", "RUN.md",
        "folder.json", "writer.lock", "data",
    }  # fmt: skip
    assert {entry.name for entry in out.iterdir()} == names
    config = load_config(out)
    assert (config.num_candidates, config.seeds, config.optimizer) == (3, (0, 1), "adam")
    rows = metrics_rows(out)
    assert [(r["step"], r["seed"]) for r in rows] == [(s, k) for s in (0, 2, 4) for k in (0, 1)]
    assert [r["steps_per_second"] is None for r in rows] == [True, True, False, False, False, False]
    best = np.nan_to_num(TABLE).max(axis=1).mean()
    for row in rows:
        assert row["optimum"] == pytest.approx(best, rel=1e-5)
        assert 0 < row["policy_value"] <= row["optimum"] + 1e-6
    assert (out / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_printed_text(trained):
    out, said, noted = trained
    value = np.mean([row["policy_value"] for row in metrics_rows(out)[-2:]])
    assert f"{value:.4f}" in said
    assert str(out) in said
    assert f"{3 / 48:.1%} of all (context, item) pairs have no row" in noted
    assert "6 contexts, 8 items; K = 3" in noted
    assert "Traceback" not in noted


def test_candidates_are_ids_of_the_file(trained):
    run = load_run(trained[0])
    chosen = run.candidates(["flo", "ann"])
    assert chosen.shape == (2, 3)
    assert set(chosen.ravel().tolist()) <= set(FILMS)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    x, e = (np.asarray(leaf[0, 0], np.float64) for leaf in jax.tree.leaves(run.state.params))
    order = np.argsort(-(x[5] @ e.T))[:3]
    assert chosen[0].tolist() == [
        FILMS[i] for i in order
    ]  # ids are sorted, so rows are alphabetical
    with pytest.raises((ValueError, KeyError), match="zoe"):
        run.candidates(["zoe"])


def test_evaluate_repeats_the_last_metrics(trained, capsys):
    out, *_ = trained
    assert call("evaluate", out, "--json") == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, last in zip(again, metrics_rows(out)[-2:], strict=True):
        common = set(row) & set(last)
        assert {"step", "seed", "policy_value", "optimum", "partitioned"} <= common
        assert {k: row[k] for k in common} == {k: last[k] for k in common}


@pytest.mark.slow
def test_resume(trained, tmp_path, capsys):
    out = shutil.copytree(trained[0], tmp_path / "run")
    assert call("train", "--resume", "--out", out) == 2
    message(capsys, "already at step 4", "--resume needs --num-steps above 4")
    assert call("train", "--resume", "--out", out, "--num-steps", 6, "--learning-rate", 0.5) == 2
    message(capsys, "--learning-rate 0.01, not --learning-rate 0.5")
    assert call("train", "--resume", "--out", out, "--num-steps", 6) == 0
    capsys.readouterr()
    assert [row["step"] for row in metrics_rows(out)] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert load_config(out).num_steps == 6


def test_a_wrong_setting_of_a_resumed_run_names_its_file(trained, tmp_path, capsys):
    out = shutil.copytree(trained[0], tmp_path / "run")
    file = out / "config.yaml"
    file.write_text(file.read_text().replace("num_candidates: 3", "num_candidates: ten"))
    assert call("train", "--resume", "--out", out, "--num-steps", 6) == 2
    message(capsys, f"rankpg: {file}: num_candidates='ten'; expected a whole number")


def test_resume_from_a_damaged_checkpoint(trained, tmp_path, capsys):
    out = shutil.copytree(trained[0], tmp_path / "run")
    for file in (out / "checkpoint").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    assert call("train", "--resume", "--out", out, "--num-steps", 6) == 2
    message(capsys, "checkpoint", "cannot be read")
    assert len(metrics_rows(out)) == 6
    assert load_config(out).num_steps == 4


@pytest.mark.slow
def test_a_seed_that_stops_is_exit_code_3(tmp_path, capsys):
    out = tmp_path / "run"
    world = ("--num-contexts", 5, "--num-items", 8)
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    wild = ("--optimizer", "sgd", "--learning-rate", "1e30")
    assert call("train", *world, *SMALL, *wild, "--out", out) == 3
    noted = capsys.readouterr().err
    sentences = [line for line in noted.splitlines() if line.startswith("rankpg: ")]
    assert len(sentences) == 2
    for seed, sentence in enumerate(sentences):
        assert f"seed {seed} stopped at step " in sentence
        assert sentence.removeprefix("rankpg: ") in with_flags((out / "RUN.md").read_text(), names)
    assert "Traceback" not in noted
    last = metrics_rows(out)[-1]
    assert last["step"] == 4
    assert last["stopped_at_step"] < 4
    assert last["stopped_by"] in sentences[1]


# What is refused: exit code 2, one message, no traceback.


def message(capsys, *parts):
    """Asserts that stderr ends with one message that has these parts."""
    noted = capsys.readouterr().err
    assert "Traceback" not in noted
    lines = [line for line in noted.splitlines() if line.startswith("rankpg")]
    assert len(lines) == 1, noted
    assert noted.rstrip().endswith(lines[0]), noted
    for part in parts:
        assert part in lines[0], lines[0]


FILES = {
    "empty.csv": "",
    "header.csv": "user_id,item_id,rating\n",
    "row.csv": CSV.replace(f"bob,dune,{TABLE[1, 3]}", "bob,dune,plenty"),
    "short.csv": CSV.replace(f"bob,dune,{TABLE[1, 3]}", "bob,dune"),
    "twice.csv": CSV + "ann,dune,1.0\n",
    "wrong.yaml": "num_stpes: 3\n",
    "type.yaml": "num_steps: [3]\n",
    "ten.yaml": "num_candidates: ten\n",
    "large.yaml": "num_candidates: 11\nnum_items: 10\n",
    "long.yaml": "ranking_length: 9\n",
    "adamm.yaml": "optimizer: adamm\n",
    "no.yaml": "a: [1\n",
    "former.yaml": "late_stage: noisy\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["train", "--num-stepps", "3"],
            [
                "rankpg train: ",
                ": --num-stepps 3; did you mean --num-steps?",
                "rankpg train --help",
            ],
        ),
        (
            ["train", "--num-steps", "0", "--num-cand", "5"],  # flags are not abbreviated
            ["rankpg train: ", ": --num-cand 5; did you mean --num-candidates?"],
        ),
        (["train", "--num_candidates=5"], ["did you mean --num-candidates?"]),
        (["train", "--bogus", "3"], ["rankpg train: ", "--bogus 3 (see rankpg train --help)"]),
        (["evaluate", "a", "b"], ["rankpg evaluate: ", ": b (see rankpg evaluate --help)"]),
        (["evaluate", "a", "--stpe", "3"], ["did you mean --step?"]),
        (
            ["train", "--estimator", "reinforce"],
            ["rankpg train: --estimator reinforce; expected one of v_pg, ", "ca_pg_swr"],
        ),
        (
            ["train", "--missing", "none"],
            ["rankpg train: --missing none; expected one of zero, error"],
        ),
        (
            ["train", "--num-steps", "many"],
            ["rankpg train: --num-steps many; expected a whole number"],
        ),
        (["train", "--num-steps", "3.5"], ["--num-steps 3.5; expected a whole number"]),
        (["train", "--learning-rate", "a b"], ["--learning-rate 'a b'; expected a number"]),
        (["train", "--seeds", "0", "one"], ["rankpg train: --seeds one; expected a whole number"]),
        (["train", "--num-steps", "0"], ["--num-steps 0;", "at least 1"]),
        (
            ["train", "--num-candidates", "11", "--num-items", "10"],
            ["--num-candidates 11,", "10"],
        ),
        (["train", "--ranking-length", "4", "--num-candidates", "3"], ["--ranking-length 4"]),
        (["train", "--seeds", "1", "1"], ["--seeds 1 1;"]),
        (
            ["train", "--estimator", "ca_pg_exact", "--num-experts", "2"],
            ["--estimator", "ca_pg_exact"],
        ),
        (["train", "--optimizer", "adamm"], ["--optimizer adamm;", "adagrad"]),
        (["train", "--optimizer-options", "b3=1"], ["--optimizer-options", "'b3=1'", "b1"]),
        (["train", "--position-weights", "1,2"], ["--position-weights", "L = 1"]),
        (["train", "--environment", "ratings"], ["--path"]),
        (["train", "--path", "row.csv"], ["--path", "--environment ratings"]),
        (["train", "--environment", "ratings", "--path", "none.csv"], ["none.csv"]),
        (["train", "--environment", "ratings", "--path", "empty.csv"], ["empty.csv", "empty"]),
        (["train", "--environment", "ratings", "--path", "header.csv"], ["header.csv", "no rows"]),
        (["train", "--environment", "ratings", "--path", "row.csv"], ["row.csv", "12", "plenty"]),
        (["train", "--environment", "ratings", "--path", "short.csv"], ["short.csv", "12"]),
        (
            ["train", "--environment", "ratings", "--path", "twice.csv"],
            ["twice.csv", "ann", "dune", "--duplicates"],
        ),
        (
            ["train", "--environment", "ratings", "--path", "ok.csv", "--missing", "error"],
            ["ok.csv", "--missing"],
        ),
        (
            ["train", "--environment", "ratings", "--path", "ok.csv", "--num-candidates", "9"],
            ["--num-candidates 9,", "8 items"],
        ),
        (
            [
                *("train", "--environment", "ratings", "--path", "ok.csv"),
                *("--item-tower", "features", "--num-candidates", "3"),
            ],
            ["--item-tower features,", "--item-tower ids"],
        ),
        (["train", "--config", "wrong.yaml"], ["wrong.yaml", "'num_stpes'", "num_steps"]),
        (
            ["train", "--config", "type.yaml"],
            ["rankpg: type.yaml: num_steps=[3]; expected a whole number"],
        ),
        (
            ["train", "--config", "ten.yaml"],
            ["rankpg: ten.yaml: num_candidates='ten'; expected a whole number"],
        ),
        (
            ["train", "--config", "ten.yaml", "--num-candidates", "0"],  # the flag is wrong as well
            ["rankpg: --num-candidates 0; expected at least 1"],
        ),
        (  # known only once the problem is there
            ["train", "--config", "large.yaml"],
            ["rankpg: large.yaml: num_candidates=11,", "10 items"],
        ),
        (["train", "--config", "adamm.yaml"], ["rankpg: adamm.yaml: optimizer='adamm';"]),
        (
            ["train", "--config", "long.yaml", "--num-candidates", "8"],
            ["rankpg: long.yaml: ranking_length=9 exceeds --num-candidates 8;"],
        ),
        (
            ["train", "--config", "long.yaml", "--num-steps", "0"],
            ["rankpg: --num-steps 0; expected at least 1"],
        ),
        (
            ["train", "--config", "no.yaml"],
            ["no.yaml, line 2: not valid YAML (expected ',' or ']'"],
        ),
        (["train", "--config", "none.yaml"], ["none.yaml does not exist"]),
        (["train", "--resume"], ["--resume needs --out"]),
        (
            ["train", "--resume", "--out", "nothing"],
            ["nothing holds no run to resume; leave out --resume to start one"],
        ),
        (
            ["train", "--resume", "--out", "held", "--config", "type.yaml"],
            ["held holds no run to resume; leave out --resume to start one"],
        ),
        (
            ["train", "--out", "held", "--num-items", "20", "--num-contexts", "5"],
            ["--out held", "--resume"],
        ),
        (  # before the environment is read
            ["train", "--out", "held", "--environment", "ratings", "--path", "none.csv"],
            ["--out held", "--resume"],
        ),
        (
            ["train", "--environment", "ratings", "--path", "ok.csv", "--num-items", "50"],
            ["--num-items 50 has no effect", "--environment synthetic"],
        ),
        (["train", "--inverse-temperature", "2"], ["--inverse-temperature", "--reranker noisy"]),
        (["evaluate", "nothing"], ["nothing", "does not exist"]),
        (["evaluate"], ["RUN"]),
        (["trian"], ["trian", "train"]),
        ([], ["COMMAND"]),
        (["demo", "--num-steps", "0"], ["--num-steps 0;"]),
        (["train", "--late_stage", "noisy"], ["--late_stage is now named --reranker"]),
        (["train", "--late-stage", "noisy"], ["--late-stage is now named --reranker"]),
        (["train", "--reward-transform=none"], ["--reward-transform is now named --advantage"]),
        (["train", "--config", "former.yaml"], ["former.yaml holds 'late_stage'", "'reranker'"]),
        (["reproduce", "table2"], ["python -m benchmarks reproduce"]),
        (["benchmark", "variance"], ["python -m benchmarks lab"]),
    ],
)
def test_refusals(arguments, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in {**FILES, "ok.csv": CSV}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "metrics.jsonl").write_text("")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert call(*arguments) == 2
    message(capsys, *parts)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before  # a refusal writes nothing


def test_a_flag_overrides_the_file_and_both_override_the_preset(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: paper\nlearning_rate: 1e-3\nnum_items: 77\nseeds: [4, 5]\n")
    seen = []

    def stop(config, **_):
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr("rankpg.runs.run.prepare", stop)
    flags = ["--num-items", 88, "--no-adaptive-learning-rate", "--optimizer-options", "eps=1e-3"]
    assert call("train", "--config", file, *flags) == 2
    config = seen[0].resolve()
    assert (config.num_items, config.learning_rate, config.seeds) == (88, 1e-3, (4, 5))
    assert config.adaptive_learning_rate is False
    assert (config.optimizer, config.init_scale) == ("adagrad", 1.0)
    assert config.optimizer_options == ("eps=1e-3",)


def test_a_preset_or_estimator_on_top_of_a_runs_own_settings(trained, monkeypatch):
    """The preset's values in the config.yaml of a run are chosen again; given values stay."""
    seen = []

    def stop(config, **_):
        seen.append(config.resolve())
        raise ValueError("enough")

    monkeypatch.setattr("rankpg.runs.run.prepare", stop)
    file = trained[0] / "config.yaml"
    assert call("train", "--config", file, "--preset", "paper") == 2
    assert call("train", "--config", file, "--estimator", "v_pg") == 2
    assert call("train", "--config", file, "--learning-rate", 0.5) == 2
    paper, v_pg, faster = seen
    assert (paper.optimizer, paper.init_scale, paper.num_candidates) == ("adagrad", 1.0, 3)
    assert v_pg == TrainConfig(estimator="v_pg", preset="tuned", **others(v_pg)).resolve()
    assert (faster.learning_rate, faster.optimizer, faster.init_scale) == (0.5, "adam", 0.1)


def others(config: TrainConfig) -> dict:
    """Returns the settings that neither the preset nor the estimator decides."""
    decided = {
        *("estimator", "preset", "init_scale", "optimizer", "optimizer_options"),
        *("learning_rate", "adaptive_learning_rate"),
    }
    return {k: v for k, v in config.to_dict().items() if k not in decided}


def test_help_lists_every_setting_with_its_default(capsys):
    assert call("train", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TrainConfig):
        assert f"{flag(field.name)} " in text or f"{flag(field.name)}," in text, field.name
    for part in ("--config", "--out", "--resume", "[20000]", "[from the preset]", "--no-adaptive-"):
        assert part in text, part
    assert call("--help") == 0
    assert "evaluate" in capsys.readouterr().out


@pytest.mark.slow
def test_the_module_is_a_program(tmp_path):
    """Runs from any folder and ends with the exit code of the command."""
    command = [sys.executable, "-m", "rankpg", "train", "--num-candidates", "0"]
    where = {
        "PYTHONPATH": str(Path(rankpg.__file__).parents[1]),
        "PATH": "",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=where, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == "rankpg: --num-candidates 0; expected at least 1\n"
    assert done.stdout == ""


@pytest.mark.slow
def test_import_is_light():
    """Plots, tables and files of other libraries are imported where they are needed."""
    program = "import sys, rankpg; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"matplotlib", "pandas", "pyarrow", "faiss", "wandb", "lightgbm"}


def test_installed_command_is_the_main_function():
    import importlib.metadata

    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="rankpg")
    assert entry.load() is main


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("unknown backend")])
def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, capsys, error):
    """JAX raises either of them, according to the packages that are installed."""

    def fail(*_):
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("rankpg.cli.train.train", fail)
    with pytest.raises(type(error)):  # the devices are there: it is another error
        call("train", "--num-steps", "2")
    monkeypatch.setattr(jax, "devices", fail)
    capsys.readouterr()
    assert call("train", "--num-steps", "2") == 2
    said = capsys.readouterr().err
    assert "rankpg: JAX_PLATFORMS=cuda names a device that is not there" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("reached", "code"), [(True, 0), (False, 3)])
def test_an_index_that_finds_too_little_is_an_exit_code(monkeypatch, tmp_path, reached, code):
    def export(run, out, **_):
        out.mkdir()
        (out / "CARD.md").write_text("# card\n\n## Data\n")
        entries = {"faiss": {"reached": True}, "usearch": {"reached": reached}}
        (out / "export.json").write_text(json.dumps({"indexes": entries}))
        return out

    monkeypatch.setattr("rankpg.export.folder.export", export)
    monkeypatch.setattr("rankpg.runs.storage.load.load_run", lambda *_, **__: None)
    assert call("export", tmp_path / "run", "--out", tmp_path / "out") == code
