"""The log: no draw and no save waits for its disk."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest

from rankpg import TrainConfig, online
from rankpg.online.log import _flush_at_exit
from rankpg.online.write_queue import WriteQueue

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONFIG = TrainConfig(num_candidates=3, ranking_length=2, batch_size=4, seeds=(0,))


def retriever_with(log):
    return online.Retriever.new(CONFIG, online.catalogue(5, 8), log=log)


def spoil(folder):
    """Puts a file where the folder was, so that nothing can be written there."""
    folder.rmdir()
    folder.write_text("a file where the folder was")


def restore(folder):
    folder.unlink()
    folder.mkdir()


def wait_until(true):
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.slow
def test_a_full_disk_neither_stops_serving_nor_a_save_nor_loses_rows(tmp_path):
    folder = tmp_path / "log"
    log = online.Log(folder, rows_per_file=2)
    retriever = retriever_with(log)
    spoil(folder)
    drawn = retriever.act([0, 1, 2])
    with pytest.warns(UserWarning, match="saved without the log: 3 of its rows stay in memory"):
        retriever.save(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="the log of draws .* stay in memory"):
        retriever.act([4])
    restore(folder)
    ranking = drawn.candidates[:, :2]
    retriever.update(drawn.token, ranking, np.ones((3, 2)))
    log.flush()
    draws, feedback = online.read_log(folder)
    assert draws["context"].to_pylist() == [0, 1, 2, 4]
    assert feedback["ranking"].to_pylist() == ranking.tolist()
    assert not list(folder.glob("*.partial"))
    assert (log.waiting, log.dropped) == (0, 0)


def test_no_draw_waits_for_a_disk_that_hangs():
    """Each write takes until the test ends, as on a file system that does not respond."""
    respond, written = threading.Event(), []

    def hangs(parts):
        respond.wait(60)
        written.extend(parts)

    queue = WriteQueue(hangs, rows_per_write=1, most_rows=10)
    begin = time.monotonic()
    for number in range(12):
        queue.put(number, 1)
    with pytest.raises(TimeoutError, match="not responded within"):
        queue.flush(0.01)
    assert time.monotonic() - begin < 5
    assert (queue.waiting, queue.dropped) == (10, 2)
    assert "further rows are dropped" in (queue.take_news() or "")
    assert queue.take_news() is None  # it is reported once
    respond.set()
    queue.flush(60.0)
    assert written == list(range(10))


def test_a_disk_that_failed_is_tried_again_later_and_not_for_every_row():
    tries, written, full = [], [], True

    def write(parts):
        tries.append(len(parts))
        if full:
            raise OSError("no space")
        written.extend(parts)

    queue = WriteQueue(write, rows_per_write=2, most_rows=100, retry_after=3600.0)
    for number in range(50):
        queue.put(number, 1)
    wait_until(lambda: queue.error is not None and not queue._running)
    assert len(tries) == 1
    with pytest.raises(OSError, match="no space"):
        queue.flush(60.0)
    full = False
    queue.flush(60.0)
    assert written == list(range(50))
    assert queue.error is None


def test_rows_that_the_disk_does_not_take_go_to_the_spill(tmp_path):
    folder, spill = tmp_path / "log", tmp_path / "spill"
    log = online.Log(folder, rows_per_file=2, rows_in_memory=4, spill=spill, retry_after=1e-6)
    retriever = retriever_with(log)
    spoil(folder)
    retriever.act([0, 1])
    wait_until(lambda: log.spilled == 2)
    restore(folder)
    assert log.waiting == 0
    log._queues["draws"].take_news()
    retriever.act([2, 3])
    log.flush()
    draws, _ = online.read_log(folder, spill)
    assert sorted(draws["context"].to_pylist()) == [0, 1, 2, 3]
    assert draws["stream"].to_pylist() == [0] * 4


def test_rows_that_cannot_be_written_are_dropped_and_counted():
    def broken(parts):
        raise ValueError("no such type")

    queue = WriteQueue(broken, rows_per_write=5, most_rows=10)
    queue.put("a", 1)
    queue.flush(60.0)
    assert (queue.waiting, queue.dropped) == (0, 1)
    assert "no such type" in (queue.take_news() or "")


def test_a_log_is_written_when_the_process_ends(tmp_path):

    log = online.Log(tmp_path)
    retriever_with(log).act([0])
    _flush_at_exit(weakref.ref(log))
    assert online.read_log(tmp_path)[0].num_rows == 1


def test_impossible_bounds_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="rows_in_memory=5; expected at least rows_per_file=10"):
        online.Log(tmp_path, rows_per_file=10, rows_in_memory=5)


def test_rows_that_wait_at_the_end_of_the_process_go_to_the_spill(tmp_path):
    """Also far below the bound, from which on the spill is used before the end."""
    folder, spill = tmp_path / "log", tmp_path / "spill"
    log = online.Log(folder, rows_per_file=100, spill=spill)
    retriever = retriever_with(log)
    spoil(folder)
    retriever.act([0, 1, 2])
    _flush_at_exit(weakref.ref(log))
    assert (log.waiting, log.spilled) == (0, 3)
    draws, _ = online.read_log(spill)
    assert draws["context"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_to_wait_is_above_zero(tmp_path, value):
    with pytest.raises(ValueError, match=r"retry_after=.*expected a number of seconds above 0"):
        online.Log(tmp_path / "log", retry_after=value)
    assert not (tmp_path / "log").exists()
