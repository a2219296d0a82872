"""The sockets of a program that others connect to: listening, accepting, reading, writing.

Owns each connection and what its peer has not read yet, counted in bytes; the descriptors; and the
waiting of the program's loop. What is said is its program's business.

Each connection has a name of our own, which is never given twice and which no peer can choose. What
is known of a peer is known of its connection, and ends with it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from flashq.keepalive import probe
from flashq.places import Places
from flashq.zmtp.peer import Peer
from flashq.zmtp.stream import Login, Phase, Stream, Violation

READ_BYTES: Final = 131_072
"""What is read from a peer at once."""
TURN_BYTES_MAX: Final = 4_194_304
"""What is read from all peers in a turn of the loop, so that replies do not wait for a flood."""
TURN_PEERS_MAX: Final = 256
"""Peers that are looked after in a turn."""
TURN_ACCEPTS_MAX: Final = 64
"""Connections that are taken in a turn."""
BACKLOG_CONNECTIONS: Final = 1024
"""Connections that wait for being taken."""
ACCEPT_PAUSE_MS: Final = 1000
"""How long nobody is taken after descriptors have run out."""
UNREAD_MS_MAX: Final = 60_000
"""A peer that has something to read, and reads nothing for so long, is let go."""

_IN: Final = select.EPOLLIN | select.EPOLLRDHUP
_OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Bounds(NamedTuple):
    """What a door lets its peers have. Sizes in bytes."""

    frame_bytes_max: int
    message_bytes_max: int
    """The largest message, all frames together."""
    unread_bytes_max: int
    """What is kept for one peer that does not read."""
    all_unread_bytes_max: int
    """What is kept for all of them; above it the one with the most is let go."""
    idle_ms_max: int
    """A connection on which nothing is said for so long is closed."""


class Keeper(NamedTuple):
    """Where a door asks and tells.

    Args:
        handle: takes each message: the peer, its frames.
        give_up: takes what was not sent to a peer, message by message: its name, frames, and
            whether it is `gone`.
        unread: told how many bytes a peer has not read, whenever that has changed and is or was
            more than nothing.
        leave: told of each peer that is gone, after that.
        admit: decides on a login; None where no token is asked for, and nobody is a stranger any
            more once its handshake is over.
    """

    handle: Callable[[Peer, list[bytes]], None]
    give_up: Callable[[bytes, list[bytes], bool], None]
    unread: Callable[[bytes, int], None]
    leave: Callable[[bytes], None]
    admit: Callable[[Peer, Login], bool] | None = None


class _Listener:
    """One listening socket and the places at it."""

    def __init__(self, listening: socket.socket, places: Places[bytes], *, is_local: bool) -> None:
        self.socket: Final = listening
        self.places: Final = places
        self.is_local: Final = is_local
        #: whether newcomers are looked for
        self.is_open = False


class Door:
    """All connections of one program.

    Args:
        bounds: what peers may have.
        keeper: where it asks and tells.
    """

    def __init__(self, bounds: Bounds, keeper: Keeper) -> None:
        self._bounds: Final = bounds
        self._keeper: Final = keeper
        self._epoll: Final = select.epoll()
        self._listeners: Final[dict[int, _Listener]] = {}
        self._by_fd: Final[dict[int, Peer]] = {}
        self._peers: Final[dict[bytes, Peer]] = {}
        self._places: Final[dict[bytes, Places[bytes]]] = {}
        #: how many names were given
        self._named = 0
        #: over all peers
        self._unread_bytes = 0
        #: when `tick` has something to do, as far as it was reckoned since that may have changed
        self._due_ms: int | None = None
        self._is_due_known = False
        #: when newcomers are looked for again after descriptors have run out
        self._accept_at_ms: int | None = None
        #: when it is looked at whether a peer was idle, or did not read, for too long; in order
        self._idle: Final[deque[tuple[int, Peer]]] = deque()
        self._stuck: Final[deque[tuple[int, Peer]]] = deque()
        #: what is ready since the last wait
        self._ready: list[tuple[int, int]] = []
        self._now_ms = 0
        #: peers that left or had to, by reason
        self.left: Final[Counter[str]] = Counter()
        #: newcomers wait: there is no place, or no descriptor
        self.trouble = ""

    def __len__(self) -> int:
        return len(self._peers)

    # --- listening and waiting

    def listen_tcp(self, host: str, port: int, places: Places[bytes]) -> str:
        """Listen on a TCP port, and return `host:port` with the port that it is.

        Raises:
            OSError: that cannot be.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG_CONNECTIONS)
        except OSError:
            listening.close()
            raise
        self._listen(_Listener(listening, places, is_local=False))
        name, port = listening.getsockname()[:2]
        return f"[{name}]:{port}" if family is socket.AF_INET6 else f"{name}:{port}"

    def listen_unix(self, path: str, places: Places[bytes]) -> None:
        """Listen on a Unix socket for its owner's programs. One of an earlier life is replaced; the
        caller holds the lock that says that nobody else listens there.

        Raises:
            OSError: that cannot be.
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if os.path.lexists(path):
                os.unlink(path)
            listening.bind(path)
            os.chmod(path, 0o600)
            listening.listen(BACKLOG_CONNECTIONS)
        except OSError:
            listening.close()
            raise
        self._listen(_Listener(listening, places, is_local=True))

    def _listen(self, listener: _Listener) -> None:
        listener.socket.setblocking(False)
        self._listeners[listener.socket.fileno()] = listener
        self._open(listener)

    def _open(self, listener: _Listener) -> None:
        if not listener.is_open:
            listener.is_open = True
            self._epoll.register(listener.socket, select.EPOLLIN)

    def _shut(self, listener: _Listener, trouble: str) -> None:
        """Look for no newcomers: they would wake the loop again and again."""
        self.trouble = trouble
        if listener.is_open:
            listener.is_open = False
            self._epoll.unregister(listener.socket)

    def watch(self, fd: int) -> None:
        """Have `wait` end when this descriptor, which is somebody else's, is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Do not look at that descriptor any more."""
        self._epoll.unregister(fd)

    def wait(self, wait_ms: int) -> list[int]:
        """Wait until something can be done, so long at most.

        Returns:
            All descriptors that are ready, among them those that are watched for others.
        """
        self._ready = self._epoll.poll(wait_ms / 1000, TURN_PEERS_MAX)
        return [fd for fd, _ in self._ready]

    # --- a turn

    def receive(self, now_ms: int) -> None:
        """Take in what has arrived, a bounded amount of each peer, and go on sending."""
        self._now_ms = now_ms
        left = TURN_BYTES_MAX
        by_fd = self._by_fd
        ready, self._ready = self._ready, []
        for fd, events in ready:
            peer = by_fd.get(fd)
            if peer is None:
                listener = self._listeners.get(fd)
                if listener is not None:
                    self._accept(listener)
                continue
            if events & _OUT:
                self._flush(peer)
            if events & _GONE and peer.is_held:
                self._close(peer, "gone")
            elif events & ~_OUT and left > 0 and not peer.is_held:
                left -= self._read(peer)

    def _read(self, peer: Peer) -> int:
        """Take in what a peer has sent, and return how many bytes that was."""
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._close(peer, "gone")
            return 0
        peer.heard_ms = self._now_ms
        stream = peer.stream
        try:
            messages = stream.receive(data)
        except Violation as violation:
            self._say(peer, violation.farewell)
            self._close(peer, violation.reason)
            return len(data)
        if stream.to_send:
            self._say(peer)
        if peer.is_stranger and stream.is_known and stream.phase is Phase.OPEN:
            self.know(peer.name)
        for frames in messages:
            if peer.is_gone:
                break
            self._keeper.handle(peer, frames)
        return len(data)

    def _say(self, peer: Peer, more: bytes = b"") -> None:
        """Send what the stream itself has to say."""
        data = b"".join(peer.stream.to_send) + more
        peer.stream.to_send.clear()
        if data and peer.unread_bytes <= self._bounds.unread_bytes_max:
            peer.queue_bytes(data)
            self._flush(peer)

    def _accept(self, listener: _Listener) -> None:
        for _ in range(TURN_ACCEPTS_MAX):
            if listener.places.is_full:
                self._shut(listener, f"all {listener.places.peers_max} connections are taken")
                return
            try:
                connection, address = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    continue  # the peer has left already
                if not _has_newcomer(listener.socket):
                    return  # the kernel takes a descriptor before it looks
                stranger = listener.places.oldest_stranger()
                if stranger is None:
                    self._shut(listener, f"no descriptor is left ({error.strerror})")
                    self._accept_at_ms = self._now_ms + ACCEPT_PAUSE_MS
                    self._is_due_known = False
                    return
                self._close(self._peers[stranger], "made room")
                continue
            self._admit(listener, connection, None if listener.is_local else address[0])

    def _admit(self, listener: _Listener, connection: socket.socket, address: str | None) -> None:
        """Give a new connection a name and a place."""
        self._named += 1
        self._is_due_known = False
        name = self._named.to_bytes(8, "big")
        leaver = listener.places.enter(name, self._now_ms)
        if leaver is not None:
            self._close(self._peers[leaver], "made room")
        connection.setblocking(False)
        if not listener.is_local:
            probe(connection)
        bounds, admit = self._bounds, self._keeper.admit
        peer = Peer(name, connection, address, self._now_ms)
        peer.stream = Stream(
            bounds.frame_bytes_max,
            bounds.message_bytes_max,
            (lambda _: True) if admit is None else partial(admit, peer),
            is_known=admit is None,
        )
        self._peers[name] = self._by_fd[connection.fileno()] = peer
        self._places[name] = listener.places
        self._idle.append((self._now_ms + bounds.idle_ms_max, peer))
        peer.mask = _IN
        self._epoll.register(connection, _IN)
        self._say(peer)

    def know(self, name: bytes) -> None:
        """A peer has shown a token: it is no stranger any more."""
        peer = self._peers.get(name)
        if peer is not None and peer.is_stranger:
            peer.is_stranger = False
            peer.stream.is_known = True
            self._places[name].know(name)
            self._is_due_known = False

    def doubt(self, name: bytes) -> None:
        """A peer's token is none any more: it is a stranger again."""
        peer = self._peers.get(name)
        if peer is not None and not peer.is_stranger:
            peer.is_stranger = True
            peer.stream.is_known = False
            self._places[name].doubt(name, self._now_ms)
            self._is_due_known = False

    def set_held(self, name: bytes, is_held: bool) -> None:
        """Read nothing from a peer for now, or again."""
        peer = self._peers.get(name)
        if peer is not None and peer.is_held is not is_held:
            peer.is_held = is_held
            self._look(peer)

    def _look(self, peer: Peer) -> None:
        """Watch a peer for what there is to do with it."""
        mask = (select.EPOLLRDHUP if peer.is_held else _IN) | (_OUT if peer.unread else 0)
        if mask != peer.mask:
            peer.mask = mask
            self._epoll.modify(peer.socket, mask)

    # --- sending

    def offer(self, to: bytes, frames: list[bytes]) -> int:
        """Send a message, or keep it until the peer reads, or give it up; return its size."""
        peer = self._peers.get(to)
        if peer is None:
            self._keeper.give_up(to, frames, True)
            return 0
        size = sum(map(len, frames))
        if peer.unread:
            if peer.unread_bytes + size > self._bounds.unread_bytes_max:
                self._keeper.give_up(to, frames, False)
                return 0
            peer.queue(frames, size)
        elif peer.write_at_once(frames, size):
            peer.read_ms = self._now_ms
            return size
        self._unread_bytes += size
        self._flush(peer)
        if self._unread_bytes > self._bounds.all_unread_bytes_max:
            most = max(self._peers.values(), key=lambda peer: peer.unread_bytes)
            self._close(most, "read too little")
        return size

    def unread_bytes(self, name: bytes) -> int:
        """Return what a peer has not read."""
        peer = self._peers.get(name)
        return 0 if peer is None else peer.unread_bytes

    def _flush(self, peer: Peer) -> None:
        """Send a peer as much as it takes."""
        before = peer.unread_bytes
        was_stuck = bool(peer.mask & _OUT)
        try:
            is_read = peer.write()
        except OSError:
            self._close(peer, "gone")
            return
        self._unread_bytes -= before - peer.unread_bytes
        if is_read:
            peer.read_ms = self._now_ms
        is_stuck = bool(peer.unread)
        if is_stuck != was_stuck:
            self._look(peer)
            if is_stuck:
                self._stuck.append((self._now_ms + UNREAD_MS_MAX, peer))
                self._is_due_known = False
        if is_stuck or was_stuck:
            self._keeper.unread(peer.name, peer.unread_bytes)

    # --- the end

    def let_go(self, name: bytes, reason: str) -> None:
        """Close a peer's connection."""
        peer = self._peers.get(name)
        if peer is not None:
            self._close(peer, reason)

    def _close(self, peer: Peer, reason: str) -> None:
        if peer.is_gone:
            return
        peer.is_gone = True
        self._is_due_known = False
        self.left[reason] += 1
        del self._by_fd[peer.socket.fileno()], self._peers[peer.name]
        peer.socket.close()
        self._places.pop(peer.name).leave(peer.name)
        self._unread_bytes -= peer.unread_bytes
        for frames in peer.take_unread():
            self._keeper.give_up(peer.name, frames, True)
        self._keeper.leave(peer.name)
        if self._accept_at_ms is None:
            self._reopen()

    def _reopen(self) -> None:
        self.trouble = ""
        for listener in self._listeners.values():
            self._open(listener)

    def tick(self, now_ms: int) -> None:
        """Do what is due: let go of who stayed unknown, idle or unread for too long."""
        due_ms = self.next_deadline_ms()
        if due_ms is None or now_ms < due_ms:
            return
        self._now_ms = now_ms
        self._is_due_known = False
        for listener in self._listeners.values():
            for name in listener.places.overdue(now_ms):
                self._close(self._peers[name], "showed no token in time")
        if self._accept_at_ms is not None and self._accept_at_ms <= now_ms:
            self._accept_at_ms = None
            self._reopen()
        while self._idle and self._idle[0][0] <= now_ms:
            _, peer = self._idle.popleft()
            due_ms = max(peer.heard_ms, peer.read_ms) + self._bounds.idle_ms_max
            if due_ms <= now_ms:
                self._close(peer, "idle")
            elif not peer.is_gone:
                self._idle.append((due_ms, peer))
        while self._stuck and self._stuck[0][0] <= now_ms:
            _, peer = self._stuck.popleft()
            due_ms = peer.read_ms + UNREAD_MS_MAX
            if peer.unread and due_ms <= now_ms:
                self._close(peer, "read nothing")
            elif peer.unread and not peer.is_gone:
                self._stuck.append((due_ms, peer))

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do."""
        if not self._is_due_known:
            self._due_ms, self._is_due_known = self._reckon_due_ms(), True
        return self._due_ms

    def _reckon_due_ms(self) -> int | None:
        due = [listener.places.next_deadline_ms() for listener in self._listeners.values()]
        due += (self._accept_at_ms, *(queue[0][0] for queue in (self._idle, self._stuck) if queue))
        return min((at for at in due if at is not None), default=None)

    def close(self) -> None:
        """Close everything; what was not read is lost."""
        for listener in self._listeners.values():
            listener.socket.close()
        for peer in self._peers.values():
            peer.socket.close()
        self._epoll.close()


def _has_newcomer(listening: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))
