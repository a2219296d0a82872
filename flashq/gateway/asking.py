"""A request as the gateway sees it: its word, whom it is for, and otherwise bytes.

Owns the reading of that little from a body, and the way from it to the shard. The rest of a body is
read by the shard that carries it out, so that payloads pass through untouched. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from flashq.errors import BadMessage, FlashQError, InvalidRequest, JobNotActive, JobNotFound
from flashq.gateway.splicing import append_fields
from flashq.ids import shard_of_job, shard_of_queue
from flashq.protocol.base import OptionalRaw
from flashq.protocol.command import Command, Scope
from flashq.protocol.complaints import explain
from flashq.protocol.framing import ROUTE_ANY, ROUTE_COORDINATOR
from flashq.protocol.registry import BY_WORD, WORD_ALIASES

PULL_TIMEOUT_MS: Final = 60_000
WAIT_TIMEOUT_MS: Final = 30_000
"""How long a shard lets PULL, PULLB and WAITJOB wait that name no `timeout`."""
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000

_WITHOUT_JOBS: Final = frozenset({"PUSH", "PUSHB", "ACK", "ACKB"})
"""Frequent words whose replies have no jobs in them: to ask for all keys only costs time."""
_PULLS: Final = frozenset({"PULL", "PULLB"})
_ENDS_LEASES: Final = frozenset(
    {"ACK", "ACKB", "FAIL", "MOVETODELAYED", "RELEASE", "CANCEL", "DISCARD"}
)
_NAMES_LEASE: Final = frozenset({"ACK", "FAIL", "MOVETODELAYED", "PROGRESS", "HEARTBEAT"})
_NAMES_LEASES: Final = frozenset({"ACKB", "RELEASE"})


class Outline(Struct):
    """What of a request's body is read here."""

    cmd: str
    reqId: OptionalRaw = None  # noqa: N815  its name on the wire
    queue: str | None = None
    id: int | None = None
    job_id: int | str | None = None
    parent_id: int | None = None
    ids: list[int] | None = None
    timeout: int | None = None
    count: int | None = None
    token: int | str | None = None
    tokens: OptionalRaw = None


class JsonOutline(Outline):
    jobs: list[Raw] | None = None


class MsgpackOutline(Outline):
    jobs: OptionalRaw = None


_outline_json: Final = msgspec.json.Decoder(JsonOutline).decode
_outline_msgpack: Final = msgspec.msgpack.Decoder(MsgpackOutline).decode


class Ask:
    """A request, ready to be routed.

    Args:
        command: its record in the registry.
        body: all of it, and nothing around it.
        json: its encoding, and that of its reply.
        outline: what was read of it.
    """

    __slots__ = ("body", "command", "full", "json", "older", "outline", "shard")

    def __init__(
        self, command: Command, body: bytes, outline: JsonOutline | MsgpackOutline, *, json: bool
    ) -> None:
        self.command = command
        self.body = body
        self.outline = outline
        self.json = json
        #: job objects in the reply have all their keys
        self.full = command.word not in _WITHOUT_JOBS
        #: the asker is a client of the older protocols
        self.older = False
        #: where it goes whatever it says; None for where it says
        self.shard: int | None = None

    @property
    def is_pull(self) -> bool:
        """Whether its reply may hand jobs out."""
        return self.command.word in _PULLS

    @property
    def wait_ms(self) -> int:
        """How long its answer may take because it waits for something; 0 for other requests."""
        if not self.command.waits:
            return 0
        timeout = self.outline.timeout
        if timeout is None:
            return PULL_TIMEOUT_MS if self.is_pull else WAIT_TIMEOUT_MS
        return min(timeout, TIMEOUT_MS_MAX)

    @property
    def job_id(self) -> int | None:
        """The job that it is about, by any of the names for it."""
        outline = self.outline
        if self.command.id_field == "parent_id":
            return outline.parent_id
        if outline.id is None and isinstance(outline.job_id, int):
            return outline.job_id
        return outline.id

    @property
    def jobs_count(self) -> int:
        """How many entries a batch has."""
        jobs = self.outline.jobs
        if isinstance(jobs, Raw):
            return _array_size(bytes(memoryview(jobs)[:5]))
        return 0 if jobs is None else len(jobs)

    def ends_leases_of(self) -> Sequence[int]:
        """Return the jobs that are in nobody's hands any more once this has succeeded."""
        if self.command.word not in _ENDS_LEASES:
            return ()
        if self.outline.ids is not None:
            return self.outline.ids
        return () if self.job_id is None else (self.job_id,)

    def not_held(self) -> FlashQError:
        """Return what somebody without a token is told about a job that is not active."""
        match self.command.word:
            case "HEARTBEAT" | "MOVETODELAYED":
                return JobNotActive(id=self.job_id)
            case "PROGRESS":
                return JobNotActive(f"Job {self.job_id} not found in processing")
            case _:
                return JobNotFound(id=self.job_id)

    def name_leases(self, tokens: Mapping[int, int]) -> bool:
        """Say by which delivery the asker holds the jobs, unless the request says so itself.

        Args:
            tokens: of the jobs that the asker holds.

        Returns:
            Whether that was added.
        """
        word, outline = self.command.word, self.outline
        if word in _NAMES_LEASE:
            token = tokens.get(self.job_id or 0)
            if token is not None and outline.token is None:
                self.add(token=token)
                return True
        elif word in _NAMES_LEASES and outline.ids and outline.tokens is None:
            found = [tokens.get(job_id) for job_id in outline.ids]
            if any(token is not None for token in found):
                self.add(tokens=found)
                return True
        return False

    def add(self, **fields: Any) -> None:
        """Append fields to the body; they win over what it says itself."""
        self.body = append_fields(self.body, fields, json=self.json)

    def route(self, shard_count: int) -> int:
        """Return where it goes: a shard, or one of the ROUTE_ constants.

        Raises:
            InvalidRequest: the field that names the shard is missing.
        """
        outline, scope = self.outline, self.command.scope
        if self.shard is not None:
            return self.shard
        if scope is Scope.QUEUE or scope is Scope.QUEUE_OR_ALL:
            if outline.queue is not None:
                return shard_of_queue(outline.queue, shard_count)
            if scope is Scope.QUEUE:
                raise InvalidRequest(detail="missing field `queue`")
        elif scope is Scope.JOB:
            job_id = self.job_id
            if job_id is None:
                raise InvalidRequest(detail=f"missing field `{self.command.id_field}`")
            return shard_of_job(job_id, shard_count)
        elif scope is Scope.JOBS:
            owners = {job_id % shard_count for job_id in outline.ids or ()}
            if len(owners) == 1:
                return owners.pop()
        elif scope is Scope.COORDINATOR:
            return ROUTE_COORDINATOR
        return ROUTE_ANY


def read_ask(body: bytes, *, json: bool, older: bool = False) -> Ask:
    """Read a request.

    Args:
        body: one encoded map, and nothing around it.
        json: its encoding.
        older: whether its asker is a client of the older protocols.

    Raises:
        InvalidRequest: it names no command, or a field that is read here has a wrong type.
        BadMessage: it is not one map of that encoding.
    """
    try:
        outline = (_outline_json if json else _outline_msgpack)(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(detail=explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None
    word = outline.cmd
    command = BY_WORD.get(word) or BY_WORD.get(WORD_ALIASES.get(word, ""))
    if command is None:
        raise InvalidRequest(detail=f"unknown variant `{word[:64]}`, there is no such command")
    ask = Ask(command, body, outline, json=json)
    ask.older = older
    return ask


def _array_size(head: bytes) -> int:
    """Return how many elements a MessagePack array has, 0 for anything else."""
    first = head[0]
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(head[1:3], "big")
    if first == 0xDD:
        return int.from_bytes(head[1:5], "big")
    return 0
