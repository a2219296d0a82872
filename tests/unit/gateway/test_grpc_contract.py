"""The contract of the gRPC door, against what existing clients were generated from."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc_service import QueueService, method_handlers
from flashq.gateway.proto import messages

#: The older service's messages. A field's number is its place; `?` is optional, `*` repeated.
MESSAGES: Final = """
PushRequest: queue string, data bytes, priority int32, delay_ms uint64, ttl_ms uint64,
    timeout_ms uint64, max_attempts uint32, backoff_ms uint64, unique_key? string,
    depends_on* uint64, lifo bool
PushResponse: ok bool, id uint64
PushBatchRequest: queue string, jobs* JobInput
JobInput: data bytes, priority int32, delay_ms uint64, ttl_ms uint64, timeout_ms uint64,
    max_attempts uint32, backoff_ms uint64, unique_key? string, depends_on* uint64, lifo bool
PushBatchResponse: ok bool, ids* uint64
PullRequest: queue string
PullBatchRequest: queue string, count uint32
PullBatchResponse: jobs* Job
Job: id uint64, queue string, data bytes, priority int32, created_at uint64, run_at uint64,
    started_at uint64, attempts uint32, max_attempts uint32, backoff uint64, ttl uint64,
    timeout uint64, unique_key? string, depends_on* uint64, progress uint32,
    progress_msg? string, lifo bool
AckRequest: id uint64, result? bytes
AckResponse: ok bool
AckBatchRequest: ids* uint64
AckBatchResponse: ok bool, acked uint32
FailRequest: id uint64, error? string
FailResponse: ok bool
GetStateRequest: id uint64
GetStateResponse: id uint64, state JobState
StatsRequest:
StatsResponse: queued uint64, processing uint64, delayed uint64, dlq uint64
StreamJobsRequest: queue string, batch_size uint32, prefetch uint32
JobResult: id uint64, success bool, result? bytes, error? string
"""

METHODS: Final = """
Push(PushRequest) PushResponse
PushBatch(PushBatchRequest) PushBatchResponse
Pull(PullRequest) Job
PullBatch(PullBatchRequest) PullBatchResponse
Ack(AckRequest) AckResponse
AckBatch(AckBatchRequest) AckBatchResponse
Fail(FailRequest) FailResponse
GetState(GetStateRequest) GetStateResponse
Stats(StatsRequest) StatsResponse
StreamJobs(StreamJobsRequest) stream Job
ProcessJobs(stream JobResult) stream Job
"""

STATES: Final = ("UNKNOWN", "WAITING", "DELAYED", "ACTIVE", "COMPLETED", "FAILED")

_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def field_as_text(field: Any) -> str:
    """Return a field as the table above has it."""
    mark = "*" if field.is_repeated else "?" if field.containing_oneof is not None else ""
    named = field.message_type or field.enum_type
    return f"{field.name}{mark} {named.name if named else _TYPES[field.type]}"


def message_as_text(message: Any) -> str:
    """Return a message as the table above has it."""
    assert [field.number for field in message.fields] == [*range(1, len(message.fields) + 1)]
    return f"{message.name}: {', '.join(map(field_as_text, message.fields))}".strip()


def method_as_text(method: Any) -> str:
    """Return a method as the table above has it."""
    taken = "stream " * method.client_streaming + method.input_type.name
    given = "stream " * method.server_streaming + method.output_type.name
    return f"{method.name}({taken}) {given}"


def test_every_message_is_as_it_was() -> None:
    """A number or a type that changes breaks clients without a word: they read other fields."""
    wanted = MESSAGES.strip().replace("\n    ", " ").splitlines()
    assert list(map(message_as_text, messages.FILE.message_types_by_name.values())) == wanted


def test_every_method_is_as_it_was() -> None:
    """Names are paths on the wire."""
    assert messages.SERVICE.full_name == "flashq.QueueService"
    assert list(map(method_as_text, messages.SERVICE.methods)) == METHODS.strip().splitlines()


def test_every_state_is_as_it_was() -> None:
    """Both kinds of waiting for other jobs share a number."""
    (states,) = messages.FILE.enum_types_by_name.values()
    assert states.name == "JobState"
    assert [(value.number, value.name) for value in states.values] == [
        (number, f"JOB_STATE_{name}")
        for number, name in enumerate((*STATES, "WAITING_CHILDREN", "CANCELLED"))
    ]


def test_every_method_has_its_handler() -> None:
    """With the same kinds of streams on both sides."""
    handlers = method_handlers(QueueService(Bridge("ipc:///nowhere", 1)))
    assert list(handlers) == [method.name for method in messages.SERVICE.methods]
    for method in messages.SERVICE.methods:
        handler = handlers[method.name]
        assert handler.request_streaming == method.client_streaming
        assert handler.response_streaming == method.server_streaming
