"""Crons, events, and what a client says about itself."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from tests.contract.dealer import JSON, ROUTER, Dealer
from tests.contract.refusals import refused
from tests.contract.states import pull, push


def said_bytes(dealer: Dealer, raw: bytes) -> Any:
    """Return bytes as they stand in a request: JSON has base64."""
    return base64.b64encode(raw).decode() if dealer.flags & JSON else raw


@pytest.mark.covers("CRON", "CRONLIST", "CRONDELETE")
def test_a_cron_is_listed_as_it_was_made_and_removed_by_name(dealer: Dealer, queue: str) -> None:
    """The second of a name replaces the first; what is not there cannot be removed."""
    cron = {"name": queue, "queue": queue, "data": {"x": 1}}
    assert dealer.ask("CRON", **cron, repeat_every=3_600_000) == {"ok": True}
    made = cron | {"schedule": "0 0 3 * * *", "priority": 4, "limit": 9}
    assert dealer.ask("CRON", **made) == {"ok": True}
    reply = dealer.ask("CRONLIST")
    assert list(reply) == ["ok", "crons"]
    (found,) = [entry for entry in reply["crons"] if entry["name"] == queue]
    assert found.pop("next_run") > 0
    assert "tz" not in found
    assert found == made | {"repeat_every": None, "executions": 0}
    assert dealer.ask("CRONDELETE", name=queue) == {"ok": True}
    assert refused(dealer, "CRONDELETE", name=queue) == "Cron job not found"


@pytest.mark.covers("CRON")
def test_a_cron_fires(dealer: Dealer, queue: str) -> None:
    """As often as its limit says, and then it is gone."""
    dealer.ask(
        "CRON", name=queue, queue=queue, data={"n": 1}, repeat_every=100, limit=2, priority=3
    )
    for _ in range(2):
        job = dealer.ask("PULL", queue=queue, timeout=10_000)["job"]
        assert (job["data"], job["priority"]) == ({"n": 1}, 3)
    assert queue not in [cron["name"] for cron in dealer.ask("CRONLIST")["crons"]]


@pytest.mark.covers("CRON")
def test_a_schedule_that_cannot_be_read_is_refused_in_words(dealer: Dealer, queue: str) -> None:
    """Nothing, too long, not an interval, not a schedule."""
    cron = {"name": queue, "queue": queue, "data": 1}
    texts = {
        None: "Must provide either 'schedule' or 'repeat_every'",
        "*" * 257: "Cron schedule too long (257 chars, max 256 chars)",
        "*/x": "Invalid interval format: */x",
    }
    for schedule, text in texts.items():
        assert refused(dealer, "CRON", **cron, schedule=schedule) == text
    text = refused(dealer, "CRON", **cron, schedule="61 * * * *")
    assert text.startswith("Invalid cron expression '61 * * * *': ")
    assert queue not in [entry["name"] for entry in dealer.ask("CRONLIST")["crons"]]


@pytest.mark.covers("CRON")
@pytest.mark.parametrize(
    "schedule", ["*/60", "*/5 * * * *", "*/10 * * * * *", "0 */5 * * * *", "0 9 * * MON-FRI"]
)
def test_schedules_of_every_form_are_taken(dealer: Dealer, queue: str, schedule: str) -> None:
    """Every N seconds, five fields, six with seconds first, names and ranges."""
    cron = {"name": queue, "queue": queue, "data": 1, "schedule": schedule}
    assert dealer.ask("CRON", **cron) == {"ok": True}
    assert dealer.ask("CRONDELETE", name=queue) == {"ok": True}


@pytest.mark.covers("AUTH")
def test_any_token_is_right_where_none_is_needed(dealer: Dealer) -> None:
    """A client that always shows one works here too."""
    assert dealer.ask("AUTH", token="anything") == {"ok": True}
    assert dealer.ask("AUTH", token="", route=ROUTER) == {"ok": True}


@pytest.mark.covers("SUBSCRIBE", "UNSUBSCRIBE", "HELLO")
def test_events_come_as_notices_of_the_subscription(dealer: Dealer, queue: str) -> None:
    """Only those asked for, in order, until they are no longer wanted."""
    dealer.ask("HELLO", session=said_bytes(dealer, os.urandom(16)))
    assert dealer.ask("SUBSCRIBE", queue=queue, events=["completed", "failed"]) == {"ok": True}
    job_id = push(dealer, queue)
    pull(dealer, queue)
    dealer.ask("ACK", id=job_id, result={"r": 1})
    notice = dealer.notice()
    assert notice["notice"] == "event"
    event = notice["event"]
    assert (event["event"], event["queue"], event["ids"]) == ("completed", queue, [job_id])
    assert event["data"] == [{"r": 1}]
    assert {"seq", "shard", "epoch", "at"} <= event.keys()
    assert dealer.ask("UNSUBSCRIBE", queue=queue) == {"ok": True}
    assert dealer.ask("UNSUBSCRIBE", queue=queue) == {"ok": True}


@pytest.mark.covers("SUBSCRIBE")
def test_a_subscription_that_can_bring_nothing_is_refused(dealer: Dealer, queue: str) -> None:
    """Without a hello, for no event, for one that does not exist."""
    wish = {"queue": queue, "events": ["completed"]}
    assert refused(dealer, "SUBSCRIBE", **wish) == "Invalid: SUBSCRIBE needs a HELLO before it"
    dealer.ask("HELLO", session=said_bytes(dealer, os.urandom(16)))
    assert refused(dealer, "SUBSCRIBE", queue=queue, events=[]) == "Invalid: `events` is empty"
    text = refused(dealer, "SUBSCRIBE", queue=queue, events=["born"])
    assert text == "Invalid: unknown event 'born'"


@pytest.mark.covers("HELLO", "SESSIONHEARTBEAT", "GOODBYE")
def test_a_session_is_greeted_lives_and_ends(dealer: Dealer, queue: str) -> None:
    """The hello tells how to talk; the goodbye gives back at once what the session holds."""
    session = said_bytes(dealer, os.urandom(16))
    hello = dealer.ask("HELLO", session=session, client="test")
    assert hello["shard_count"] == len(hello["epochs"]) == 4
    assert all(hello["epochs"])
    beat = dealer.ask("SESSIONHEARTBEAT", session=session, route=ROUTER)
    assert (beat["ok"], beat["boot"], beat["epochs"]) == (True, hello["boot"], hello["epochs"])
    assert beat.get("known", True)
    stranger = dealer.ask("SESSIONHEARTBEAT", session=said_bytes(dealer, os.urandom(16)))
    assert stranger["known"] is False
    job_id = push(dealer, queue)
    job = dealer.ask("PULL", queue=queue, timeout=0, session=session, n=1)["job"]
    shard = job_id % 4
    lease = {"leases": [job_id], "tokens": [job["token"]]}
    assert dealer.ask("SESSIONHEARTBEAT", session=session, route=shard, **lease) == {"ok": True}
    lease["tokens"] = [job["token"] + 1]
    lost = dealer.ask("SESSIONHEARTBEAT", session=session, route=shard, **lease)
    assert lost == {"ok": True, "lost": [job_id], "states": ["active"]}
    assert dealer.ask("GOODBYE", session=session) == {"ok": True}
    assert pull(dealer, queue)["id"] == job_id


@pytest.mark.covers("PULLB", "HEARTBEAT")
def test_a_queue_is_waited_for_without_taking_and_time_counts_from_the_start(
    dealer: Dealer, queue: str
) -> None:
    """As a worker of several queues does it, which fetches ahead."""
    session = said_bytes(dealer, os.urandom(16))
    wait = {"queue": queue, "count": 0, "ready": True, "session": session}
    assert dealer.ask("PULLB", timeout=0, n=1, **wait) == {"ok": True, "jobs": [], "job": None}
    corr = dealer.send("PULLB", timeout=10_000, n=2, **wait)
    job_id = push(dealer, queue, timeout=300)
    assert dealer.answer(corr) == {"ok": True, "jobs": [], "ready": True}
    take = {"queue": queue, "count": 3, "timeout": 0, "starts": True, "session": session}
    (job,) = dealer.ask("PULLB", n=3, **take)["jobs"]
    assert job["id"] == job_id
    dealer.ask("HEARTBEAT", id=job_id, token=job["token"])
    assert dealer.ask("PULL", queue=queue, timeout=10_000)["job"]["attempts"] == 1


@pytest.mark.covers("WITHDRAW", "PULL", "WAITJOB")
@pytest.mark.parametrize("by_queue", [True, False])
def test_what_waits_is_taken_back_by_its_ticket(dealer: Dealer, queue: str, by_queue: bool) -> None:
    """At its queue's shard, or wherever it is; it is not answered, and takes no job."""
    named = {"queue": queue} if by_queue else {}
    gone, other = (said_bytes(dealer, os.urandom(16)) for _ in range(2))
    dealer.send("PULL", queue=queue, timeout=60_000, ticket=gone)
    corr = dealer.send("PULL", queue=queue, timeout=60_000, ticket=other)
    assert dealer.ask("WITHDRAW", ticket=gone, **named) == {"ok": True, "count": 1}
    assert dealer.ask("WITHDRAW", ticket=gone, **named) == {"ok": True, "count": 0}
    job_id = push(dealer, queue)
    assert dealer.answer(corr)["job"]["id"] == job_id
    dealer.send("WAITJOB", id=job_id, timeout=60_000, ticket=gone)
    assert dealer.ask("WITHDRAW", ticket=gone, **named)["count"] == 1


@pytest.mark.parametrize("word", ["PUSH", "PUSHB", "FLOW"])
def test_a_repeat_is_not_a_second_job(dealer: Dealer, queue: str, word: str) -> None:
    """Under the same session and number the first answer comes again, as often as it is asked."""
    session = said_bytes(dealer, os.urandom(16))
    child = {"queue": f"{queue}-child", "data": 1}
    fields: dict[str, dict[str, Any]] = {
        "PUSH": {"data": 1},
        "PUSHB": {"jobs": [{"data": 1}, {"data": 2, "tags": ["t"]}]},
        "FLOW": {"data": 1, "children": [child, child]},
    }
    request = {"queue": queue, "session": session, "n": 1, **fields[word]}
    first = dealer.ask(word, **request)
    assert first["ok"]
    assert dealer.ask(word, **request) == first
    assert dealer.ask(word, **request | {"n": 2}) != first
    total = dealer.ask("GETJOBS", queue=queue)["total"]
    assert total == (4 if word == "PUSHB" else 2)


def test_a_number_below_what_is_done_is_expired_and_not_carried_out(
    dealer: Dealer, queue: str
) -> None:
    """Its answer is forgotten, and to do it again would make a second job."""
    session = said_bytes(dealer, os.urandom(16))
    push(dealer, queue, session=session, n=5, done_below=5)
    text = refused(dealer, "PUSH", queue=queue, data=1, session=session, n=4)
    assert text == "session expired"
    assert dealer.ask("COUNT", queue=queue)["count"] == 1


@pytest.mark.covers("LISTWORKERS", "SESSIONHEARTBEAT")
def test_whoever_takes_jobs_is_listed_as_a_worker(dealer: Dealer, queue: str) -> None:
    """Once, whatever shards it takes jobs from; a heartbeat to one of them says what it is
    called."""
    session = said_bytes(dealer, os.urandom(16))
    for n in range(6):
        job_id = push(dealer, f"{queue}-{n}")
        dealer.ask("PULL", queue=f"{queue}-{n}", timeout=0, session=session, n=n + 1)
    about = {"name": queue, "concurrency": 6}
    beat = {"leases": [job_id], "about": about, "route": job_id % 4}
    assert dealer.ask("SESSIONHEARTBEAT", session=session, **beat) == {"ok": True}
    reply = dealer.ask("LISTWORKERS")
    assert list(reply) == ["ok", "workers"]
    (worker,) = [one for one in reply["workers"] if one.get("name") == queue]
    assert sorted(worker["queues"]) == [f"{queue}-{n}" for n in range(6)]
    assert (worker["jobs_held"], worker["jobs_processed"], worker["concurrency"]) == (6, 0, 6)
    dealer.ask("GOODBYE", session=session)
    assert queue not in [one.get("name") for one in dealer.ask("LISTWORKERS")["workers"]]
