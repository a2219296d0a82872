"""Requests that several shards answer: divided, merged, and not held up by a silent one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import to_builtins

from flashq.ids import shard_of_job
from flashq.protocol.framing import FULL, JSON
from flashq.protocol.server import ProgramStats, Restart, SupervisorStats
from flashq.protocol.sessions import worker_id
from flashq.router import gathering
from flashq.router.gathers import LISTED_JOBS_MAX
from tests.unit.router.bench import SHARDS, Bench, Pair, jobs_body

BOTH = pytest.mark.parametrize("flags", [0, JSON, FULL])


def scatter(bench: Bench, **request: Any) -> list[Pair]:
    """Send a request, and return what the shards are asked, by shard."""
    bench.ask(**request)
    return sorted(bench.to_peers(), key=lambda pair: int(pair.to))


def gather(request: dict[str, Any], *replies: dict[str, Any] | None, flags: int = 0) -> Any:
    """Ask all shards, let them answer in turn (None: not at all), and return the reply."""
    bench = Bench()
    asked = scatter(bench, flags=flags, **request)
    assert len(asked) == len(replies)
    for pair, reply in zip(asked, replies, strict=True):
        assert pair.flags == flags
        if reply is not None:
            bench.answer(pair, reply)
    if None in replies:
        assert bench.to_clients() == []
        bench.pass_time(2000)
    return bench.reply()


def error(code: str, *, retryable: bool) -> dict[str, Any]:
    """An error as a shard replies it."""
    return {"ok": False, "error": f"text of {code}", "code": code, "retryable": retryable}


# --- listing jobs


@BOTH
def test_jobs_of_all_queues_are_merged_newest_first(flags: int) -> None:
    """Each shard gives what could be on the page; totals add up; what a job carries passes as it
    is, keys that this version does not know too."""
    request = {"cmd": "GETJOBS", "state": "waiting", "limit": 3, "offset": 2}
    bench = Bench()
    asked = scatter(bench, flags=flags, **request)
    for pair in asked:
        assert pair.fields == {"cmd": "GETJOBS", "state": "waiting", "limit": 5}
        ids = [20 + int(pair.to), 10 + int(pair.to)]
        bench.answer(pair, jobs_body(*ids, total=7))
    reply = bench.reply()
    assert [job["id"] for job in reply["jobs"]] == [21, 20, 13]
    assert reply["jobs"][0] == {"id": 21, "queue": "q", "data": {"of": 21}}
    assert reply["total"] == 28
    assert "missing_shards" not in reply


def test_a_page_has_a_hundred_jobs_unless_it_says_otherwise() -> None:
    """As for one queue."""
    for pair in scatter(Bench(), cmd="GETJOBS", offset=50):
        assert pair.fields == {"cmd": "GETJOBS", "limit": 150}
    for pair in scatter(Bench(), cmd="GETJOBS", limit=0):
        assert pair.fields == {"cmd": "GETJOBS", "limit": 0}


def test_a_page_too_deep_is_refused() -> None:
    """Each shard would have to give everything before it."""
    bench = Bench()
    bench.ask(cmd="GETJOBS", limit=10, offset=LISTED_JOBS_MAX)
    assert bench.reply()["code"] == "invalid"
    bench.ask(cmd="GETJOBS", limit=-1)
    assert bench.reply()["code"] == "invalid"
    assert bench.to_peers() == []


def test_a_silent_shard_is_named_and_the_rest_is_given() -> None:
    """After the deadline, not before; its late answer changes nothing."""
    bench = Bench()
    asked = scatter(bench, cmd="GETJOBS")
    for pair in asked[1:]:
        bench.answer(pair, jobs_body(int(pair.to), total=1))
    bench.pass_time(1999)
    assert bench.to_clients() == []
    assert bench.router.next_deadline_ms() == bench.now_ms + 1
    bench.pass_time(1)
    reply = bench.reply()
    assert [job["id"] for job in reply["jobs"]] == [3, 2, 1]
    assert reply["missing_shards"] == [0]
    bench.answer(asked[0], jobs_body(4, total=1))
    assert bench.to_clients() == []
    assert bench.router.dropped == {"late reply": 1}


def test_a_shard_that_answers_twice_counts_once() -> None:
    """Its second answer is not taken for another shard's."""
    bench = Bench()
    asked = scatter(bench, cmd="GETJOBS")
    for _ in range(SHARDS):
        bench.answer(asked[1], jobs_body(5, total=1))
    assert bench.to_clients() == []


@pytest.mark.parametrize("code", ["starting", "busy", "shutting_down", "shard_unavailable"])
def test_a_shard_that_cannot_answer_now_is_named_too(code: str) -> None:
    """It recovers, or is overloaded: the rest is given at once."""
    reply = gather(
        {"cmd": "GETJOBS"},
        jobs_body(4, total=1),
        error(code, retryable=code != "shard_unavailable"),
        jobs_body(total=0),
        jobs_body(7, total=1),
    )
    assert [job["id"] for job in reply["jobs"]] == [7, 4]
    assert reply["missing_shards"] == [1]


def test_an_error_about_the_request_is_the_answer() -> None:
    """All shards would say the same."""
    bad = error("state_invalid", retryable=False)
    assert gather({"cmd": "GETJOBS", "state": "odd"}, bad, bad, None, bad) == bad


def test_when_nobody_answers_there_is_nothing_to_give() -> None:
    """Zeros would be a lie."""
    reply = gather({"cmd": "STATS"}, None, None, None, None)
    assert (reply["ok"], reply["code"]) == (False, "shard_unavailable")
    starting = error("starting", retryable=True)
    reply = gather({"cmd": "STATS"}, starting, starting, starting, starting)
    assert (reply["code"], reply["retryable"]) == ("starting", True)


def test_a_shard_that_answers_nonsense_is_told_of() -> None:
    """The asker gets an error, and the router goes on."""
    bench = Bench()
    for pair in scatter(bench, cmd="STATS"):
        bench.answer(pair, b"\xc1")
    assert bench.reply()["code"] == "bad_message"


def test_a_shard_with_a_new_epoch_is_not_waited_for() -> None:
    """
    1. A shard is killed with the question unread; its successor is ready half a second later.
    2. The gather ends then, not after two seconds.
    3. A question asked while the shard was away waits in its pipe: that one is waited for.
    """
    bench = Bench()
    bench.epochs(1, 1, 1, 1)
    for pair in scatter(bench, cmd="GETJOBS"):
        if pair.to != 1:
            bench.answer(pair, jobs_body(total=0))
    bench.epochs(1, 0, 1, 1)
    assert bench.to_clients() == []
    asked = scatter(bench, corr=8, cmd="GETJOBS")
    bench.epochs(1, 2, 1, 1)
    assert bench.reply()["missing_shards"] == [1]
    for pair in asked:
        bench.answer(pair, jobs_body(total=0))
    assert "missing_shards" not in bench.reply()


def test_gathers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions to everybody cannot pile up."""
    monkeypatch.setattr(gathering, "GATHERS_MAX", 1)
    bench = Bench()
    asked = scatter(bench, cmd="STATS")
    bench.ask(cmd="STATS")
    assert bench.reply()["code"] == "busy"
    assert bench.to_peers() == []
    assert len(asked) == SHARDS


# --- jobs by id


@BOTH
def test_jobs_by_id_come_in_the_order_asked_for(flags: int) -> None:
    """Each shard is asked for its own; those that nobody has are left out."""
    ids = [9, 2, 4, 1, 6, 2, 99]
    bench = Bench()
    asked = scatter(bench, flags=flags, cmd="GETJOBSBATCH", ids=ids)
    assert {pair.to: pair.fields["ids"] for pair in asked} == {
        0: [4],
        1: [9, 1],
        2: [2, 6, 2],
        3: [99],
    }
    for pair in asked:
        known = [job_id for job_id in reversed(pair.fields["ids"]) if job_id != 99]
        bench.answer(pair, jobs_body(*known))
    reply = bench.reply()
    assert [job["id"] for job in reply["jobs"]] == [9, 2, 4, 1, 6, 2]
    assert "total" not in reply


def acked(count: int, *lost: int) -> dict[str, Any]:
    """A shard's reply to its part of an ACKB."""
    return {"ids": [count]} | ({"lost": list(lost)} if lost else {})


@BOTH
def test_acks_are_divided_with_their_tokens_and_results(flags: int) -> None:
    """What stands in line with the ids stays in line, protection against repeats goes to each
    shard, counts add up and lost ids are joined."""
    request = {
        "cmd": "ACKB",
        "ids": [4, 1, 8, 5],
        "tokens": [40, 10, None, 50],
        "results": [{"r": 4}, None, [8], "five"],
        "n": 3,
    }
    bench = Bench()
    first, second = scatter(bench, flags=flags, **request)
    assert first.fields == {
        "cmd": "ACKB",
        "ids": [4, 8],
        "tokens": [40, None],
        "results": [{"r": 4}, [8]],
        "n": 3,
    }
    assert second.fields == {
        "cmd": "ACKB",
        "ids": [1, 5],
        "tokens": [10, 50],
        "results": [None, "five"],
        "n": 3,
    }
    bench.answer(first, acked(1, 8))
    bench.answer(second, acked(2))
    assert bench.reply() == {"ok": True, "ids": [3], "lost": [8]}


def test_acks_of_a_silent_shard_are_told_as_missing() -> None:
    """The count is that of the rest."""
    bench = Bench()
    first, _second = scatter(bench, cmd="ACKB", ids=[4, 1])
    bench.answer(first, acked(1))
    bench.pass_time(2000)
    assert bench.reply() == {"ok": True, "ids": [1], "missing_shards": [1]}


def test_releases_are_counted_together() -> None:
    """A silent shard is named here too."""
    bench = Bench()
    first, second = scatter(bench, cmd="RELEASE", ids=[4, 1], tokens=[1, 2])
    assert second.fields == {"cmd": "RELEASE", "ids": [1], "tokens": [2]}
    bench.answer(first, {"count": 1})
    bench.answer(second, {"count": 1})
    assert bench.reply() == {"ok": True, "count": 2}
    first, second = scatter(bench, cmd="RELEASE", ids=[4, 1])
    bench.answer(first, {"count": 1})
    bench.pass_time(2000)
    assert bench.reply() == {"ok": True, "count": 1, "missing_shards": [1]}


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"cmd": "ACKB", "ids": [1, 2], "tokens": [1]}, "invalid"),
        ({"cmd": "ACKB", "ids": [1, 2], "results": [1, 2, 3]}, "invalid"),
        ({"cmd": "ACKB", "ids": [1, -2]}, "invalid"),
        ({"cmd": "RELEASE", "ids": list(range(10_001))}, "batch_too_large"),
    ],
)
def test_what_cannot_be_divided_is_refused(request_fields: dict[str, Any], code: str) -> None:
    """Nothing of it is carried out."""
    bench = Bench()
    bench.ask(**request_fields)
    assert bench.reply()["code"] == code
    assert bench.to_peers() == []


def test_a_batch_of_the_largest_size_is_divided() -> None:
    """The bound counts the whole request."""
    asked = scatter(Bench(), cmd="RELEASE", ids=list(range(10_000)))
    assert sum(len(pair.fields["ids"]) for pair in asked) == 10_000
    for pair in asked:
        assert {shard_of_job(job_id, SHARDS) for job_id in pair.fields["ids"]} == {pair.to}


# --- custom ids


def found(job_id: int, created_at: int, state: str = "waiting") -> dict[str, Any]:
    """A shard's reply that has the job."""
    return {
        "job": {"id": job_id, "queue": "q", "data": 1, "created_at": created_at},
        "state": state,
    }


NOT_FOUND = {"job": None, "state": "unknown"}
REMOVED = {"job": None, "state": "completed"}
BY_CUSTOM_ID = {"cmd": "GETJOBBYCUSTOMID", "job_id": "mine"}


@BOTH
def test_of_jobs_with_one_custom_id_the_newest_is_given(flags: int) -> None:
    """Custom ids are per queue, so several shards can have one."""
    reply = gather(BY_CUSTOM_ID, NOT_FOUND, found(5, 100), found(2, 300), REMOVED, flags=flags)
    assert reply == {"ok": True} | found(2, 300)


def test_without_a_job_what_is_known_of_it_is_given() -> None:
    """Nothing, or its state; and that a shard did not answer, for it may have it."""
    assert gather(BY_CUSTOM_ID, *[NOT_FOUND] * 4) == {"ok": True} | NOT_FOUND
    assert gather(BY_CUSTOM_ID, NOT_FOUND, REMOVED, NOT_FOUND, NOT_FOUND) == {"ok": True} | REMOVED
    reply = gather(BY_CUSTOM_ID, NOT_FOUND, None, NOT_FOUND, NOT_FOUND)
    assert reply == {"ok": True, "missing_shards": [1]} | NOT_FOUND


# --- the server as a whole


def queue_info(name: str) -> dict[str, Any]:
    """An entry of LISTQUEUES."""
    return {
        "name": name,
        "pending": 1,
        "processing": 0,
        "dlq": 0,
        "paused": False,
        "rate_limit": None,
        "concurrency_limit": None,
    }


@BOTH
def test_queues_are_listed_by_name(flags: int) -> None:
    """Whatever shard they are in."""
    reply = gather(
        {"cmd": "LISTQUEUES"},
        {"queues": [queue_info("d"), queue_info("b")]},
        {"queues": []},
        {"queues": [queue_info("c")]},
        {"queues": [queue_info("a")]},
        flags=flags,
    )
    assert reply["queues"] == [queue_info(name) for name in "abcd"]


def worker(worker_id: str, **fields: Any) -> dict[str, Any]:
    """An entry of LISTWORKERS."""
    figures = {"queues": ["q"], "concurrency": 1, "last_heartbeat": 5, "jobs_processed": 1}
    return {"id": worker_id, **figures, **fields}


@BOTH
def test_a_worker_of_several_shards_is_one(flags: int) -> None:
    """With all its queues and jobs, and the last that was heard of it."""
    reply = gather(
        {"cmd": "LISTWORKERS"},
        {"workers": [worker("b", jobs_held=2), worker("a", last_heartbeat=9)]},
        {"workers": []},
        {"workers": [worker("b", queues=["r", "q"], jobs_held=3, last_heartbeat=7, name="n")]},
        None,
        flags=flags,
    )
    merged = {"queues": ["q", "r"], "jobs_held": 5, "last_heartbeat": 7, "jobs_processed": 2}
    assert reply["workers"] == [worker("a", last_heartbeat=9), worker("b", **merged, name="n")]
    assert reply["missing_shards"] == [3]


def test_a_worker_is_called_what_it_said_in_its_hello() -> None:
    """Unless it has said another name to a shard; a long one is cut for people."""
    bench = Bench()
    sessions = [letter * 16 for letter in (b"a", b"b", b"c")]
    for session, name in zip(sessions, ("mailer", "x" * 300, None), strict=True):
        bench.ask(cmd="HELLO", session=session, client=name, identity=session)
    bench.to_clients()
    ids = [worker_id(session) for session in sessions]
    first, *others = scatter(bench, cmd="LISTWORKERS")
    bench.answer(first, {"workers": [*map(worker, ids), worker("other", name="said")]})
    for pair in others:
        bench.answer(pair, {"workers": [worker(ids[2], name="also said")]})
    found = {one["id"]: one.get("name") for one in bench.reply()["workers"]}
    assert found == {ids[0]: "mailer", ids[1]: "x" * 256, ids[2]: "also said", "other": "said"}


def shard_stats(shard: int) -> dict[str, Any]:
    """A shard's condition."""
    names = ("epoch", "jobs", "bytes", "sessions", "waiters", "unsafe_bytes", "log_seq")
    return {"shard": shard, "safe_seq": 0, "mailbox_out": 0} | dict.fromkeys(names, shard)


@BOTH
def test_stats_add_up(flags: int) -> None:
    """And each shard's condition is given."""
    replies: list[dict[str, Any] | None] = [
        {
            "queued": 1,
            "processing": 10,
            "delayed": 100,
            "dlq": 1000,
            "completed": 5,
            "waiting_dependencies": 7,
            "shards": [shard_stats(shard)],
            "wait_seconds": {"bounds": [0.5], "cumulative": [1, 2], "sum": 3.5},
        }
        for shard in range(3)
    ]
    reply = gather({"cmd": "STATS"}, *replies, None, flags=flags)
    assert [shard["shard"] for shard in reply.pop("shards")] == [0, 1, 2]
    assert reply == {
        "ok": True,
        "queued": 3,
        "processing": 30,
        "delayed": 300,
        "dlq": 3000,
        "completed": 15,
        "waiting_dependencies": 21,
        "wait_seconds": {"bounds": [0.5], "cumulative": [3, 6], "sum": 10.5},
        "missing_shards": [3],
        "unknown_shards": [3],
    }


@BOTH
def test_the_figures_of_a_silent_shard_stay_as_they_were(flags: int) -> None:
    """Totals went back while a shard was away, and then up again: whoever makes rates of them saw
    jobs that never were. Shards that nobody has heard of yet are named."""
    bench = Bench()

    def ask(word: str, *counts: int | None) -> Any:
        for pair, count in zip(scatter(bench, cmd=word, flags=flags), counts, strict=True):
            if count is not None:
                told = dict.fromkeys(("queued", "processing", "delayed", "dlq"), count)
                body = metrics(count, 1.0, "q") if word == "METRICS" else told
                bench.answer(pair, body)
        if None in counts:
            bench.pass_time(2000)
        return bench.reply()

    for word in ("METRICS", "STATS"):
        reply = ask(word, 1, 10, 100, None)
        assert (reply["missing_shards"], reply["unknown_shards"]) == ([3], [3])
        reply = ask(word, 1, 10, 100, 1000)
        assert "unknown_shards" not in reply
        reply = ask(word, 2, None, None, 2000)
        assert reply["missing_shards"] == [1, 2]
        assert "unknown_shards" not in reply
        if word == "METRICS":
            assert reply["metrics"]["total_pushed"] == 2112
            assert reply["metrics"]["jobs_per_second"] == 1.0, "a silent shard ends nothing"
            assert len(reply["metrics"]["queues"]) == 2
        else:
            assert reply["queued"] == 2112


def test_durations_go_on_where_a_shards_last_process_ended() -> None:
    """Each process begins to count at 0; the sum of all shards must not go back for it."""
    bench = Bench()

    def ask(epoch: int, count: int | None) -> Any:
        for pair in scatter(bench, cmd="STATS"):
            shard = int(pair.to)
            if shard == 0 and count is None:
                continue
            told = count if shard == 0 and count is not None else 1
            seconds = {"bounds": [0.5], "cumulative": [told, told], "sum": float(told)}
            counts = dict.fromkeys(("queued", "processing", "delayed", "dlq"), 0)
            condition = shard_stats(shard) | {"epoch": epoch if shard == 0 else 1}
            bench.answer(pair, counts | {"shards": [condition], "wait_seconds": seconds})
        if count is None:
            bench.pass_time(2000)
        return bench.reply()["wait_seconds"]["cumulative"]

    others = SHARDS - 1
    assert ask(1, 10) == [10 + others] * 2
    assert ask(1, None) == [10 + others] * 2
    assert ask(2, 0) == [10 + others] * 2
    assert ask(2, 5) == [15 + others] * 2
    assert ask(2, None) == [15 + others] * 2
    assert ask(3, 1) == [16 + others] * 2


def test_stats_say_what_is_wrong_with_storage() -> None:
    """Changes wait, and whoever looks learns why; nothing is said when nothing is wrong."""
    bench = Bench()
    counts = dict.fromkeys(("queued", "processing", "delayed", "dlq"), 0)
    for trouble in ("storage unavailable: disk full", ""):
        bench.epochs(1, 1, 1, 1, storage=trouble)
        for pair in scatter(bench, cmd="STATS"):
            bench.answer(pair, counts)
        assert bench.reply().get("storage", "") == trouble


def test_stats_say_what_the_supervisor_has_noted() -> None:
    """Whatever the client's encoding; a router that was started by itself says nothing."""
    program = ProgramStats(
        program="flashq-shard 0",
        started_at=7,
        restarts={"signal": 2, "hang": 1},
        last_restart=Restart(at=7, reason="signal", detail="SIGKILL"),
    )
    told = SupervisorStats(
        pid=42, started_at=5, silent_ms=250, watchdog_ms=4000, programs=[program]
    )
    counts = dict.fromkeys(("queued", "processing", "delayed", "dlq"), 0)
    for bench, expected in ((Bench(supervisor=lambda: told), to_builtins(told)), (Bench(), None)):
        for flags in (0, JSON):
            for pair in scatter(bench, cmd="STATS", flags=flags):
                bench.answer(pair, counts)
            assert bench.reply().get("supervisor") == expected


def metrics(count: int, latency_ms: float, *queues: str) -> dict[str, Any]:
    """A shard's reply to METRICS."""
    totals = "pushed completed failed expired cancelled retried timed_out stalled lost evicted"
    return {
        "metrics": {f"total_{name}": count for name in totals.split()}
        | {"jobs_per_second": 0.5, "avg_latency_ms": latency_ms}
        | {
            "queues": [
                {"name": name, "pending": 1, "processing": 0, "dlq": 0, "rate_limit": None}
                for name in queues
            ]
        }
    }


@BOTH
def test_metrics_add_up_and_latencies_are_weighed(flags: int) -> None:
    """The mean over all jobs, not over shards; a shard without jobs weighs nothing."""
    reply = gather(
        {"cmd": "METRICS"},
        metrics(3, 10.0, "b"),
        metrics(1, 50.0, "a"),
        metrics(0, 0.0),
        metrics(0, 0.0),
        flags=flags,
    )["metrics"]
    assert (reply["total_pushed"], reply["total_evicted"]) == (4, 4)
    assert (reply["jobs_per_second"], reply["avg_latency_ms"]) == (2.0, 20.0)
    assert [queue["name"] for queue in reply["queues"]] == ["a", "b"]
    nothing = gather({"cmd": "METRICS"}, *[metrics(0, 0.0)] * 4)
    assert nothing["metrics"]["avg_latency_ms"] == 0.0


def test_a_goodbye_goes_to_all_shards() -> None:
    """Whichever hold jobs of the session give them back, and the answer says that they did."""
    assert gather({"cmd": "GOODBYE", "session": bytes(16), "n": 4}, {}, {}, {}, {}) == {"ok": True}
