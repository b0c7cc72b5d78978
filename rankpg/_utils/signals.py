"""Ctrl-C and SIGTERM as stop requests, which training checks between chunks of updates.

The first signal is a request. The second, half a second later or more, ends the process at once. Python's
own handlers run only when the compiled program returns, so a thread listens in their place.
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

_SAME_SIGNAL_SECONDS = 0.5
"""Signals that are closer count as one: a terminal's, and the copy that `make` or `srun` passes on."""


class Stopped(KeyboardInterrupt):
    """A run that a signal has stopped."""

    def __init__(self, number: int, outcome: str):
        super().__init__(f"stopped by {signal.Signals(number).name}. {outcome}")
        self.code = 128 + number
        """Exit code: 130 after Ctrl-C, 143 after SIGTERM, as in a shell."""


class StopRequest:
    """The first signal that came, if any; a thread sets it once."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the first signal; 0 before it."""
        self._requested_at = 0.0

    def receive(self, number: int) -> None:
        """Records the first signal; ends the process at a later one."""
        now = time.monotonic()
        if self.signal and now - self._requested_at >= _SAME_SIGNAL_SECONDS:
            _exit(number)
        if not self.signal:
            self.signal, self._requested_at = number, now
            name = signal.Signals(number).name
            _print(
                f"{name}: stopping after the updates under way; send it again to stop immediately"
            )


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Makes Ctrl-C and SIGTERM stop requests for the duration of the block.

    Outside of the main thread Python receives no signals, and the request stays empty.

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
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    others = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(reader, stop), name="stopping", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(others)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python
        writer.close()  # which ends the thread
        thread.join()
        reader.close()


def _listen(reader: socket.socket, stop: StopRequest) -> None:
    while received := reader.recv(1):
        if received[0] in SIGNALS:
            stop.receive(received[0])


def _exit(number: int) -> NoReturn:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    _print(f"{signal.Signals(number).name} again: stopped at once; earlier checkpoints are kept")
    sys.stderr.flush()
    os._exit(128 + number)


def _print(sentence: str) -> None:
    print(f"rankpg: {sentence}", file=sys.stderr)
