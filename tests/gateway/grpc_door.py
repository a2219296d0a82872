"""The gRPC door in the words of the command protocol, as far as it has them.

Owns what can be said in the messages of the contract, and the way from words to messages and back.
What cannot be said, because the contract has no method or no field for it, is asked through another
door of the same server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc

from tests.gateway.clients import Reply, ServerSaid
from tests.gateway.doors import Door, Listener
from tests.gateway.grpc_client import message, state_name
from tests.server import Server

TIMEOUT_S: Final = 30.0
"""For what has to come; only a broken server makes a test wait so long."""
NO_WAIT_S: Final = 0.1
"""A call needs some time, so a pull that is not to wait has this."""
NOT_OURS: Final = "flashq-code"
"""The metadata that every error of the server has, and none that the library makes up."""

_OPTIONS: Final = {
    "priority": "priority",
    "delay": "delay_ms",
    "ttl": "ttl_ms",
    "timeout": "timeout_ms",
    "max_attempts": "max_attempts",
    "backoff": "backoff_ms",
    "unique_key": "unique_key",
    "depends_on": "depends_on",
    "lifo": "lifo",
}
"""What a push can say besides its payload, and its name in the messages."""
SAYS: Final[dict[str, frozenset[str]]] = {
    "PUSH": frozenset({"queue", "data", *_OPTIONS}),
    "PUSHB": frozenset({"queue", "jobs"}),
    "PULL": frozenset({"queue", "timeout"}),
    "PULLB": frozenset({"queue", "count", "timeout"}),
    "ACK": frozenset({"id", "result"}),
    "ACKB": frozenset({"ids"}),
    "FAIL": frozenset({"id", "error"}),
    "GETSTATE": frozenset({"id"}),
    "STATS": frozenset(),
}
"""The commands that there are methods for, and their fields."""
_JOB_FIELDS: Final = (
    "id", "queue", "priority", "created_at", "run_at", "started_at", "attempts", "max_attempts",
    "backoff", "ttl", "timeout", "progress", "lifo",
)  # fmt: skip


class GrpcDoor:
    """gRPC, by a client compiled from the contract.

    Args:
        server: whose door.
        beside: the door for everything else.
    """

    job_keys = frozenset({*_JOB_FIELDS, "data", "unique_key", "depends_on", "progress_msg"})
    shows_all_children = True
    is_older = True  # the door beside it, which cancels

    def __init__(self, server: Server, beside: Door) -> None:
        scheme = "grpc://"
        address = next(line for line in server.lines if line.startswith(scheme))
        self._channel: Final = grpc.insecure_channel(address.removeprefix(scheme))
        self._beside: Final = beside
        self._methods: Final[dict[str, Callable[..., Reply]]] = {
            "PUSH": self._push,
            "PUSHB": self._push_batch,
            "PULL": self._pull,
            "PULLB": self._pull_batch,
            "ACK": self._ack,
            "ACKB": self._ack_batch,
            "FAIL": self._fail,
            "GETSTATE": self._get_state,
            "STATS": self._stats,
        }

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Have a command carried out, by gRPC if it can be said there."""
        if says(cmd, fields):
            return self._methods[cmd](**fields)
        return self._beside.ask(cmd, **fields)

    def _push(self, queue: str, data: Any, **options: Any) -> Reply:
        response, _ = self._call("Push", queue=queue, **_job_input(data, options))
        assert response.ok
        return {"id": response.id}

    def _push_batch(self, queue: str, jobs: list[dict[str, Any]]) -> Reply:
        entries = [message("JobInput")(**_job_input(**_split(job))) for job in jobs]
        response, metadata = self._call("PushBatch", queue=queue, jobs=entries)
        if not response.ok:  # which it says of a whole batch, and not why
            return self._beside.ask("PUSHB", queue=queue, jobs=jobs)
        reply: Reply = {"ids": list(response.ids)}
        if "flashq-rejected" in metadata:
            places = map(int, metadata["flashq-rejected"].split(","))
            reply["errors"] = [{"index": place} for place in places]
        return reply

    def _pull(self, queue: str, timeout: int | None = None) -> Reply:
        job = self._pulled("Pull", timeout, queue=queue)
        return {"job": None if job is None else _job(job)}

    def _pull_batch(self, queue: str, count: int, timeout: int | None = None) -> Reply:
        response = self._pulled("PullBatch", timeout, queue=queue, count=count)
        if response is None:
            return {"jobs": [], "job": None}
        return {"jobs": [_job(job) for job in response.jobs]}

    def _pulled(self, method: str, timeout: int | None, **fields: Any) -> Any:
        """Return what a pull brings within its call's deadline; None when it is over."""
        within_s = TIMEOUT_S if timeout is None else max(timeout / 1000, NO_WAIT_S)
        try:
            return self._call(method, within_s, **fields)[0]
        except TimeoutError:
            return None

    def _ack(self, id: int, result: Any = None) -> Reply:
        given: dict[str, Any] = {} if result is None else {"result": json.dumps(result).encode()}
        assert self._call("Ack", id=id, **given)[0].ok
        return {}

    def _ack_batch(self, ids: list[int]) -> Reply:
        response, _ = self._call("AckBatch", ids=ids)
        assert response.ok
        return {"ids": [response.acked]}

    def _fail(self, id: int, error: str | None = None) -> Reply:
        given: dict[str, Any] = {} if error is None else {"error": error}
        assert self._call("Fail", id=id, **given)[0].ok
        return {}

    def _get_state(self, id: int) -> Reply:
        response, _ = self._call("GetState", id=id)
        state = state_name(response.state).removeprefix("JOB_STATE_").lower().replace("_", "")
        if state == "waitingchildren":  # one number for both kinds of waiting for others
            said: str = self._beside.ask("GETSTATE", id=id)["state"]
            assert said in ("waitingchildren", "waitingparent")
            state = said
        return {"id": response.id, "state": state}

    def _stats(self) -> Reply:
        response, _ = self._call("Stats")
        return {
            name: getattr(response, name) for name in ("queued", "processing", "delayed", "dlq")
        }

    def _call(
        self, name: str, within_s: float = TIMEOUT_S, **fields: Any
    ) -> tuple[Any, dict[str, str]]:
        """Make a call, and return its response and its trailing metadata."""
        kinds = _METHODS[name]
        call: Any = self._channel.unary_unary(
            f"/flashq.QueueService/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(kinds[1]).FromString,
        )
        try:
            response, done = call.with_call(message(kinds[0])(**fields), timeout=within_s)
        except grpc.RpcError as error:
            raise _understood(error) from error
        return response, _texts(done.trailing_metadata())

    def listen(self, queue: str) -> AbstractContextManager[Listener]:
        """Listen through the other door: there is no method for it."""
        return self._beside.listen(queue)

    def close(self) -> None:
        """Close the channel and the other door."""
        self._channel.close()
        self._beside.close()


_METHODS: Final = {
    "Push": ("PushRequest", "PushResponse"),
    "PushBatch": ("PushBatchRequest", "PushBatchResponse"),
    "Pull": ("PullRequest", "Job"),
    "PullBatch": ("PullBatchRequest", "PullBatchResponse"),
    "Ack": ("AckRequest", "AckResponse"),
    "AckBatch": ("AckBatchRequest", "AckBatchResponse"),
    "Fail": ("FailRequest", "FailResponse"),
    "GetState": ("GetStateRequest", "GetStateResponse"),
    "Stats": ("StatsRequest", "StatsResponse"),
}


def says(cmd: str, fields: dict[str, Any]) -> bool:
    """Tell whether a command can be said in the messages of the contract."""
    if cmd == "PUSHB" and not all(job.keys() <= {"data", *_OPTIONS} for job in fields["jobs"]):
        return False
    return cmd in SAYS and fields.keys() <= SAYS[cmd]


def _split(job: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in job.items() if key != "data"}
    return {"data": job["data"], "options": options}


def _job_input(data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return a payload and its options as the messages have them; null is what is not there."""
    said = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    return {"data": json.dumps(data).encode(), **said}


def _job(job: Any) -> Reply:
    found = {name: getattr(job, name) for name in _JOB_FIELDS}
    found["data"] = json.loads(job.data)
    found["depends_on"] = list(job.depends_on)
    for name in ("unique_key", "progress_msg"):
        found[name] = getattr(job, name) if job.HasField(name) else None
    return found


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _understood(error: Any) -> Exception:
    """Return what a failed call means."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError()
    if NOT_OURS not in _texts(error.trailing_metadata()):
        return ConnectionResetError(error.details())
    return ServerSaid(error.details())
