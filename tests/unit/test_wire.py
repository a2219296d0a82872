"""Whole messages in and out of sockets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from flashq import wire
from flashq.wire import readable, receive, receive_all, send, send_frames

TRIED_WITH = "27.3"
"""The pyzmq of which `flashq.wire` uses what is not documented."""

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


def test_the_pyzmq_that_is_gone_beneath_was_tried() -> None:
    """One module goes beneath the public `send`, with a pyzmq that was looked at."""
    source = Path(wire.__file__).parent
    beneath = [
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "zmq.backend" in path.read_text()
    ]
    assert beneath == ["wire.py"]
    assert zmq.__version__.startswith(TRIED_WITH), "look at `zmq.Socket.send` again: see below"


def test_the_public_send_adds_nothing_but_what_is_not_used() -> None:
    """`zmq.Socket.send` passes on to the `send` beneath, but for routing ids and groups; what is
    left out by going beneath is nothing."""
    import zmq.backend

    assert issubclass(zmq.Socket, zmq.backend.Socket)
    names = list(inspect.signature(zmq.Socket.send).parameters)
    assert names == ["self", "data", "flags", "copy", "track", "routing_id", "group"]
    assert wire._send is zmq.backend.Socket.send
    assert zmq.Socket.recv is zmq.backend.Socket.recv
    assert zmq.Socket.get is zmq.backend.Socket.get


def test_without_a_class_beneath_messages_are_sent_all_the_same(
    sockets: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a pyzmq of another build."""
    router, dealer = sockets
    monkeypatch.setattr(wire, "_send", zmq.Socket.send)
    assert receive(router) == [b"d", b"here"]
    send(router, b"d", [b"a", b"b"])
    assert dealer.poll(5000)
    assert receive(dealer) == [b"a", b"b"]
    send_frames(dealer, [b"c", b"d"])
    assert router.poll(5000)
    assert readable(router)
    assert receive(router) == [b"d", b"c", b"d"]
    with pytest.raises(zmq.ZMQError):
        send(router, b"nobody", [b"x"])
