"""`flashq.lifecycle`: reports of a start, signals that wake a poller, and the exit status."""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flashq.clock import SystemClock
from flashq.config import Settings, flag_parser
from flashq.errors import ConfigError
from flashq.lifecycle import (
    IDLE_MS_MAX,
    REPORT_BYTES_MAX,
    CountedBeat,
    Lifecycle,
    NotifyBeat,
    PipeReport,
    TerminalReport,
    carry_out,
    run_alone,
    systemd_beat,
)
from flashq.supervision import SupervisionPage


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Give the test's process its own signal handlers back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def readable(fd: int, timeout_ms: int = 0) -> bool:
    """Return whether a poller would wake up for the descriptor."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def test_what_the_supervisor_has_noted_is_known_only_under_one() -> None:
    """A program that systemd started does not know of the lives before its own."""
    page = SupervisionPage(["flashq-router"], pid=42, started_at=5, watchdog_ms=4000)
    page.restarted("flashq-router", "exit", 1, 7)
    page.turned(SystemClock().mono_ms())
    told = Lifecycle(TerminalReport("flashq-router"), supervised=True, page=page).supervision()
    assert told is not None
    assert told.programs[0].restarts == {"exit": 1}
    assert not told.hangs
    assert Lifecycle(TerminalReport("flashq-router")).supervision() is None


def test_a_stop_signal_sets_the_flag_and_wakes_the_poller() -> None:
    """A handler by itself does not end a ZeroMQ poll: an idle shard would never see SIGTERM."""
    life = Lifecycle(TerminalReport("flashq-shard"))
    life.install()
    assert not life.stopping
    assert not readable(life.wake_fd)
    signal.raise_signal(signal.SIGTERM)
    assert life.stopping
    assert readable(life.wake_fd)
    life.clear_wake()
    assert not readable(life.wake_fd)
    assert life.stopping


def test_a_pause_of_the_start_ends_with_the_signal_to_stop() -> None:
    """A program that waits for another's lock would else be killed at the end of its time."""
    life = Lifecycle(TerminalReport("flashq-shard"))

    def run(life: Lifecycle) -> None:
        life.pause(0)
        signal.raise_signal(signal.SIGTERM)
        life.pause(1000)

    assert carry_out(run, life) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_terminals_signals_are_the_supervisors_business(number: signal.Signals) -> None:
    """Ctrl-C reaches every process of the terminal at once; if all obeyed, the coordinator would
    be gone before the shards have drained."""
    supervised = Lifecycle(TerminalReport("flashq-shard"), supervised=True)
    supervised.install()
    signal.raise_signal(number)
    assert not supervised.stopping
    alone = Lifecycle(TerminalReport("flashq-shard"))
    alone.install()
    signal.raise_signal(number)
    assert alone.stopping


def test_a_loop_of_its_own_can_take_the_signals() -> None:
    """An asyncio program handles signals in its loop, and tells the lifecycle which way it went."""
    every = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    assert Lifecycle(TerminalReport("x")).stop_signals == every
    life = Lifecycle(TerminalReport("x"), supervised=True)
    assert life.stop_signals == (signal.SIGTERM,)
    assert not life.stopping
    life.stop()
    assert life.stopping


def test_a_supervised_program_says_one_line() -> None:
    """The supervisor reads one line per start; a failure after ready has nobody to read it."""
    read_fd, write_fd = os.pipe()
    report = PipeReport(write_fd)
    report.ready(("tcp://127.0.0.1:6788", "ipc:///run/router.sock"))
    report.failed("too late")
    with os.fdopen(read_fd) as pipe:
        assert pipe.read() == "ready\ttcp://127.0.0.1:6788\tipc:///run/router.sock\n"


def test_a_failure_is_one_line_of_bounded_size() -> None:
    """A line beyond PIPE_BUF may arrive in pieces, and a newline would end it early."""
    read_fd, write_fd = os.pipe()
    PipeReport(write_fd).failed("line\nline\ttab " + "x" * 10_000)
    with os.fdopen(read_fd) as pipe:
        line = pipe.read()
    assert line.startswith("failed\tline line tab xxx")
    assert len(line) == REPORT_BYTES_MAX
    assert line.count("\n") == 1


def test_a_supervisor_that_is_gone_is_no_error() -> None:
    """A program that became ready while its supervisor died still has to drain."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    PipeReport(write_fd).ready(())


def test_by_hand_each_endpoint_is_printed_and_then_ready(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Scripts wait for the line `ready`."""
    Lifecycle(TerminalReport("flashq-router")).ready("tcp://127.0.0.1:6788", "ipc:///r.sock")
    assert capfd.readouterr().out == "tcp://127.0.0.1:6788\nipc:///r.sock\nready\n"


def test_systemd_is_told_ready_and_stopping(tmp_path: Path) -> None:
    """A unit of Type=notify is up when it is ready, and stopping is told once."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        life = Lifecycle(TerminalReport("flashq-router", address))
        life.install()
        life.ready()
        signal.raise_signal(signal.SIGTERM)
        assert life.stopping
        assert life.stopping
        systemd.setblocking(False)
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"STOPPING=1"
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def test_systemds_abstract_address_is_understood() -> None:
    """In some containers NOTIFY_SOCKET starts with @, which stands for a zero byte."""
    name = f"flashq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name)
        TerminalReport("flashq-router", "@" + name).ready(())
        assert systemd.recv(100) == b"READY=1"


def test_a_start_that_nobody_hears_of_is_a_start(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is gone, a full disk under its output, a NOTIFY_SOCKET of somebody else's:
    the program is ready all the same."""
    TerminalReport("flashq-router", "/nonexistent/notify").ready(("tcp://127.0.0.1:6788",))
    shown = capfd.readouterr()
    assert shown.out == "tcp://127.0.0.1:6788\nready\n"
    assert "NOTIFY_SOCKET /nonexistent/notify is not heard (No such file" in shown.err

    def write(_fd: int, _data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", write)
    TerminalReport("flashq-router").ready(("tcp://127.0.0.1:6788",))
    TerminalReport("flashq-router").failed("its port is in use")


def test_a_drained_program_ends_with_0() -> None:
    """systemd and the supervisor take everything else for a failure."""
    assert carry_out(lambda life: life.ready(), Lifecycle(TerminalReport("x"))) == 0


def test_what_a_program_cannot_run_with_is_one_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A lock that another process holds is no reason for a traceback."""

    def run(_life: Lifecycle) -> None:
        raise ConfigError("router runs already")

    assert carry_out(run, Lifecycle(TerminalReport("flashq-router"))) == 1
    assert capfd.readouterr().err == "flashq-router: router runs already\n"


def test_flags_do_not_stay_in_the_process_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lists processes would read the tokens of `--auth-tokens`."""
    titles: list[str] = []
    monkeypatch.setattr("flashq.lifecycle.setproctitle", titles.append)
    assert alone([], []) == 0
    assert titles == ["flashq-router"]


def test_an_unforeseen_error_is_reported_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Our own mistake has to be found by whoever reads the log."""

    def run(_life: Lifecycle) -> None:
        raise RuntimeError("surprise")

    assert carry_out(run, Lifecycle(TerminalReport("flashq-router"))) == 1
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("flashq-router: RuntimeError: surprise\n")


def alone(argv: list[str], seen: list[Settings]) -> int:
    """Run a program that only notes its settings."""
    arguments: argparse.Namespace = flag_parser("flashq-router", "Routes.").parse_args(argv)
    return run_alone(
        "flashq-router", arguments, lambda settings, _life: seen.append(settings), environ={}
    )


def test_a_program_started_alone_gets_its_settings() -> None:
    """systemd starts each program by itself, with flags and environment."""
    seen: list[Settings] = []
    assert alone(["--shards", "2"], seen) == 0
    assert [settings.shards for settings in seen] == [2]


def test_a_setting_out_of_bounds_ends_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    """The sentence names value and bounds, and the program does not run."""
    seen: list[Settings] = []
    assert alone(["--shards", "0"], seen) == 1
    assert seen == []
    assert capfd.readouterr().err == (
        'flashq-router: --shards is "0", but must be a whole number from 1 to 1024 processes\n'
    )


@pytest.mark.parametrize("is_supervised", [False, True])
def test_a_hangup_may_ask_to_read_again(is_supervised: bool) -> None:
    """Then it does not stop the program any more; it wakes the loop, and counts once."""
    life = Lifecycle(TerminalReport("flashq-router"), supervised=is_supervised)
    life.install()
    life.reread_on_hangup()
    assert not life.take_reread()
    signal.raise_signal(signal.SIGHUP)
    assert readable(life.wake_fd)
    assert life.take_reread()
    assert not life.take_reread()
    assert not life.stopping
    assert signal.SIGHUP not in life.stop_signals


# --- a loop that shows that it turns


def test_each_turn_is_counted_and_no_wait_is_too_long() -> None:
    """An idle loop has to turn often enough for whoever counts."""
    slot = memoryview(bytearray(8)).cast("Q")
    slot[0] = 1
    life = Lifecycle(TerminalReport("x"), beat=CountedBeat(slot, 500))
    assert (life.beat(None), life.beat(499), life.beat(501)) == (500, 499, 500)
    assert slot[0] == 4
    life.pause(0)
    assert slot[0] == 5
    with life.unwatched():
        assert slot[0] == 0
    assert slot[0] == 6


def test_nobody_has_to_watch() -> None:
    """A program that was started by hand waits for as long as it likes."""
    life = Lifecycle(TerminalReport("x"))
    with life.unwatched():
        assert life.beat(None) == IDLE_MS_MAX


def test_systemd_hears_of_turns_twice_in_its_time(tmp_path: Path) -> None:
    """`WatchdogSec=` of 4 s: each 2 s at the latest, however the loop turns; but not each turn."""
    address, now_ms = str(tmp_path / "notify"), 0
    report = TerminalReport("flashq-router", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.setblocking(False)
        life = Lifecycle(report, beat=NotifyBeat(report.beat, 4000, lambda: now_ms))
        told_ms = []
        for now_ms in range(0, 10_001, 900):
            assert life.beat(None) == 1000
            with suppress(BlockingIOError):
                assert systemd.recv(100) == b"WATCHDOG=1"
                told_ms.append(now_ms)
        assert told_ms == list(range(0, 10_001, 1800))


@pytest.mark.parametrize(
    ("environ", "interval_ms"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 7500),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 7500),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, IDLE_MS_MAX),
        ({"WATCHDOG_USEC": "0"}, IDLE_MS_MAX),
        ({"WATCHDOG_USEC": "soon"}, IDLE_MS_MAX),
        ({}, IDLE_MS_MAX),
    ],
)
def test_systemds_watchdog_may_be_meant_for_another(
    environ: dict[str, str], interval_ms: int
) -> None:
    """The variables are inherited; the one with the id says whose they are."""
    report = TerminalReport("flashq-router", "/nowhere")
    found = systemd_beat(report, {**environ, "NOTIFY_SOCKET": "/nowhere"})
    assert found.interval_ms == interval_ms


def test_a_systemd_that_does_not_hear_is_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    """A loop that turns for days would fill the log."""
    report = TerminalReport("flashq-router", "/nowhere")
    report.beat()
    report.beat()
    assert capfd.readouterr().err.count("is not heard") == 1
