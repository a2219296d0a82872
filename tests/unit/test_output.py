"""`flashq.observability.output`: a reader that stops or is gone, and what is said of it."""

from __future__ import annotations

import os
import pty
import select
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from flashq.observability.output import PIECE_BYTES, QUEUE_BYTES_MAX, Output

LINE = "x" * 99 + "\n"
Pair = tuple[int, int]


def _pipe() -> Pair:
    return os.pipe()


def _stream() -> Pair:
    read, write = socket.socketpair()
    return read.detach(), write.detach()


def _terminal() -> Pair:
    read, write = pty.openpty()
    modes = termios.tcgetattr(write)
    modes[1] &= ~termios.OPOST  # line feeds stay what they are
    termios.tcsetattr(write, termios.TCSANOW, modes)
    return read, write


@pytest.fixture(params=[_pipe, _stream, _terminal])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Return the reader's and the writer's end of a pipe, a socket and a terminal."""
    make: Callable[[], Pair] = request.param
    yield from _lent(make())


@pytest.fixture
def pipe() -> Iterator[Pair]:
    """Return the reader's and the writer's end of a pipe."""
    yield from _lent(os.pipe())


def _lent(pair: Pair) -> Iterator[Pair]:
    yield pair
    for fd in pair:
        with suppress(OSError):
            os.close(fd)


def read_all(read: int, output: Output) -> str:
    """Read until nothing waits any more."""
    data = b""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while output.flush() and (output.waits or poll.poll(0)):
        data += os.read(read, 65536)
    return data.decode()


def test_a_reader_that_does_not_read_stops_nobody_and_gets_a_count(pair: Pair) -> None:
    """The supervisor once waited in `write`, and restarted no program that had died."""
    read, write = pair
    output = Output(write)
    lost: list[int] = []
    output.tell_lost = lost.append
    lines = [f"{number:05} {LINE}" for number in range(12_000)]  # more than kernel and queue hold
    taken = [line for line in lines if output.write(line)]
    assert output.waits
    assert len(taken) < len(lines)
    assert read_all(read, output) == "".join(taken)
    output.tell()
    output.tell()
    assert lost == [len(lines) - len(taken)]
    assert output.write("again\n")
    assert read_all(read, output) == "again\n"


def test_other_writers_of_the_descriptor_keep_their_mode(pair: Pair) -> None:
    """A shell or a neighbour that shares a terminal does not expect writes to fail."""
    _, write = pair
    Output(write).write("once\n")
    assert os.get_blocking(write)


def test_a_long_text_arrives_whole(pipe: Pair) -> None:
    """A traceback is longer than what a pipe takes at once."""
    read, write = pipe
    text = "".join(f"{number}\n" for number in range(PIECE_BYTES))
    output = Output(write)
    assert output.write(text)
    assert read_all(read, output) == text


def test_a_text_that_can_never_fit_is_lost_whole(pipe: Pair) -> None:
    """Half a line would be worse than a count."""
    read, write = pipe
    output = Output(write)
    lost: list[int] = []
    output.tell_lost = lost.append
    assert not output.write("y" * QUEUE_BYTES_MAX + "\n")
    assert output.write("short\n")
    assert read_all(read, output) == "short\n"
    output.tell()
    assert lost == [1]


def test_a_reader_that_is_gone_ends_nobody(pipe: Pair) -> None:
    """`flashq serve 2>&1 | head -1` goes on serving."""
    read, write = pipe
    output = Output(write)
    for number in range(2000):
        output.write(f"{number} {LINE}")
    assert output.waits
    os.close(read)
    assert not output.write("nobody\n")
    assert not output.waits


def test_a_child_does_not_write_what_its_parent_still_holds(pipe: Pair) -> None:
    """A fork copies the queue; each line is written once."""
    read, write = pipe
    output = Output(write)
    written = 0
    while not output.waits:
        output.write(LINE)
        written += 1
    pid = os.fork()
    if pid == 0:
        output.write("child\n")
        output.close()
        os._exit(0)
    text = ""
    while "child\n" not in text:
        text += os.read(read, 65536).decode()
    os.waitpid(pid, 0)
    text += read_all(read, output)
    assert text.replace("child\n", "") == LINE * written
