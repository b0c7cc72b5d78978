"""Embeddings that were trained elsewhere: files, ids, alignment, and what is refused."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest

from rankpg.data.embeddings import EmbeddingTable, embedding_tables, encode_texts
from rankpg.data.ids import IdMap, TableError

RNG = np.random.default_rng(0)
ITEMS = RNG.normal(size=(5, 3)).astype(np.float32)
USERS = RNG.normal(size=(4, 3)).astype(np.float32)
ITEM_IDS, USER_IDS = np.array([30, 10, 50, 20, 40]), np.array(["d", "a", "c", "b"])
ROWS = {"items": ITEMS, "users": USERS, "item_ids": ITEM_IDS, "user_ids": USER_IDS}


class Tensor:
    """A tensor as torch has it: NumPy takes it once it is detached, on the CPU and of a type NumPy has."""

    def __init__(self, values, state="on a GPU"):
        self.values, self.state = values, state

    def detach(self):
        return Tensor(self.values, "detached")

    def cpu(self):
        assert self.state == "detached"
        return Tensor(self.values, "bfloat16")

    def is_floating_point(self):
        return True

    def float(self):
        return Tensor(self.values, "float32")

    def __array__(self, dtype=None, copy=None):
        assert self.state == "float32"
        return self.values


@pytest.fixture
def torch(monkeypatch):
    """A package `torch` whose `load` unpickles, in place of the large one."""

    def load(path, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        content = path.read_bytes()
        if content.startswith(b"code"):
            raise pickle.UnpicklingError("Weights only load failed")
        if content.startswith(b"torn"):
            raise RuntimeError("PytorchStreamReader failed")
        return pickle.loads(content)

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load, Tensor=Tensor))


def in_order(found):
    """Rows of the items with the ids 10 to 50, and of the users a to d."""
    return (
        found.items.aligned(IdMap([10, 20, 30, 40, 50]), "item").rows,
        found.contexts.aligned(IdMap(["a", "b", "c", "d"]), "context").rows,
    )


def assert_aligned(found):
    items, users = in_order(found)
    np.testing.assert_array_equal(items, ITEMS[[1, 3, 0, 4, 2]])
    np.testing.assert_array_equal(users, USERS[[1, 3, 2, 0]])


# --- sources --------------------------------------------------------------------------------------


def write_ids(folder):
    np.savez(folder / "ids.npz", item_ids=ITEM_IDS, user_ids=USER_IDS)
    return folder / "ids.npz"


def test_npz_with_ids(tmp_path):
    np.savez(tmp_path / "all.npz", **ROWS)
    assert_aligned(embedding_tables(tmp_path / "all.npz"))


def test_arrays_by_name_and_arrays_with_ids():
    assert_aligned(embedding_tables(ROWS))
    assert_aligned(embedding_tables(ITEMS, USERS, item_ids=ITEM_IDS, context_ids=USER_IDS))


def test_saved_model_of_implicit_takes_ids_of_a_file(tmp_path):
    named = {"user_factors": USERS, "item_factors": ITEMS, "alpha": 1.0, "dtype": "float32"}
    np.savez(tmp_path / "als.npz", **named)
    assert_aligned(embedding_tables(str(tmp_path / "als.npz"), ids=write_ids(tmp_path)))


def test_npy_holds_items_alone(tmp_path):
    np.save(tmp_path / "items.npy", ITEMS.astype(np.float16))
    (tmp_path / "ids.txt").write_text("".join(f"{number}\n" for number in ITEM_IDS))
    found = embedding_tables(tmp_path / "items.npy", ids=tmp_path / "ids.txt")
    assert found.contexts is None
    rows = found.items.aligned(IdMap([20, 30]), "item").rows
    np.testing.assert_array_equal(rows, ITEMS[[3, 0]].astype(np.float16).astype(np.float32))


def test_safetensors_by_chosen_names(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    tensors = {"a.weight": ITEMS, "b.weight": USERS, "bias": ITEMS[0]}
    numpy.save_file(tensors, tmp_path / "m.safetensors")
    file = f"{tmp_path / 'm.safetensors'}::a.weight::b.weight"
    assert_aligned(embedding_tables(file, ids=write_ids(tmp_path)))


def test_state_dict_by_chosen_names(tmp_path, torch):
    state = {"epoch": 3, "state_dict": {"item.weight": Tensor(ITEMS), "user.weight": Tensor(USERS)}}
    (tmp_path / "m.pt").write_bytes(pickle.dumps(state))
    file = f"{tmp_path / 'm.pt'}::state_dict.item.weight::state_dict.user.weight"
    assert_aligned(embedding_tables(file, ids=write_ids(tmp_path)))


def test_real_state_dict_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict(
        {"item": torch.nn.Embedding(5, 3), "user": torch.nn.Embedding(4, 3)}
    )
    with torch.no_grad():
        model["item"].weight.copy_(torch.tensor(ITEMS))
        model["user"].weight.copy_(torch.tensor(USERS))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    file = f"{tmp_path / 'm.pt'}::item.weight::user.weight"
    assert_aligned(embedding_tables(file, ids=write_ids(tmp_path)))
    half = {"items": model["item"].weight.to(torch.bfloat16)}  # requires a gradient
    assert embedding_tables(half).items.rows.dtype == np.float32
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(TableError, match=r"whole\.pt: holds Python objects beside tensors"):
        embedding_tables(tmp_path / "whole.pt")


class Factors:
    def __init__(self, users, items):
        self.user_factors, self.item_factors = users, items


def test_model_with_factors_of_a_gpu():
    gpu = types.SimpleNamespace(to_numpy=lambda: ITEMS)
    found = embedding_tables(Factors(USERS, gpu), item_ids=ITEM_IDS, context_ids=USER_IDS)
    assert_aligned(found)
    with pytest.raises(TableError, match="Factors has no factors yet; fit it first"):
        embedding_tables(Factors(None, None))


class Encoder:
    def __init__(self, rows):
        self.rows = rows

    def encode(self, texts):
        assert isinstance(texts, list)
        return self.rows(texts)


def test_texts_are_embedded_by_their_ids():
    model = Encoder(lambda texts: np.array([[len(text), 1.0] for text in texts]))
    table = encode_texts(model, {7: "cat", 3: "mouse"})
    found = embedding_tables(table, encode_texts(model, {"q": "a"}, "context"))
    assert found.items.aligned(IdMap([3, 7]), "item").rows.tolist() == [[5, 1], [3, 1]]
    assert found.contexts.rows.tolist() == [[1, 1]]
    with pytest.raises(TableError, match=r"Encoder\.encode: 1 rows of embeddings and 2 item ids"):
        encode_texts(Encoder(lambda texts: np.ones((1, 2))), {7: "cat", 3: "mouse"})


def test_real_sentence_transformer():
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    package = pytest.importorskip("sentence_transformers")
    model = package.SentenceTransformer(modules=[modules.BoW(vocab=["cat", "dog"])], device="cpu")
    table = encode_texts(model, {1: "dog", 2: "cat dog"})
    assert table.rows.tolist() == [[0, 1], [1, 1]]


# --- alignment ------------------------------------------------------------------------------------


def table(ids=ITEM_IDS, rows=ITEMS):
    return EmbeddingTable.of(rows, ids, "item", "mine.npz")


def test_ids_in_text_are_numbers_where_the_dataset_has_numbers():
    found = table(ITEM_IDS.astype(str)).aligned(IdMap([50, 10]), "item")
    np.testing.assert_array_equal(found.rows, ITEMS[[2, 1]])


def test_unused_rows_are_counted():
    found = table().aligned(IdMap([50, 10]), "item")
    assert found.notes == (
        "3 of 5 embeddings of mine.npz are of items that the dataset does not hold.",
    )


def test_missing_ids_are_refused_or_filled():
    known = IdMap([10, 60, 70, 80, 90])
    with pytest.raises(
        TableError,
        match=r"4 of 5 items have no embedding, such as 60, 70, 80; .*init_missing='mean'",
    ):
        table().aligned(known, "item")
    mean = table().aligned(known, "item", "mean")
    np.testing.assert_array_equal(mean.rows[0], ITEMS[1])
    np.testing.assert_allclose(mean.rows[1:], np.tile(ITEMS.mean(axis=0), (4, 1)), rtol=1e-6)
    assert "4 of 5 items, such as 60, 70, 80, have no embedding in mine.npz" in mean.notes[1]
    many = IdMap(np.arange(10, 10_000))
    once, again = (table().aligned(many, "item", "random").rows for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once[0], ITEMS[1])
    size = float(np.sqrt(np.mean(np.square(ITEMS))))
    assert np.std(once) == pytest.approx(size, rel=0.05)
    with pytest.raises(
        ValueError, match="init_missing='zero'; expected one of error, mean, random"
    ):
        table().aligned(known, "item", "zero")


def test_rows_without_ids_need_row_numbers_as_ids():
    plain = table(None)
    np.testing.assert_array_equal(plain.aligned(IdMap.of_range(5, "item"), "item").rows, ITEMS)
    with pytest.raises(TableError, match="5 rows of item embeddings; expected 6"):
        plain.aligned(IdMap.of_range(6, "item"), "item")
    with pytest.raises(
        TableError, match=r"item embeddings without ids, .*give item_ids=.*init_ids="
    ):
        plain.aligned(IdMap([10, 20, 30, 40, 50]), "item")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "ids", "words"),
    [
        (np.where(np.arange(15).reshape(5, 3) == 7, np.nan, ITEMS), ITEM_IDS,
         "the embedding of item 50 holds nan in column 1"),
        (np.full((5, 3), 1e39), None, "the embedding of row 0 holds inf in column 0"),
        (ITEMS, [30, 10, 50, 10, 40], "item id 10 occurs twice"),
        (ITEMS, [30, 10], "5 rows of embeddings and 2 item ids; expected one id for each row"),
        (ITEMS, ["a", "", "b", "c", "d"], r"row 1 .*the id is empty"),
        (np.arange(15).reshape(5, 3), ITEM_IDS, r"int64 of shape \[5, 3\]; expected floats"),
        (ITEMS[0], None, r"float32 of shape \[3\]; expected floats of shape \[number of items, D\]"),
        ([[1.0], [1.0, 2.0]], None, "the embeddings are not a matrix"),
        ("none", None, "expected floats"),
    ],
)  # fmt: skip
def test_rows_and_ids_that_cannot_be_used(rows, ids, words):
    with pytest.raises(TableError, match=f"^mine.npz: .*{words}"):
        table(ids, rows)


def test_no_common_id_shows_both_kinds():
    words = r"no item of the dataset has an embedding: .* such as 30, 10, 50, .* such as 'x', 'y'"
    with pytest.raises(TableError, match=words):
        table().aligned(IdMap(["x", "y"]), "item", "mean")


def test_widths_must_agree():
    found = embedding_tables(ITEMS, USERS[:, :2])
    with pytest.raises(TableError, match="item embeddings have width 3, those of contexts 2"):
        found.width()


@pytest.mark.parametrize(
    ("arrays", "ending", "words"),
    [
        (
            {"vectors": ITEMS},
            "",
            r"none of its arrays is named items or item_factors; found: 'vectors'",
        ),
        ({"vectors": ITEMS}, "::vector", r"no array is named 'vector'; did you mean 'vectors'\?"),
        ({"vectors": ITEMS}, "::a::b::c", "expected FILE, FILE::ITEMS or FILE::ITEMS::CONTEXTS"),
        ({"items": np.array([object()])}, "", "pickled Python objects"),
    ],
)
def test_arrays_that_a_file_lacks(tmp_path, arrays, ending, words):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(TableError, match=words):
        embedding_tables(f"{tmp_path / 'some.npz'}{ending}")


def test_files_that_cannot_be_read(tmp_path, torch):
    def refused(name, content, words, **more):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=words):
            embedding_tables(tmp_path / name, **more)

    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        embedding_tables(tmp_path / "none.npz")
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    refused("pickled.npy", (tmp_path / "pickled.npy").read_bytes(), "holds pickled Python objects")
    refused("empty.npz", b"", "the file is empty")
    refused("text.npz", b"hello", "not a NumPy file")
    refused("some.bin", b"hello", r"unknown extension '\.bin': expected one of \.npy, \.npz")
    refused("code.pt", b"code", "holds Python objects beside tensors")
    refused("torn.pt", b"torn", "damaged torch file: PytorchStreamReader failed")
    refused("list.pth", pickle.dumps([1]), "holds a list without named tensors")
    np.save(tmp_path / "items.npy", ITEMS)
    with pytest.raises(TableError, match="has one array without a name"):
        embedding_tables(f"{tmp_path / 'items.npy'}::items")
    np.savez(tmp_path / "no_ids.npz", ids=ITEM_IDS)
    with pytest.raises(
        TableError, match=r"holds no ids; expected arrays named item_ids.*found: 'ids'"
    ):
        embedding_tables(tmp_path / "items.npy", ids=tmp_path / "no_ids.npz")


def test_safetensors_that_cannot_be_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    (tmp_path / "torn.safetensors").write_bytes(b"hello, hello")
    with pytest.raises(TableError, match="damaged safetensors file"):
        embedding_tables(tmp_path / "torn.safetensors")
    numpy.save_file({"items": ITEMS.astype(ml_dtypes.bfloat16)}, tmp_path / "half.safetensors")
    with pytest.raises(TableError, match="the tensor 'items' is BF16; convert it to float32"):
        embedding_tables(tmp_path / "half.safetensors")


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.pt").write_bytes(b"x")
    with pytest.raises(
        ModuleNotFoundError, match="reading a state dict needs torch: pip install torch"
    ):
        embedding_tables(tmp_path / "m.pt")
