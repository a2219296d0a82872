"""Text for standard output and standard error that never makes a program wait for its reader.

Owns a bounded queue for each of the two descriptors. A reader that stops (a pipe that nobody
reads, a terminal held by Ctrl-S, a log driver that stalls) must not stop a loop: a supervisor that
waits in `write` restarts nobody. Invariants:

- `write` and `flush` never block: a pipe or a terminal is opened a second time without blocking, a
  socket is sent to without waiting. Other writers of the same pipe keep their own mode.
- At most `QUEUE_BYTES_MAX` wait for the reader. A text that does not fit is dropped whole and
  counted, and a line of its own gives the count once the reader takes lines again.
- Texts leave in order and whole, as far as the kernel takes them.

There is no thread: the loop that wrote calls `flush` before it waits. The process that forks must
not have one.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from threading import RLock
from typing import Final

STDOUT_FILENO: Final = 1
STDERR_FILENO: Final = 2

QUEUE_BYTES_MAX: Final = 256 * 1024
"""Most that waits for a reader, for each descriptor of a process."""
RETRY_MS: Final = 200
"""How long a loop may wait before it tries again to write what waits."""
LAST_MS: Final = 500
"""How long a program that ends waits for a reader."""
PIECE_BYTES: Final = 4096
"""Most in one write: a pipe takes it whole or not at all, so lines of two processes do not mix."""


class Output:
    """One descriptor, with what waits for its reader.

    Args:
        fd: the descriptor; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = RLock()
        self._pid = 0
        self._target = fd
        self._is_socket = False
        #: what waits, in order: a piece, and whether it is the last of its text
        self._pieces: deque[tuple[bytes, bool]] = deque()
        self._pieces_bytes = 0
        #: texts that were dropped and not yet told
        self._lost = 0
        #: the reader took what was last offered
        self._takes = True
        #: writes a line that says how many texts were lost
        self.tell_lost: Callable[[int], None] | None = None

    @property
    def waits(self) -> bool:
        """Whether something waits for the reader."""
        return bool(self._pieces)

    def write(self, text: str) -> bool:
        """Write a text, or keep it until the reader is ready.

        Args:
            text: ends with a line feed; characters that UTF-8 does not have are replaced.

        Returns:
            False if the text was dropped, since the reader is too far behind or gone.
        """
        with self._lock:
            return self._write(text.encode(errors="replace"))

    def _write(self, data: bytes) -> bool:
        self._begin()
        if self._pieces_bytes + len(data) > QUEUE_BYTES_MAX:
            self.flush()
        if self._pieces_bytes + len(data) > QUEUE_BYTES_MAX:
            self._lost += 1
            return False
        for start in range(0, len(data), PIECE_BYTES):
            end = start + PIECE_BYTES
            self._pieces.append((data[start:end], end >= len(data)))
        self._pieces_bytes += len(data)
        return self.flush()

    def flush(self) -> bool:
        """Write as much as the reader takes now; return False if it is gone and all is dropped."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        self._begin()
        while self._pieces:
            piece, is_last = self._pieces[0]
            try:
                written = self._send(piece)
            except BlockingIOError:
                return True
            except OSError:  # the disk is full, the reader is gone
                self._lost += sum(last for _, last in self._pieces)
                self._pieces.clear()
                self._pieces_bytes = 0
                self._takes = False
                return False
            self._takes = True
            self._pieces_bytes -= written
            if written == len(piece):
                self._pieces.popleft()
            else:
                self._pieces[0] = piece[written:], is_last
        return True

    def tell(self) -> None:
        """Have the loss told, once the reader takes lines again."""
        if self._lost and self._takes and not self._pieces and self.tell_lost is not None:
            lost, self._lost = self._lost, 0
            self.tell_lost(lost)

    def close(self) -> None:
        """Give the reader `LAST_MS` to take what waits; a program calls it when it ends."""
        deadline = time.monotonic() + LAST_MS / 1000
        while self._pieces and self.flush() and self._pieces:
            left_ms = round((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                return
            poll = select.poll()
            poll.register(self._target, select.POLLOUT)
            poll.poll(left_ms)

    def _send(self, piece: bytes) -> int:
        if not self._is_socket:
            return os.write(self._target, piece)
        borrowed = socket.socket(fileno=self._fd)
        try:
            return borrowed.send(piece, socket.MSG_DONTWAIT)
        finally:
            borrowed.detach()

    def _begin(self) -> None:
        """Look at the descriptor on the first use in this process, and forget a parent's queue."""
        pid = os.getpid()
        if pid == self._pid:
            return
        self._pid = pid
        self._pieces.clear()
        self._pieces_bytes = self._lost = 0
        self._target = self._fd
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:
            return  # closed: each write says so
        self._is_socket = stat.S_ISSOCK(mode)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            self._target = _without_blocking(self._fd, mode)


def _without_blocking(fd: int, mode: int) -> int:
    """Return a descriptor of the same pipe or terminal whose writes do not block.

    A second opening has a mode of its own. Where another user owns the pipe, opening is refused;
    then the pipe itself stops blocking, for every process that writes to it. A terminal of another
    user is left as it is.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        if stat.S_ISFIFO(mode):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        return fd


@cache
def output(fd: int) -> Output:
    """Return the process's queue to a descriptor."""
    return Output(fd)


def flush_outputs() -> int | None:
    """Write what waits, as far as readers take it now.

    Returns:
        In how many ms to try again; None if nothing waits.
    """
    waits = False
    for fd in (STDOUT_FILENO, STDERR_FILENO):
        queue = output(fd)
        if queue.waits:
            queue.flush()
        queue.tell()
        waits = waits or queue.waits
    return RETRY_MS if waits else None


def close_outputs() -> None:
    """Give readers a last moment before the program ends."""
    for fd in (STDOUT_FILENO, STDERR_FILENO):
        output(fd).close()


class _ErrorStream(io.TextIOBase):
    """What `sys.stderr` is in a program of the server: warnings and tracebacks of any library."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write a text or keep it until the reader is ready."""
        output(STDERR_FILENO).write(text)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor."""
        return STDERR_FILENO

    def isatty(self) -> bool:
        """Tell whether a person reads it."""
        return os.isatty(STDERR_FILENO)


def replace_stderr() -> None:
    """Let everything that this process writes to `sys.stderr` leave without waiting."""
    sys.stderr = _ErrorStream()
