"""Events from the shards to whoever listens: all of them in order, and each gap is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import zmq

from flashq.client.results import Event, Gap
from flashq.client.sync_client import Client, Subscription
from tests.contract.dealer import Dealer
from tests.integration.serving import queue_of
from tests.server import Server

StartServer = Callable[..., Server]
WAIT_MS = 20_000
SHARDS = 4


def following(subscription: Subscription) -> Event:
    """Return the next event, which has to come."""
    item = subscription.get(WAIT_MS)
    assert isinstance(item, Event), item
    return item


def test_the_life_of_a_job_as_a_listener_sees_it(shared_server: Server) -> None:
    """Every event there is, by its name, in the order in which it happened."""
    queue = f"events-{os.getpid()}"
    with Client(shared_server.url) as client, Client(shared_server.ipc_url) as listener:
        events = listener.subscribe(queue)
        first = client.push(queue, {"n": 1}, max_attempts=2)
        job = client.pull(queue)
        assert job is not None
        client.progress(job, 40, "on the way")
        client.fail(job, "once")
        client.fail(client.pull(queue) or 0, "twice")
        client.retry_dlq(queue)
        client.ack(client.pull(queue) or 0, {"r": 1})
        second = client.push(queue, 2, delay=3_600_000)
        client.promote(second)
        client.move_to_delayed(client.pull(queue) or 0, 3_600_000)
        client.cancel(second)
        third = client.push(queue, 3, timeout=1, max_attempts=1)
        client.pull(queue)
        told = [following(events) for _ in range(17)]
        fourth = client.push(queue, 4, ttl=1)
        told += [following(events) for _ in range(2)]
    assert [(event.event, event.ids) for event in told] == [
        ("pushed", [first]),
        ("active", [first]),
        ("progress", [first]),
        ("retrying", [first]),
        ("active", [first]),
        ("failed", [first]),
        ("active", [first]),
        ("completed", [first]),
        ("pushed", [second]),
        ("promoted", [second]),
        ("active", [second]),
        ("delayed", [second]),
        ("cancelled", [second]),
        ("pushed", [third]),
        ("active", [third]),
        ("timeout", [third]),
        ("failed", [third]),
        ("pushed", [fourth]),
        ("expired", [fourth]),
    ]
    assert [event.seq for event in told] == sorted(event.seq for event in told)
    assert told[0].data == [{"n": 1}]
    assert (told[2].progress, told[2].message) == (40, "on the way")
    assert (told[3].error, told[5].error) == ("once", "twice")
    assert told[7].data == [{"r": 1}]


def test_listeners_come_and_go_and_nobody_misses_anything(shared_server: Server) -> None:
    """Story: a shard makes only what somebody listens to, and numbers that.

    1. Somebody listens to a queue; others of its shard, and all queues, are listened to and let go
       again and again.
    2. Whoever has just come hears the next push, and whoever stayed hears of no gap.
    """
    stayed, visited = (queue_of(1, SHARDS, f"{name}-{os.getpid()}") for name in ("stay", "go"))
    with Client(shared_server.url) as client, Client(shared_server.ipc_url) as listener:
        staying = listener.subscribe(stayed, "pushed")
        with Client(shared_server.ipc_url) as visitor:
            for round_ in range(20):
                with visitor.subscribe("*" if round_ % 3 == 0 else visited, "pushed") as events:
                    pushed = client.push(visited, round_)
                    assert following(events).ids == [pushed]
                client.push(visited, "unheard")
                pushed = client.push(stayed, round_)
                assert following(staying).ids == [pushed]


def test_a_killed_shard_leaves_a_gap_or_nothing_missing(start_server: StartServer) -> None:
    """
    1. A listener hears a shard's events; the shard dies and comes back under a new epoch.
    2. What happens then is heard too, without anybody subscribing again.
    """
    server = start_server()
    with Client(server.url) as client, Client(server.url) as listener:
        events = listener.subscribe("q", events="pushed")
        before = client.push("q", 1)
        assert following(events).ids == [before]
        server.restart_shard(before % 4)
        while True:
            after = client.push("q", 2)
            item = events.get(200)
            if isinstance(item, Event):
                break
        assert item.ids[0] <= after
        assert item.ids[0] > before


def test_a_listener_that_a_shard_hears_of_before_its_recovery_counts(
    start_server: StartServer,
) -> None:
    """
    1. A shard dies while the coordinator stands still: the new one has nobody to recover from.
    2. The router subscribes to it anew meanwhile, which is told as a gap, and not again later.
    3. The coordinator goes on, the shard recovers, and its events are heard.
    """
    server = start_server()
    with Client(server.url) as client, Client(server.url) as listener:
        events = listener.subscribe(queue_of(1))
        before = server.epochs()[1]
        stopped = server.signal("flashq-coordinator", signal.SIGSTOP)
        server.kill("flashq-shard 1")
        dealer = server.dealer()
        reply = dealer.ask("COUNT", queue=queue_of(1), route=1)
        assert (reply["code"], reply["retryable"]) == ("starting", True)
        dealer.close()
        missed = events.get(WAIT_MS)
        assert missed == Gap(reason="server", shard=1, first_missed=1, next=1)
        os.kill(stopped, signal.SIGCONT)
        server.wait_epoch(1, before)
        pushed = client.push(queue_of(1), 1)
        assert following(events).ids == [pushed]


def test_a_restarted_router_leaves_a_gap_that_is_told(start_server: StartServer) -> None:
    """The client subscribes again by itself, and says that it may have missed something."""
    server = start_server("--heartbeat-interval-ms", "200")
    with Client(server.ipc_url) as client, Client(server.ipc_url) as listener:
        events = listener.subscribe("q")
        client.push("q", 1)
        assert following(events).event == "pushed"
        server.kill("flashq-router")
        assert events.get(WAIT_MS) == Gap(reason="connection")
        while (item := events.get(200)) is None:
            client.push("q", 2)
        assert isinstance(item, Event)


@pytest.fixture
def slow_listener(start_server: StartServer) -> Dealer:
    """Return a connection that holds little, to a server that keeps little for it."""
    server = start_server(
        *("--message-bytes-max", "65536", "--payload-bytes-max", "20000"),
        *("--unread-bytes-max", "65536", "--session-timeout-ms", "60000"),
    )
    listener = Dealer(server.ipc_url)
    listener.socket.disconnect(server.ipc_url)
    listener.socket.setsockopt(zmq.RCVHWM, 2)
    listener.socket.connect(server.ipc_url)
    return listener


def test_what_a_slow_listener_missed_is_told_to_the_number(slow_listener: Dealer) -> None:
    """
    1. A listener does not read while events of ten megabytes happen: some are lost to it.
    2. It reads on. Events and gaps together leave no number of the shard's sequence out.
    """
    client = Dealer(slow_listener.url)
    slow_listener.ask("HELLO", session=os.urandom(16))
    slow_listener.ask("SUBSCRIBE", queue="q", events=["*"])
    while not slow_listener.notices:
        client.ask("PUSH", queue="q", data="first")
        slow_listener.ask("SESSIONHEARTBEAT", session=bytes(16))
    slow_listener.notices.clear()
    last = client.ask("PUSH", queue="q", data="marker")["id"]
    while (notice := slow_listener.notice())["event"]["ids"] != [last]:
        pass
    expected = notice["event"]["seq"] + 1
    for _ in range(1200):
        assert client.ask("PUSH", queue="q", data="x" * 8000)["ok"]
    gaps = 0
    last = client.ask("PUSH", queue="q", data="last")["id"]
    while True:
        notice = slow_listener.notice()
        if notice["notice"] == "gap":
            gaps += 1
            assert notice["first_missed"] == expected
            expected = notice["next"]
            if gaps == 1:
                last = client.ask("PUSH", queue="q", data="last")["id"]
            continue
        assert notice["event"]["seq"] == expected
        expected += 1
        if notice["event"]["ids"] == [last] and gaps:
            break
    client.close()
    slow_listener.close()


def test_many_listeners_hear_each_their_queue(shared_server: Server) -> None:
    """And `*` hears all of them, of every shard."""
    queues = [f"many-{os.getpid()}-{n}" for n in range(12)]
    with Client(shared_server.url) as client, Client(shared_server.url) as listener:
        everything = listener.subscribe("*", events=["completed"])
        each = {queue: listener.subscribe(queue, "pushed") for queue in queues}
        ids = {queue: client.push(queue, 1) for queue in queues}
        for queue in queues:
            client.ack(client.pull(queue) or 0)
        heard: set[int] = set()
        while not heard >= set(ids.values()):
            heard.update(following(everything).ids)
        for queue, subscription in each.items():
            assert following(subscription).ids == [ids[queue]]
