"""`flashq.supervisor.process` with real forks: restarts, drains, refusals, dead parents."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashq.supervisor.watchdog import LOOKS

Start = Callable[..., "Server"]
LIMIT_MS = 4000
"""Of the watchdog. A program that only has to wait for the machine is silent for less."""


class Server:
    """A supervisor in a process of its own, and what its programs told so far."""

    def __init__(self, *arguments: str, stderr: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.supervised", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self.pids: dict[str, int] = {}

    def until(self, wanted: str) -> list[str]:
        """Read lines up to the wanted one, and return them."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            text = line.rstrip("\n")
            lines.append(text)
            if text.startswith("+"):
                name, pid = text[1:].split()
                self.pids[name] = int(pid)
                text = f"+{name}"
            if text == wanted:
                return lines
        raise AssertionError(f"{wanted!r} never came; lines: {lines}, {self.errors()}")

    def rest(self) -> list[str]:
        """Read all lines until every process has closed its output."""
        assert self.process.stdout is not None
        return self.process.stdout.read().splitlines()

    def errors(self) -> str:
        """Return all that was written to standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self) -> None:
        """End whatever still runs, by id."""
        for fd in map(pidfd_of, (self.process.pid, *self.pids.values())):
            if fd is not None:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
        self.process.communicate()


def pidfd_of(pid: int) -> int | None:
    """Return a descriptor of a process, or None if it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts a server, and end it after the test."""
    servers: list[Server] = []

    def started(*arguments: str, **options: int) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield started
    for server in servers:
        server.end()


def test_endpoints_then_ready_then_an_ordered_drain(start: Start) -> None:
    """The life of a server that nothing happens to: SIGTERM ends it with 0, router first."""
    server = start()
    lines = server.until("ready")
    assert lines[-4:] == [
        "endpoint of coordinator",
        "endpoint of shard",
        "endpoint of router",
        "ready",
    ]
    server.process.send_signal(signal.SIGTERM)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}")],
)
def test_a_killed_program_is_started_again(start: Start, number: int, name: str) -> None:
    """SIGKILL of a shard, or a signal without a name: a new process takes its place, and the server
    goes on."""
    server = start()
    server.until("ready")
    first = server.pids["shard"]
    os.kill(first, number)
    server.until("+shard")
    assert server.pids["shard"] != first
    server.process.send_signal(signal.SIGINT)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0
    assert f"shard was killed by {name}; it is started again" in server.errors()


def test_a_log_that_nobody_reads_stops_no_restart(start: Start) -> None:
    """A log driver that stalls, or Ctrl-S in a terminal: the supervisor once waited in `write`, and
    the next program that died stayed dead."""
    read, write = os.pipe2(os.O_NONBLOCK)
    full = b"x" * 4096
    try:
        while os.write(write, full):
            continue
    except BlockingIOError:
        os.set_blocking(write, True)
    server = start(stderr=write)
    os.close(write)
    server.until("ready")
    for _ in range(2):
        os.kill(server.pids["shard"], signal.SIGKILL)
        server.until("+shard")
    server.process.send_signal(signal.SIGINT)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0
    os.close(read)


def test_a_program_that_cannot_start_ends_the_server_with_its_sentence(start: Start) -> None:
    """A port in use is one sentence on the terminal and a status that is not 0."""
    server = start("router", "refuse")
    assert "ready" not in server.rest()
    assert server.process.wait() == 1
    assert server.errors() == "server: router cannot start: its port is in use\n"


def test_a_program_that_dies_at_each_start_ends_the_server(start: Start) -> None:
    """Also a crash without a word is told, with the signal's name."""
    server = start("shard", "die")
    server.rest()
    assert server.process.wait() == 1
    assert "shard was killed by SIGABRT before the server was ready" in server.errors()


def test_a_program_that_hangs_is_killed_and_the_server_still_ends_with_0(start: Start) -> None:
    """A drain has an end, whatever a program does. Who else is slow is killed as well."""
    server = start("shard", "hang")
    server.until("ready")
    server.process.send_signal(signal.SIGTERM)
    assert set(server.rest()) <= {"-router", "-coordinator"}
    assert server.process.wait() == 0
    assert "shard did not finish within 200 ms and is killed" in server.errors()


def test_programs_drain_when_their_supervisor_is_killed(start: Start) -> None:
    """SIGKILL of the supervisor: nobody is left behind who holds sockets and locks."""
    server = start()
    server.until("ready")
    waiting = [fd for fd in map(pidfd_of, server.pids.values()) if fd is not None]
    assert len(waiting) == 3
    server.process.kill()
    for fd in waiting:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll()  # readable once the process has ended
        os.close(fd)
    assert sorted(server.rest()) == ["-coordinator", "-router", "-shard"]


def test_a_program_inherits_no_descriptor_but_its_own(start: Start) -> None:
    """A shard that held its sister's readiness pipe would keep the supervisor from seeing its end.

    Left are the standard three, the readiness pipe, the program's wake-up pipe, and the directory
    that is being listed.
    """
    server = start("router", "fds")
    listed = next(line for line in server.until("ready") if line.startswith("fds "))
    descriptors = listed.split()[1:]
    assert descriptors[:3] == ["0", "1", "2"]
    assert len(descriptors) == 3 + 1 + 2 + 1


def test_the_terminals_interrupt_reaches_everybody_and_still_drains_in_order(start: Start) -> None:
    """Ctrl-C goes to the whole group of the terminal: only the supervisor acts on it."""
    server = start()
    server.until("ready")
    for pid in (*server.pids.values(), server.process.pid):
        os.kill(pid, signal.SIGINT)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0


def test_an_interrupt_in_the_first_moment_of_a_program_does_not_end_it(start: Start) -> None:
    """Ctrl-C while the server starts: a program that has no handler yet must not die of it, which
    the supervisor would take for a crash."""
    server = start("", "interrupted")
    server.until("ready")
    server.process.send_signal(signal.SIGTERM)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0
    assert server.errors() == ""


def test_what_a_signal_to_the_whole_group_has_ended_is_not_started_again(start: Start) -> None:
    """The supervisor finds the end of a shard and its own SIGTERM at the same time."""
    server = start()
    server.until("ready")
    server.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
    shard = pidfd_of(server.pids["shard"])
    assert shard is not None
    os.kill(server.pids["shard"], signal.SIGKILL)
    poll = select.poll()
    poll.register(shard, select.POLLIN)
    assert poll.poll()
    os.close(shard)
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGCONT)
    assert server.rest() == ["-router", "-coordinator"]
    assert server.process.wait() == 0
    assert server.errors() == ""


@pytest.mark.parametrize("behaviour", ["spin", "stop"])
def test_a_program_that_hangs_is_started_again(start: Start, behaviour: str) -> None:
    """One that turns in a circle writes where it does, and one that is stopped cannot do even that:
    it is killed after its grace."""
    server = start("shard" if behaviour == "spin" else "", behaviour, str(LIMIT_MS))
    server.until("ready")
    first = server.pids["shard"]
    if behaviour == "stop":
        os.kill(first, signal.SIGSTOP)
    server.until("+shard")
    assert server.pids["shard"] != first
    server.process.send_signal(signal.SIGTERM)
    server.rest()
    assert server.process.wait() == 0
    told = server.errors()
    assert "shard hangs: its loop has not turned for" in told
    assert "coordinator hangs" not in told
    assert "router hangs" not in told
    if behaviour == "spin":
        assert "shard was killed by SIGABRT; it is started again" in told
        assert "in program" in told  # the stack, by faulthandler
    else:
        assert "shard was killed by SIGKILL; it is started again" in told


def test_a_server_that_was_stopped_as_a_whole_kills_nobody(start: Start) -> None:
    """A laptop's lid, a paused machine, Ctrl-Z: who was not run either cannot tell who hangs.

    1. A shard is stopped, and the supervisor has looked: it is silent, but not for too long.
    2. The supervisor is stopped as well, until the shard has been silent for longer than the limit.
    3. The supervisor goes on, and sees that. Then the shard goes on.

    The time that passes is what is tested, so the test has to wait for it.
    """
    look_s = LIMIT_MS / LOOKS / 1000
    server = start("", "", str(LIMIT_MS))
    server.until("ready")
    shard = server.pids["shard"]
    os.kill(shard, signal.SIGSTOP)
    select.select([], [], [], 2 * look_s)
    server.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
    select.select([], [], [], 3 * look_s)
    server.process.send_signal(signal.SIGCONT)
    select.select([], [], [], look_s)
    os.kill(shard, signal.SIGCONT)
    server.process.send_signal(signal.SIGTERM)
    assert server.rest() == ["-router", "-shard", "-coordinator"]
    assert server.process.wait() == 0
    assert "hangs" not in server.errors()


def test_a_machine_without_a_process_to_spare_is_asked_again(start: Start) -> None:
    """A fork that fails is a death like any other; the supervisor outlives it."""
    server = start("", "no-fork")
    server.until("ready")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait() == 0
    assert "could not be forked (Resource temporarily unavailable)" in server.errors()


def test_a_signal_during_the_imports_waits_for_its_handler(tmp_path: Path) -> None:
    """Ctrl-C right after the start ends the server as any other, without a traceback."""
    story = (
        "import os, signal, sys\n"
        "from flashq.supervisor import process\n"
        "process.server_programs = lambda _: [os.kill(os.getpid(), signal.SIGINT)][1:]\n"
        "sys.exit(process.main(sys.argv[1:]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", story, "--run-dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
