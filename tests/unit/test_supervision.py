"""`flashq.supervision`: what a supervisor notes, and what the programs of its server read."""

from __future__ import annotations

import errno
import signal

import pytest

from flashq.protocol.server import ProgramStats, Restart, RestartReason, SupervisorStats
from flashq.supervision import SupervisionPage

START_MS = 1_800_000_000_000
NAMES = ["flashq-shard 0", "flashq-router"]


@pytest.fixture
def page() -> SupervisionPage:
    """Return the page of a server whose programs were started a moment after it."""
    page = SupervisionPage(NAMES, pid=42, started_at=START_MS, watchdog_ms=4000)
    for name in NAMES:
        page.started(name, START_MS + 5)
    return page


def test_of_a_server_that_nothing_happened_to(page: SupervisionPage) -> None:
    """Each program with its start, and none with a restart."""
    page.turned(1000)
    assert page.stats(1250) == SupervisorStats(
        pid=42,
        started_at=START_MS,
        silent_ms=250,
        watchdog_ms=4000,
        programs=[ProgramStats(program=name, started_at=START_MS + 5) for name in NAMES],
    )


@pytest.mark.parametrize(
    ("reason", "number", "detail"),
    [
        ("exit", 0, "status 0"),
        ("exit", 255, "status 255"),
        ("signal", signal.SIGKILL, "SIGKILL"),
        ("signal", signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}"),
        ("hang", signal.SIGABRT, None),
        ("fork", errno.EAGAIN, "EAGAIN"),
        ("fork", 4000, "error 4000"),
    ],
)
def test_why_a_program_was_started_again(
    page: SupervisionPage, reason: RestartReason, number: int, detail: str | None
) -> None:
    """In a word that a metric can have as its label, and what is known beside that."""
    page.restarted("flashq-shard 0", reason, number, START_MS + 99)
    shard, router = page.stats(0).programs
    assert shard == ProgramStats(
        program="flashq-shard 0",
        started_at=START_MS + 99,
        restarts={reason: 1},
        last_restart=Restart(at=START_MS + 99, reason=reason, detail=detail),
    )
    assert router.restarts == {}


def test_restarts_are_counted_by_reason_and_the_last_is_told(page: SupervisionPage) -> None:
    """Of each program for itself."""
    for at, (name, reason) in enumerate([(0, "hang"), (0, "hang"), (1, "exit"), (0, "signal")]):
        page.restarted(NAMES[name], reason, 1, START_MS + at)  # type: ignore[arg-type]
    shard, router = page.stats(0).programs
    assert (shard.restarts, router.restarts) == ({"signal": 1, "hang": 2}, {"exit": 1})
    assert shard.last_restart == Restart(at=START_MS + 3, reason="signal", detail="SIGHUP")


def test_a_supervisor_hangs_once_it_was_silent_for_longer_than_a_program_may(
    page: SupervisionPage,
) -> None:
    """As it would say of them; nobody hangs where nobody is watched."""
    page.turned(1000)
    assert not page.stats(5000).hangs
    assert page.stats(5001).hangs
    unwatched = SupervisionPage(NAMES, pid=42, started_at=START_MS, watchdog_ms=0)
    unwatched.turned(1000)
    assert not unwatched.stats(10**9).hangs


def test_a_turn_that_the_reader_has_not_waited_for_is_no_silence(page: SupervisionPage) -> None:
    """The supervisor turns between the reader's look at the clock and at the page."""
    page.turned(1001)
    assert page.stats(1000).silent_ms == 0
