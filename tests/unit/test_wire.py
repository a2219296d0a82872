"""Whole messages in and out of sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from flashq.wire import receive, receive_all, send

Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def sockets() -> Iterator[Pair]:
    """A ROUTER and a DEALER that are connected, the DEALER under the id `d`."""
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.set_hwm(1)
    dealer.set_hwm(1)
    dealer.setsockopt(zmq.ROUTING_ID, b"d")
    router.bind("inproc://wire")
    dealer.connect("inproc://wire")
    dealer.send(b"here")
    assert router.poll(5000)
    yield router, dealer
    context.destroy(linger=0)


def test_a_message_arrives_whole(sockets: Pair) -> None:
    """Frames of any size, empty ones too, and None when there is nothing more."""
    router, dealer = sockets
    assert receive(router) == [b"d", b"here"]
    assert receive(router) is None
    frames = [b"", b"x" * 100_000, b"", b"y"]
    send(router, b"d", frames)
    assert dealer.poll(5000)
    assert receive(dealer) == frames
    assert receive(dealer) is None


def test_who_is_not_there_is_told(sockets: Pair) -> None:
    """By the error of a mandatory ROUTER."""
    router, _dealer = sockets
    with pytest.raises(zmq.ZMQError) as caught:
        send(router, b"nobody", [b"x", b"y"])
    assert caught.value.errno == zmq.EHOSTUNREACH


def sends(router: zmq.Socket[bytes]) -> bool:
    """Whether one more message can be sent."""
    try:
        send(router, b"d", [b"a", b"b"])
    except zmq.Again:
        return False
    return True


def test_who_does_not_read_is_told(sockets: Pair) -> None:
    """And nothing of the message was sent, so that the next one is whole."""
    router, dealer = sockets
    receive(router)
    sent = 0
    while sends(router):
        sent += 1
    for _ in range(sent):
        assert receive(dealer) == [b"a", b"b"]
    assert receive(dealer) is None


@pytest.mark.parametrize("sent", [1, 2, 5])
def test_all_that_has_come_is_handled(sockets: Pair, sent: int) -> None:
    """In order, and no more than is wanted at once."""
    router, dealer = sockets
    assert receive(router) == [b"d", b"here"]
    router.set_hwm(10)
    dealer.set_hwm(10)
    for number in range(sent):
        dealer.send(b"%d" % number)
    handled: list[bytes] = []
    while len(handled) < sent:
        assert router.poll(5000)
        before = len(handled)
        receive_all(router, lambda frames: handled.append(frames[1]), 2)
        assert 1 <= len(handled) - before <= 2
    assert handled == [b"%d" % number for number in range(sent)]
    receive_all(router, lambda frames: handled.append(frames[1]), 2)
    assert len(handled) == sent
