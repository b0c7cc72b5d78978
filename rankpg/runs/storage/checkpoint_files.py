"""The folder of a run's checkpoints: their names, checksums, replacement and removal.

<step>/                a checkpoint: it counts from the moment that it has this name
<step>.before/         a checkpoint while another one of its step replaces it
<step>.partial*/       what is being written, or what a killed process left of it
<step>.<hex>.removed/  what is being removed

Other entries belong to somebody else: they are neither read nor removed. Of a checkpoint, only files that its
manifest lists are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from rankpg._utils.documents import kind_in_words, printable
from rankpg._utils.files import sync_folder, sync_tree
from rankpg._utils.own_files import refuse_links, refuse_links_below

__all__ = [
    "CHECKSUMS",
    "METADATA",
    "checkpoint_path",
    "checksums_of",
    "damage_of",
    "discard_partial",
    "drop_beyond",
    "partial_path",
    "publish",
    "refuse_linked_checkpoints",
    "saved_steps",
    "tidy",
    "write_checksums",
]

CHECKSUMS = "SHA256SUMS"
"""The checksums of a checkpoint's files, in the format of sha256sum: the record of what was written."""

METADATA = "notes.json"
"""The metadata of a checkpoint; the last line of its manifest, which shows that no line is missing."""

_BEFORE, _PARTIAL, _REMOVED = ".before", ".partial", ".removed"
_STEP = r"(?:0|[1-9][0-9]*)"
_CHECKPOINT = re.compile(rf"({_STEP})(?:{re.escape(_BEFORE)})?")
_WRITTEN = re.compile(rf"{_STEP}{re.escape(_PARTIAL)}(?:\..*)?")
_DROPPED = re.compile(rf"{_STEP}\.[0-9a-f]{{8}}{re.escape(_REMOVED)}")


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps that have a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    found = [_CHECKPOINT.fullmatch(entry.name) for entry in folder.iterdir() if _is_folder(entry)]
    return sorted({int(name[1]) for name in found if name})


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the path of a step's checkpoint, or of the one that a crash left half replaced."""
    path, before = folder / str(step), folder / f"{step}{_BEFORE}"
    return before if before.is_dir() and not path.is_dir() else path


def partial_path(folder: Path, step: int) -> Path:
    """Returns the path at which a checkpoint is written, which is free."""
    discard_partial(folder, step)
    return folder / f"{step}{_PARTIAL}"


def discard_partial(folder: Path, step: int) -> None:
    """Removes what was written of a checkpoint that is not complete."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _WRITTEN.fullmatch(entry.name) and entry.name.startswith(f"{step}{_PARTIAL}"):
            shutil.rmtree(entry, ignore_errors=True)


def publish(partial: Path) -> None:
    """Gives a complete checkpoint its name, in place of an earlier one of its step.

    Raises:
      OSError: it could not be written.
    """
    sync_tree(partial)
    target = partial.with_name(partial.name.removesuffix(_PARTIAL))
    if target.exists():
        before = target.with_name(f"{target.name}{_BEFORE}")
        if before.exists():
            _remove(before)
        os.replace(target, before)
    os.replace(partial, target)  # from here on it counts
    sync_folder(target.parent)


def tidy(folder: Path, kept: Collection[int]) -> None:
    """Removes checkpoints of other steps, and what interrupted writes and removals left, where it can."""
    names = {checkpoint_path(folder, step).name for step in kept}
    with contextlib.suppress(OSError):  # tried again at the next save
        for entry in folder.iterdir():
            old = _CHECKPOINT.fullmatch(entry.name) and (entry / CHECKSUMS).is_file()
            ours = old or _WRITTEN.fullmatch(entry.name) or _DROPPED.fullmatch(entry.name)
            if ours and entry.name not in names and _is_folder(entry):
                _remove(entry)


def drop_beyond(folder: Path, step: int) -> None:
    """Removes the checkpoints of later steps, the newest of them last: until then it is the one to load."""
    for later in saved_steps(folder):
        while later > step and (path := checkpoint_path(folder, later)).is_dir():
            _remove(path)


def refuse_linked_checkpoints(folder: Path) -> None:
    """Rejects links among checkpoints; entries that are not checkpoints may be links.

    Raises:
      ConfigError: names the first link.
    """
    refuse_links([folder])
    for entry in folder.iterdir() if folder.is_dir() else ():
        if any(own.fullmatch(entry.name) for own in (_CHECKPOINT, _WRITTEN, _DROPPED)):
            refuse_links_below(entry)


def write_checksums(checkpoint: Path) -> None:
    """Writes the manifest of a checkpoint, as its last file."""
    found = checksums_of(checkpoint)
    names = sorted(found, key=lambda name: (name == METADATA, name))
    lines = "".join(f"{found[name]}  {name}\n" for name in names)
    (checkpoint / CHECKSUMS).write_text(lines)


def damage_of(checkpoint: Path) -> str | None:
    """Returns which file of a checkpoint fails its checksum, in words; None if all are intact.

    Files that a complete manifest does not list do not belong to the checkpoint.
    """
    try:
        text = (checkpoint / CHECKSUMS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        return f"no manifest {CHECKSUMS}: {kind_in_words(error)}"
    written, found = _listed(text), checksums_of(checkpoint)
    complete = text.endswith(f"  {METADATA}\n")
    for name in sorted(written if complete else {*written, *found}):
        if written.get(name) != found.get(name):
            if not name or "\0" in name:
                return f"a line of {CHECKSUMS} names no file"
            return (
                f"its file {printable(name)} is missing or differs from its checksum in {CHECKSUMS}"
            )
    return None


def _listed(manifest: str) -> dict[str, str]:
    """Returns file name -> SHA-256, as a manifest has them."""
    parts = (line.partition("  ") for line in manifest.splitlines())
    return {name: digest for digest, _, name in parts}


def checksums_of(checkpoint: Path) -> dict[str, str]:
    """Returns file name -> SHA-256, for every file of a checkpoint except the manifest."""
    checksums = {}
    for file in sorted(checkpoint.rglob("*")):
        name = file.relative_to(checkpoint).as_posix()
        if file.is_file() and not file.is_symlink() and name != CHECKSUMS:
            with file.open("rb") as content:
                checksums[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return checksums


def _remove(path: Path) -> None:
    """Removes an incomplete checkpoint whole, and the listed files of a complete one.

    The first step is a rename, so that no checkpoint is ever there in part.
    """
    if _WRITTEN.fullmatch(path.name):
        shutil.rmtree(path)
        return
    if not _DROPPED.fullmatch(path.name):
        step = path.name.removesuffix(_BEFORE)
        dropped = path.with_name(f"{step}.{secrets.token_hex(4)}{_REMOVED}")
        os.replace(path, dropped)
        path = dropped
    try:
        listed = [*_listed((path / CHECKSUMS).read_text()), CHECKSUMS]  # it says what is left
    except (OSError, UnicodeDecodeError):
        listed = []
    for name in listed:
        inside = PurePosixPath(name)
        within = not inside.is_absolute() and ".." not in inside.parts
        if within and os.path.isfile(path / inside):  # a damaged line names no file
            (path / inside).unlink(missing_ok=True)
    for place, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):  # it holds a file of somebody else
            os.rmdir(place)


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()
