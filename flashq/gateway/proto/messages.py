"""The messages of `flashq.proto` as classes.

Owns their making from the compiled contract, at import. Needs protobuf, which is an extra: nothing
but the gRPC door may import this.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from flashq.gateway.proto.descriptor import DESCRIPTOR_SET


def _registered() -> Any:
    """Make the contract known to protobuf, and so to reflection; return its descriptor."""
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(b64decode(DESCRIPTOR_SET)).file
    pool: Any = descriptor_pool.Default()
    return pool.AddSerializedFile(file.SerializeToString())


FILE: Final = _registered()
(SERVICE,) = FILE.services_by_name.values()
"""The descriptor of `QueueService`."""


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(FILE.message_types_by_name[name])


PushRequest: Final = _message("PushRequest")
PushResponse: Final = _message("PushResponse")
PushBatchRequest: Final = _message("PushBatchRequest")
PushBatchResponse: Final = _message("PushBatchResponse")
PullRequest: Final = _message("PullRequest")
PullBatchRequest: Final = _message("PullBatchRequest")
PullBatchResponse: Final = _message("PullBatchResponse")
Job: Final = _message("Job")
AckRequest: Final = _message("AckRequest")
AckResponse: Final = _message("AckResponse")
AckBatchRequest: Final = _message("AckBatchRequest")
AckBatchResponse: Final = _message("AckBatchResponse")
FailRequest: Final = _message("FailRequest")
FailResponse: Final = _message("FailResponse")
GetStateRequest: Final = _message("GetStateRequest")
GetStateResponse: Final = _message("GetStateResponse")
StatsRequest: Final = _message("StatsRequest")
StatsResponse: Final = _message("StatsResponse")
StreamJobsRequest: Final = _message("StreamJobsRequest")
JobResult: Final = _message("JobResult")
