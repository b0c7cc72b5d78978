"""Files that are there whole or not at all: written beside their place, then moved to it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["whole", "write_whole"]


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file` at the end of the block; nothing is left of a block that raises.

    Of several that write one file at once each has a place of its own, and the last to end stays.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "notes"
    >>> with whole(file) as partial:
    ...     _ = partial.write_text("all of it")
    >>> file.read_text(), partial.exists()
    ('all of it', False)
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        yield partial
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(file: Path, content: str | bytes) -> None:
    """Write text, as UTF-8, or bytes.

    Raises:
      OSError: the disk does not take it; what was there stays.
    """
    with whole(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
