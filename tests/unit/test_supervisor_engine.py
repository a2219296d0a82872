"""`flashq.supervisor.engine`: what is forked, restarted and stopped, and in which order."""

from __future__ import annotations

import pytest

from flashq.supervisor.engine import (
    ABORT_GRACE_MS,
    DRAIN_GRACE_MS,
    REPEAT_MS,
    RESTART_DELAY_MS,
    RESTART_DELAY_MS_MAX,
    STABLE_MS,
    START_DEATHS_MAX,
    Abort,
    Action,
    Announce,
    Ending,
    Engine,
    Exit,
    Fork,
    Kill,
    Log,
    Program,
    Refuse,
    Terminate,
)
from flashq.supervisor.watchdog import START_MS_MIN, UNWATCHED

DRAIN_MS = 5000
NAMES = ["coordinator", "shard 0", "shard 1", "router"]
KILLED = Ending("signal", 9, "was killed by SIGKILL")
ABORTED = Ending("signal", 6, "was killed by SIGABRT")
CRASHED = Ending("signal", 11, "was killed by SIGSEGV")
TERMINATED = Ending("signal", 15, "was killed by SIGTERM")
FAILED = Ending("exit", 1, "ended with status 1")
DRAINED = Ending("exit", 0, "ended with status 0")


def an_engine() -> Engine:
    """Return the supervisor of a small server, in the order of its forks."""
    stages = {"coordinator": 2, "shard 0": 1, "shard 1": 1, "router": 0}
    return Engine([Program(name, stages[name]) for name in NAMES], DRAIN_MS)


def a_running_engine() -> Engine:
    """Return a supervisor whose server is up since time 0."""
    engine = an_engine()
    engine.start()
    for name in NAMES:
        engine.ready(name, (), 0)
    taken(engine)
    return engine


def taken(engine: Engine) -> list[Action]:
    """Return what the engine has decided since the last call."""
    actions, engine.actions = engine.actions, []
    return actions


def without_logs(engine: Engine) -> list[Action]:
    """Return what the engine has decided to do, without what it says about that."""
    return [action for action in taken(engine) if not isinstance(action, Log)]


def test_everything_is_forked_in_order_and_announced_once_all_are_ready() -> None:
    """`ready` on the terminal promises that a client can connect and be served."""
    engine = an_engine()
    engine.start()
    assert taken(engine) == [Fork(name) for name in NAMES]
    engine.ready("router", ("tcp://127.0.0.1:6788", "ipc:///run/router.sock"), 1)
    engine.ready("coordinator", (), 2)
    engine.ready("shard 1", (), 3)
    assert taken(engine) == []
    engine.ready("shard 0", (), 4)
    assert taken(engine) == [Announce(("tcp://127.0.0.1:6788", "ipc:///run/router.sock"))]
    assert engine.next_deadline_ms() is None


def test_the_first_death_is_followed_by_a_restart_at_once() -> None:
    """A shard killed with SIGKILL is away for as short as possible."""
    engine = a_running_engine()
    engine.exited("shard 1", KILLED, 100)
    log, fork = taken(engine)
    assert log == Log("shard 1 was killed by SIGKILL; it is started again", is_problem=True)
    assert fork == Fork("shard 1", KILLED)
    engine.ready("shard 1", (), 150)
    assert taken(engine) == [Log("shard 1 is ready again", is_problem=False)]


def test_a_crash_loop_backs_off_up_to_a_bound_and_is_reported() -> None:
    """A program that dies at each start must not take the whole machine for its restarts."""
    engine = a_running_engine()
    now, delays = 0, []
    for _ in range(9):
        engine.exited("shard 0", FAILED, now)
        due = engine.next_deadline_ms()
        delays.append(0 if due is None else due - now)
        now = now if due is None else due
        engine.tick(now)
    assert delays == [0, *(RESTART_DELAY_MS * 2**n for n in range(6)), *[RESTART_DELAY_MS_MAX] * 2]
    actions = taken(engine)
    assert actions.count(Fork("shard 0", FAILED)) == 9
    text = (
        "shard 0 ended with status 1; it is started again in 200 ms, since that is death 3 in a row"
    )
    assert Log(text, is_problem=True) in actions


def test_a_program_that_was_stable_is_not_in_a_crash_loop() -> None:
    """Deaths days apart each get an immediate restart."""
    engine = a_running_engine()
    for now in (STABLE_MS, 3 * STABLE_MS, 5 * STABLE_MS):
        engine.exited("router", KILLED, now)
        assert without_logs(engine) == [Fork("router", KILLED)]
        engine.ready("router", (), now)
        taken(engine)


def test_a_restart_is_not_made_before_its_time() -> None:
    """A wake-up for another reason must not shorten a delay."""
    engine = a_running_engine()
    engine.exited("shard 0", FAILED, 0)
    engine.exited("shard 0", FAILED, 0)
    taken(engine)
    engine.tick(RESTART_DELAY_MS - 1)
    assert taken(engine) == []
    engine.tick(RESTART_DELAY_MS)
    assert taken(engine) == [Fork("shard 0", FAILED)]


def test_stop_drains_router_then_shards_then_coordinator() -> None:
    """The router stops taking requests while shards can answer, and shards finish while the
    coordinator still takes their records."""
    engine = a_running_engine()
    engine.stop(0)
    assert taken(engine) == [Terminate("router")]
    engine.exited("router", DRAINED, 10)
    assert taken(engine) == [Terminate("shard 0"), Terminate("shard 1")]
    engine.exited("shard 1", DRAINED, 20)
    assert taken(engine) == []
    engine.exited("shard 0", DRAINED, 30)
    assert taken(engine) == [Terminate("coordinator")]
    engine.exited("coordinator", DRAINED, 40)
    assert taken(engine) == [Exit(0)]
    assert engine.next_deadline_ms() is None


def test_what_does_not_drain_in_time_is_killed() -> None:
    """A hanging shard must not keep the server from ending, and the others still drain."""
    engine = a_running_engine()
    engine.stop(0)
    engine.exited("router", DRAINED, 10)
    engine.exited("shard 0", DRAINED, 20)
    taken(engine)
    due = engine.next_deadline_ms()
    assert due == 10 + DRAIN_MS + DRAIN_GRACE_MS
    engine.tick(due)
    assert taken(engine) == [
        Log("shard 1 did not finish within 5000 ms and is killed", is_problem=True),
        Kill("shard 1"),
    ]
    assert engine.next_deadline_ms() is None
    engine.exited("shard 1", KILLED, due + 1)
    assert taken(engine) == [Terminate("coordinator")]


def test_whoever_asks_twice_does_not_want_to_wait() -> None:
    """Ctrl-C twice ends a server that drains too slowly for its user."""
    engine = a_running_engine()
    engine.stop(0)
    taken(engine)
    engine.stop(REPEAT_MS)
    assert taken(engine) == [Kill(name) for name in NAMES]
    for name in NAMES:
        engine.exited(name, KILLED, REPEAT_MS + 1)
    assert taken(engine)[-1] == Exit(0)


def test_the_echo_of_a_request_to_stop_is_not_a_second_one() -> None:
    """`timeout` and `make` signal the process and then its whole group: that is asked once."""
    engine = a_running_engine()
    engine.stop(0)
    taken(engine)
    engine.stop(REPEAT_MS - 1)
    assert taken(engine) == []


def test_nothing_is_restarted_while_draining() -> None:
    """A shard that dies in the drain, or waits for its restart when it begins, is gone."""
    engine = a_running_engine()
    engine.exited("shard 0", FAILED, 0)
    engine.exited("shard 0", FAILED, 0)
    engine.stop(1)
    engine.exited("shard 1", KILLED, 2)
    taken(engine)
    engine.tick(10_000)
    assert without_logs(engine) == [Kill("router")]
    engine.exited("router", KILLED, 10_001)
    assert taken(engine) == [Terminate("coordinator")]


def test_a_program_that_cannot_start_stops_the_server_with_its_sentence() -> None:
    """The port is in use: that is said once, and the exit status is not 0."""
    engine = an_engine()
    engine.start()
    engine.ready("coordinator", (), 0)
    taken(engine)
    engine.failed("router", "port 6788 is in use", 1)
    sentence = "router cannot start: port 6788 is in use"
    assert taken(engine) == [Refuse(sentence), Terminate("router")]
    engine.failed("shard 0", "there is no coordinator", 2)
    for name in reversed(NAMES):
        engine.exited(name, FAILED, 3)
    actions = taken(engine)
    assert actions[-1] == Exit(1)
    assert not any(isinstance(action, Refuse) for action in actions)


def test_a_program_that_is_killed_at_the_start_is_started_again() -> None:
    """
    1. While a server starts, and recovers millions of jobs, one of its programs is killed.
    2. The others go on, that one is forked again, and the server is announced as ever.
    """
    engine = an_engine()
    engine.start()
    taken(engine)
    engine.exited("shard 0", KILLED, 1)
    assert without_logs(engine) == [Fork("shard 0", KILLED)]
    for name in NAMES:
        engine.ready(name, (), 2)
    assert taken(engine) == [Announce(())]


def test_a_program_that_dies_at_each_start_stops_the_server() -> None:
    """A segmentation fault at import is reported as what it is, and not repeated for ever."""
    engine = an_engine()
    engine.start()
    for _ in range(START_DEATHS_MAX):
        engine.exited("shard 0", CRASHED, 0)
        engine.tick(engine.next_deadline_ms() or 0)
    assert without_logs(engine)[-1] == Fork("shard 0", CRASHED)
    engine.exited("shard 0", CRASHED, 0)
    assert taken(engine) == [
        Refuse("shard 0 was killed by SIGSEGV before the server was ready, 6 times"),
        Terminate("router"),
    ]


def test_a_restarted_program_that_cannot_start_is_logged_and_tried_again() -> None:
    """A full table of processes or a lock still held passes; the server that is up stays up."""
    engine = a_running_engine()
    engine.exited("router", KILLED, 0)
    taken(engine)
    engine.failed("router", "port 6788 is in use", 1)
    engine.exited("router", FAILED, 2)
    assert taken(engine)[0] == Log("router cannot start: port 6788 is in use", is_problem=True)
    assert engine.next_deadline_ms() == 2 + RESTART_DELAY_MS


def test_stop_before_the_server_is_up_ends_with_status_0() -> None:
    """SIGTERM right after the start is a stop like any other."""
    engine = an_engine()
    engine.start()
    engine.stop(0)
    for name in reversed(NAMES):
        engine.exited(name, TERMINATED, 1)
    assert taken(engine)[-1] == Exit(0)


def test_names_are_unique() -> None:
    """Two programs of one name would share one process id."""
    with pytest.raises(AssertionError, match="unique"):
        Engine([Program("router", 0), Program("router", 0)], DRAIN_MS)


# --- programs that hang

WATCHDOG_MS = 4000


def a_watched_engine() -> Engine:
    """Return a supervisor with a watchdog, whose server is up and first looked at at time 0."""
    engine = Engine([Program("shard", 1), Program("router", 0)], DRAIN_MS, WATCHDOG_MS)
    engine.start()
    for name in ("shard", "router"):
        engine.ready(name, (), 0)
    engine.look({"shard": 1, "router": 1}, 0)
    taken(engine)
    return engine


def look_until(engine: Engine, counts: dict[str, int], from_ms: int, to_ms: int) -> None:
    """Look whenever that is due, while the router's loop turns and all others' stand still."""
    while (due_ms := engine.next_deadline_ms()) is not None and due_ms <= to_ms:
        counts["router"] += 1
        engine.look(counts, max(due_ms, from_ms))
        engine.tick(max(due_ms, from_ms))


def test_who_hangs_is_aborted_then_killed_and_started_again() -> None:
    """SIGABRT, so that it writes where it is; a stopped one does not hear that, so SIGKILL."""
    engine = a_watched_engine()
    counts = {"shard": 1, "router": 1}
    look_until(engine, counts, 0, WATCHDOG_MS - 1)
    assert taken(engine) == []
    look_until(engine, counts, 0, WATCHDOG_MS)
    log, abort = taken(engine)
    assert isinstance(log, Log)
    assert log.text.startswith("shard hangs: its loop has not turned for 4000 ms; it is ended")
    assert log.text.endswith("(hang 1 since the start)")
    assert abort == Abort("shard")
    look_until(engine, counts, 0, WATCHDOG_MS + ABORT_GRACE_MS)
    assert taken(engine) == [Kill("shard")]
    ended_ms = WATCHDOG_MS + ABORT_GRACE_MS
    engine.exited("shard", KILLED, ended_ms)
    assert without_logs(engine) == [Fork("shard", KILLED._replace(reason="hang"))]
    engine.ready("shard", (), ended_ms)
    look_until(engine, counts, ended_ms, ended_ms + WATCHDOG_MS - 1)
    assert without_logs(engine) == []


def test_who_dies_of_the_abort_is_not_killed_in_its_next_life() -> None:
    """The grace was that of the program that hung."""
    engine = a_watched_engine()
    counts = {"shard": 1, "router": 1}
    look_until(engine, counts, 0, WATCHDOG_MS)
    engine.exited("shard", ABORTED, WATCHDOG_MS)
    hang = ABORTED._replace(reason="hang")
    assert without_logs(engine) == [Abort("shard"), Fork("shard", hang)]
    look_until(engine, counts, WATCHDOG_MS, WATCHDOG_MS + ABORT_GRACE_MS)
    assert taken(engine) == []


def test_what_ends_after_a_hang_ends_for_a_reason_of_its_own() -> None:
    """The hang was that of the program before."""
    engine = a_watched_engine()
    look_until(engine, {"shard": 1, "router": 1}, 0, WATCHDOG_MS)
    engine.exited("shard", ABORTED, WATCHDOG_MS)
    taken(engine)
    engine.exited("shard", KILLED, WATCHDOG_MS + 1)
    engine.tick(WATCHDOG_MS + 1 + RESTART_DELAY_MS)
    assert without_logs(engine) == [Fork("shard", KILLED)]


def test_who_does_not_die_of_the_kill_either_hangs_once() -> None:
    """A process that waits for a broken disk ends when the disk lets it, and is one hang."""
    engine = a_watched_engine()
    look_until(engine, {"shard": 1, "router": 1}, 0, 10 * WATCHDOG_MS)
    assert without_logs(engine) == [Abort("shard"), Kill("shard")]


def test_a_supervisor_that_did_not_run_begins_all_waits_anew() -> None:
    """After a laptop's lid everybody looks silent; from then on each gets the whole time again."""
    engine = a_watched_engine()
    counts = {"shard": 1, "router": 1}
    look_until(engine, counts, 0, WATCHDOG_MS - 1)
    opened_ms = 3_600_000
    engine.look(counts, opened_ms)
    look_until(engine, counts, opened_ms, opened_ms + WATCHDOG_MS - 1)
    assert taken(engine) == []
    look_until(engine, counts, opened_ms, opened_ms + WATCHDOG_MS)
    assert without_logs(engine) == [Abort("shard")]


def test_a_step_of_a_start_may_take_longer_but_not_for_ever() -> None:
    """36 programs that import at once on two cores take their time; one that is stuck has none."""
    engine = Engine([Program("shard", 1), Program("router", 0)], DRAIN_MS, WATCHDOG_MS)
    engine.start()
    engine.ready("router", (), 0)
    counts = {"shard": 1, "router": 1}
    engine.look(counts, 0)
    taken(engine)
    look_until(engine, counts, 0, START_MS_MIN - 1)
    assert taken(engine) == []
    look_until(engine, counts, 0, START_MS_MIN)
    assert without_logs(engine) == [Abort("shard")]


def test_who_says_that_it_may_take_long_is_not_watched() -> None:
    """A coordinator opens its storage, which takes as long as storage takes."""
    engine = a_watched_engine()
    counts = {"shard": UNWATCHED, "router": 1}
    look_until(engine, counts, 0, 100 * WATCHDOG_MS)
    assert taken(engine) == []


def test_nobody_is_aborted_while_the_server_stops() -> None:
    """A drain has an end of its own."""
    engine = a_watched_engine()
    engine.stop(0)
    taken(engine)
    assert engine.next_deadline_ms() == DRAIN_MS + DRAIN_GRACE_MS
    engine.look({"shard": 1, "router": 1}, 10 * WATCHDOG_MS)
    assert taken(engine) == []


def test_without_a_watchdog_nothing_is_due() -> None:
    """0 is for ever, and costs no wake-up."""
    engine = a_running_engine()
    engine.look(dict.fromkeys(NAMES, 1), 10**9)
    assert taken(engine) == []
    assert engine.next_deadline_ms() is None
