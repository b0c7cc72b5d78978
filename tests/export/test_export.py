"""An export answers as the policy it came from, and its files are what the manifest says; the real FAISS,
usearch, safetensors and jax.export."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rankpg import ConfigError, TrainConfig
from rankpg.cli.main import main
from rankpg.core.sampling import greedy_candidates, slot_experts
from rankpg.encoders import Encoder
from rankpg.environments.from_ratings import from_matrix, from_triples
from rankpg.export.folder import export
from rankpg.export.indexes import FaissIndex, UsearchIndex
from rankpg.export.recall import choose_effort, exact_orders, exact_rows, measure, merge, overlap
from rankpg.runs.run import prepare
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train
from rankpg.types import Embeddings

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "examples" / "serve.py"
Server = runpy.run_path(str(SCRIPT))["Server"]
USERS, ITEMS, K = [f"user {i}" for i in range(12)], 3 * np.arange(300) + 2**53, 7

TOWERS = {
    "ids": {"context_tower": "ids", "item_tower": "ids"},
    "features": {"context_tower": "features", "item_tower": "features", "hidden": (8,)},
    "adapter": {"context_tower": "adapter", "item_tower": "given", "hidden": ()},
    "bfloat16": {"table_dtype": "bfloat16"},
}


def make_data(**more):
    rng = np.random.default_rng(0)
    return from_matrix(
        rng.gamma(1.0, size=(len(USERS), len(ITEMS))), context_ids=USERS, item_ids=ITEMS,
        context_features=rng.normal(size=(len(USERS), 5)),
        item_features=rng.normal(size=(len(ITEMS), 5)), **more,
    )  # fmt: skip


def make_run(data=None, **settings):
    """At its start, which is as good as any other parameters."""
    base = {
        "num_candidates": K,
        "num_steps": 1,
        "seeds": (0, 4),
        "init_scale": 1.0,
        "temperature": 0.3,
    }
    return prepare(TrainConfig(**{**base, **settings}), data or make_data())


def inputs(run, server):
    """All contexts, as this server takes them."""
    features = server.manifest["context_tower"]["takes"] == "features"
    return np.asarray(run.environment.context_features) if features else USERS


def manifest_of(folder):
    return json.loads((folder / "export.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory, as_a_user):
    """Runs and their exports by towers, M and whether search is exact; made when they are first asked for."""
    made = {}

    def get(towers="ids", experts=3, exact_below=0):
        key = towers, experts, exact_below
        if key not in made:
            run = make_run(num_experts=experts, **TOWERS[towers])
            folder = tmp_path_factory.mktemp("exports") / "-".join(map(str, key))
            made[key] = run, export(run, folder, exact_below=exact_below)
        return made[key]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("towers", ["ids", "features", "adapter"])
def test_exact_search_gives_the_candidates_of_the_run(exported, towers, experts):
    run, folder = exported(towers, experts)
    server = Server(folder)
    found = server.candidates(inputs(run, server))
    np.testing.assert_array_equal(found, run.candidates(USERS))


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 3])
def test_tables_of_few_bits_give_candidates_that_are_as_good(exported, experts):
    """Which of two rounded logits is larger is XLA's choice: it may round a product's factor, or not."""
    run, folder = exported("bfloat16", experts)
    server = Server(folder)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    logits = run.policy.logits(params, run.environment, jnp.arange(len(USERS), dtype=jnp.int32))
    found, wanted = (
        np.take_along_axis(np.asarray(logits)[:, slot_experts(run.policy.quotas)],
                           rows[:, :, None], axis=2)
        for rows in (server.rows(USERS), run.dataset.item_ids.rows(run.candidates(USERS)))
    )  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=2**-7)
    assert (found == wanted).mean() > 0.9


@pytest.mark.parametrize("search", ["faiss", "usearch"])
def test_an_index_over_few_items_is_exact(exported, search):
    run, folder = exported("ids", 3, exact_below=1000)
    assert manifest_of(folder)["indexes"][search]["kind"] == "flat"
    np.testing.assert_array_equal(Server(folder, search).candidates(USERS), run.candidates(USERS))


@pytest.mark.parametrize("search", ["faiss", "usearch"])
def test_the_other_seed_is_served_where_it_was_asked_for(tmp_path, search):
    run = make_run()
    folder = export(run, tmp_path / "out", seed=4, index=search)
    assert [*manifest_of(folder)["indexes"]] == [search]
    found = Server(folder, search).candidates(USERS)
    np.testing.assert_array_equal(found, run.candidates(USERS, seed=4))
    assert (found != run.candidates(USERS)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "kind", "least"), [("faiss", "ivf", 8), ("usearch", "hnsw", 64)]
)
def test_recall_of_an_approximate_index_is_what_the_manifest_says(tmp_path, search, kind, least):
    """Width 32 and 3000 items at the least effort, so that it is not 1."""
    rng = np.random.default_rng(1)
    data = from_matrix(rng.gamma(1.0, size=(40, 3000)))
    run = make_run(data, embedding_dim=32, num_candidates=60, num_experts=2, seeds=(0,))
    folder = export(run, tmp_path / "out", index=search, exact_below=0, recall=1e-9)
    told = manifest_of(folder)["indexes"][search]
    assert (told["kind"], told["effort"], told["depth"]) == (kind, least, 60)
    judged = np.arange(0, 40, 2)  # effort was chosen on the others
    assert told["recall"]["contexts"] == len(judged)
    served, exact = (Server(folder, how).candidates(judged) for how in (search, "exact"))
    np.testing.assert_array_equal(exact, run.candidates(judged))
    recall = np.mean(
        [len({*a} & {*b}) / 60 for a, b in zip(served.tolist(), exact.tolist(), strict=True)]
    )
    assert told["recall"]["candidates"] == pytest.approx(recall, abs=1e-6)
    assert 0.3 < recall < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "of"), [("ivf", FaissIndex), ("hnsw", FaissIndex), ("hnsw", UsearchIndex)]
)
def test_more_effort_finds_more(kind, of):
    rng = np.random.default_rng(2)
    items = rng.normal(size=(1, 4000, 48)).astype(np.float32)
    queries = rng.normal(size=(50, 1, 48)).astype(np.float32)
    exact = exact_rows(queries, items, 60)
    brute = np.argsort(-(queries[:, 0] @ items[0].T), axis=1, kind="stable")[:, :60]
    np.testing.assert_array_equal(exact[:, 0], brute)
    index = of(items[0], kind)
    low = choose_effort([index], queries, exact, 1e-9)
    at_low = measure([index], queries, exact, (60,))
    high = choose_effort([index], queries, exact, 0.995)
    at_high = measure([index], queries, exact, (60,))
    assert low == index.efforts[0] < high
    assert at_low["candidates"] < 0.995 <= at_high["candidates"] == at_high["experts"][0]


def test_candidates_from_embeddings_are_the_greedy_ones(monkeypatch):
    """Blocks and a rest, ties within and between them, -0.0, quotas of 0, and duplicates between experts."""
    monkeypatch.setattr("rankpg.export.recall._ROWS", 50)
    rng = np.random.default_rng(3)
    items = rng.integers(-1, 2, size=(3, 230, 2)).astype(np.float32)  # nearly all are ties
    items[:, 90:110] = rng.normal(size=(1, 20, 2)) * 3  # experts like the same items
    contexts = rng.normal(size=(4, 3, 2)).astype(np.float32)
    contexts[0] *= -0.0
    logits = jnp.einsum("bmd,mnd->bmn", contexts, items, precision="highest")
    for quotas in ((5, 4, 3), (1, 0, 11)):
        orders = jax.jit(exact_orders, static_argnums=2)(contexts, items, 12)
        wanted = jax.jit(jax.vmap(partial(greedy_candidates, quotas=quotas)))(logits)
        np.testing.assert_array_equal(merge(orders, quotas), wanted)


def test_the_servers_merge_handles_duplicates():
    fill = runpy.run_path(str(SCRIPT))["fill_slots"]
    orders = [np.array([[4, 1, 2, 0]]), np.array([[1, 4, 3, 2]]), np.array([[4, 3, 1, 9]])]
    assert fill(orders, [2, 1, 1]).tolist() == [[4, 1, 3, 9]]
    assert fill(orders, [1, 0, 3]).tolist() == [[4, 3, 1, 9]]


def test_overlap_counts_what_was_not_found():
    assert overlap(np.array([[[1, -1]]]), np.array([[[2, 1]]])) == [0.5]


def test_ids_come_out_exactly(exported):
    _, folder = exported()
    assert json.loads((folder / "items.json").read_text()) == ITEMS.tolist()
    assert json.loads((folder / "contexts.json").read_text()) == USERS
    assert Server(folder).candidates(USERS[:1]).tolist()[0][0] in ITEMS.tolist()


def test_strings_of_any_kind_are_ids(tmp_path):
    odd = ['"; rm -rf /', "../../etc/passwd", "ü\n\t", "\U0001f600", "1"]
    data = from_triples(odd, odd, [1.0] * 5)
    run = make_run(data, num_candidates=2, seeds=(0,))
    folder = export(run, tmp_path / "out", index="none")
    np.testing.assert_array_equal(Server(folder).candidates(odd), run.candidates(odd))


def test_integers_of_any_size_are_ids(tmp_path):
    """NumPy would make floats of a list of them."""
    ids = np.array([1, 2**63 + 5, 2**64 - 1, 2**63 + 6, 8], np.uint64)
    data = from_matrix(np.eye(5), context_ids=ids, item_ids=ids)
    run = make_run(data, num_candidates=3, seeds=(0,))
    server = Server(export(run, tmp_path / "out", index="none", platforms=("cpu",)))
    wanted = run.candidates(ids).tolist()
    assert server.candidates(ids).tolist() == wanted
    assert server.candidates(ids.tolist()).tolist() == wanted
    assert all(type(x) is int for x in server.candidates(ids[:1])[0])
    with pytest.raises(ValueError, match="unknown context"):
        server.candidates(ids.astype(float))


@pytest.fixture(scope="module")
def with_integers(tmp_path_factory, as_a_user):
    """A run whose contexts are integers, and its export."""
    ids = np.array([7, 2**63, 9, 10, 11], np.uint64)
    run = make_run(from_matrix(np.eye(5), context_ids=ids), num_candidates=3)
    folder = tmp_path_factory.mktemp("integers") / "out"
    return run, export(run, folder, index="none", platforms=("cpu",))


def test_the_script_takes_integers_as_the_shell_has_them(with_integers, capsys):
    run, folder = with_integers
    main_of_script = runpy.run_path(str(SCRIPT))["main"]
    assert main_of_script([str(folder), "--contexts", str(2**63), "9"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == run.candidates(np.array([2**63, 9], np.uint64)).tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/none", "--contexts", "7"], "is no export: it has no export.json"),
        (["{folder}", "--contexts", "7", "ann"], "unknown context 'ann'"),
        (["{folder}", "--contexts", "7", "--search", "faiss"], "no index of faiss"),
        (["{folder}", "--features", "{folder}/none.npy"], "give --contexts"),
    ],
)
def test_what_the_script_cannot_answer_is_one_line(with_integers, capsys, arguments, words):
    told = [text.format(folder=with_integers[1]) for text in arguments]
    assert runpy.run_path(str(SCRIPT))["main"](told) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)


def test_ids_that_json_does_not_hold_are_refused(tmp_path):
    data = from_triples([0.5, 1.5], ["a", "b"], [1.0, 2.0])
    with pytest.raises(ConfigError, match=r"context id 0\.5 is a float"):
        export(make_run(data, num_candidates=1), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_the_context_tower_carries_its_parameters_once(exported):
    """As arguments: no table inside the program, no items, and one file for three platforms."""
    run, folder = exported()
    parameters = load_file(folder / "context_tower.safetensors")
    assert {k: v.shape for k, v in parameters.items()} == {"params.contexts.table": (3, 12, 10)}
    program = jax.export.deserialize(bytearray((folder / "context_tower.bin").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    assert "3x12x10" in text
    assert f"{len(ITEMS)}x" not in text
    assert "dense<[" not in text
    (table,) = (leaf[0] for leaf in jax.tree.leaves(run.state.params["contexts"]))
    for rows in ([3], [0, 5, 5, 11]):  # any number of contexts
        found = program.call(parameters, np.array(rows, np.int32))
        np.testing.assert_allclose(found, table[:, rows].swapaxes(0, 1) / 0.3, rtol=1e-6)


def test_the_temperature_is_in_the_product(exported):
    run, folder = exported("features", 3)
    server = Server(folder)
    queries = server.program.call(server.parameters, server.inputs(inputs(run, server)))
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    contexts = jnp.arange(len(USERS), dtype=jnp.int32)
    wanted = run.policy.logits(params, run.environment, contexts)
    found = np.einsum("bmd,mnd->bmn", queries, server.items)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_file_has_its_sum(exported):
    _, folder = exported()
    manifest = manifest_of(folder)
    files = {file.name for file in folder.iterdir()} - {"export.json"}
    assert {*manifest["sums"]} == files
    for name in files:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert manifest["sums"][name] == digest
    assert manifest["data"] == exported()[0].dataset.fingerprint()
    assert (manifest["merge"]["quotas"], manifest["num_candidates"]) == ([3, 2, 2], K)


@pytest.mark.parametrize("damage", ["changed", "missing", "more"])
def test_a_damaged_export_is_not_served(exported, tmp_path, damage):
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


def test_the_card_says_what_it_is(exported):
    run, folder = exported()
    text = (folder / "CARD.md").read_text()
    for line in (
        "M = 3, N = 300, D = 10, K = 7", "usearch (hnsw", f"numbers: {run.dataset.fingerprint()['numbers']}",
        "temperature: 0.3", f"jax: {jax.__version__}", "never evaluated", "## Limits",
    ):  # fmt: skip
        assert line in text


def test_the_card_of_data_in_memory_has_no_settings_of_a_generated_problem(exported):
    text = (exported()[1] / "CARD.md").read_text()
    assert "- data of your own, 300 items, 12 contexts" in text
    for line in ("environment: synthetic", "num_items: ", "num_contexts: ", "num_features: "):
        assert f"- {line}" not in text


def test_the_card_of_a_generated_problem_has_all_settings(tmp_path):
    run = prepare(TrainConfig(num_contexts=5, num_items=6, num_candidates=2, num_steps=1))
    text = (export(run, tmp_path / "out", index="none") / "CARD.md").read_text()
    assert "of your own" not in text
    assert all(f"- {line}" in text for line in ("environment: synthetic", "num_items: 6"))


@pytest.mark.slow
def test_the_card_of_a_changed_catalogue_says_whose_figures_it_has(tmp_path):
    config = TrainConfig(num_candidates=K, num_steps=2, eval_every=2, seeds=(0,))
    run = train(config, make_data()).without_items(ITEMS[:5])
    text = (export(run, tmp_path / "out", index="none") / "CARD.md").read_text()
    assert "N = 295" in text
    assert "- data of your own, 295 items, 12 contexts" in text
    assert f"policy_value: {run.metrics[-1]['policy_value']:.5g}" in text
    assert (
        "these figures are those of training, on the catalogue and the contexts of that time"
        in text
    )
    assert "nothing of items and contexts that came or went" in text


def test_masks_are_spoken_of(tmp_path):
    data = make_data(eligible=np.random.default_rng(0).uniform(size=(len(USERS), len(ITEMS))) < 0.5)
    folder = export(make_run(data), tmp_path / "out", index="none")
    assert manifest_of(folder)["masks"]
    assert "Training masked items by context" in (folder / "CARD.md").read_text()


@pytest.mark.parametrize("towers", ["ids", "features and ids"])
@pytest.mark.parametrize("search", ["exact", "faiss", "usearch"])
def test_items_that_were_taken_out_are_not_in_the_export(changed, towers, search):
    """They were the best of every context."""
    run, gone, folder = changed[towers]
    server = Server(folder, search)
    found = server.candidates(inputs(run, server))
    np.testing.assert_array_equal(found, run.candidates(USERS))
    assert not np.isin(found, gone).any()
    assert not set(gone) & set(json.loads((folder / "items.json").read_text()))
    assert (manifest_of(folder)["num_items"], server.items.shape[1]) == (300 - len(gone),) * 2
    assert not manifest_of(folder)["masks"]


@pytest.fixture(scope="module")
def changed(tmp_path_factory, as_a_user):
    """Two runs of two experts, what was taken out of each, and their exports."""
    made = {}
    for name, context_tower in (("ids", "ids"), ("features and ids", "features")):
        whole = make_run(num_experts=2, context_tower=context_tower, item_tower="ids")
        gone = np.unique(whole.candidates(USERS)[:, 0]).tolist()
        run = whole.without_items(gone[:1]).without_items(gone[1:])
        folder = tmp_path_factory.mktemp("changed") / name
        made[name] = run, gone, export(run, folder, platforms=("cpu",))
    return made


def test_an_encoder_of_your_own_is_read_off_its_program(tmp_path):
    """Functions with a table that only items read, one that only contexts read, and one that both read."""

    def init(key):
        tables = zip(("users", "items", "both"), jax.random.split(key, 3), strict=True)
        return {name: jax.random.normal(k, (300, 4)) for name, k in tables}

    def apply(params, contexts):
        users = params["users"][contexts] @ params["both"][:4]
        items = params["items"] + params["both"]
        return Embeddings(contexts=users[:, None], items=items[None])

    config = TrainConfig(num_candidates=K, num_steps=1, seeds=(0,))
    run = prepare(config, make_data(), encoder=Encoder(init, apply))
    folder = export(run, tmp_path / "out", index="none")
    assert {*load_file(folder / "context_tower.safetensors")} == {"params.users", "params.both"}
    np.testing.assert_array_equal(Server(folder).candidates(USERS), run.candidates(USERS))


class TestRefused:
    def test_logits(self, tmp_path):
        encoder = Encoder(
            lambda key: jax.random.normal(key, (12, 300)),
            lambda params, rows: params[rows][:, None],
        )
        run = prepare(TrainConfig(num_candidates=K, num_steps=1), make_data(), encoder=encoder)
        with pytest.raises(ConfigError, match="answers logits and no embeddings"):
            export(run, tmp_path / "out")

    def test_a_tower_over_features_that_reads_ids_too(self, tmp_path):
        def apply(params, contexts, features):
            rows = features[contexts] @ params[:5] + params[contexts]
            return Embeddings(contexts=rows[:, None], items=params[None])

        encoder = Encoder(
            lambda key: jax.random.normal(key, (300, 5)),
            apply,
            lambda world: world.context_features,
        )
        run = prepare(TrainConfig(num_candidates=K, num_steps=1), make_data(), encoder=encoder)
        with pytest.raises(ConfigError, match="must read nothing else of a context"):
            export(run, tmp_path / "out")

    def test_parameters_that_are_not_finite(self, tmp_path):
        run = make_run()
        run.state = run.state.replace(
            params=jax.tree.map(lambda leaf: leaf.at[1, 0, 0].set(jnp.nan), run.state.params)
        )
        with pytest.raises(ConfigError, match=r"parameters .*contexts.* of seed 4 are not finite"):
            export(run, tmp_path / "out", seed=4)
        assert export(run, tmp_path / "out", seed=0, index="none").exists()

    @pytest.mark.parametrize("what", ["file", "folder", "link to nowhere"])
    def test_what_is_there_already(self, tmp_path, what):
        out = tmp_path / "out"
        if what == "file":
            out.write_text("mine")
        elif what == "folder":
            out.mkdir()
        else:
            out.symlink_to(tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="exists already"):
            export(make_run(), out)
        assert [*tmp_path.iterdir()] == [out]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"seed": 9}, "--seed 9 was not trained"),
            ({"index": "annoy"}, "--index is annoy"),
            ({"platforms": ("rocm",)}, "--platforms is rocm"),
            ({"platforms": ()}, "--platforms is empty"),
            ({"recall": 1.5}, r"--recall is 1\.5"),
        ],
        ids=str,
    )
    def test_settings(self, tmp_path, settings, words):
        with pytest.raises(ConfigError, match=words):
            export(make_run(), tmp_path / "out", **settings)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.slow
    def test_a_disk_that_is_full(self, tmp_path):
        """A limit on the size of a file, in a process of its own: the folder is not there afterwards."""
        code = (
            "import resource, signal, sys, numpy as np, rankpg\n"
            "from rankpg.runs.run import prepare\n"
            "data = rankpg.environments.from_matrix(np.eye(40))\n"
            "run = prepare(rankpg.TrainConfig(num_candidates=2, num_steps=1, seeds=(0,)), data)\n"
            "sys.dont_write_bytecode = True  # half a .pyc would outlive this test\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try: rankpg.export.export(run, sys.argv[1])\n"
            "except rankpg.ConfigError as error: print(error)\n"
        )
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
        answer = run_python("-c", code, tmp_path / "out")
        assert "out cannot be written" in answer.stdout, answer.stderr
        assert not [*tmp_path.iterdir()]


def run_python(*arguments, blocked=()):
    """In a process of its own where the blocked modules cannot be imported."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    if blocked:
        hook = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
        starter = "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
        arguments = ("-c", hook + starter, *arguments)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_the_server_runs_without_the_library(exported, tmp_path):
    """Nor flax, optax, orbax: in a process where importing them fails."""
    strangers = ("rankpg", "flax", "optax", "orbax", "chex", "yaml", "pyarrow")
    run, folder = exported("features", 1, exact_below=1000)
    features = np.asarray(run.environment.context_features)[:3]
    np.save(tmp_path / "features.npy", features)
    blocked = run_python(SCRIPT, folder, "--features", tmp_path / "features.npy", "--search", "faiss",
                         blocked=(*strangers, "usearch"))  # fmt: skip
    assert blocked.returncode == 0, blocked.stderr
    answers = [json.loads(line) for line in blocked.stdout.splitlines()]
    assert answers == run.candidates(USERS[:3]).tolist()
    # The negative control: what it does need cannot be missing.
    assert run_python(SCRIPT, folder, "--features", tmp_path / "features.npy",
                      blocked=("safetensors",)).returncode != 0  # fmt: skip


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['flatbuffers'] = None\n"  # before jax looks for it
        "import numpy as np, rankpg\n"
        "from rankpg.runs.run import prepare\n"
        "data = rankpg.environments.from_matrix(np.eye(4))\n"
        "run = prepare(rankpg.TrainConfig(num_candidates=2, num_steps=1, seeds=(0,)), data)\n"
        "for name in sys.argv[2:]:\n"
        "    sys.modules[name] = None\n"
        "    try: rankpg.export.export(run, sys.argv[1])\n"
        "    except ImportError as error: print(error)\n"
        "    if name != 'flatbuffers': del sys.modules[name]\n"
    )
    packages = ("faiss", "usearch", "safetensors", "flatbuffers")
    answer = run_python("-c", code, tmp_path / "out", *packages)
    lines = answer.stdout.splitlines()
    assert len(lines) == len(packages), answer.stderr
    for package, line in zip(packages, lines, strict=True):
        assert package in line
        assert "pip install 'rankpg[export]'" in line
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
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


def test_a_generated_problem_has_row_numbers(tmp_path):
    sizes = {"num_contexts": 20, "num_items": 60, "num_candidates": 5, "num_experts": 3}
    run = prepare(TrainConfig(**sizes, num_steps=20, eval_every=20, seeds=(0,)))
    out = export(run, tmp_path / "out", index="none")
    found = Server(out).candidates(range(20))
    np.testing.assert_array_equal(found, run.candidates(range(20)))
    assert manifest_of(out)["data"] is None
