"""Who may ask for what: tokens, their roles, and how often somebody may try a wrong one.

Every door asks this module and no other. It owns the reading of a tokens file's text, the rule
what a role may do, queue patterns, and the limit on failed attempts. It is pure: the time and the
text of the file are arguments, and what it refuses it raises. A token is kept as its digest only,
and never stands in a text, a `repr` or an error.

Tokens are hashed by SHA-256, without salt and without stretching. That is for tokens that nobody
can guess, like those that `flashq token` makes of 32 random bytes: to find one by its digest is as
hard as to find it without. Stretching (scrypt) makes *guessable* secrets dearer to guess, and would
cost every HTTP request tens of ms, which would be a gift to whoever wants to keep the server busy.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from flashq.errors import (
    AuthenticationRequired,
    ConfigError,
    NotAllowed,
    TokenInvalid,
    TooManyAttempts,
)
from flashq.protocol.codec import decode_request
from flashq.protocol.command import Command, Role, Scope
from flashq.protocol.patterns import PATTERNS_CHARS_MAX, PATTERNS_MAX, Pattern, pattern_set

TOKENS_MAX: Final = 1000
TOKEN_RANDOM_BYTES: Final = 32
"""What a token is made of, where it is made here."""
TOKEN_BYTES_MAX: Final = 4096
"""A longer one is none, and is not even hashed."""
ATTEMPTS_MAX: Final = 10
"""Failed attempts of one address in a row; then one more for each `ATTEMPT_MS`."""
ATTEMPT_MS: Final = 6000
ADDRESSES_MAX: Final = 10_000
"""Addresses remembered; beyond that the one heard of longest ago is forgotten."""
ACCEPTED_MAX: Final = 64
"""Tokens remembered of one address as accepted: those it may show also while it is limited."""

_HASH_PREFIX: Final = "sha256:"

_RIGHTS: Final[dict[Role, frozenset[Role]]] = {
    Role.READ: frozenset({Role.ANYONE, Role.READ}),
    Role.PRODUCER: frozenset({Role.ANYONE, Role.READ, Role.PRODUCER}),
    Role.WORKER: frozenset({Role.ANYONE, Role.READ, Role.WORKER}),
    Role.ADMIN: frozenset(Role),
}
"""What a token's role may do, as the roles that commands ask for."""

_BY_QUEUE: Final = frozenset({Scope.QUEUE, Scope.QUEUE_OR_ALL})
_BY_ID: Final = frozenset({Scope.JOB, Scope.JOBS})
_SUBSCRIPTIONS: Final = frozenset({"SUBSCRIBE", "UNSUBSCRIBE"})


def digest_of(token: str | bytes) -> bytes:
    """Return the digest by which a token is known."""
    data = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    return hashlib.sha256(data).digest()


# --- the file


class TokenEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[token]]` of a tokens file.

    `hash` is `sha256:` and the digest in hex; `queues` are patterns as of file names (`*`, `?`,
    `[…]`), one of which a queue has to fit, and none mean all queues.
    """

    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    role: Literal["admin", "producer", "worker", "read"]
    queues: Annotated[tuple[Pattern, ...], Meta(max_length=PATTERNS_MAX)] = ()
    name: Annotated[str, Meta(max_length=100)] = ""

    def __post_init__(self) -> None:
        if sum(map(len, self.queues)) > PATTERNS_CHARS_MAX:
            raise ValueError(f"`queues` has more than {PATTERNS_CHARS_MAX} characters")


class _File(Struct, forbid_unknown_fields=True):
    token: Annotated[tuple[TokenEntry, ...], Meta(max_length=TOKENS_MAX)] = ()


def read_entries(text: str, place: str) -> tuple[TokenEntry, ...]:
    """Read the text of a tokens file.

    Args:
        text: TOML with any number of `[[token]]`.
        place: the file's name, for the error.

    Raises:
        ConfigError: it is not TOML, or says something else. It quotes no value.
    """
    try:
        return msgspec.convert(tomllib.loads(text), _File).token
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the tokens file {place} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"the tokens file {place} does not fit: {error}") from None


def entry_text(token: str, role: str, queues: Sequence[str] = (), name: str = "") -> str:
    """Return the lines for a tokens file that let a token in."""
    lines = ["[[token]]", f'hash = "{_HASH_PREFIX}{digest_of(token).hex()}"', f'role = "{role}"']
    if queues:
        lines.append(f"queues = {msgspec.json.encode(list(queues)).decode()}")
    if name:
        lines.append(f"name = {msgspec.json.encode(name).decode()}")
    return "\n".join(lines) + "\n"


# --- what a token allows


class Grant(Struct, frozen=True):
    """What somebody may do: everything a role may, in the queues that fit one of the patterns."""

    role: Role
    queues: tuple[str, ...] = ()
    name: str = ""

    @property
    def is_everything(self) -> bool:
        """Whether nothing needs to be checked."""
        return self.role is Role.ADMIN and not self.queues

    def check_role(self, role: Role) -> None:
        """Refuse what asks for a role that this token has not.

        Raises:
            NotAllowed: it does.
        """
        if role not in _RIGHTS[self.role]:
            raise NotAllowed(detail=f"it takes a token for {role.value}, not {self.role.value}")

    def check_queue(self, queue: str | None) -> None:
        """Refuse a queue that fits no pattern, and what is about all queues (None or `*`).

        Raises:
            NotAllowed: it does not fit.
        """
        if not self.queues or (queue is not None and fits(queue, self.queues)):
            return
        if queue is None or queue == "*":
            raise NotAllowed(detail="the token is for some queues only, and this is about all")
        raise NotAllowed(detail="the token is not for this queue")

    def check(
        self, command: Command, queue: str | None, body: bytes, *, json: bool
    ) -> tuple[str, ...]:
        """Refuse a command that this token does not allow.

        Args:
            command: its record.
            queue: the one it names.
            body: all of it.
            json: its encoding.

        Returns:
            Patterns, one of which the queue of a job has to fit that it names by an id or is shown.
            Only their shard knows their queues: the request has to say it as `within`. Empty for
            no condition.

        Raises:
            NotAllowed: it is not allowed.
            InvalidRequest: it cannot be read, which is only tried where it has to be.
        """
        self.check_role(command.role)
        if not self.queues:
            return ()
        if command.scope in _BY_QUEUE:
            self.check_queue(queue)
            if command.word == "FLOW":
                for child in decode_request(body, json=json).children:
                    self.check_queue(child.queue)
        elif command.scope is not Scope.ROUTER and command.scope not in _BY_ID:
            self.check_queue(None)
        elif command.word in _SUBSCRIPTIONS:
            self.check_queue(queue)
        return self.queues if "within" in command.request.__struct_fields__ else ()


def fits(queue: str, patterns: Collection[str]) -> bool:
    """Tell whether a queue's name fits one of the patterns."""
    return pattern_set(patterns).fits(queue)


EVERYTHING: Final = Grant(Role.ADMIN)


class Keyring:
    """All tokens that open a server.

    Args:
        plain: tokens of the settings, which may do everything.
        entries: those of the tokens file.
    """

    def __init__(self, plain: Iterable[str] = (), entries: Iterable[TokenEntry] = ()) -> None:
        self._grants: Final[list[tuple[bytes, Grant]]] = [
            *((digest_of(token), EVERYTHING) for token in plain),
            *(
                (
                    bytes.fromhex(entry.hash.removeprefix(_HASH_PREFIX)),
                    Grant(Role(entry.role), entry.queues, entry.name),
                )
                for entry in entries
            ),
        ]

    def __len__(self) -> int:
        return len(self._grants)

    def find(self, digest: bytes) -> Grant | None:
        """Return what a token allows, None for one that opens nothing.

        All are compared, so that the time taken does not tell which one nearly fits.
        """
        found = None
        for known, grant in self._grants:
            if hmac.compare_digest(known, digest):
                found = grant
        return found


# --- showing them


class Shown:
    """A token that was shown and accepted, as one connection keeps it."""

    __slots__ = ("_grant", "_version", "digest")

    def __init__(self, digest: bytes, grant: Grant | None, version: int) -> None:
        self.digest: Final = digest
        self._grant = grant
        self._version = version

    def grant(self, guard: Guard) -> Grant | None:
        """Return what it allows; None when it is not among the tokens any more."""
        if self._version != guard.version:
            self._version = guard.version
            self._grant = guard.find(self.digest)
        return self._grant


class _Address:
    """What is known of one address."""

    __slots__ = ("accepted", "at_ms", "left")

    def __init__(self, now_ms: int) -> None:
        #: failed attempts that it may still make, when `at_ms` was
        self.left = float(ATTEMPTS_MAX)
        self.at_ms = now_ms
        #: digests of tokens that were accepted from it
        self.accepted: set[bytes] = set()


class Guard:
    """The keeper of all doors of one program.

    Args:
        keyring: the tokens; None for a server that is open to everybody.
    """

    def __init__(self, keyring: Keyring | None = None) -> None:
        self._keyring = keyring
        #: how often the tokens have been replaced
        self.version = 0
        #: the one heard of longest ago first
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._keyring is None

    @property
    def tokens_count(self) -> int:
        """How many tokens there are."""
        return 0 if self._keyring is None else len(self._keyring)

    def replace(self, keyring: Keyring) -> None:
        """Go on with other tokens. What is no more among them opens nothing from now on."""
        self._keyring = keyring
        self.version += 1

    def find(self, digest: bytes) -> Grant | None:
        """Return what a token allows; None for one that opens nothing."""
        return EVERYTHING if self._keyring is None else self._keyring.find(digest)

    def show(self, token: str | bytes | None, address: str | None, now_ms: int) -> Shown:
        """Take a token that somebody shows.

        A failed attempt counts against its address. One that has made too many is not even told
        whether a token is right, save for those that it was accepted with before.

        Args:
            token: None for none, which is no attempt.
            address: where it comes from; None for a place that only the server's own user reaches.
            now_ms: the monotonic clock.

        Raises:
            AuthenticationRequired: there is none.
            TokenInvalid: it opens nothing.
            TooManyAttempts: the address has tried too often.
        """
        if self.is_open:
            return Shown(b"", EVERYTHING, self.version)
        if token is None:
            raise AuthenticationRequired
        known = None if address is None else self._know(address, now_ms)
        digest = digest_of(token) if len(token) <= TOKEN_BYTES_MAX else b""
        if known is not None and known.left < 1 and digest not in known.accepted:
            raise TooManyAttempts(seconds=_seconds_until_one(known.left))
        grant = self.find(digest)
        if grant is None:
            if known is not None:
                known.left -= 1
                known.accepted.discard(digest)
            raise TokenInvalid
        if known is not None and len(known.accepted) < ACCEPTED_MAX:
            known.accepted.add(digest)
        return Shown(digest, grant, self.version)

    def _know(self, address: str, now_ms: int) -> _Address:
        known = self._addresses.get(address)
        if known is None:
            if len(self._addresses) >= ADDRESSES_MAX:
                self._addresses.popitem(last=False)
            known = self._addresses[address] = _Address(now_ms)
        else:
            self._addresses.move_to_end(address)
            known.left = min(ATTEMPTS_MAX, known.left + (now_ms - known.at_ms) / ATTEMPT_MS)
            known.at_ms = now_ms
        return known


def _seconds_until_one(left: float) -> int:
    return max(1, round((1 - left) * ATTEMPT_MS / 1000))
