"""`flashq.zmtp.door` with real sockets: peers of libzmq, and such as keep to nothing."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import zmq

from flashq.places import Places
from flashq.zmtp.door import ACCEPT_PAUSE_MS, UNREAD_MS_MAX, Bounds, Door, Keeper
from flashq.zmtp.peer import Peer
from flashq.zmtp.stream import Login
from tests.unit.zmtp.test_stream import READY, greeting, packed

MIB: Final = 1024 * 1024
IDLE_MS: Final = 3_600_000
STRANGER_MS: Final = 10_000
TURNS_MAX: Final = 1000
WAIT_MS: Final = 20


class Site:
    """A door whose loop a test turns by hand, under a clock of its own."""

    def __init__(
        self, path: Path, *, token: bytes = b"", peers_max: int = 100, strangers_max: int = 50
    ) -> None:
        self.got: list[tuple[Peer, list[bytes]]] = []
        self.given_up: list[tuple[bytes, list[bytes], bool]] = []
        self.unread: dict[bytes, int] = {}
        self.gone: list[bytes] = []
        self.now_ms = 0
        keeper = Keeper(
            lambda peer, frames: self.got.append((peer, frames)),
            lambda *what: self.given_up.append(what),
            self.unread.__setitem__,
            self.gone.append,
            self._admit if token else None,
        )
        self._token = token
        self.door = Door(Bounds(2 * MIB, 4 * MIB, 8 * MIB, 12 * MIB, IDLE_MS), keeper)
        self.places: Places[bytes] = Places(peers_max, strangers_max, STRANGER_MS)
        self.url = f"tcp://{self.door.listen_tcp('127.0.0.1', 0, self.places)}"
        self.path = str(path / "d.sock")
        self.door.listen_unix(self.path, Places(peers_max, strangers_max, STRANGER_MS))
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._raw: list[socket.socket] = []
        self._dealers: list[zmq.Socket[bytes]] = []

    def _admit(self, peer: Peer, login: Login) -> bool:
        return login.password == self._token

    def turn(self, until: object = None) -> None:
        """Turn the loop until a condition holds, or once."""
        for _ in range(TURNS_MAX):
            self.door.wait(WAIT_MS if callable(until) else 0)
            self.door.receive(self.now_ms)
            self.door.tick(self.now_ms)
            if not callable(until) or until():
                return
        raise AssertionError("it never came about")

    def settle(self, peer: Peer) -> None:
        """Turn the loop until a peer takes nothing more."""
        still = 0
        while still < 5:
            before = self.unread[peer.name]
            self.door.wait(WAIT_MS)
            self.door.receive(self.now_ms)
            still = still + 1 if self.unread[peer.name] == before else 0

    def pass_time(self, ms: int) -> None:
        """Let the clock run."""
        self.now_ms += ms
        self.turn()

    def dealer(self, url: str = "", **options: bytes | int) -> zmq.Socket[bytes]:
        """Connect a DEALER of libzmq, which does not come again by itself."""
        dealer = self.context.socket(zmq.DEALER)
        self._dealers.append(dealer)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        for name, value in options.items():
            dealer.setsockopt(getattr(zmq, name), value)
        dealer.connect(url or self.url)
        return dealer

    def raw(self, data: bytes = b"") -> socket.socket:
        """Connect a peer that says what it likes."""
        host, _, port = self.url.removeprefix("tcp://").rpartition(":")
        connected = socket.socket()
        self._raw.append(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connected.connect((host, int(port)))
        connected.sendall(data)
        return connected

    def lazy(self) -> tuple[socket.socket, Peer]:
        """Connect a peer that says one thing, and reads nothing by itself."""
        before = len(self.got)
        raw = self.raw(greeting() + READY + packed(b"x"))
        self.turn(lambda: len(self.got) > before)
        return raw, self.got[-1][0]

    def hear(self, dealer: zmq.Socket[bytes], *frames: bytes) -> Peer:
        """Have a DEALER say something, and return the peer that it came from."""
        before = len(self.got)
        dealer.send_multipart(frames)
        self.turn(lambda: len(self.got) > before)
        peer, heard = self.got[-1]
        assert heard == list(frames)
        return peer

    def close(self) -> None:
        """End everything."""
        for connected in self._raw:
            connected.close()
        for dealer in self._dealers:
            dealer.close(linger=0)
        self.context.term()
        self.door.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A door that asks for no token."""
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, 2 * MIB])
def test_messages_go_to_and_fro(site: Site, size: int) -> None:
    """With DEALERs of libzmq, over TCP and a Unix socket, whose mode lets in its owner only."""
    assert os.stat(site.path).st_mode & 0o777 == 0o600
    for url, address in ((site.url, "127.0.0.1"), (f"ipc://{site.path}", None)):
        dealer = site.dealer(url)
        peer = site.hear(dealer, b"", bytes(size), b"x" * size)
        assert peer.address == address
        site.door.offer(peer.name, [b"reply", b"y" * size, b""])
        site.turn(lambda d=dealer: d.poll(0))
        assert dealer.recv_multipart() == [b"reply", b"y" * size, b""]


def test_names_are_given_and_never_announced(site: Site) -> None:
    """Peers that announce one identity are as many as they are, and the next one is another."""
    peers = [site.hear(site.dealer(IDENTITY=b"victim"), b"x").name for _ in range(3)]
    twins = [site.hear(site.dealer(IDENTITY=peers[0]), b"x").name for _ in range(2)]
    assert len({*peers, *twins}) == 5


def test_a_peer_that_leaves_gives_up_what_it_has_not_read(site: Site) -> None:
    """Message by message; then it is gone, and what is offered to it later too."""
    raw, peer = site.lazy()
    sent = [[b"%d" % number, bytes(MIB)] for number in range(8)]
    for frames in sent:
        site.door.offer(peer.name, frames)
    assert site.unread[peer.name] > 0
    raw.close()
    site.turn(lambda: site.gone)
    assert site.gone == [peer.name]
    left = [frames for _, frames, gone in site.given_up if gone]
    assert left
    assert left == sent[-len(left) :]
    site.door.offer(peer.name, [b"late"])
    assert site.given_up[-1] == (peer.name, [b"late"], True)
    assert len(site.door) == 0


def test_what_a_peer_leaves_unread_is_bounded(site: Site) -> None:
    """Above its bound messages are given up; above that of all, the one with the most has to go,
    and the memory is back."""
    slow = [site.lazy()[1] for _ in range(2)]
    for _ in range(40):
        site.door.offer(slow[0].name, [bytes(MIB)])
    assert site.unread[slow[0].name] <= 9 * MIB
    assert [gone for _, _, gone in site.given_up].count(False) > 20
    for _ in range(40):
        site.door.offer(slow[1].name, [bytes(MIB)])
    assert site.gone == [slow[0].name]
    assert site.door.left["read too little"] == 1


def test_a_peer_that_reads_nothing_is_let_go(site: Site) -> None:
    """After a minute; one that reads a little has another one."""
    raw, peer = site.lazy()
    while site.unread.get(peer.name, 0) < 4 * MIB:
        site.door.offer(peer.name, [bytes(MIB)])
    site.settle(peer)
    site.pass_time(UNREAD_MS_MAX - 1)
    while peer.read_ms < site.now_ms:
        raw.recv(65_536)
        site.turn()
    site.settle(peer)
    site.pass_time(UNREAD_MS_MAX - 1)
    assert site.gone == []
    site.pass_time(2)
    assert site.door.left == {"read nothing": 1}


def test_an_idle_peer_is_let_go(site: Site) -> None:
    """Whatever it says counts, and whatever it takes."""
    dealer = site.dealer()
    peer = site.hear(dealer, b"x")
    site.pass_time(IDLE_MS - 1)
    site.hear(dealer, b"x")
    site.pass_time(IDLE_MS - 1)
    site.door.offer(peer.name, [b"event"])
    site.pass_time(IDLE_MS - 1)
    assert site.gone == []
    site.pass_time(1)
    assert site.door.left == {"idle": 1}


def test_a_peer_that_is_held_is_not_read(site: Site) -> None:
    """Until it may go on; its end is seen all the same."""
    dealer = site.dealer()
    peer = site.hear(dealer, b"x")
    site.door.set_held(peer.name, True)
    dealer.send(b"waits")
    assert site.dealer().poll(50) == 0
    site.turn()
    assert len(site.got) == 1
    site.door.set_held(peer.name, False)
    site.turn(lambda: len(site.got) == 2)
    site.door.set_held(peer.name, True)
    dealer.close(linger=0)
    site.turn(lambda: site.gone == [peer.name])


# --- strangers, places, descriptors


def test_who_does_not_finish_the_handshake_has_seconds(site: Site) -> None:
    """On an open server too."""
    site.raw()
    site.raw(b"\xff")
    site.hear(site.dealer(), b"x")
    site.turn(lambda: len(site.door) == 3)
    site.pass_time(STRANGER_MS)
    assert len(site.door) == 1
    assert site.door.left == {"showed no token in time": 2}


def test_a_stranger_has_a_share_of_the_places(tmp_path: Path) -> None:
    """
    1. Connections fill the share of strangers; each further one takes the place of the oldest.
    2. Somebody with a token comes in among them, and stays.
    """
    site = Site(tmp_path, token=b"right", peers_max=10, strangers_max=3)
    try:
        for _ in range(8):
            site.raw()
            site.turn()
        site.turn(lambda: site.door.left["made room"] == 5)
        assert len(site.door) == 3
        login = {"PLAIN_USERNAME": b"anything", "PLAIN_PASSWORD": b"right"}
        peer = site.hear(site.dealer(site.url, **login), b"x")
        assert not peer.is_stranger
        for _ in range(4):
            site.raw()
        site.turn(lambda: site.door.left["made room"] == 9)
        assert peer.name not in site.gone
        site.pass_time(STRANGER_MS)
        assert len(site.door) == 1
    finally:
        site.close()


def test_a_login_with_a_wrong_token_is_refused(tmp_path: Path) -> None:
    """libzmq learns it in its handshake; without a login one is a stranger."""
    site = Site(tmp_path, token=b"right")
    try:
        dealer = site.dealer(PLAIN_USERNAME=b"x", PLAIN_PASSWORD=b"wrong")
        site.turn(lambda: site.door.left["a wrong login"] == 1)
        dealer.close(linger=0)
        peer = site.hear(site.dealer(), b"x")
        assert peer.is_stranger
        site.door.know(peer.name)
        site.pass_time(STRANGER_MS)
        assert peer.name not in site.gone
        site.door.doubt(peer.name)
        site.pass_time(STRANGER_MS)
        assert peer.name in site.gone
    finally:
        site.close()


def test_newcomers_wait_while_all_places_are_taken(tmp_path: Path) -> None:
    """They do not keep the loop busy, and come in when somebody leaves."""
    site = Site(tmp_path, peers_max=2, strangers_max=2)
    try:
        dealers = [site.dealer() for _ in range(2)]
        for dealer in dealers:
            site.hear(dealer, b"x")
        third = site.dealer()
        third.send(b"waits")
        site.turn(lambda: site.door.trouble)
        assert site.door.wait(0) == []
        dealers[0].close(linger=0)
        site.turn(lambda: len(site.got) == 3)
        assert site.got[-1][1] == [b"waits"]
        assert site.door.trouble == ""
    finally:
        site.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process have no descriptor more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spent: list[int] = []
    try:
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with suppress(OSError):
            while True:
                spent.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in spent:
            os.close(fd)


def test_without_descriptors_strangers_make_room(site: Site) -> None:
    """Who is known stays, and newcomers come in one after the other."""
    peer = site.hear(site.dealer(), b"x")
    site.raw()
    site.turn(lambda: len(site.door) == 2)
    for _ in range(2):
        site.raw()
    with no_descriptors():
        site.turn(lambda: site.door.left["made room"] == 2)
        assert len(site.door) == 2
    assert peer.name not in site.gone


def test_without_descriptors_the_loop_sleeps(site: Site) -> None:
    """
    1. Descriptors run out, and everybody is known: nobody is looked for, so that the loop sleeps.
    2. After a second newcomers are looked for again, and come in.
    """
    site.hear(site.dealer(), b"x")
    site.raw()
    with no_descriptors():
        site.turn(lambda: site.door.trouble)
        assert site.door.wait(0) == []
        assert site.door.next_deadline_ms() == ACCEPT_PAUSE_MS
        site.pass_time(ACCEPT_PAUSE_MS)
        site.turn(lambda: site.door.trouble)
    site.pass_time(ACCEPT_PAUSE_MS)
    site.turn(lambda: len(site.door) == 2)
    assert site.door.trouble == ""
