"""What a command is: its words, types, reach and rights, as data.

Owns the shape of a command's record. The records stand beside the requests and replies they are
about; `registry.py` gathers them.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from flashq.protocol.base import Reply


class Scope(Enum):
    """Who carries a command out."""

    QUEUE = "the shard of its `queue`"
    JOB = "the shard of its job id"
    JOBS = "the shards of its `ids`, gathered"
    QUEUE_OR_ALL = "the shard of its `queue`, or without one all shards, gathered"
    ALL = "all shards, gathered"
    COORDINATOR = "the coordinator"
    ROUTER = "the router; a shard too, where it is asked itself"


class Role(Enum):
    """The least that a token must allow."""

    READ = "read"
    PRODUCER = "producer"
    WORKER = "worker"
    ADMIN = "admin"
    ANYONE = "anyone"


class Command(Struct, frozen=True, kw_only=True):
    """One command.

    Args:
        word: its name on the wire.
        request, reply: the bodies' types.
        scope: who carries it out.
        mutates: whether it changes state.
        waits: whether its answer may come much later than its request.
        role: the least that a token must allow.
        method: the client's method for it.
        http: method and path, for the HTTP door.
        summary: one sentence for docs and help.
    """

    word: str
    request: type[Struct]
    reply: type[Reply]
    scope: Scope
    mutates: bool
    role: Role
    method: str
    summary: str
    http: tuple[str, str] | None = None
    waits: bool = False

    @property
    def id_field(self) -> str:
        """The field that names the job, for scope JOB."""
        return "parent_id" if "parent_id" in self.request.__struct_fields__ else "id"


def command(
    request: type[Struct],
    reply: type[Reply],
    scope: Scope,
    role: Role,
    method: str,
    summary: str,
    http: tuple[str, str] | None = None,
    *,
    mutates: bool = True,
    waits: bool = False,
) -> Command:
    """Return the record of a command that changes something; see `Command` for the arguments."""
    return Command(
        word=str(request.__struct_config__.tag),
        request=request,
        reply=reply,
        scope=scope,
        mutates=mutates,
        role=role,
        method=method,
        summary=summary,
        http=http,
        waits=waits,
    )


def reading(
    request: type[Struct],
    reply: type[Reply],
    scope: Scope,
    method: str,
    summary: str,
    http: tuple[str, str] | None = None,
    *,
    waits: bool = False,
) -> Command:
    """Return the record of a command that only reads, which a token for reading allows."""
    return command(
        request, reply, scope, Role.READ, method, summary, http, mutates=False, waits=waits
    )
