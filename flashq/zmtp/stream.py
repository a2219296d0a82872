"""One peer's bytes to messages and back: handshake, frames, commands.

Pure: bytes come in as they arrive, whole messages go out. Owns the grammar of ZMTP 3.0 and 3.1
(https://rfc.zeromq.org/spec/37/) for a socket that listens as a ROUTER, with the mechanisms NULL
and PLAIN, and the bounds on what a peer may have said that is no whole message yet.

The name ("identity") that a peer announces is read past: nothing is known by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

GREETING_BYTES: Final = 64
_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
_MAJOR, _MINOR = 3, 1
_MECHANISM_AT: Final = 12
_MECHANISM_END: Final = 32
_NULL: Final = b"NULL"
_PLAIN: Final = b"PLAIN"

_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4
_RESERVED: Final = 0xF8
_SHORT_BYTES_MAX: Final = 255

COMMAND_BYTES_MAX: Final = 8192
"""A longer command of a peer, whose metadata may be long, costs it the connection."""
PING_CONTEXT_BYTES_MAX: Final = 16
SOCKET_TYPES: Final = (b"DEALER", b"ROUTER", b"REQ")
"""What may connect to a ROUTER."""

STRANGER_FRAME_BYTES_MAX: Final = 8192
"""A longer frame of a peer that has not shown a token is read past, and given as empty."""
STRANGER_BYTES_MAX: Final = 65_536
"""What such a peer may have said of a message that is not complete."""
FRAMES_MAX: Final = 65_536
"""Frames of one message."""
_GATHER_BYTES_MIN: Final = 16_384
"""A frame of at least so many bytes that has not come whole is kept in pieces until it has."""


class Violation(Exception):
    """The peer does not keep to the protocol or a bound: the connection has to go.

    Args:
        reason: what it did, for the log.
        farewell: bytes that tell it so, to be sent first.
    """

    def __init__(self, reason: str, farewell: bytes = b"") -> None:
        super().__init__(reason)
        self.reason: Final = reason
        self.farewell: Final = farewell


class Login(NamedTuple):
    """What a peer says of itself by the mechanism PLAIN."""

    name: bytes
    password: bytes


Admit = Callable[[Login], bool]
"""Tells whether a login is right; only called for PLAIN."""


class Phase(Enum):
    """How far the handshake is."""

    GREETING = auto()
    LOGIN = auto()
    """PLAIN: its HELLO has to come."""
    METADATA = auto()
    """READY (of NULL) or INITIATE (of PLAIN) has to come."""
    OPEN = auto()
    """Messages go to and fro."""


class Stream:
    """What one peer says, as far as it has been said.

    Args:
        bytes_max: the largest frame.
        message_bytes_max: the largest message, all frames together.
        admit: decides on logins.
        is_known: the peer need not show a token.
    """

    __slots__ = (
        "_admit",
        "_bytes_max",
        "_frames",
        "_gathered_flags",
        "_held_bytes",
        "_is_between",
        "_mechanism",
        "_message_bytes_max",
        "_missing",
        "_pieces",
        "_rest",
        "_skipping",
        "is_known",
        "phase",
        "to_send",
    )

    def __init__(
        self, bytes_max: int, message_bytes_max: int, admit: Admit, *, is_known: bool
    ) -> None:
        self._bytes_max: Final = bytes_max
        self._message_bytes_max: Final = message_bytes_max
        self._admit: Final = admit
        #: whether it has shown a token, or none is asked for; until then it gets few bytes
        self.is_known = is_known
        self.phase = Phase.GREETING
        self._mechanism = _NULL
        #: what has to be sent before anything else
        self.to_send: list[bytes] = [_SIGNATURE + bytes([_MAJOR])]
        #: the beginning of a frame that has not come whole
        self._rest = b""
        #: frames of a message that is not complete
        self._frames: list[bytes] = []
        #: a long frame: what has come of it, what is missing, its flags
        self._pieces: list[bytes] = []
        self._missing = 0
        self._gathered_flags = 0
        #: the long frame is read past
        self._skipping = False
        #: what is kept of a message that is not complete
        self._held_bytes = 0
        #: the handshake is over, and nothing has come of the next message
        self._is_between = False

    @property
    def held_bytes(self) -> int:
        """What is kept of a message that is not complete."""
        return self._held_bytes

    def receive(self, data: bytes) -> list[list[bytes]]:
        """Take in what has arrived.

        Returns:
            The messages that are whole now, as frames.

        Raises:
            Violation: the peer has to go.
        """
        messages: list[list[bytes]] = []
        if self._is_between:  # nearly always
            at = self._read(data, messages)
            if at == len(data) and not self._frames and not self._missing:
                self._held_bytes = 0
                return messages
            self._is_between = False
            self._keep(data, at, messages)
            return messages
        if self._missing:
            data = self._gather(data, messages)
            if not data:
                return messages
        if self._rest:
            data = self._rest + data
        if self.phase is Phase.GREETING:
            data = self._greet(data)
        self._keep(data, self._read(data, messages), messages)
        return messages

    def _keep(self, data: bytes, at: int, messages: list[list[bytes]]) -> None:
        """Keep what has come of a frame and of a message that are not whole, within bounds."""
        self._rest = data[at:] if at else data
        if messages:
            self._held_bytes = sum(map(len, self._frames)) + sum(map(len, self._pieces))
        elif self._frames or self._missing:
            self._held_bytes += at
        held = self._held_bytes + len(self._rest)
        if held > (self._message_bytes_max if self.is_known else STRANGER_BYTES_MAX):
            raise Violation(f"a message of more than {held} bytes")
        if len(self._frames) > FRAMES_MAX:
            raise Violation(f"a message of more than {FRAMES_MAX} frames")
        self._is_between = self.phase is Phase.OPEN and not (
            self._rest or self._frames or self._missing
        )

    def _read(self, data: bytes, messages: list[list[bytes]]) -> int:
        """Read the frames in `data`, and return where the one begins that is not whole."""
        at, end = 0, len(data)
        frames = self._frames
        bytes_max = self._bytes_max if self.is_known else STRANGER_FRAME_BYTES_MAX
        is_open = self.phase is Phase.OPEN
        while end - at >= 2:
            flags = data[at]
            if flags & _LONG:
                if end - at < 9:
                    break
                start = at + 9
                size = int.from_bytes(data[at + 1 : start], "big")
            else:
                size = data[at + 1]
                start = at + 2
            stop = start + size
            if flags > _MORE | _LONG or not is_open:
                if not self._command(flags, size, data, start):
                    break
                is_open = self.phase is Phase.OPEN
                bytes_max = self._bytes_max if self.is_known else STRANGER_FRAME_BYTES_MAX
                at = stop
                continue
            if size > bytes_max:
                if self.is_known:
                    raise Violation(f"a frame of {size} bytes, the bound is {bytes_max}")
                self._begin_frame(flags, stop - end, [], skipping=True)
                self._held_bytes -= min(stop, end) - start
            elif stop > end:
                if size < _GATHER_BYTES_MIN:
                    break
                self._begin_frame(flags, stop - end, [data[start:]], skipping=False)
            if self._missing > 0:
                return end
            frames.append(b"" if self._skipping else data[start:stop])
            self._skipping = False
            at = stop
            if not flags & _MORE:
                messages.append(frames)
                frames = self._frames = []
        return at

    # --- frames that come in pieces

    def _begin_frame(
        self, flags: int, missing: int, pieces: list[bytes], *, skipping: bool
    ) -> None:
        self._gathered_flags = flags
        self._missing = max(0, missing)
        self._pieces = pieces
        self._skipping = skipping

    def _gather(self, data: bytes, messages: list[list[bytes]]) -> bytes:
        """Take in more of a long frame, and return what is behind it."""
        missing = self._missing
        part = data if len(data) <= missing else data[:missing]
        self._missing = missing - len(part)
        if not self._skipping:
            self._pieces.append(part)
            self._held_bytes += len(part)
        if not self._missing:
            self._frames.append(b"".join(self._pieces))
            self._pieces = []
            self._skipping = False
            if not self._gathered_flags & _MORE:
                messages.append(self._frames)
                self._frames = []
                self._held_bytes = 0
        return data[missing:]

    # --- the handshake, and commands

    def _greet(self, data: bytes) -> bytes:
        """Read the greeting, and return what is behind it, or all while it is not whole."""
        seen = min(len(data), 10)
        if data[:1] != b"\xff"[:seen] or (seen == 10 and not data[9] & 1):
            raise Violation("not ZMTP 3")
        if len(data) > 10 and data[10] < _MAJOR:
            raise Violation(f"ZMTP {data[10]}, expected 3 or later")
        if len(data) < GREETING_BYTES:
            return data
        mechanism = data[_MECHANISM_AT:_MECHANISM_END].rstrip(b"\0")
        if mechanism not in (_NULL, _PLAIN):
            raise Violation(f"mechanism {mechanism[:20]!r}, expected NULL or PLAIN")
        self._mechanism = mechanism
        answer = bytes([_MINOR]) + mechanism.ljust(20, b"\0")
        answer += bytes([mechanism == _PLAIN]) + bytes(31)
        self.to_send.append(answer)
        if mechanism == _PLAIN:
            self.phase = Phase.LOGIN
        else:
            self.phase = Phase.METADATA
            self.to_send.append(_command(b"READY", _METADATA))
        return data[GREETING_BYTES:]

    def _command(self, flags: int, size: int, data: bytes, start: int) -> bool:
        """Take a frame that is no part of a message; False while it has not come whole."""
        if self.phase is Phase.GREETING:
            return False
        if flags & _RESERVED or not flags & _COMMAND or flags & _MORE:
            raise Violation(f"a frame with flags {flags:#04x} in the phase {self.phase.name}")
        if size > COMMAND_BYTES_MAX:
            raise Violation(f"a command of {size} bytes, the bound is {COMMAND_BYTES_MAX}")
        if len(data) < start + size:
            return False
        body = data[start : start + size]
        name, rest = body[1 : 1 + body[0]] if body else b"", body[1 + body[0] :] if body else b""
        if self.phase is Phase.LOGIN:
            self._log_in(name, rest)
        elif self.phase is Phase.METADATA:
            self._take_metadata(name, rest)
        elif name == b"PING":
            self.to_send.append(_command(b"PONG", rest[2 : 2 + PING_CONTEXT_BYTES_MAX]))
        return True

    def _log_in(self, name: bytes, rest: bytes) -> None:
        fields = _strings(rest, 2) if name == b"HELLO" else None
        if fields is None:
            raise Violation("PLAIN without HELLO")
        if not self._admit(Login(*fields)):
            raise Violation("a wrong login", _command(b"ERROR", _string(b"Invalid token")))
        self.is_known = True
        self.phase = Phase.METADATA
        self.to_send.append(_command(b"WELCOME", b""))

    def _take_metadata(self, name: bytes, rest: bytes) -> None:
        if name != (b"READY" if self._mechanism == _NULL else b"INITIATE"):
            raise Violation(f"the command {name[:20]!r} in the handshake")
        kind = _metadata(rest).get(b"socket-type", b"")
        if kind not in SOCKET_TYPES:
            raise Violation(f"a socket of the type {kind[:20]!r}, expected DEALER")
        if self._mechanism == _PLAIN:
            self.to_send.append(_command(b"READY", _METADATA))
        self.phase = Phase.OPEN


def _string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _command(name: bytes, rest: bytes) -> bytes:
    body = _string(name) + rest
    return bytes([_COMMAND, len(body)]) + body


def _strings(data: bytes, count: int) -> list[bytes] | None:
    """Read so many strings with a byte of length before each; None when they do not fit."""
    strings = []
    for _ in range(count):
        if not data or len(data) <= data[0] - 1:
            return None
        strings.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return strings


def _metadata(data: bytes) -> dict[bytes, bytes]:
    """Read properties; their names do not depend on case."""
    properties: dict[bytes, bytes] = {}
    while data:
        name_end = 1 + data[0]
        value_at = name_end + 4
        size = int.from_bytes(data[name_end:value_at], "big")
        if len(data) < value_at + size:
            raise Violation("metadata that is cut off")
        properties[data[1:name_end].lower()] = data[value_at : value_at + size]
        data = data[value_at + size :]
    return properties


_METADATA: Final = _string(b"Socket-Type") + (6).to_bytes(4, "big") + b"ROUTER"

# --- out

_LAST_HEADS: Final = [bytes([0, size]) for size in range(_SHORT_BYTES_MAX + 1)]
_MORE_HEADS: Final = [bytes([_MORE, size]) for size in range(_SHORT_BYTES_MAX + 1)]


def pack(frames: Sequence[bytes]) -> list[bytes]:
    """Return a message as the peer reads it, in pieces to be sent one after the other.

    Args:
        frames: at least one.
    """
    pieces: list[bytes] = []
    for frame in frames:
        size = len(frame)
        if size <= _SHORT_BYTES_MAX:
            pieces += (_MORE_HEADS[size], frame)
        else:
            pieces += (b"\x03" + size.to_bytes(8, "big"), frame)
    last = len(frames[-1])
    is_short = last <= _SHORT_BYTES_MAX
    pieces[-2] = _LAST_HEADS[last] if is_short else b"\x02" + last.to_bytes(8, "big")
    return pieces
