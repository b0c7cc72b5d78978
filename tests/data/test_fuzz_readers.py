"""Every reader of files, on thousands of damaged ones: a result or a named error.

The mutations are drawn from a fixed seed: bytes are changed, cut out, repeated and replaced by text that
has a meaning in some format.
"""

from __future__ import annotations

import hashlib
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rankpg._utils.documents import DocumentError, parse_yaml, read_json
from rankpg.data.beir import read_ids, read_judgements
from rankpg.data.files import load_arrays
from rankpg.data.frame import frame_of
from rankpg.data.ids import TableError
from rankpg.data.interactions import read_interactions
from rankpg.data.read import read
from rankpg.errors import ConfigError
from rankpg.runs.storage import checkpoint, checkpoint_files, dataset_file
from rankpg.runs.storage.metrics_file import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COUNT = 2000
NAMED = (TableError, ConfigError, DocumentError, FileNotFoundError, checkpoint.CheckpointError)
TOKENS = [
    b"\0", b"\xff\xfe", b'"', b'""', b"'", b",", b";", b"\t", b"\n", b"\r\n", b"::", b"[" * 200, b"{" * 200,
    b"]", b"}", b"9" * 400, b"-1", b"1e400", b"NaN", b"Infinity", b"null", b"true", b"&a ", b"*a ", b"<<: ",
    b"!!python/name:os ", b"\x1b[31m", b"\xe2\x80\xae", b"\xc3", b"O", b"|O", b"(1,2", b"'descr'",
    b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"sep=;",
]  # fmt: skip


def mutations(content: bytes, seed: int, count: int = COUNT):
    """Yields damaged forms of the content, each by one to three changes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            start = int(rng.integers(len(damaged) + 1))
            end = min(len(damaged), start + int(rng.integers(1, 12)))
            kind = int(rng.integers(6))
            if kind == 0 and start < len(damaged):
                damaged[start] = int(rng.integers(256))
            elif kind == 1:
                del damaged[start:end]
            elif kind == 2:
                damaged[start:start] = TOKENS[int(rng.integers(len(TOKENS)))]
            elif kind == 3:
                damaged[start:end] = TOKENS[int(rng.integers(len(TOKENS)))]
            elif kind == 4:
                damaged[start:start] = damaged[start:end]
            elif rng.random() < 0.2:
                del damaged[start:]
        yield bytes(damaged)


def fuzz(file, reader, seed, count=COUNT):
    """Reads every mutation of a file, and checks the messages of those that are rejected."""
    content = file.read_bytes()
    messages: list[str] = []
    for damaged in mutations(content, seed, count):
        file.write_bytes(damaged)
        try:
            reader()
        except NAMED as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"{damaged!r}: {type(error).__name__}: {error}") from error
    file.write_bytes(content)
    reader()
    assert len(messages) > count / 20
    assert all(message.isprintable() for message in messages if message.isascii())
    assert max(map(len, messages)) < 3000


def test_npy(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(12.0).reshape(3, 4) + 1)
    fuzz(tmp_path / "m.npy", lambda: read(tmp_path / "m.npy"), 1)


def test_npz(tmp_path):
    arrays = {"user": np.array(["a", "b"]), "item": np.array([1, 2]), "value": np.array([0.5, 1])}
    np.savez_compressed(tmp_path / "t.npz", **arrays)
    fuzz(tmp_path / "t.npz", lambda: read(tmp_path / "t.npz"), 2, COUNT // 2)
    np.savez(tmp_path / "u.npz", **arrays)
    fuzz(tmp_path / "u.npz", lambda: load_arrays(tmp_path / "u.npz"), 3, COUNT // 2)


CSV = 'user,item,value,timestamp,title\nann,7,0.5,900,"a, b"\nbob,9,1.25,800,c\nbob,7,2,700,"two ""q"""\n'


@pytest.mark.parametrize("name", ["ratings.csv", "table.tsv", "log.dat"])
def test_text_tables(tmp_path, name):
    file = tmp_path / name
    separator = {".csv": ",", ".tsv": "\t", ".dat": "::"}[file.suffix]
    text = CSV.replace('"a, b"', "a").replace('"two ""q"""', "b") if separator == "::" else CSV
    file.write_text(text.replace(",", separator))
    readers = {
        "ratings.csv": lambda: read(file),
        "table.tsv": lambda: frame_of(file, "table"),
        "log.dat": lambda: read_interactions(file, columns={"value": "value"}),
    }
    fuzz(file, readers[name], 4)


def test_parquet(tmp_path):
    columns = {"user": ["a", "b", "b"], "item": [1, 2, 3], "value": [0.5, 1.0, 2.0]}
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), file, compression="none")
    fuzz(file, lambda: read(file), 5)


def collection(folder):
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"_id": f"{name[0]}{i}", "text": "x"}) + "\n" for i in range(3))
        )
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tc0\t1\nq1\tc2\t2\n")


def test_ids_of_text_collections(tmp_path):
    collection(tmp_path)
    fuzz(tmp_path / "corpus.jsonl", lambda: read_ids(tmp_path / "corpus.jsonl"), 6)


def test_judgements(tmp_path):
    collection(tmp_path)
    ids = {f"q{i}": i for i in range(3)}, {f"c{i}": i for i in range(3)}
    fuzz(tmp_path / "qrels.tsv", lambda: read_judgements([tmp_path / "qrels.tsv"], *ids), 7)


def test_yaml(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("environment: ratings\nseeds: [0, 1]\nhidden: &h [64]\nlearning_rate: 1.0e-2\n")
    fuzz(file, lambda: parse_yaml(file, yaml), 7)


def test_json(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(
        json.dumps({"context_ids": "ab" * 8, "n": [1, 2.5, None, True], "x": {"y": "é"}})
    )
    fuzz(file, lambda: read_json(file), 8)


def test_metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": s, "seed": 0, "policy_value": 0.25, "stopped_by": None} for s in (0, 5, 10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fuzz(file, lambda: read_metrics(file), 9)


def test_dataset_of_a_run(tmp_path):
    from rankpg.environments import from_matrix

    data = from_matrix([[1.0, 2.0]], item_ids=["a", "b"], item_features=[[0.5], [1.5]])
    dataset_file.save(tmp_path, data)
    for seed, name in enumerate((dataset_file.IDS, dataset_file.ARRAYS)):
        fuzz(tmp_path / name, lambda: dataset_file.load(tmp_path), 10 + seed, COUNT // 2)


def test_checkpoint(tmp_path):
    state = {"a": np.arange(4.0), "b": np.ones((2, 2), np.float32)}
    checkpoint.save(tmp_path, 5, state, metadata={"config": {"seeds": [0]}})
    folder = tmp_path / "5"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    each = -(-COUNT // (2 * len(files)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, file in enumerate(files):
            fuzz(file, lambda: checkpoint.find(tmp_path), 20 + seed, each)
        metadata = folder / checkpoint_files.METADATA
        manifest = (folder / checkpoint_files.CHECKSUMS).read_text()
        before = hashlib.sha256(metadata.read_bytes()).hexdigest()

        def with_its_checksum():
            now = hashlib.sha256(metadata.read_bytes()).hexdigest()
            (folder / checkpoint_files.CHECKSUMS).write_text(manifest.replace(before, now))
            return checkpoint.find(tmp_path)

        assert before in manifest
        fuzz(metadata, with_its_checksum, 40, COUNT // 2)
