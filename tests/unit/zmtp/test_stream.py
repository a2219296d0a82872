"""`flashq.zmtp.stream`: one peer's bytes to messages, and what costs it the connection."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import repeat
from typing import Final

import pytest

from flashq.zmtp.stream import (
    COMMAND_BYTES_MAX,
    FRAMES_MAX,
    GREETING_BYTES,
    STRANGER_BYTES_MAX,
    STRANGER_FRAME_BYTES_MAX,
    Login,
    Phase,
    Stream,
    Violation,
    pack,
)

FRAME_BYTES_MAX: Final = 200_000
MESSAGE_BYTES_MAX: Final = 1_000_000


def greeting(mechanism: bytes = b"NULL", *, major: int = 3, minor: int = 1) -> bytes:
    """Return what a peer says first."""
    return (
        b"\xff"
        + bytes(8)
        + b"\x7f"
        + bytes([major, minor])
        + mechanism.ljust(20, b"\0")
        + bytes(32)
    )


def command(name: bytes, rest: bytes = b"", *, flags: int = 4) -> bytes:
    """Return a command of a peer."""
    body = bytes([len(name)]) + name + rest
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


def properties(**values: bytes) -> bytes:
    """Return metadata; underscores stand for hyphens."""
    return b"".join(
        bytes([len(name)]) + name.replace("_", "-").encode() + len(value).to_bytes(4, "big") + value
        for name, value in values.items()
    )


READY: Final = command(b"READY", properties(Socket_Type=b"DEALER", Identity=b""))


def stream(*, is_known: bool = True, token: bytes = b"right") -> Stream:
    """Return a fresh stream."""
    admit = lambda login: login.password == token  # noqa: E731  a test's stand-in
    return Stream(FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, admit, is_known=is_known)


def opened(*, is_known: bool = True) -> Stream:
    """Return a stream whose handshake is over."""
    made = stream(is_known=is_known)
    assert made.receive(greeting() + READY) == []
    assert made.phase is Phase.OPEN
    made.to_send.clear()
    return made


def feed(made: Stream, pieces: Iterable[bytes]) -> None:
    """Have a stream take in one piece after the other."""
    for piece in pieces:
        made.receive(piece)


def packed(*frames: bytes) -> bytes:
    """Return a message as it is sent."""
    return b"".join(pack(frames))


# --- the handshake


def test_a_handshake_by_single_bytes() -> None:
    """What the listening side says is what the specification asks for, and in time: a peer waits
    for our version before it goes on, and for nothing else."""
    made = stream()
    assert made.to_send == [b"\xff" + bytes(8) + b"\x7f\x03"]
    for byte in greeting() + READY:
        assert made.phase is not Phase.OPEN
        assert made.receive(bytes([byte])) == []
    assert made.phase is Phase.OPEN
    said = b"".join(made.to_send)
    assert said[:12] == b"\xff" + bytes(8) + b"\x7f\x03\x01"
    assert said[12:GREETING_BYTES] == b"NULL".ljust(20, b"\0") + bytes(32)
    assert said[GREETING_BYTES:] == command(b"READY", properties(Socket_Type=b"ROUTER"))


@pytest.mark.parametrize("kind", [b"DEALER", b"ROUTER", b"REQ"])
def test_what_talks_to_a_router_comes_in(kind: bytes) -> None:
    """Whatever name it announces, which is read past."""
    for identity in (b"", b"victim", b"\0\x6b\x8b\x45\x67", bytes(255), b"\xff" * 255):
        made = stream()
        metadata = properties(Socket_Type=kind, Identity=identity, X_other=b"1" * 3000)
        made.receive(greeting() + command(b"READY", metadata))
        assert made.phase is Phase.OPEN


def test_a_token_can_be_the_password_of_a_login() -> None:
    """PLAIN: the peer is no stranger from then on."""
    made = stream(is_known=False)
    made.receive(greeting(b"PLAIN"))
    made.to_send.clear()
    made.receive(command(b"HELLO", b"\x04name\x05right"))
    assert made.is_known
    assert b"".join(made.to_send) == command(b"WELCOME")
    made.to_send.clear()
    made.receive(command(b"INITIATE", properties(Socket_Type=b"DEALER")))
    assert made.phase is Phase.OPEN
    assert made.to_send[0].startswith(b"\x04\x1c\x05READY")


def test_a_wrong_password_is_told_before_the_end() -> None:
    """In the form that libzmq understands."""
    seen: list[Login] = []

    def admit(login: Login) -> bool:
        seen.append(login)
        return False

    made = Stream(FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, admit, is_known=False)
    made.receive(greeting(b"PLAIN"))
    with pytest.raises(Violation) as caught:
        made.receive(command(b"HELLO", b"\x00\x05wrong"))
    assert caught.value.farewell.startswith(b"\x04")
    assert b"\x05ERROR" in caught.value.farewell
    assert seen == [Login(b"", b"wrong")]
    assert not made.is_known


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00",
        b"\xff" * GREETING_BYTES,
        b"\xff" + bytes(9),
        greeting(major=2),
        greeting(major=1),
        greeting(b"CURVE"),
        greeting(b"GSSAPI"),
        greeting(b""),
        greeting() + packed(b"no command"),
        greeting() + command(b"HELLO", b"\x00\x00"),
        greeting() + command(b"READY", b"\x05short"),
        greeting() + command(b"READY", properties(Socket_Type=b"SUB")),
        greeting() + command(b"READY", properties(Identity=b"x")),
        greeting() + command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"),
        greeting() + command(b"READY", properties(Socket_Type=b"DEALER"), flags=5),
        greeting() + command(b"READY", bytes(COMMAND_BYTES_MAX + 1)),
        greeting() + b"\x06" + b"\xff" * 8,
        greeting() + b"\x04\x00",
        greeting() + b"\xfc\x00",
        greeting(b"PLAIN") + command(b"HELLO", b"\x09short"),
        greeting(b"PLAIN") + command(b"HELLO"),
        greeting(b"PLAIN") + READY,
        greeting(b"PLAIN") + command(b"HELLO", b"\x00\x05right") + READY,
    ],
    ids=lambda data: data[:80].hex()[:40],
)
def test_what_is_no_handshake_costs_the_connection(data: bytes) -> None:
    """However it is cut up, and never by another error."""
    for cut in (1, 7, len(data)):
        made = stream(is_known=False)
        with pytest.raises(Violation):
            feed(made, (data[at : at + cut] for at in range(0, len(data), cut)))


def test_pings_are_answered() -> None:
    """With what they carry, up to sixteen bytes; other commands are read past."""
    made = opened()
    ping = command(b"PING", b"\x00\x01" + b"c" * 20)
    message = packed(b"a", b"b")
    assert made.receive(ping + command(b"PONG") + command(b"X" * 9) + message) == [[b"a", b"b"]]
    assert made.to_send == [command(b"PONG", b"c" * 16)]


# --- messages


def test_messages_arrive_as_they_were_sent_however_they_are_cut_up() -> None:
    """Sizes at every edge of the format."""
    chance = random.Random(7)
    sizes = (0, 1, 12, 254, 255, 256, 1000, 16_383, 16_384, 20_000, FRAME_BYTES_MAX)
    for _ in range(60):
        messages = [
            [chance.randbytes(chance.choice(sizes)) for _ in range(chance.randrange(1, 5))]
            for _ in range(chance.randrange(1, 6))
        ]
        data = b"".join(packed(*frames) for frames in messages)
        made, got, at = opened(), [], 0
        while at < len(data):
            size = chance.choice([1, 2, 5, 100, 5000, 70_000])
            got += made.receive(data[at : at + size])
            at += size
        assert got == messages
        assert made.held_bytes == 0


def test_a_frame_above_its_bound_costs_the_connection_before_it_is_read() -> None:
    """A size of eight bytes is a claim: nothing is kept for it."""
    for size in (FRAME_BYTES_MAX + 1, 2**63 - 1, 2**64 - 1):
        with pytest.raises(Violation, match="frame"):
            opened().receive(b"\x02" + size.to_bytes(8, "big") + b"x")


def test_a_message_is_bounded_over_all_its_frames() -> None:
    """In bytes and in number: many small ones cost more than they say."""
    made = opened()
    with pytest.raises(Violation, match="message"):
        feed(made, repeat(b"\x03" + (100_000).to_bytes(8, "big") + bytes(100_000), 11))
    made = opened()
    with pytest.raises(Violation, match="frames"):
        feed(made, repeat(b"\x01\x00" * 1000, FRAMES_MAX // 1000 + 1))


def test_a_stranger_gets_few_bytes() -> None:
    """A long frame is given as empty, so that its request can still be answered; nothing of it is
    kept. A message that never ends costs the connection early."""
    made = opened(is_known=False)
    long = bytes(FRAME_BYTES_MAX - 5)
    data = packed(b"head", long) + packed(b"next", b"x" * STRANGER_FRAME_BYTES_MAX)
    got = []
    for at in range(0, len(data), 1000):
        got += made.receive(data[at : at + 1000])
        assert made.held_bytes < 2 * STRANGER_FRAME_BYTES_MAX
    assert got == [[b"head", b""], [b"next", b"x" * STRANGER_FRAME_BYTES_MAX]]
    assert made.receive(packed(b"head", long)) == [[b"head", b""]]
    frame = b"\x03" + (1000).to_bytes(8, "big") + bytes(1000)
    with pytest.raises(Violation):
        feed(made, repeat(frame, STRANGER_BYTES_MAX // 1000 + 2))


def test_a_stranger_that_becomes_known_may_say_more() -> None:
    """From its next frame on."""
    made = opened(is_known=False)
    made.is_known = True
    assert made.receive(packed(b"head", bytes(FRAME_BYTES_MAX))) == [
        [b"head", bytes(FRAME_BYTES_MAX)]
    ]


def test_random_bytes_end_in_a_violation_or_in_messages() -> None:
    """Never in another error, and what is kept stays within its bound."""
    chance = random.Random(3)
    for number in range(3000):
        made = opened() if number % 2 else stream(is_known=bool(number % 3))
        start = [b"", greeting(), greeting(b"PLAIN")][number % 3] if number % 2 == 0 else b""
        try:
            made.receive(start)
            for _ in range(20):
                made.receive(chance.randbytes(chance.randrange(1, 60)))
                assert made.held_bytes <= MESSAGE_BYTES_MAX
        except Violation:
            continue
