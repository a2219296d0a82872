"""What the supervisor of a server tells of its programs, in plain words.

Owns when a restart is worth a warning and what to do about it. Pure; asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from flashq.cli.findings import Finding, ok
from flashq.cli.wording import distance, duration, plural, table_of
from flashq.protocol.server import ProgramStats, Restart, SupervisorStats

if TYPE_CHECKING:
    from rich.table import Table

RECENT_MS: Final = 600_000
"""A restart within the last ten minutes is worth a warning."""
REPEATED: Final = 3
"""So many restarts of one program since the server started are, however long ago."""

_CRASHES: Final = frozenset(
    ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
)


def check_supervisor(told: SupervisorStats | None, now_ms: int) -> Iterator[Finding]:
    """Does the supervisor's loop turn, and which programs had to be started again?

    Args:
        told: what STATS has; None where each program was started by itself.
        now_ms: Unix milliseconds.
    """
    if told is None:
        yield ok("supervisor", _NO_SUPERVISOR)
        return
    if told.hangs:
        text = f"process {told.pid} hangs: its loop has not turned for {duration(told.silent_ms)}"
        advice = (
            "what dies or hangs now is not started again; if somebody stopped it, let it go on: "
            f"kill -CONT {told.pid}. Else end it, kill -KILL {told.pid}, on which its programs "
            "finish and end, and start the server anew"
        )
        yield Finding("supervisor", "wrong", text, advice)
    else:
        watched = "its loop turns" if told.watchdog_ms else "watchdog_ms is 0: nobody sees a hang"
        yield ok("supervisor", f"process {told.pid}; {watched}")
    suspects = [one for one in told.programs if _is_suspect(one, now_ms)]
    for program in suspects:
        assert program.last_restart is not None
        yield Finding(
            "programs",
            "warning",
            f"{program.program} was started again "
            f"{_ago(program.last_restart.at, now_ms)}: {why(program.last_restart)}; "
            f"{plural(restarts_of(program), 'restart')} since the server started "
            f"{_ago(told.started_at, now_ms)}",
            _advice(program.last_restart, told),
        )
    if not suspects:
        yield ok("programs", summary(told, now_ms))


def summary(told: SupervisorStats, now_ms: int) -> str:
    """Return in one sentence what happened to the programs of a server."""
    since = f"since the server started {_ago(told.started_at, now_ms)}"
    count = sum(map(restarts_of, told.programs))
    text = plural(len(told.programs), "program")
    if not count:
        return f"{text}, none was started again {since}"
    last = max((one for one in told.programs if one.last_restart), key=_last_at)
    assert last.last_restart is not None
    return (
        f"{text}, {plural(count, 'restart')} {since}; the last was {_ago(_last_at(last), now_ms)}, "
        f"{last.program}: {why(last.last_restart)}"
    )


def restarts_table(told: SupervisorStats, now_ms: int) -> Table:
    """Return the programs that were started again, each with how often, when and why last."""
    table = table_of("program", "restarts", "last", "why", numbers=["restarts"])
    for program in told.programs:
        if (last := program.last_restart) is not None:
            count = str(restarts_of(program))
            table.add_row(program.program, count, _ago(last.at, now_ms), why(last))
    return table


def restarts_of(program: ProgramStats) -> int:
    """Return how often a program was started again, whatever the reason."""
    return sum(program.restarts.values())


def why(restart: Restart) -> str:
    """Return why a program was started again, as a sentence."""
    match restart.reason:
        case "exit":
            return f"it ended with {restart.detail}"
        case "signal":
            return f"{restart.detail} ended it"
        case "hang":
            return "it hung, its loop did not turn any more"
        case "fork":
            return f"the machine had no process for it ({restart.detail})"


def _is_suspect(program: ProgramStats, now_ms: int) -> bool:
    is_recent = now_ms - _last_at(program) < RECENT_MS
    return is_recent or restarts_of(program) >= REPEATED


def _last_at(program: ProgramStats) -> int:
    return program.last_restart.at if program.last_restart is not None else 0


def _ago(unix_ms: int, now_ms: int) -> str:
    """Say how long ago something was; also when the server's clock is a little ahead."""
    return distance(min(unix_ms, now_ms), now_ms)


def _advice(restart: Restart, told: SupervisorStats) -> str:
    match restart.reason, restart.detail:
        case "exit", "status 0":
            return (
                "somebody told it alone to stop; whoever wants to stop the server tells its "
                f"supervisor, process {told.pid}"
            )
        case "exit", _:
            return "the server's log has what it said before that"
        case "signal", "SIGKILL":
            return (
                "somebody killed it, or the kernel did, short of memory: look for "
                '"Out of memory" in `journalctl -k`'
            )
        case "signal", signal if signal in _CRASHES:
            return "it crashed; the server's log has where, if it could still write that"
        case "hang", _:
            return (
                "the server's log has where, if it could still write that; requests that may take "
                "long, and what to do for them, are in docs/OPERATIONS.md"
            )
        case "fork", _:
            return "raise the limit on processes: ulimit -u (TasksMax= in systemd), or free memory"
        case _:
            return "somebody sent it that signal"


_NO_SUPERVISOR: Final = (
    "none, each program was started by itself; systemd counts their restarts: "
    "systemctl show -p Id,NRestarts 'flashq-*'"
)
