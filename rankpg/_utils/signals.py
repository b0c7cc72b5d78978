"""Being asked to stop: Ctrl-C and SIGTERM, which training hears between chunks of updates.

The first signal is a request. The second, half a second later or more, ends the process there and then:
Python's own handlers would wait until the compiled program returns, so a thread listens in their place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

__all__ = ["StopRequest", "Stopped", "listening"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_ONE = 0.5
"""Seconds within which two signals are one: a terminal's and the same one passed on by `make` or `srun`."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and did."""

    def __init__(self, number: int, what_became: str):
        super().__init__(f"stopped by {signal.Signals(number).name}. {what_became}")
        self.code = 128 + number
        """What a shell calls the end by that signal: 130 after Ctrl-C, 143 after SIGTERM."""


class StopRequest:
    """Whether somebody asked. It changes once, from a thread."""

    def __init__(self) -> None:
        self.signal = 0
        """The number of the first signal; 0 while there was none."""
        self._asked_at = 0.0

    def hear(self, number: int) -> None:
        """A signal came: the first is noted, a later one ends the process."""
        now = time.monotonic()
        if self.signal and now - self._asked_at >= _ONE:
            _leave(number)
        if not self.signal:
            self.signal, self._asked_at = number, now
            name = signal.Signals(number).name
            _say(f"{name}: stopping after the updates under way; a second one stops at once")


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """For the length of the block Ctrl-C and SIGTERM are requests, to be looked at now and then.

    Outside of the main thread Python hears no signals: nobody will have asked.

    >>> with listening() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     while not stop.signal:
    ...         time.sleep(0.01)
    ...     stop.signal
    15
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    others = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(ear, stop), name="stopping", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(others)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python
        mouth.close()  # which ends the thread
        thread.join()
        ear.close()


def _listen(ear: socket.socket, stop: StopRequest) -> None:
    while heard := ear.recv(1):
        if heard[0] in SIGNALS:
            stop.hear(heard[0])


def _leave(number: int) -> NoReturn:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    _say(f"{signal.Signals(number).name} again: stopped at once; what was saved before is there")
    sys.stderr.flush()
    os._exit(128 + number)


def _say(sentence: str) -> None:
    print(f"rankpg: {sentence}", file=sys.stderr)
