"""Training processes that are killed: `python tests/helpers/forked_runs.py SIGNAL COUNT SEED FOLDER FLAG...`.

Each run is a process of its own, forked before JAX starts, so that the imports are paid for once. A run is
sent the signal at a random moment after its first checkpoint, and then goes on to its end in another process.
FOLDER/straight is a run that was not killed, FOLDER/<n> are the others, and FOLDER/ends.json holds the exit
code of the first process of each, and the step that its folder then had.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

# What a run imports when it needs it, here once for all.
import matplotlib.pyplot  # noqa: F401
import orbax.checkpoint  # noqa: F401
import rich.progress  # noqa: F401
import scipy.special  # noqa: F401

from rankpg.cli.main import main
from rankpg.runs.storage.checkpoint import saved_steps


def start(*flags: str, log: Path) -> int:
    """Starts `rankpg train FLAGS` in a new process, and returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = main(["train", *flags])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def end(child: int) -> int:
    """Waits for a process, and returns its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_checkpoint(folder: Path, child: int) -> None:
    deadline = time.monotonic() + 300
    while not saved_steps(folder / "checkpoint"):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def killed(how: signal.Signals, count: int, seed: int, base: Path, flags: list[str]) -> None:
    log, moments = base / "log.txt", random.Random(seed)
    child = start("--out", str(base / "straight"), *flags, log=log)
    wait_for_checkpoint(base / "straight", child)
    began = time.monotonic()
    assert end(child) == 0, log.read_text()
    length = time.monotonic() - began
    ends = []
    for number in range(count):
        folder = base / str(number)
        child = start("--out", str(folder), *flags, log=log)
        wait_for_checkpoint(folder, child)
        time.sleep(moments.uniform(0, 0.7 * length))  # the rest is the picture and the card
        os.kill(child, how)
        code, steps = end(child), saved_steps(folder / "checkpoint")
        ends.append({"code": code, "step": steps[-1]})
        if code != 0:
            again = start("--resume", "--out", str(folder), log=log)
            assert end(again) in (0, 2), log.read_text()  # 2: it had saved its last step
    (base / "ends.json").write_text(json.dumps(ends))


def two_writers(base: Path, flags: list[str]) -> None:
    """Starts a second writer, which is rejected; kills the first; lets a third go on."""
    folder, codes = base / "shared", {}
    first = start("--out", str(folder), *flags, log=base / "first.txt")
    wait_for_checkpoint(folder, first)
    second = start("--resume", "--out", str(folder), log=base / "second.txt")
    codes["second"] = end(second)
    os.kill(first, signal.SIGKILL)
    codes["first"] = end(first)
    reached = saved_steps(folder / "checkpoint")[-1]
    more = ("--num-steps", str(reached + 50))
    third = start("--resume", "--out", str(folder), *more, log=base / "third.txt")
    codes["third"] = end(third)
    (base / "ends.json").write_text(json.dumps(codes | {"pid": first, "reached": reached}))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "two-writers":
        two_writers(Path(rest[0]), rest[1:])
    else:
        killed(signal.Signals[what], int(rest[0]), int(rest[1]), Path(rest[2]), rest[3:])
