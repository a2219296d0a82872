"""What the doctor and `flashq stats` say of restarts and of the supervisor, in plain words."""

from __future__ import annotations

import pytest

from flashq.cli.findings import Finding
from flashq.cli.supervision import RECENT_MS, REPEATED, check_supervisor, summary, why
from flashq.protocol.server import ProgramStats, Restart, RestartReason, SupervisorStats

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def a_server(*programs: ProgramStats, silent_ms: int = 100) -> SupervisorStats:
    """Return what a supervisor tells that was started two hours ago."""
    return SupervisorStats(
        pid=42,
        started_at=NOW_MS - 2 * HOUR_MS,
        silent_ms=silent_ms,
        watchdog_ms=60_000,
        programs=[*programs, ProgramStats(program="flashq-router", started_at=NOW_MS - HOUR_MS)],
    )


def a_shard(
    ago_ms: int,
    reason: RestartReason = "signal",
    detail: str | None = "SIGKILL",
    *,
    restarts: int = 1,
) -> ProgramStats:
    """Return a shard that was started again, the last time so long ago."""
    at = NOW_MS - ago_ms
    last = Restart(at=at, reason=reason, detail=detail)
    return ProgramStats(
        program="flashq-shard 1", started_at=at, restarts={reason: restarts}, last_restart=last
    )


def programs_of(told: SupervisorStats) -> list[Finding]:
    """Return what the doctor finds of the programs."""
    supervisor, *programs = check_supervisor(told, NOW_MS)
    assert supervisor.check == "supervisor"
    assert {one.check for one in programs} == {"programs"}
    return programs


def test_nothing_happened() -> None:
    """Which is said too, with since when."""
    assert list(check_supervisor(a_server(), NOW_MS)) == [
        Finding("supervisor", "ok", "process 42; its loop turns"),
        Finding(
            "programs", "ok", "1 program, none was started again since the server started 2 h ago"
        ),
    ]


def test_a_restart_is_a_warning_for_ten_minutes() -> None:
    """Then it is history, unless it is one of many."""
    (recent,) = programs_of(a_server(a_shard(RECENT_MS - 1)))
    assert recent.verdict == "warning"
    (older,) = programs_of(a_server(a_shard(RECENT_MS)))
    assert older.verdict == "ok"
    assert older.text == (
        "2 programs, 1 restart since the server started 2 h ago; the last was 10 min ago, "
        "flashq-shard 1: SIGKILL ended it"
    )
    (second,) = programs_of(a_server(a_shard(HOUR_MS, restarts=REPEATED - 1)))
    assert second.verdict == "ok"
    (repeated,) = programs_of(a_server(a_shard(HOUR_MS, restarts=REPEATED)))
    assert repeated.verdict == "warning"
    assert repeated.text == (
        "flashq-shard 1 was started again 1 h ago: SIGKILL ended it; "
        "3 restarts since the server started 2 h ago"
    )


@pytest.mark.parametrize(
    ("reason", "detail", "words", "advice"),
    [
        ("exit", "status 1", "it ended with status 1", "log has what it said"),
        ("exit", "status 0", "it ended with status 0", "supervisor, process 42"),
        ("signal", "SIGKILL", "SIGKILL ended it", "Out of memory"),
        ("signal", "SIGSEGV", "SIGSEGV ended it", "it crashed"),
        ("signal", "signal 35", "signal 35 ended it", "somebody sent it"),
        ("hang", None, "it hung, its loop did not turn any more", "docs/OPERATIONS.md"),
        ("fork", "EAGAIN", "the machine had no process for it (EAGAIN)", "ulimit -u"),
    ],
)
def test_every_reason_has_its_words_and_its_advice(
    reason: RestartReason, detail: str | None, words: str, advice: str
) -> None:
    """What to do differs: a killed program says nothing, a hung one has left its stack."""
    (found,) = programs_of(a_server(a_shard(1000, reason, detail)))
    assert words in found.text
    assert advice in found.advice


def test_each_suspect_is_named() -> None:
    """And the others are not."""
    router = ProgramStats(
        program="flashq-gateway",
        started_at=NOW_MS,
        restarts={"exit": 1},
        last_restart=Restart(at=NOW_MS, reason="exit", detail="status 1"),
    )
    found = programs_of(a_server(a_shard(1000), router))
    assert [one.text.partition(" was")[0] for one in found] == ["flashq-shard 1", "flashq-gateway"]


def test_a_supervisor_that_hangs_is_wrong() -> None:
    """Everything works, until the next program dies."""
    supervisor, _ = check_supervisor(a_server(silent_ms=65_000), NOW_MS)
    assert (supervisor.verdict, supervisor.text) == (
        "wrong",
        "process 42 hangs: its loop has not turned for 1 min 5 s",
    )
    assert "kill -CONT 42" in supervisor.advice


def test_where_nobody_watches_nobody_hangs() -> None:
    """With a watchdog of 0 the supervisor has no reason to wake up either."""
    told = a_server(silent_ms=HOUR_MS)
    told.watchdog_ms = 0
    supervisor, _ = check_supervisor(told, NOW_MS)
    assert (supervisor.verdict, supervisor.text) == (
        "ok",
        "process 42; watchdog_ms is 0: nobody sees a hang",
    )


def test_without_a_supervisor() -> None:
    """Under systemd, which knows the restarts."""
    (found,) = check_supervisor(None, NOW_MS)
    assert (found.verdict, "systemctl show" in found.text) == ("ok", True)


def test_a_server_whose_clock_is_ahead() -> None:
    """A restart is never in the future."""
    told = a_server(a_shard(-5000))
    assert "the last was 0 ms ago" in summary(told, NOW_MS)
    assert told.programs[0].last_restart is not None
    assert why(told.programs[0].last_restart) == "SIGKILL ended it"
