"""Every setting, as one struct from which names, flags, bounds and documents derive.

Owns what can be set and within which bounds. `specs` describes the settings, `loading` reads them
from their sources, `flags` is their command line.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from flashq.ids import SHARD_COUNT_DEFAULT, SHARD_COUNT_MAX
from flashq.protocol.limits import DAY_MS, GIB, KIB, MIB, EngineLimits, WebhookLimits
from flashq.rundir import RunDir
from flashq.version import __version__

#: The storage that needs nothing: the coordinator's own memory.
MEMORY: Final = "memory:"
#: A storage in a file; a path behind it that begins with another slash is absolute.
SQLITE: Final = "sqlite:///"
POSTGRES: Final = ("postgresql://", "postgres://")
#: The file of a storage that nobody has configured, in the data directory.
STORAGE_FILE: Final = "flashq.db"

LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1", "localhost")

Durability = Literal["durable", "async", "memory"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class Settings(WebhookLimits, frozen=True, kw_only=True):
    """Everything that can be set. A unit is last in the name, and bounds are in the type.

    `extra["default"]` describes a default that depends on something else.
    """

    run_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Directory of sockets and locks, for the server's user only.",
            extra={"default": "$XDG_RUNTIME_DIR/flashq, without it /run/flashq"},
        ),
    ] = "/run/flashq"
    data_dir: Annotated[
        str, Meta(min_length=1, description="Directory of what has to survive a restart.")
    ] = "./flashq-data"
    storage: Annotated[
        str,
        Meta(
            min_length=1,
            description="URL of the storage: `sqlite:///path`, `postgresql://…`, or `memory:`, "
            "which keeps log and checkpoints in the coordinator, so that a killed shard still "
            "comes back with its jobs, and nothing is left when the server ends.",
            extra={"default": "flashq.db in data_dir, by SQLite"},
        ),
    ] = "sqlite:///./flashq-data/flashq.db"
    durability: Annotated[
        Durability,
        Meta(
            description="When a change is answered: once it is safe, at once, or without a log.",
            extra={"default": "async with memory:, else durable"},
        ),
    ] = "durable"
    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to listen on; one that others can reach needs tokens, or "
            "`insecure`.",
        ),
    ] = "127.0.0.1"
    zmq_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the router; 0 takes a free one, also where the router of a "
            "server that runs is started again.",
        ),
    ] = 6788
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for JSON lines and MessagePack; 0 takes one that "
            "is free.",
        ),
    ] = 6789
    http_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for HTTP; 0 takes one that is free.",
        ),
    ] = 6790
    grpc_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for gRPC; 0 takes one that is free.",
        ),
    ] = 6791
    unix_socket: Annotated[
        str,
        Meta(
            description="Path of a Unix socket where the gateway takes what it takes at `port`.",
            extra={"default": "none"},
        ),
    ] = ""
    auth_tokens: Annotated[
        str,
        Meta(
            description="Tokens, with commas between them, that may do everything. Once there are "
            "tokens, here or in `tokens_file`, every client has to show one. Flags can be read by "
            "others for a moment: better set it in the environment.",
            extra={"default": "none: everybody may ask"},
        ),
    ] = ""
    tokens_file: Annotated[
        str,
        Meta(
            description="TOML file with the hashes of tokens, their roles and queues; `flashq "
            "token` makes its entries. Read again on SIGHUP. Nobody but its owner may write it.",
            extra={"default": "none"},
        ),
    ] = ""
    gateway_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most connections that one gateway holds at a time; more are refused.",
        ),
    ] = 10_000
    http_hosts: Annotated[
        str,
        Meta(
            description="Names by which the HTTP gateway is reached beside its host's own, with "
            "commas between them, or `*`: requests with another one in Host are refused, which "
            "may be pages of other sites that were led here.",
            extra={"default": "none; any where there are tokens"},
        ),
    ] = ""
    http_origins: Annotated[
        str,
        Meta(
            description="Origins of web pages, as `https://example.com`, with commas between them, "
            "or `*`, that may ask the HTTP gateway beside its own.",
            extra={"default": "none"},
        ),
    ] = ""
    zmq_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most connections at the router's TCP port; more wait. At most a quarter "
            "of them may be without a token.",
        ),
    ] = 10_000
    unauthenticated_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=3_600_000,
            description="How long a connection may take to finish its handshake, and to show a "
            "token where one is asked for; then it is closed.",
        ),
    ] = 10_000
    idle_ms: Annotated[
        int,
        Meta(
            ge=1000,
            le=30 * DAY_MS,
            description="How long nothing may be said on a connection before it is closed.",
        ),
    ] = 3_600_000
    insecure: Annotated[
        bool, Meta(description="Listen on an address that others can reach, without tokens.")
    ] = False
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=SHARD_COUNT_MAX,
            description="Shards, chosen once for a data directory.",
            extra={"unit": "processes"},
        ),
    ] = SHARD_COUNT_DEFAULT
    log_level: Annotated[LogLevel, Meta(description="The least that is logged.")] = "info"
    log_format: Annotated[
        LogFormat, Meta(description="Lines for people, or one JSON object per line.")
    ] = "console"

    message_bytes_max: Annotated[
        int, Meta(ge=64 * KIB, le=GIB, description="Largest message that a program takes.")
    ] = 16 * MIB
    peer_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="Most that the router has under way to one shard; above it `busy`.",
        ),
    ] = 64 * MIB
    unread_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="Most that the router keeps for one client that does not read; above half "
            "of it `busy`, above it the connection is closed.",
        ),
    ] = 64 * MIB
    all_unread_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=1024 * GIB,
            description="Most that the router keeps for all clients; above it the connection of "
            "the one with the most is closed.",
        ),
    ] = 256 * MIB
    gather_timeout_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="How long the router waits for all shards before it names the silent ones.",
        ),
    ] = 2000
    drain_timeout_ms: Annotated[
        int,
        Meta(ge=0, le=600_000, description="Time that a program has to finish when it is stopped."),
    ] = 5000
    watchdog_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=3_600_000,
            description="How long a program may hang, so that its loop does not turn, before "
            "`flashq serve` ends it and starts it again: at least 1000, or 0 for ever, as while a "
            "debugger holds one.",
        ),
    ] = 60_000
    checkpoint_log_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB, le=64 * GIB, description="Size of a shard's log that starts a checkpoint."
        ),
    ] = 64 * MIB

    def engine_limits(self) -> EngineLimits:
        """Return what a pure engine may know of the settings."""
        return EngineLimits(
            **{name: getattr(self, name) for name in EngineLimits.__struct_fields__}
        )

    def tokens(self) -> tuple[str, ...]:
        """Return the tokens that stand in the settings themselves."""
        return tuple(token for token in self.auth_tokens.split(",") if token)

    def hosts(self) -> tuple[str, ...]:
        """Return the names by which the HTTP gateway is reached, beside its host's own."""
        return _listed(self.http_hosts)

    def origins(self) -> tuple[str, ...]:
        """Return the origins of pages elsewhere that may ask the HTTP gateway."""
        return _listed(self.http_origins)

    @property
    def is_local(self) -> bool:
        """Whether nobody but this host's own programs can reach the doors."""
        return self.host in LOOPBACK_HOSTS

    @property
    def is_guarded(self) -> bool:
        """Whether every client has to show a token."""
        return bool(self.tokens_file or self.tokens())

    def run(self) -> RunDir:
        """Return the names in the run directory."""
        return RunDir(self.run_dir)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


# --- what all processes of one server must agree on


def configuration_hash(settings: Settings) -> str:
    """Return what two programs compare before they talk: equal if they can work together.

    It covers the version, since the messages between processes carry none, and every setting that
    changes what a process answers or stores; not addresses, paths and logging.
    """
    agreed = {name: getattr(settings, name) for name in _AGREED}
    text = msgspec.json.encode([__version__, agreed], order="sorted")
    return hashlib.sha256(text).hexdigest()[:16]


_AGREED: Final = (
    *EngineLimits.__struct_fields__,
    "durability",
    "message_bytes_max",
    "shards",
    "storage",
)
