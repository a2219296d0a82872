"""The router as a process: real sockets, clients of every kind, and shards that are played."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import (
    BOUNCED,
    DELIVERY,
    INTERNAL,
    NOTICE,
    REPLY,
    ROUTE_ANY,
    ROUTE_COORDINATOR,
    ROUTE_ROUTER,
    pack_header,
    unpack_header,
    wished_queue,
)
from flashq.protocol.internal import Epochs, RouterHello, decode_internal, encode_internal
from flashq.protocol.objects import Event
from tests.integration.programs import SHARDS, Program, Site

SESSION = bytes(16)


@pytest.fixture
def site() -> Iterator[Site]:
    """A place for programs."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def router(site: Site) -> Program:
    """A router that is ready; nobody else runs."""
    return site.start("router").until_ready()


def ask(
    client: zmq.Socket[bytes], *, route: int = ROUTE_ANY, corr: int = 1, **request: Any
) -> None:
    """Send a request."""
    client.send_multipart([pack_header(0, route, corr), encode(request)])


def answer(client: zmq.Socket[bytes]) -> dict[str, Any]:
    """Wait for one reply or notice, and return its fields."""
    _, body = client.recv_multipart()
    return decode(body, dict)


def serve(shard: zmq.Socket[bytes], *, flags: int = 0, **reply: Any) -> bytes:
    """Wait for one request as a shard, answer it, and return its body."""
    peer, header, body = shard.recv_multipart()
    _, route, corr, tail = unpack_header(header)
    frame = pack_header(REPLY | flags, route, corr, tail)
    shard.send_multipart([peer, frame, encode({"ok": True} | reply)])
    return body


def test_a_request_goes_there_and_back(site: Site, router: Program) -> None:
    """Over TCP and over ipc, with a route and without one, and it waits for a shard that is not
    there yet."""
    run = site.settings.run()
    assert router.endpoints[1] == run.router
    for number, endpoint in enumerate(router.endpoints):
        client = site.dealer(endpoint)
        ask(client, route=1, cmd="COUNT", queue="q")
        ask(client, route=ROUTE_ANY, corr=2, cmd="GETSTATE", id=2 * number + 1)
        if not number:
            shard = site.bind(zmq.ROUTER, run.shard(1))
        peer, *frames = shard.recv_multipart()
        if len(frames) == 2:
            frames += shard.recv_multipart()[1:]
        replies = []
        for header in frames[::2]:
            _, route, corr, tail = unpack_header(header)
            replies += [pack_header(REPLY, route, corr, tail), encode({"corr": corr})]
        shard.send_multipart([peer, *replies])
        got = client.recv_multipart()
        assert [decode(body, dict) for body in got[1::2]] == [{"corr": 1}, {"corr": 2}]


def test_a_shard_that_comes_back_is_found(site: Site, router: Program) -> None:
    """
    1. A shard dies. What is sent before the router notices is lost; clients repeat it.
    2. Its successor binds the same address, and gets what comes then.
    """
    run = site.settings.run()
    client = site.dealer(router.endpoints[0])
    with zmq.Context() as context, context.socket(zmq.ROUTER) as shard:
        shard.bind(run.shard(0))
        ask(client, route=0, cmd="COUNT", queue="q")
        serve(shard, count=1)
    assert answer(client)["count"] == 1
    shard = site.bind(zmq.ROUTER, run.shard(0))
    ask(client, route=0, cmd="COUNT", queue="q")
    while not shard.poll(50):
        ask(client, route=0, cmd="COUNT", queue="q")
    serve(shard, count=2)
    assert answer(client)["count"] == 2


def test_garbage_hurts_nobody(site: Site, router: Program) -> None:
    """Bytes that are no ZeroMQ, half messages, nonsense, a body that is too large: the next
    client is served."""
    host, port = router.endpoints[0].removeprefix("tcp://").split(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff" * 100):
        with sockets.create_connection((host, int(port))) as raw:
            raw.sendall(garbage)
    client = site.dealer(router.endpoints[0])
    for frames in ([b""], [b"x", b"y"], [b"", b"", b""], [bytes(300), b"x"]):
        client.send_multipart(frames)
    too_large = bytes(site.settings.message_bytes_max + 1)
    client.send_multipart([pack_header(0, 0, 5), too_large])
    codes: list[str] = []
    while "message_too_large" not in codes:
        codes += [decode(body, dict)["code"] for body in client.recv_multipart()[1::2]]
    assert codes == [*["bad_message"] * 5, "message_too_large"]
    ask(client, cmd="HELLO", session=SESSION)
    assert answer(client)["shard_count"] == SHARDS


def test_a_delivery_to_a_client_that_is_gone_comes_back(site: Site, router: Program) -> None:
    """The shard learns at once, and need not wait for the leases."""
    shard = site.bind(zmq.ROUTER, site.settings.run().shard(0))
    client = site.dealer(router.endpoints[0], b"vanishes")
    ask(client, route=0, cmd="PULL", queue="q")
    peer, header, _ = shard.recv_multipart()
    client.close()
    # Whoever speaks after it proves that the router has seen the end of the connection.
    _, route, corr, tail = unpack_header(header)
    jobs = encode({"ok": True, "job": {"id": 2, "token": 7}})
    delivery = [pack_header(REPLY | DELIVERY, route, corr, tail), jobs]
    while True:
        shard.send_multipart([peer, *delivery])
        if shard.poll(50):
            break
    _, header, body = shard.recv_multipart()
    flags, route, corr, tail = unpack_header(header)
    assert (flags, route, corr, tail) == (REPLY | DELIVERY | BOUNCED, 0, 1, b"")
    assert body == jobs


def test_a_second_client_of_an_identity_takes_it_over(site: Site, router: Program) -> None:
    """Without handover it would be ignored without a word."""
    first = site.dealer(router.endpoints[0], b"same")
    ask(first, cmd="HELLO", session=SESSION)
    assert answer(first)["ok"]
    second = site.dealer(router.endpoints[0], b"same")
    ask(second, cmd="HELLO", session=bytes(range(16)))
    assert answer(second)["ok"]


def test_epochs_and_events_reach_clients(site: Site, router: Program) -> None:
    """The coordinator tells of a shard; the shard publishes only while somebody listens."""
    run = site.settings.run()
    client = site.dealer(router.endpoints[0])
    ask(client, cmd="HELLO", session=SESSION)
    assert answer(client)["epochs"] == [0, 0]
    coordinator = site.bind(zmq.ROUTER, run.coordinator)
    peer, _, hello = coordinator.recv_multipart()
    assert isinstance(decode_internal(hello), RouterHello)
    epochs = encode_internal(Epochs(epochs=[0, 5]))
    coordinator.send_multipart([peer, pack_header(INTERNAL, ROUTE_COORDINATOR, 0), epochs])
    assert answer(client) == {"notice": "shard", "shard": 1, "epoch": 5}

    publisher = site.bind(zmq.XPUB, run.events(1))
    ask(client, corr=9, cmd="SUBSCRIBE", queue="q", events=["pushed"])
    assert answer(client)["ok"]
    assert publisher.recv() == b"\x01"
    asked = publisher.recv()
    assert (asked[:1], wished_queue(asked[1:])) == (b"\x01", "q")
    event = Event(seq=1, shard=1, epoch=5, event="pushed", queue="q", at=3, ids=[1])
    publisher.send_multipart([b"q", encode(event)])
    header, body = client.recv_multipart()
    assert unpack_header(header) == (NOTICE, ROUTE_ROUTER, 9, b"")
    assert decode(body, dict)["event"]["ids"] == [1]
    ask(client, corr=10, cmd="UNSUBSCRIBE", queue="q")
    assert answer(client)["ok"]
    assert {publisher.recv(), publisher.recv()} == {b"\x00", b"\x00" + asked[1:]}


def test_it_drains_and_exits_with_0(site: Site, router: Program) -> None:
    """Clients are told, and a parked pull does not hold it up."""
    shard = site.bind(zmq.ROUTER, site.settings.run().shard(0))
    client = site.dealer(router.endpoints[0])
    ask(client, cmd="HELLO", session=SESSION)
    assert answer(client)["ok"]
    ask(client, route=0, cmd="PULL", queue="q")
    assert shard.recv_multipart()
    router.stop()
    assert answer(client) == {"notice": "closing"}
    assert router.finish() == (0, "")


def test_a_port_that_is_taken_is_told_in_a_sentence(site: Site) -> None:
    """And the program ends with 1."""
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, complaint = site.start("router", FLASHQ_ZMQ_PORT=str(port)).finish()
    assert status == 1
    assert complaint.startswith(
        f"flashq-router: cannot listen on tcp://127.0.0.1:{port}: Address already in use"
    )


def test_a_router_with_other_settings_is_refused(site: Site) -> None:
    """By a real coordinator; it says why, and ends with 1."""
    site.start("coordinator").until_ready()
    router = site.start("router", FLASHQ_SHARDS="3").until_ready()
    status, complaint = router.finish()
    assert status == 1
    assert "settings or version differ" in complaint
