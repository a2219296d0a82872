"""What nobody should send, through real sockets: a clear answer, and the server goes on."""

from __future__ import annotations

import os
import random
import socket as sockets
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack
import pytest
import zmq

from tests.contract.dealer import ANY, COORDINATOR, JSON, ROUTER, VERSION, Dealer, Silence
from tests.integration.serving import Witness
from tests.server import Server, eventually, resident_bytes

MIB: Final = 1024 * 1024
CORR: Final = 7


@pytest.fixture(autouse=True)
def _goes_on(shared_server: Server) -> Iterator[None]:
    """After each test every program still runs, and every shard serves."""
    witness = Witness(shared_server)
    yield
    witness.check()


@pytest.fixture
def dealer(shared_server: Server) -> Iterator[Dealer]:
    """Return a connection for bad input."""
    dealer = shared_server.dealer()
    yield dealer
    dealer.close()


@pytest.fixture
def connect(shared_server: Server) -> Iterator[Callable[..., Dealer]]:
    """Return what makes further connections."""
    dealers: list[Dealer] = []

    def connected(**options: Any) -> Dealer:
        dealers.append(shared_server.dealer(**options))
        return dealers[-1]

    yield connected
    for dealer in dealers:
        dealer.close()


def header(*, version: int = VERSION, flags: int = 0, route: int = ANY, tail: bytes = b"") -> bytes:
    """Return a header frame."""
    return struct.pack(">BBHQ", version, flags, route, CORR) + tail


def body(**fields: Any) -> bytes:
    """Return a body frame."""
    return bytes(msgpack.packb(fields))


def error(dealer: Dealer, *frames: bytes, corr: int = CORR) -> str:
    """Send one message of these frames, and return the text of the error that answers it."""
    dealer.socket.send_multipart(frames)
    reply = dealer.answer(corr)
    assert reply["ok"] is False
    assert reply["retryable"] is False
    return str(reply["error"])


COUNT: Final = body(cmd="COUNT", queue="q")


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([b"x"], "Invalid: 1 frames, expected pairs of header and body"),
        ([b""], "Invalid: 1 frames, expected pairs of header and body"),
        ([b""] * 3, "Invalid: 3 frames, expected pairs of header and body"),
        ([b"", b""], "Invalid: header of 0 bytes, expected 12"),
        ([b"short", COUNT], "Invalid: header of 5 bytes, expected 12"),
    ],
    ids=["one", "one-empty", "three-empty", "two-empty", "short-header"],
)
def test_no_message_at_all_is_answered_under_zero(
    dealer: Dealer, frames: list[bytes], text: str
) -> None:
    """Nothing says whom it was for, but whoever writes a client sees that it is wrong."""
    assert error(dealer, *frames, corr=0) == text


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([header()], "Invalid: 1 frames, expected pairs of header and body"),
        ([header(), COUNT, b"x"], "Invalid: 3 frames, expected pairs of header and body"),
        ([header(version=0), COUNT], "Invalid: protocol version 0, this server speaks 1"),
        ([header(version=2), COUNT], "Invalid: protocol version 2, this server speaks 1"),
        ([header(route=4), COUNT], "Invalid: route 4, there are 4 shards"),
        ([header(route=65_000), COUNT], "Invalid: route 65000, there are 4 shards"),
        ([header(flags=0x04), COUNT], "Invalid: flags 0x04, a client may set 0x83"),
        ([header(flags=0x08), COUNT], "Invalid: flags 0x08, a client may set 0x83"),
        ([header(flags=0x10, route=1), COUNT], "Invalid: flags 0x10, a client may set 0x83"),
        ([header(flags=0x20, route=1), COUNT], "Invalid: flags 0x20, a client may set 0x83"),
        ([header(flags=0x40, route=1), COUNT], "Invalid: flags 0x40, a client may set 0x83"),
        (
            [header(flags=0x40, route=COORDINATOR), COUNT],
            "Invalid: flags 0x40, a client may set 0x83",
        ),
        ([header(flags=0x84), COUNT], "Invalid: flags 0x84, a client may set 0x83"),
        ([header(tail=b"x"), COUNT], "Invalid: header of 13 bytes, expected 12"),
        (
            [header(route=1, tail=bytes(6) + b"victim"), COUNT],
            "Invalid: header of 24 bytes, expected 12",
        ),
    ],
)
def test_a_header_that_is_no_clients_is_refused(
    dealer: Dealer, frames: list[bytes], text: str
) -> None:
    """Neither another version, nor a flag or a tail of the server's own processes, gets in."""
    assert error(dealer, *frames) == text


NESTED: Final = b"\x91" * 200_000 + b"\xc0"


@pytest.mark.parametrize(
    "route", [ANY, 1, COORDINATOR, ROUTER], ids=["any", "1", "coord", "router"]
)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        COUNT[:-1],
        COUNT + b"x",
        body(cmd="COUNT", queue=b"\xff"),
        b"\x82\xa3cmd\xa5COUNT\xa5queue\xa1\xff",
        body(queue="q"),
        body(cmd=5),
        body(cmd=None),
        body(cmd="count", queue="q"),
        body(cmd="NOPE"),
        body(cmd=""),
        body(cmd="X" * 70_000),
        bytes(msgpack.packb([1, 2])),
        bytes(msgpack.packb("COUNT")),
        b"\x82\xa3cmd\xa4PUSH\xa1x" + NESTED,
    ],
    ids=[
        "nothing", "no-msgpack", "cut", "more", "bin", "utf8", "no-cmd", "cmd-number", "cmd-null",
        "lower", "unknown", "empty-cmd", "long-cmd", "array", "text", "nested",
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_by_whoever_reads_it(
    dealer: Dealer, route: int, data: bytes
) -> None:
    """The router, a shard and the coordinator each read bodies of strangers."""
    text = error(dealer, header(route=route), data)
    assert text.startswith("Invalid: ")
    assert len(text) < 500


@pytest.mark.parametrize("route", [ANY, 1, COORDINATOR], ids=["any", "1", "coordinator"])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"cmd":"COUNT","queue":"\xff"}', b"[1]", b"nul", COUNT, b"[" * 200_000],
    ids=["nothing", "cut", "utf8", "array", "word", "msgpack", "nested"],
)
def test_json_that_is_no_request_is_refused_in_json(
    connect: Callable[..., Dealer], route: int, data: bytes
) -> None:
    """The reply's flag says which encoding it has."""
    text = error(connect(flags=JSON), header(flags=JSON, route=route), data)
    assert text.startswith("Invalid: ")


@pytest.mark.parametrize(
    "fields",
    [
        b'"cmd":"PUSH","queue":"q","data":%b',
        b'"cmd":"PUSH","queue":"q","data":{"deep":[%b]},"priority":1',
        b'"cmd":"PUSHB","queue":"q","jobs":[{"data":1},{"data":%b}]',
        b'"cmd":"PUSHB","queue":"q","jobs":[{"data":%b,"priority":1}]',
        b'"cmd":"FLOW","queue":"q","data":1,"children":[{"queue":"q","data":%b}]',
        b'"cmd":"ACK","id":4,"result":%b',
        b'"cmd":"ACKB","ids":[4,8],"results":[1,%b]',
        b'"cmd":"UPDATEJOB","id":4,"data":%b',
        b'"cmd":"PROGRESS","id":4,"progress":1,"message":%b',
        b'"cmd":"LOG","id":4,"message":%b',
        b'"cmd":"FAIL","id":4,"error":%b',
        b'"cmd":"CRON","name":"c","queue":"q","schedule":"* * * * *","data":%b',
    ],
    ids=lambda fields: fields.split(b'"')[3].decode(),
)
def test_json_that_is_not_utf8_is_refused(connect: Callable[..., Dealer], fields: bytes) -> None:
    """Whatever field it is in: readers of JSON would be handed what none of them can read. Stray
    bytes, surrogates alone, forms that are too long, and what is beyond the last character."""
    client = connect(flags=JSON)
    for text in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        request = b"{%b}" % (fields % (b'"%b"' % text))
        at = request.index(text)
        refusal = error(client, header(flags=JSON), request)
        assert refusal == f"Invalid: JSON has to be UTF-8, and byte {at} is not"
    assert client.ask("COUNT", queue="q") == {"ok": True, "count": 0}


@pytest.mark.parametrize(
    ("route", "request_body", "text"),
    [
        (COORDINATOR, body(cmd="PUSH", queue="q", data=1), "PUSH is not for the coordinator"),
        (COORDINATOR, body(cmd="GETJOB", id=4), "GETJOB is not for the coordinator"),
        (1, body(cmd="CRONLIST"), "CRONLIST is not for a shard"),
        (1, body(cmd="AUTH", token="t"), "AUTH is not for a shard"),
        (3, body(cmd="SUBSCRIBE", queue="q", events=["*"]), "SUBSCRIBE is not for a shard"),
        (2, body(cmd="PUSH", queue="q", data=1), "queue 'q' belongs to shard 3"),
        (2, body(cmd="PULL", queue="q"), "queue 'q' belongs to shard 3"),
        (2, body(cmd="PAUSE", queue="q"), "queue 'q' belongs to shard 3"),
    ],
)
def test_a_request_on_a_wrong_route_is_refused(
    dealer: Dealer, route: int, request_body: bytes, text: str
) -> None:
    """A job in another shard's queue would be found by nobody."""
    assert error(dealer, header(route=route), request_body) == f"Invalid: {text}"


def test_a_job_that_json_cannot_hold_is_still_handed_to_its_reader(
    dealer: Dealer, connect: Callable[..., Dealer]
) -> None:
    """Payloads are opaque on their way in, so whatever reads them has to live with each."""
    for raw in (b"\xc7\x01\x05x", b"\xa1\xff", b"\x81\x01\x02", b"\xcb\x7f\xf8" + bytes(6)):
        request = b"\x83\xa3cmd\xa4PUSH\xa5queue\xa8odd-data\xa4data" + raw
        dealer.socket.send_multipart([header(), request])
        assert dealer.answer(CORR)["ok"]
    reader = connect(flags=JSON)
    jobs = reader.ask("PULLB", queue="odd-data", count=9, timeout=0)["jobs"]
    assert len(jobs) == 4
    assert reader.ask("ACKB", ids=[job["id"] for job in jobs])["ids"] == [4]
    # Whoever lists all jobs of this server after us may not be able to read them.
    assert dealer.ask("OBLITERATE", queue="odd-data")["ok"]
    assert dealer.ask("GETJOBS", queue="odd-data")["total"] == 0


def test_a_message_above_16_mebibytes_is_refused_in_words(dealer: Dealer) -> None:
    """Up to twice the bound; nobody has to guess why."""
    too_large = body(cmd="PUSH", queue="q", data=bytes(16 * MIB))
    for route in (ANY, 3, COORDINATOR):
        assert error(dealer, header(route=route), too_large) == "Message too large"


def test_a_message_far_above_its_bound_costs_the_connection(
    connect: Callable[..., Dealer], shared_server: Server
) -> None:
    """It is cut off before it is read, and the server's memory does not grow by it."""
    router = shared_server.pids()["flashq-router"]
    before = resident_bytes(router)
    flood = connect()
    flood.socket.send_multipart([header(), bytes(64 * MIB)])
    with pytest.raises(Silence):
        flood.answer(CORR, timeout_ms=200)
    assert resident_bytes(router) - before < 40 * MIB


def test_random_bytes_in_any_number_of_frames_hurt_nobody(dealer: Dealer) -> None:
    """A thousand messages of a seed; the connection they came on still works."""
    chance = random.Random(4)
    for _ in range(1000):
        frames = [chance.randbytes(chance.randrange(40)) for _ in range(chance.randrange(1, 7))]
        if chance.random() < 0.5:
            frames[0] = header(route=chance.choice([0, 1, 2, 3, ANY, ROUTER, COORDINATOR]))
        dealer.socket.send_multipart(frames)
    fresh = dealer.socket
    fresh.send_multipart([struct.pack(">BBHQ", VERSION, 0, ANY, 99), COUNT])
    while True:
        frames = fresh.recv_multipart()
        replies = {struct.unpack(">BBHQ", head)[3]: data for head, data in _pairs(frames)}
        if 99 in replies:
            assert msgpack.unpackb(replies[99])["ok"]
            return


def _pairs(frames: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(frames[::2], frames[1::2], strict=True)


ZMTP_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31)
ZMTP_READY: Final = b"\x04\x19\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        b"\xff" * 1000,
        b'{"cmd":"STATS"}\n',
        ZMTP_GREETING[:20],
        ZMTP_GREETING,
        ZMTP_GREETING + ZMTP_READY,
        ZMTP_GREETING + ZMTP_READY + b"\x01\x0c" + header(),
        ZMTP_GREETING + ZMTP_READY + b"\x01\x0c" + header() + b"\x00\x20half",
        ZMTP_GREETING + ZMTP_READY + b"\x02" + struct.pack(">Q", 2**63) + b"x",
    ],
    ids=range(11),
)
def test_a_connection_that_ends_in_the_middle_of_anything_hurts_nobody(
    shared_server: Server, said: bytes
) -> None:
    """Bytes that are no ZeroMQ, half a greeting, half a message: nothing of it counts."""
    host, port = shared_server.url.removeprefix("tcp://").split(":")
    with sockets.create_connection((host, int(port))) as raw:
        raw.sendall(said)
    dealer = shared_server.dealer()
    assert dealer.ask("COUNT", queue="q") == {"ok": True, "count": 0}
    dealer.close()


def test_a_client_that_never_reads_is_bounded_and_hurts_nobody_else(
    connect: Callable[..., Dealer], shared_server: Server
) -> None:
    """
    1. A client asks for a gigabyte of replies and reads none of them.
    2. The router keeps a bounded part of them for it, and refuses its further requests as busy.
    3. Another client is served meanwhile, and the first one's connection works once it reads.
    """
    greedy, other = connect(), connect()
    greedy.socket.setsockopt(zmq.RCVHWM, 10)
    greedy.socket.disconnect(shared_server.url)
    greedy.socket.connect(shared_server.url)  # the mark counts from the connecting on
    job_id = other.ask("PUSH", queue="large", data="x" * 50_000)["id"]
    before = {title: resident_bytes(pid) for title, pid in shared_server.pids().items()}
    for _ in range(200):
        asked = [greedy.send("GETJOB", id=job_id) for _ in range(100)]
        assert other.ask("GETJOB", id=job_id)["state"] == "waiting"
    for title, pid in shared_server.pids().items():
        assert resident_bytes(pid) - before[title] < 400 * MIB, title
    refusal = greedy.answer(asked[-1])
    assert (refusal["code"], refusal["retryable"]) == ("busy", True)
    assert eventually(lambda: greedy.ask("COUNT", queue="large")["ok"], "an end of the refusals")
    assert other.ask("CANCEL", id=job_id) == {"ok": True}


def test_connections_that_announce_one_identity_are_two(connect: Callable[..., Dealer]) -> None:
    """
    1. A client parks a pull under a ZeroMQ identity of its own choice.
    2. Another connection comes under the same identity: both are served, and the first still gets
       its job.
    3. The first goes away with a pull parked. The second gets nothing of it: the job goes back.
    """
    first, session = connect(identity=b"twin", reconnects=False), os.urandom(16)
    assert first.ask("COUNT", queue="twins")["ok"]
    parked = first.send("PULL", queue="twins", timeout=60_000, session=session, n=1)
    second, other = connect(identity=b"twin"), connect()
    assert second.ask("COUNT", queue="twins") == {"ok": True, "count": 0}
    pushed = [other.ask("PUSH", queue="twins", data=n)["id"] for n in range(2)]
    assert first.answer(parked)["job"]["id"] == pushed[0]
    assert first.ask("PULL", queue="twins", session=session, n=2)["job"]["id"] == pushed[1]
    first.send("PULL", queue="twins", timeout=60_000, session=session, n=3)
    assert first.ask("COUNT", queue="twins")["ok"]
    first.close()
    pushed.append(other.ask("PUSH", queue="twins", data=2)["id"])
    assert other.ask("PULL", queue="twins", timeout=10_000)["job"]["id"] == pushed[2]
    assert second.ask("COUNT", queue="twins") == {"ok": True, "count": 0}
    assert second.answers == {}


def test_two_sessions_on_one_connection_do_not_mix(dealer: Dealer) -> None:
    """The session is what is said in each request, not the connection it came on."""
    one, two = os.urandom(16), os.urandom(16)
    for session in (one, two):
        assert dealer.ask("HELLO", session=session)["ok"]
    ids = [dealer.ask("PUSH", queue="both", data=n)["id"] for n in range(2)]
    jobs = [
        dealer.ask("PULL", queue="both", timeout=0, session=session, n=1)["job"]
        for session in (one, two)
    ]
    assert [job["id"] for job in jobs] == ids
    lease = {"leases": [ids[0]], "tokens": [jobs[0]["token"]], "route": ids[0] % 4}
    assert dealer.ask("SESSIONHEARTBEAT", session=one, **lease) == {"ok": True}
    assert dealer.ask("SESSIONHEARTBEAT", session=two, **lease)["lost"] == [ids[0]]
    assert dealer.ask("GOODBYE", session=two) == {"ok": True}
    states = [dealer.ask("GETSTATE", id=job_id)["state"] for job_id in ids]
    assert states == ["active", "waiting"]
    assert dealer.ask("GOODBYE", session=one) == {"ok": True}
    assert dealer.ask("COUNT", queue="both")["count"] == 2


def test_garbage_straight_to_a_shard_or_the_coordinator_hurts_nobody(
    shared_server: Server,
) -> None:
    """Their sockets are for the server's own user, who makes mistakes too."""
    coordinator = f"ipc://{shared_server.run_dir}/coordinator.sock"
    for url in (shared_server.shard_url(1), coordinator):
        direct = Dealer(url)
        internal = header(flags=0x40, route=1)
        for frames in (
            [b"x"], [b""] * 3, [header()], [b"short", b"x"], [header(version=9), COUNT],
            [internal, b"\xc1"], [internal, COUNT], [internal, b""],
            [header(flags=0x30, route=1), b"\xc1"], [header(flags=0x30, route=1), COUNT],
            [header(flags=0x04, route=1), COUNT], [header(tail=bytes(281)), COUNT],
        ):  # fmt: skip
            direct.socket.send_multipart(frames)
        word = "COUNT" if "shard" in url else "CRONLIST"
        fields = {"queue": "q-3"} if word == "COUNT" else {}
        eventually(lambda d=direct, w=word, f=fields: d.ask(w, **f), "a direct reply")  # type: ignore[misc]
        direct.close()
