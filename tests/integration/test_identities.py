"""Peers that announce what they like to a router, and streams that keep to nothing: the same
process serves the next client, and memory and descriptors stay bounded."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
import zmq

from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import (
    REPLY,
    ROUTE_ANY,
    ROUTE_ROUTER,
    pack_header,
    unpack_header,
)
from tests.integration.programs import Program, Site
from tests.server import eventually, resident_bytes
from tests.unit.zmtp.test_stream import READY, command, greeting, packed, properties

MIB: Final = 1024 * 1024
GROWTH_BYTES_MAX: Final = 48 * MIB


@pytest.fixture
def site() -> Iterator[Site]:
    """A place for programs."""
    site = Site()
    yield site
    site.close()


class Guarded:
    """A router that asks for tokens, and shard 0, played."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.router = site.start("router", FLASHQ_AUTH_TOKENS="right,other").until_ready()
        self.shard = site.bind(zmq.ROUTER, site.settings.run().shard(0))
        self.url = self.router.endpoints[0]

    def client(self, identity: bytes = b"") -> zmq.Socket[bytes]:
        """Connect a client."""
        return self.site.dealer(self.url, identity)

    def known(self, identity: bytes = b"", token: str = "right") -> zmq.Socket[bytes]:
        """Connect a client that shows a token."""
        client = self.client(identity)
        assert ask(client, cmd="AUTH", token=token) == {"ok": True}
        return client

    def answer(self, asked: list[bytes], **fields: Any) -> None:
        """Answer a request that shard 0 got."""
        peer, header, _ = asked
        _, route, corr, tail = unpack_header(header)
        self.shard.send_multipart([peer, pack_header(REPLY, route, corr, tail), encode(fields)])


@pytest.fixture
def guarded(site: Site) -> Guarded:
    """Return it."""
    return Guarded(site)


def ask(client: zmq.Socket[bytes], *, route: int = ROUTE_ROUTER, **request: Any) -> dict[str, Any]:
    """Send a request, and return the fields of its reply."""
    client.send_multipart([pack_header(0, route, 1), encode(request)])
    return decode(client.recv_multipart()[1], dict)


def code_of(client: zmq.Socket[bytes], **request: Any) -> Any:
    """Send a request that is refused, and return why."""
    return ask(client, route=ROUTE_ANY, **request)["code"]


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def raw(url: str, data: bytes) -> socket.socket:
    """Connect to a router and say anything; it may be thrown out in the midst of it."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    connected = socket.create_connection((host, int(port)))
    with suppress(BrokenPipeError, ConnectionResetError):
        connected.sendall(data)
    return connected


# --- a token belongs to a connection


@pytest.mark.parametrize("identity", [b"victim", b"\0\x6b\x8b\x45\x67"])
def test_a_stranger_gets_nothing_of_whose_identity_it_announces(
    guarded: Guarded, identity: bytes
) -> None:
    """
    1. A client with an identity of its own shows its token and asks its shard for something.
    2. A stranger announces the same identity: it is told to authenticate.
    3. The answer goes to the client, whose connection was never cut.
    """
    client = guarded.known(identity)
    client.send_multipart([pack_header(0, 0, 7), encode({"cmd": "COUNT", "queue": "q"})])
    asked = guarded.shard.recv_multipart()
    stranger = guarded.client(identity)
    for _ in range(3):
        assert code_of(stranger, cmd="COUNT", queue="q") == "authentication_required"
    guarded.answer(asked, ok=True, count=3)
    assert decode(client.recv_multipart()[1], dict)["count"] == 3
    assert stranger.poll(0) == 0


def test_a_stranger_gets_no_answer_of_a_client_that_has_left(guarded: Guarded) -> None:
    """It waits under that identity, says nothing, and hears nothing."""
    client = guarded.known(b"victim")
    client.setsockopt(zmq.LINGER, 0)
    client.send_multipart([pack_header(0, 0, 7), encode({"cmd": "COUNT", "queue": "q"})])
    asked = guarded.shard.recv_multipart()
    client.close(linger=0)
    stranger = guarded.client(b"victim")
    assert code_of(stranger, cmd="COUNT", queue="q") == "authentication_required"
    guarded.answer(asked, ok=True, count=3)
    assert code_of(stranger, cmd="COUNT", queue="q") == "authentication_required"
    assert stranger.poll(50) == 0


def test_a_session_needs_the_token_it_was_begun_with(guarded: Guarded) -> None:
    """Its sixteen bytes alone are not enough for somebody with another token."""
    session = bytes(range(16))
    assert ask(guarded.known(), cmd="HELLO", session=session)["ok"]
    thief = guarded.known(token="other")
    assert code_of(thief, cmd="HELLO", session=session) == "not_allowed"
    assert ask(guarded.known(), cmd="HELLO", session=session)["ok"]


def test_a_token_in_the_handshake(guarded: Guarded) -> None:
    """PLAIN of libzmq, with the token as password: also each later connection shows it, and one
    with a wrong token never gets in."""
    for password, is_right in ((b"right", True), (b"wrong", False)):
        client = guarded.site.socket(zmq.DEALER)
        client.setsockopt(zmq.PLAIN_USERNAME, b"worker")
        client.setsockopt(zmq.PLAIN_PASSWORD, password)
        client.connect(guarded.url)
        client.send_multipart(
            [pack_header(0, ROUTE_ROUTER, 1), encode({"cmd": "AUTH", "token": "right"})]
        )
        assert bool(client.poll(20_000 if is_right else 300)) is is_right
    assert ask(guarded.client(), cmd="AUTH", token="right") == {"ok": True}


# --- nobody ends the router


def test_announced_identities_do_not_matter(site: Site) -> None:
    """
    1. Hundreds of peers announce identities of every kind, among them those that libzmq would give
       out next, and twins of peers that live; anonymous ones come between them.
    2. Each is served, all at once, and the process is the same.
    """
    router = site.start("router").until_ready()
    chance = random.Random(11)
    first = 0x6B8B4567
    identities = [
        b"", b"\0", b"\0" * 5, b"\0" * 255, b"x" * 255, b"router", b"C", b"S\0\0",
        *(b"\0" + ((first + n) % 2**32).to_bytes(4, "big") for n in range(-20, 60)),
        *(b"\0" + n.to_bytes(4, "big") for n in range(40)),
        *(n.to_bytes(8, "big") for n in range(1, 60)),
        *(chance.randbytes(chance.randrange(1, 256)) for _ in range(40)),
    ]  # fmt: skip
    twice = [*identities, *[b""] * 40, *identities]
    chance.shuffle(twice)
    before = resident_bytes(router.process.pid), descriptors(router.process.pid)
    peers = [raw(router.endpoints[0], _client(identity)) for identity in twice]
    for peer in peers:
        peer.settimeout(20)
        heard = b""
        while b"shard_count" not in heard:
            more = peer.recv(4096)
            assert more, "a peer was thrown out"
            heard += more
    for peer in peers:
        peer.close()
    assert ask(site.dealer(router.endpoints[0]), cmd="HELLO", session=bytes(16))["ok"]
    _see_bounded(router, *before)


def _client(identity: bytes) -> bytes:
    """Return all that a client says that announces an identity and says hello."""
    ready = command(b"READY", properties(Socket_Type=b"DEALER", Identity=identity))
    hello = encode({"cmd": "HELLO", "session": os.urandom(16)})
    return greeting() + ready + packed(pack_header(0, ROUTE_ROUTER, 1), hello)


def _see_bounded(router: Program, before_bytes: int, before_descriptors: int) -> None:
    """See that a router lives, and has neither grown much nor kept descriptors."""
    assert router.process.poll() is None
    pid = router.process.pid
    eventually(lambda: descriptors(pid) <= before_descriptors + 3, "the descriptors are free again")
    assert resident_bytes(pid) - before_bytes < GROWTH_BYTES_MAX


def test_streams_that_keep_to_nothing(site: Site) -> None:
    """Greetings that are cut off, wrong mechanisms, frames of any size, random bytes and bits that
    flipped: by a seed."""
    router = site.start("router").until_ready()
    before = resident_bytes(router.process.pid), descriptors(router.process.pid)
    chance = random.Random(5)
    good = _client(b"x") + packed(pack_header(0, 0, 2), bytes(300))
    cases = [good[:cut] for cut in range(0, len(good), 7)]
    cases += [greeting(name) + READY for name in (b"CURVE", b"GSSAPI", b"PLAIN", b"", b"\xff" * 20)]
    cases += [greeting(major=major) + READY for major in (0, 1, 2, 4, 255)]
    for size in (2**63, 2**64 - 1, 2**32, 2**31, 40 * MIB):
        for flags in (2, 3, 6):
            cases.append(greeting() + READY + bytes([flags]) + size.to_bytes(8, "big") + bytes(99))
    cases += [greeting() + READY + b"\x01\x00" * 200_000, greeting() + READY + b"\x00\x00" * 9000]
    cases += [greeting() + READY + command(b"PING", b"\0\0" + bytes(14)) * 3000]
    for _ in range(150):
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        cases.append(bytes(broken))
    cases += [greeting() + chance.randbytes(chance.randrange(1, 400)) for _ in range(80)]
    peers = [raw(router.endpoints[0], case) for case in cases]
    assert ask(site.dealer(router.endpoints[0]), cmd="HELLO", session=bytes(16))["ok"]
    for peer in peers:
        peer.close()
    _see_bounded(router, *before)


# --- places, bytes and seconds of those without a token


def test_strangers_get_few_bytes_and_few_seconds(site: Site) -> None:
    """
    1. A hundred strangers send eight megabytes each that never end, and others nothing at all.
    2. Nothing of that is kept; after the time that there is for it they are thrown out.
    3. A client with a token comes in all the while.
    """
    settings = {"FLASHQ_AUTH_TOKENS": "right", "FLASHQ_UNAUTHENTICATED_MS": "1500"}
    router = site.start("router", **settings).until_ready()
    before = resident_bytes(router.process.pid), descriptors(router.process.pid)
    begun = greeting() + READY + b"\x03" + (30 * MIB).to_bytes(8, "big") + bytes(8 * MIB)
    peers = [raw(router.endpoints[0], begun) for _ in range(100)]
    peers += [raw(router.endpoints[0], b"") for _ in range(100)]
    assert resident_bytes(router.process.pid) - before[0] < GROWTH_BYTES_MAX
    assert ask(site.dealer(router.endpoints[0]), cmd="AUTH", token="right") == {"ok": True}
    for peer in peers:
        peer.settimeout(20)
        with suppress(ConnectionResetError):
            while peer.recv(65_536):
                continue
        peer.close()
    assert ask(site.dealer(router.endpoints[0]), cmd="AUTH", token="right") == {"ok": True}
    _see_bounded(router, *before)


def test_connections_without_a_token_do_not_keep_others_out(site: Site) -> None:
    """Twenty places, thirty connections that never say who they are; a client with a token comes
    in, and one that was in before stays."""
    settings = {"FLASHQ_AUTH_TOKENS": "right", "FLASHQ_ZMQ_CONNECTIONS_MAX": "20"}
    router = site.start("router", **settings).until_ready()
    first = site.dealer(router.endpoints[0])
    assert ask(first, cmd="AUTH", token="right") == {"ok": True}
    peers = [raw(router.endpoints[0], greeting() + READY) for _ in range(30)]
    assert ask(site.dealer(router.endpoints[0]), cmd="AUTH", token="right") == {"ok": True}
    assert ask(first, cmd="HELLO", session=bytes(16))["ok"]
    for peer in peers:
        peer.close()


def test_a_request_that_is_long_is_still_told_what_it_lacks(guarded: Guarded) -> None:
    """Nothing of it is kept, but its header says whom to answer."""
    client = guarded.client()
    client.send_multipart([pack_header(0, 0, 9), bytes(2 * MIB)])
    header, body = client.recv_multipart()
    assert unpack_header(header).corr == 9
    assert decode(body, dict)["code"] == "authentication_required"
    assert ask(client, cmd="AUTH", token="right") == {"ok": True}
