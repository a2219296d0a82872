"""The thread in which a blocking client runs code that is not its own: callbacks and log handlers.

In the client's I/O thread such code could not call the client, whose answer that very thread would
have to fetch. The thread begins with the first such call, and ends with the client.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_log: Final = logging.getLogger("flashq.client")


class Callbacks:
    """Runs calls one after the other, in the order they are posted."""

    def __init__(self) -> None:
        self._posted: Final[deque[tuple[Callable[..., object], tuple[Any, ...]] | None]] = deque()
        self._arrived: Final = threading.Event()
        self._thread: threading.Thread | None = None

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called. Only one thread at a time posts."""
        self._posted.append((function, arguments))
        self._arrived.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flashq-callbacks", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the program ends, and takes no more threads
                self._posted.clear()

    def stop(self) -> None:
        """Have the thread end after what is posted."""
        self._posted.append(None)
        self._arrived.set()

    def join(self, timeout_ms: int) -> None:
        """Wait for the thread's end, so long at the most, unless this is the thread itself."""
        thread = self._thread
        if thread is not None and thread.ident not in (None, threading.get_ident()):
            thread.join(timeout_ms / 1000)

    def _run(self) -> None:
        while True:
            self._arrived.wait()
            self._arrived.clear()
            while self._posted:
                posted = self._posted.popleft()
                if posted is None:
                    return
                function, arguments = posted
                try:
                    function(*arguments)
                except Exception:  # noqa: BLE001 - others' code must not end the thread
                    with suppress(Exception):  # the log handler's, perhaps, which failed just now
                        _log.exception("%r failed", function)
                del posted, function, arguments  # while the thread waits it holds nobody's object
