"""The blocking client against a fake server: threads, waiting, closing."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from flashq.client.results import Event, Gap, PartialBatchError
from flashq.client.sync_client import Client
from flashq.errors import (
    BadMessage,
    ConnectionClosed,
    JobNotFound,
    LeaseLost,
    RequestTimeout,
    TokenInvalid,
)
from tests.unit.client.fake_server import SHARDS, FakeServer, error


def test_the_life_of_a_job(server: FakeServer) -> None:
    """Push, pull, ack with a result, and the result is there."""
    with Client(server.url) as client:
        job_id = client.push("q", {"a": 1}, priority=3, tags=["x"])
        job = client.pull("q")
        assert job is not None
        assert (job.id, job.data) == (job_id, {"a": 1})
        client.ack(job, {"done": True})
        assert client.get_result(job_id) == {"done": True}
    assert server.seen("ACK")[0]["token"] == job.token
    assert server.seen("PUSH")[0]["priority"] == 3


def test_the_life_of_a_batch(server: FakeServer) -> None:
    """Ids in line with the entries; jobs carry their tokens into the acknowledgement."""
    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": number} for number in range(50)])
        found = client.pull_batch("q", 100)
        assert [job.id for job in found] == ids
        assert client.ack_batch(found[:40], results=list(range(40))) == 40
        assert client.ack_batch([job.id for job in found[40:]]) == 10
        assert client.ack_batch([]) == 0
    with_tokens, without = server.seen("ACKB")
    assert with_tokens["tokens"] == [job.token for job in found[:40]]
    assert "tokens" not in without
    assert server.done[ids[39]] == 39


def test_a_batch_over_several_shards_is_split_and_merged(server: FakeServer) -> None:
    """Each shard is asked by itself, all at once."""
    with Client(server.url) as client:
        queues = ["a", "b", "c", "d", "e", "f"]
        for queue in queues:
            client.push(queue, 1)
        found = [job for queue in queues if (job := client.pull(queue)) is not None]
        assert client.release(found[:2]) == 2
        assert client.ack_batch(found) == 4
    assert {body["_route"] for body in server.seen("ACKB")} <= set(range(SHARDS))
    assert len(server.seen("ACKB")) == len({job.id % SHARDS for job in found})


def test_an_empty_queue_gives_nothing(server: FakeServer) -> None:
    """After the wait that was asked for, not an error."""
    with Client(server.url) as client:
        assert client.pull("q", 0) is None
        assert client.pull_batch("q", 5, 0) == []


def test_errors_are_the_catalogues(server: FakeServer) -> None:
    """A caller catches a class, not a text."""
    server.answer("CANCEL", lambda _: error("job_not_found", "Job 5 not found"))
    server.answer("PROGRESS", lambda _: error("lease_lost"))
    server.answer("COUNT", lambda _: {"ok": True, "count": "many"})
    with Client(server.url) as client:
        with pytest.raises(JobNotFound, match="Job 5 not found"):
            client.cancel(5)
        with pytest.raises(LeaseLost):
            client.progress(5, 50)
        with pytest.raises(BadMessage):
            client.count("q")


def test_entries_that_are_not_accepted_are_named(server: FakeServer) -> None:
    """The others are in the queue, and their ids are in the error."""
    refusal = {"index": 1, "error": "Duplicate job with key: k", "code": "duplicate"}
    server.answer("PUSHB", lambda _: {"ok": True, "ids": [4, None], "errors": [refusal]})
    with Client(server.url) as client, pytest.raises(PartialBatchError) as caught:
        client.push_batch("q", [{"data": 1}, {"data": 2, "unique_key": "k"}])
    assert caught.value.ids == [4, None]


def test_many_threads_share_one_client(server: FakeServer) -> None:
    """Each gets its own answer."""
    with Client(server.url) as client:
        found: dict[int, list[int]] = {}

        def work(number: int) -> None:
            found[number] = [client.push(f"q{number}", number) for _ in range(20)]

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, ids in found.items():
            assert [server.jobs[job_id]["data"] for job_id in ids] == [number] * 20


def test_a_client_waits_for_its_server(url: str) -> None:
    """Started in the wrong order, both find each other; nothing is lost."""
    client = Client(url)
    ids: list[int] = []
    thread = threading.Thread(target=lambda: ids.append(client.push("q", 1)))
    thread.start()
    with FakeServer(url) as server:
        server.wait_for("PUSH")
        thread.join()
        client.close()
    assert len(ids) == 1


def test_without_a_server_a_call_says_so(url: str) -> None:
    """And that nothing was sent; closing then takes no time."""
    client = Client(url, timeout=50)
    with pytest.raises(ConnectionClosed, match="no server at"):
        client.connect()
    with pytest.raises(ConnectionClosed, match="not sent"):
        client.push("q", 1)
    client.close()


def test_a_silent_server_is_a_timeout(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait ends. The client is connected before, which may take its time."""
    server.answer("COUNT", lambda _: None)
    with Client(server.url) as client:
        monkeypatch.setattr(client, "_timeout", 1000)
        with pytest.raises(RequestTimeout, match="COUNT"):
            client.count("q")


def test_heartbeats_name_the_jobs_held_and_losses_are_told(beaten: FakeServer) -> None:
    """A job that was cancelled while it ran."""
    told = threading.Event()
    lost: list[int] = []

    def on_lost(ids: list[int]) -> None:
        lost.extend(ids)
        told.set()
        raise ValueError("a mistake in the caller's code ends nothing")

    with Client(beaten.url, on_leases_lost=on_lost) as client:
        job_id = client.push("q", 1)
        client.pull("q")
        beaten.wait_until(
            lambda: any(body.get("leases") == [job_id] for body in list(beaten.requests))
        )
        beaten.lost.add(job_id)
        assert told.wait(10)
        assert lost == [job_id]
        client.push("q", 2)


def test_a_restarted_router_gets_what_was_parked(beaten: FakeServer) -> None:
    """1. A pull waits. 2. The router restarts and forgets it. 3. It is asked again, under the same
    number."""
    with Client(beaten.url) as client:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(client.pull("q")))
        thread.start()
        beaten.wait_for("PULL")

        def restart() -> None:
            beaten.boot = 2
            beaten._parked.clear()

        beaten.order(restart)
        first, again, *_ = beaten.wait_for("PULL", 2)
        assert first["n"] == again["n"]
        client.push("q", "after")
        thread.join()
    assert found[0].data == "after"


def test_closing_ends_calls_under_way(server: FakeServer) -> None:
    """No thread waits for a client that is gone."""
    client = Client(server.url)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            client.pull("q")
        except ConnectionClosed as closed:
            raised.append(closed)

    thread = threading.Thread(target=wait)
    thread.start()
    server.wait_for("PULL")
    client.close()
    thread.join()
    assert len(raised) == 1
    assert {body["_route"] for body in server.wait_for("GOODBYE", 2)} == {
        server.seen("PULL")[0]["_route"],
        0xFFFD,
    }
    with pytest.raises(ConnectionClosed):
        client.count("q")
    client.close()


def test_an_interrupted_pull_gives_back_its_job(server: FakeServer) -> None:
    """Ctrl-C in a blocking pull: the job that comes afterwards goes to somebody else."""
    with Client(server.url) as client:
        client.connect()

        def interrupt() -> None:
            server.wait_for("PULL")
            os.kill(os.getpid(), signal.SIGUSR1)

        def handler(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, handler)
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                client.pull("q")
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)
        job_id = client.push("q", 1)
        assert server.wait_for("RELEASE")[0]["ids"] == [job_id]


def test_a_token_is_shown_and_never_printed(server: FakeServer) -> None:
    """Not by repr, which ends up in logs."""
    server.token = "right"
    with Client(server.url, token="right") as client:
        client.push("q", 1)
        assert "right" not in repr(client)
    assert server.seen("AUTH")[0]["token"] == "right"


def test_a_wrong_token_can_be_corrected(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the environment; the error names it, not its consequences."""
    monkeypatch.setenv("FLASHQ_URL", server.url)
    monkeypatch.setenv("FLASHQ_TOKEN", "wrong")
    server.token = "right"
    client = Client()
    with pytest.raises(TokenInvalid):
        client.connect()
    with pytest.raises(TokenInvalid):
        client.push("q", 1)
    client.auth("right")
    client.push("q", 1)
    client.close()


EVENT = {
    "seq": 1, "shard": 0, "epoch": 1, "event": "completed", "queue": "q", "at": 5, "ids": [4],
}  # fmt: skip


def test_a_subscription_is_an_iterator(server: FakeServer) -> None:
    """Of events and gaps; others' events are not in it."""
    with Client(server.url) as client:
        with client.subscribe("q", "completed") as events:
            assert events.get(0) is None
            server.notify({"notice": "event", "event": {**EVENT, "event": "failed"}})
            server.notify({"notice": "event", "event": {**EVENT, "data": [{"r": 1}]}})
            server.notify({"notice": "gap", "shard": 0, "first_missed": 2, "next": 9})
            event, gap = next(events), next(events)
        assert isinstance(event, Event)
        assert event.data == [{"r": 1}]
        assert isinstance(gap, Gap)
        assert server.seen("UNSUBSCRIBE")
        assert list(events) == []


def test_two_subscriptions_to_a_queue_are_one_at_the_server(server: FakeServer) -> None:
    """Its events are the union's, and it ends with the last of them."""
    with Client(server.url) as client:
        first = client.subscribe("q", "completed")
        second = client.subscribe("q", ["failed"])
        assert server.seen("SUBSCRIBE")[1]["events"] == ["completed", "failed"]
        first.close()
        assert not server.seen("UNSUBSCRIBE")
        second.close()
        assert len(server.seen("UNSUBSCRIBE")) == 1


def test_a_refused_subscription_is_an_error(server: FakeServer) -> None:
    """At once, and nothing of it stays."""
    server.answer("SUBSCRIBE", lambda _: error("not_allowed"))
    with Client(server.url) as client, pytest.raises(Exception, match="no"):
        client.subscribe("q")


def test_closing_the_client_ends_its_subscriptions(server: FakeServer) -> None:
    """A loop over events ends like any other."""
    client = Client(server.url)
    events = client.subscribe()
    threading.Thread(target=client.close).start()
    assert list(events) == []
