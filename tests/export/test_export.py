"""An export returns the candidates of its run; the real safetensors and jax.export."""

from __future__ import annotations

import hashlib
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.exports import (
    ITEMS,
    USERS,
    K,
    Server,
    inputs,
    make_data,
    make_run,
    manifest_of,
    run_python,
)
from safetensors.numpy import load_file

from rankpg import ConfigError, TrainConfig
from rankpg.core.quotas import slot_experts
from rankpg.encoders import Encoder
from rankpg.environments.from_ratings import from_matrix, from_triples
from rankpg.export.folder import export
from rankpg.runs.run import prepare
from rankpg.types import Embeddings

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("towers", ["ids", "features", "adapter"])
def test_exact_search_matches_run_candidates(exported, towers, experts):
    run, folder = exported(towers, experts)
    server = Server(folder)
    found = server.candidates(inputs(run, server))
    np.testing.assert_array_equal(found, run.candidates(USERS))


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 3])
def test_bfloat16_candidates_have_equal_logits(exported, experts):
    """XLA may or may not round a factor of the product, so ties are broken differently."""
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


@pytest.mark.slow
@pytest.mark.parametrize("search", ["faiss", "usearch"])
def test_seed_argument_selects_the_exported_seed(tmp_path, search):
    run = make_run()
    folder = export(run, tmp_path / "out", seed=4, index=search)
    assert [*manifest_of(folder)["indexes"]] == [search]
    found = Server(folder, search).candidates(USERS)
    np.testing.assert_array_equal(found, run.candidates(USERS, seed=4))
    assert (found != run.candidates(USERS)).any()


@pytest.mark.slow
def test_ids_are_exported_exactly(exported):
    _, folder = exported()
    assert json.loads((folder / "items.json").read_text()) == ITEMS.tolist()
    assert json.loads((folder / "contexts.json").read_text()) == USERS
    assert Server(folder).candidates(USERS[:1]).tolist()[0][0] in ITEMS.tolist()


@pytest.mark.slow
def test_ids_can_be_any_strings(tmp_path):
    odd = ['"; rm -rf /', "../../etc/passwd", "ü\n\t", "\U0001f600", "1"]
    data = from_triples(odd, odd, [1.0] * 5)
    run = make_run(data, num_candidates=2, seeds=(0,))
    folder = export(run, tmp_path / "out", index="none")
    np.testing.assert_array_equal(Server(folder).candidates(odd), run.candidates(odd))


@pytest.mark.slow
def test_ids_can_be_64_bit_integers(tmp_path):
    """NumPy would turn a list of them into floats."""
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


def test_context_tower_takes_parameters_as_arguments(exported):
    """The program holds no tables and no items, and serves three platforms."""
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


@pytest.mark.slow
def test_inner_products_include_the_temperature(exported):
    run, folder = exported("features", 3)
    server = Server(folder)
    queries = server.program.call(server.parameters, server.inputs(inputs(run, server)))
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    contexts = jnp.arange(len(USERS), dtype=jnp.int32)
    wanted = run.policy.logits(params, run.environment, contexts)
    found = np.einsum("bmd,mnd->bmn", queries, server.items)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_manifest_has_checksum_of_every_file(exported):
    _, folder = exported()
    manifest = manifest_of(folder)
    files = {file.name for file in folder.iterdir()} - {"export.json"}
    assert {*manifest["checksums"]} == files
    for name in files:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert manifest["checksums"][name] == digest
    assert manifest["data"] == exported()[0].dataset.fingerprint()
    assert (manifest["merge"]["quotas"], manifest["num_candidates"]) == ([3, 2, 2], K)


@pytest.mark.slow
@pytest.mark.parametrize("towers", ["ids", "features and ids"])
@pytest.mark.parametrize("search", ["exact", "faiss", "usearch"])
def test_removed_items_are_not_exported(reduced_exports, towers, search):
    """The removed items were the best of every context."""
    run, gone, folder = reduced_exports[towers]
    server = Server(folder, search)
    found = server.candidates(inputs(run, server))
    np.testing.assert_array_equal(found, run.candidates(USERS))
    assert not np.isin(found, gone).any()
    assert not set(gone) & set(json.loads((folder / "items.json").read_text()))
    assert (manifest_of(folder)["num_items"], server.items.shape[1]) == (300 - len(gone),) * 2
    assert not manifest_of(folder)["masks"]


@pytest.fixture(scope="module")
def reduced_exports(tmp_path_factory, as_a_user):
    """Runs of two experts, the ids removed from each, and their exports."""
    made = {}
    for name, context_tower in (("ids", "ids"), ("features and ids", "features")):
        whole = make_run(num_experts=2, context_tower=context_tower, item_tower="ids")
        gone = np.unique(whole.candidates(USERS)[:, 0]).tolist()
        run = whole.without_items(gone[:1]).without_items(gone[1:])
        folder = tmp_path_factory.mktemp("changed") / name
        made[name] = run, gone, export(run, folder, platforms=("cpu",))
    return made


def test_custom_encoder_exports_only_context_parameters(tmp_path):
    """The encoder has one table for items, one for contexts, and one for both."""

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


class TestRejects:
    def test_encoder_that_returns_logits(self, tmp_path):
        encoder = Encoder(
            lambda key: jax.random.normal(key, (12, 300)),
            lambda params, rows: params[rows][:, None],
        )
        run = prepare(TrainConfig(num_candidates=K, num_steps=1), make_data(), encoder=encoder)
        with pytest.raises(ConfigError, match="returns logits, so there are no item embeddings"):
            export(run, tmp_path / "out")

    def test_feature_tower_that_also_reads_ids(self, tmp_path):
        def apply(params, contexts, features):
            rows = features[contexts] @ params[:5] + params[contexts]
            return Embeddings(contexts=rows[:, None], items=params[None])

        encoder = Encoder(
            lambda key: jax.random.normal(key, (300, 5)),
            apply,
            lambda world: world.context_features,
        )
        run = prepare(TrainConfig(num_candidates=K, num_steps=1), make_data(), encoder=encoder)
        with pytest.raises(ConfigError, match="gets context_features and nothing else"):
            export(run, tmp_path / "out")

    @pytest.mark.slow
    def test_nonfinite_parameters(self, tmp_path):
        run = make_run()
        run.state = run.state.replace(
            params=jax.tree.map(lambda leaf: leaf.at[1, 0, 0].set(jnp.nan), run.state.params)
        )
        with pytest.raises(ConfigError, match=r"parameters .*contexts.* of seed 4 are not finite"):
            export(run, tmp_path / "out", seed=4)
        assert export(run, tmp_path / "out", seed=0, index="none").exists()

    @pytest.mark.parametrize("what", ["file", "folder", "link to nowhere"])
    def test_existing_output(self, tmp_path, what):
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
            ({"seed": 9}, "seed=9 was not trained"),
            ({"index": "annoy"}, "index='annoy'; expected one of none, faiss, usearch, all"),
            ({"index": "both"}, "index='both'; expected one of none, faiss, usearch, all"),
            ({"platforms": ("rocm",)}, r"platforms=\('rocm',\)"),
            ({"platforms": ()}, r"platforms=\(\)"),
            ({"recall": 1.5}, r"recall=1\.5"),
        ],
        ids=str,
    )
    def test_invalid_arguments(self, tmp_path, settings, words):
        with pytest.raises(ConfigError, match=words):
            export(make_run(), tmp_path / "out", **settings)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.slow
    def test_full_disk(self, tmp_path):
        """Simulates a full disk by a limit on file size in a process of its own; no folder remains."""
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
        result = run_python("-c", code, tmp_path / "out")
        assert "out' cannot be written" in result.stdout, result.stderr
        assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_missing_package_is_named(tmp_path):
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
    result = run_python("-c", code, tmp_path / "out", *packages)
    lines = result.stdout.splitlines()
    assert len(lines) == len(packages), result.stderr
    for package, line in zip(packages, lines, strict=True):
        assert package in line
        assert "pip install 'rankpg[export]'" in line
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_generated_contexts_are_row_numbers(tmp_path):
    sizes = {"num_contexts": 20, "num_items": 60, "num_candidates": 5, "num_experts": 3}
    run = prepare(TrainConfig(**sizes, num_steps=20, eval_every=20, seeds=(0,)))
    out = export(run, tmp_path / "out", index="none")
    found = Server(out).candidates(range(20))
    np.testing.assert_array_equal(found, run.candidates(range(20)))
    assert manifest_of(out)["data"] is None
