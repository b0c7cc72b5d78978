"""Files of embeddings and of their ids: npy, npz, safetensors, and state dicts of torch."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rankpg.data.faults import in_one_line
from rankpg.data.files import check_file, load_arrays
from rankpg.data.id_types import typed_text
from rankpg.data.ids import TableError, text_array

__all__ = ["NAMES", "listed", "pick", "read_arrays", "read_ids"]

NAMES = {
    "items": ("items", "item_factors"),
    "contexts": ("contexts", "users", "user_factors"),
    "item_ids": ("item_ids",),
    "context_ids": ("context_ids", "user_ids"),
}
"""Names in a file of everything that is read."""

_MOST = 20
"""Names of arrays that a message lists."""

Found: TypeAlias = tuple[Mapping[str, Any], list[str]]
"""Arrays by name, and all names of the file."""


def listed(names: Collection[str]) -> str:
    """Returns names for a message, at most 20 of them."""
    some = ", ".join(map(repr, list(names)[:_MOST]))
    return (some or "none") + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def pick(arrays: Collection[str], every: list[str], chosen: Sequence[str]) -> dict[str, str]:
    """Returns what is read, and the name that it has among the arrays.

    Args:
      arrays: names that can be read.
      every: all names, for the message.
      chosen: names of the embeddings of the items and of the contexts; empty for the usual ones.

    Raises:
      TableError: a chosen name does not exist.

    >>> pick(["user_factors", "item_factors", "alpha"], [], ())
    {'items': 'item_factors', 'contexts': 'user_factors'}
    """
    found = {
        what: next(name for name in names if name in arrays)
        for what, names in NAMES.items()
        if any(name in arrays for name in names)
    }
    if not chosen:
        return found
    found = {what: name for what, name in found.items() if what.endswith("ids")}
    for what, name in zip(("items", "contexts"), chosen, strict=False):
        if name not in arrays:
            near = difflib.get_close_matches(name, every, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise TableError(f"no array is named {name!r}; {guess}found: {listed(every)}")
        found[what] = name
    return found


def read_arrays(path: str, chosen: Sequence[str]) -> dict[str, Any]:
    """Reads embeddings, and ids if there are any, by the names of `NAMES`.

    Args:
      path: the file.
      chosen: names of the embeddings of the items and of the contexts in it; empty for the usual ones.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: it cannot be read, or lacks the embeddings of the items.
    """
    if len(chosen) > 2 or not all(chosen):
        raise TableError(
            f"{'::'.join((path, *chosen))}: expected FILE, FILE::ITEMS or FILE::ITEMS::CONTEXTS"
        )
    file = check_file(path, _READERS)
    arrays, every = _READERS[file.suffix.lower()](file, [*sum(NAMES.values(), ()), *chosen])
    if file.suffix.lower() == ".npy":
        if chosen:
            raise TableError(f"{file}: an npy file has one array without a name; leave out '::'")
        return {"items": arrays[every[0]]}
    try:
        found = pick(arrays, every, chosen)
    except TableError as error:
        raise TableError(f"{file}: {error}") from None
    if "items" not in found:
        raise TableError(
            f"{file}: none of its arrays is named {' or '.join(NAMES['items'])}; found: {listed(every)}. "
            "Name that of the items, and that of the contexts if there is one: FILE::ITEMS or "
            "FILE::ITEMS::CONTEXTS"
        )
    return {what: arrays[name] for what, name in found.items()}


def read_ids(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the ids of embeddings, by the names `item_ids` and `context_ids`.

    Args:
      path: npz or safetensors with arrays of these names (or `user_ids`); npy, or txt with one id a line, of
        items alone.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: it cannot be read, or holds no ids.
    """
    file = check_file(path, (".txt", ".npy", ".npz", ".safetensors"))
    suffix = file.suffix.lower()
    if suffix == ".txt":
        try:
            lines = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError as cause:
            raise TableError(f"{file}: not text in UTF-8: {in_one_line(cause)}") from None
        return {"item_ids": typed_text(text_array(lines, str(file)))}
    arrays, every = _READERS[suffix](file, list(sum(NAMES.values(), ())))
    if suffix == ".npy":
        return {"item_ids": arrays[every[0]]}
    found = {what: name for what, name in pick(arrays, every, ()).items() if what.endswith("ids")}
    if not found:
        raise TableError(
            f"{file}: holds no ids; expected arrays named item_ids, and context_ids or user_ids; found: "
            f"{listed(every)}"
        )
    return {what: arrays[name] for what, name in found.items()}


def _of_safetensors(path: Path, wanted: Sequence[str]) -> Found:
    package = _package("safetensors", "a safetensors file", "pip install 'rankpg[export]'")
    try:
        with package.safe_open(path, framework="numpy") as file:
            every = list(file.keys())
            arrays = {}
            for name in set(every) & set(wanted):
                if file.get_slice(name).get_dtype() not in _NUMPY:
                    raise TableError(
                        f"{path}: the tensor {name!r} is {file.get_slice(name).get_dtype()}; convert it to "
                        "float32"
                    )
                arrays[name] = file.get_tensor(name)
            return arrays, every
    except package.SafetensorError as cause:
        raise TableError(f"{path}: damaged safetensors file: {in_one_line(cause)}") from cause


_NUMPY = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
"""Types of safetensors that NumPy has."""


def _of_torch(path: Path, wanted: Sequence[str]) -> Found:
    torch = _package("torch", "a state dict", "pip install torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # whatever a damaged file makes torch raise
        if type(cause).__name__ == "UnpicklingError":
            raise TableError(
                f"{path}: holds Python objects beside tensors, which are never loaded because they can run "
                "code: save torch.save(model.state_dict(), FILE)"
            ) from cause
        raise TableError(f"{path}: damaged torch file: {in_one_line(cause)}") from cause
    arrays = _flat(state, torch.Tensor)
    if not arrays:
        raise TableError(
            f"{path}: holds a {type(state).__name__} without named tensors; expected a state dict: save "
            "torch.save(model.state_dict(), FILE)"
        )
    return {name: arrays[name] for name in arrays if name in wanted}, list(arrays)


def _flat(state: Any, kind: type, before: str = "") -> dict[str, Any]:
    """Returns the tensors of nested mappings, such as checkpoints; names are joined by dots."""
    if isinstance(state, kind):
        return {before.removesuffix("."): state} if before else {}
    found = {}
    for name, value in state.items() if isinstance(state, Mapping) else ():
        found |= _flat(value, kind, f"{before}{name}.")
    return found


def _package(name: str, what: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {what} needs {name}: {install}") from error


_READERS: dict[str, Callable[[Path, Sequence[str]], Found]] = {
    ".npy": load_arrays,
    ".npz": load_arrays,
    ".safetensors": _of_safetensors,
    ".pt": _of_torch,
    ".pth": _of_torch,
}
"""Extension -> reader, given a path and the names that are wanted."""
