"""gRPC's messages as commands, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from flashq.errors import InvalidRequest, JobNotFound
from flashq.gateway import grpc_translation as translation
from flashq.gateway.proto import messages
from flashq.protocol.codec import decode_request, encode_json
from flashq.protocol.jobs import NewJob, Push
from flashq.protocol.leases import Ack, Fail
from flashq.protocol.objects import JobView


def fields_of(command: Any) -> dict[str, Any]:
    """Return what a shard reads, after its own check."""
    body = encode_json(command)
    assert type(decode_request(body, json=True)).__name__.endswith(type(command).__name__)
    fields = json.loads(body)
    assert isinstance(fields, dict)
    return fields


def test_a_push_without_options_says_nothing_of_them() -> None:
    """So that the shard's way for plain jobs is open to it."""
    command = translation.push(messages.PushRequest(queue="q", data=b'{"a":1}'))
    assert fields_of(command) == {"cmd": "PUSH", "queue": "q", "data": {"a": 1}}


def test_a_push_says_its_options() -> None:
    """Under the commands' names."""
    request = messages.PushRequest(
        queue="q",
        data=b"1",
        priority=-1,
        delay_ms=1,
        ttl_ms=2,
        timeout_ms=3,
        max_attempts=4,
        backoff_ms=5,
        unique_key="",
        depends_on=[7, 8],
        lifo=True,
    )
    command = translation.push(request)
    assert command == Push(
        queue="q",
        data=command.data,
        priority=-1,
        delay=1,
        ttl=2,
        timeout=3,
        max_attempts=4,
        backoff=5,
        unique_key="",
        depends_on=[7, 8],
        lifo=True,
    )


def test_a_duration_is_cut_to_what_a_command_can_say() -> None:
    """A uint64 is larger than any number that all clients can write."""
    request = messages.PushRequest(queue="q", data=b"1", ttl_ms=2**64 - 1)
    assert translation.push(request).ttl == 2**53 - 1


def test_a_batch_has_the_same_options() -> None:
    """One entry after the other."""
    jobs = [{"data": b"1", "lifo": True, "backoff_ms": 3}, {"data": b"[]", "unique_key": "k"}]
    command = translation.push_batch(messages.PushBatchRequest(queue="q", jobs=jobs))
    assert command.jobs is not None
    first, second = command.jobs
    assert first == NewJob(data=first.data, lifo=True, backoff=3)
    assert second == NewJob(data=second.data, unique_key="k")


@pytest.mark.parametrize("text", [b"null", b" [1, 2.50]\n", b'"\xc3\xbc"', b"1e999", b"-0"])
def test_a_json_text_is_only_checked(text: bytes) -> None:
    """Its numbers and its spaces are the client's."""
    assert bytes(translation.json_text(text, "x")).strip() == text.strip()


@pytest.mark.parametrize(
    "text", [b"", b" ", b"{]", b"nul", b"1,2", b'"\x00"', b'"\xff"', b"\xef\xbb\xbf1", b"[" * 9999]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    """Also a text that is nested too deep, or in no valid encoding."""
    with pytest.raises(InvalidRequest, match=r"^what it is: ."):
        translation.json_text(text, "what it is")


def test_a_result_may_be_absent() -> None:
    """An absent result is not an empty one, which is no JSON."""
    assert fields_of(translation.ack(messages.AckRequest(id=5))) == {"cmd": "ACK", "id": 5}
    command = translation.ack(messages.AckRequest(id=5, result=b"null"))
    assert fields_of(command) == {"cmd": "ACK", "id": 5, "result": None}
    with pytest.raises(InvalidRequest, match=r"^Invalid result JSON: "):
        translation.ack(messages.AckRequest(id=5, result=b""))


def test_what_a_stream_says_of_a_job() -> None:
    """A result that is no JSON is no result; an error may be absent."""
    result = messages.JobResult
    ack = translation.settlement(result(id=1, success=True, result=b"[1]", error="ignored"))
    assert isinstance(ack, Ack)
    assert (ack.id, ack.result) == (1, Raw(b"[1]"))
    assert translation.settlement(result(id=1, success=True, result=b"no")) == Ack(id=1)
    assert translation.settlement(result(id=1, error="e", result=b"1")) == Fail(id=1, error="e")
    assert translation.settlement(result(id=1)) == Fail(id=1)


def test_an_id_that_no_job_can_have() -> None:
    """It is not found, and in a batch left out, instead of being an error of another kind."""
    absurd = 2**53
    for request in (
        messages.JobResult(id=absurd),
        messages.JobResult(id=absurd, success=True),
        messages.JobResult(id=absurd, success=True, result=b"no"),
    ):
        with pytest.raises(JobNotFound, match=f"^Job {absurd} not found$"):
            translation.settlement(request)
    command = translation.ack_batch(messages.AckBatchRequest(ids=[1, absurd, 2]))
    assert command.ids == [1, 2]


def test_a_job_is_shown_with_all_that_the_message_has() -> None:
    """What is not set stays unset, for clients that ask whether it is."""
    plain = translation.job(JobView(id=1, queue="q", data=Raw(b"null")))
    assert plain == messages.Job(id=1, queue="q", data=b"null")
    full = JobView(
        id=2,
        queue="q",
        data=Raw(b"{}"),
        priority=-3,
        created_at=4,
        run_at=5,
        started_at=6,
        attempts=7,
        max_attempts=8,
        backoff=9,
        ttl=10,
        timeout=11,
        unique_key="",
        depends_on=(13, 14),
        progress=15,
        progress_msg="p",
        lifo=True,
        tags=("not in the message",),
    )
    assert translation.job(full) == messages.Job(
        id=2,
        queue="q",
        data=b"{}",
        priority=-3,
        created_at=4,
        run_at=5,
        started_at=6,
        attempts=7,
        max_attempts=8,
        backoff=9,
        ttl=10,
        timeout=11,
        unique_key="",
        depends_on=[13, 14],
        progress=15,
        progress_msg="p",
        lifo=True,
    )


def test_a_reply_stays_below_what_a_client_takes() -> None:
    """However the sizes fall, the encoded message fits; a single job goes by itself in any case."""
    limit = translation.REPLY_BYTES_MAX

    def views(count: int, size: int) -> list[JobView]:
        return [JobView(id=n + 1, queue="q", data=Raw(b"1" * size)) for n in range(count)]

    for count, size in ((1000, 10), (1000, 4190), (5, limit // 4), (4, limit // 4 - 20)):
        response = translation.jobs_that_fit(views(count, size))
        assert response.ByteSize() <= limit
        rest = response.ByteSize() // max(len(response.jobs), 1)
        assert len(response.jobs) == count or response.ByteSize() + 2 * rest > limit
    assert len(translation.jobs_that_fit(views(2, limit + 1)).jobs) == 1
    assert len(translation.jobs_that_fit([]).jobs) == 0


def test_states_have_numbers() -> None:
    """A name that this version does not know is an unknown state."""
    assert translation.state("waitingparent") == translation.state("waitingchildren")
    assert translation.state("elsewhere") == "JOB_STATE_UNKNOWN"
    for name in ("waiting", "delayed", "active", "completed", "failed", "unknown"):
        assert translation.state(name) == f"JOB_STATE_{name.upper()}"
