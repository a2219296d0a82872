"""Requests are encoded once, and replies read with as little work as possible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from flashq.client.calls import by_shard, prepare, prepare_push_batch, stamped, verdict_of
from flashq.errors import BadMessage, DuplicateJob, FlashQError
from flashq.protocol import jobs, leases
from flashq.protocol.codec import decode_request
from flashq.protocol.jobs import PayloadBatch, PlainPushBatch


def body_of(**fields: Any) -> bytes:
    """Return an encoded map."""
    return msgspec.msgpack.encode(fields)


def test_a_payload_is_encoded_inline() -> None:
    """MessagePack within MessagePack, not a string of it: one pass, and readable by anybody."""
    when = datetime(2026, 1, 2, tzinfo=UTC)
    data: Any = {"bytes": b"\x00", "when": when, "list": [1.5, None, True]}
    call = prepare(jobs.Push(queue="q", data=data))
    assert msgspec.msgpack.decode(call.body)["data"] == data
    assert call.key == "q"


def test_a_payload_that_cannot_be_encoded_is_named() -> None:
    """`TypeError` alone would leave the caller searching."""
    bad: Any = object()
    with pytest.raises(TypeError, match=r"data cannot be encoded.*object"):
        prepare(jobs.Push(queue="q", data={"deep": [bad]}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="result cannot be encoded"):
        prepare(leases.Ack(id=1, result=bad))
    with pytest.raises(TypeError, match=r"jobs\[1\] cannot be encoded"):
        prepare_push_batch("q", [{"data": 1}, {"data": bad}])
    with pytest.raises(TypeError, match="data cannot be encoded"):
        prepare(jobs.Push(queue="q", data=2**80))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be encoded"):
        prepare_push_batch("\ud800", [])


def test_a_payload_that_contains_itself_is_named() -> None:
    """Recursion ends in an error, not in the interpreter's."""
    data: Any = []
    data.append(data)
    with pytest.raises(TypeError, match="data cannot be encoded"):
        prepare(jobs.Push(queue="q", data=data))


def test_a_batch_takes_the_servers_fast_way() -> None:
    """`cmd` stands first, with and without protection, and plain entries decode as such."""
    call = prepare_push_batch("q", [{"data": {"a": 1}}, {"data": 2}])
    request = decode_request(stamped(call.body, b"s" * 16, 7, 5))
    assert isinstance(request, PayloadBatch)
    assert [bytes(payload) for payload in request.payloads] == [b"\x81\xa1a\x01", b"\x02"]
    call = prepare_push_batch("q", [{"data": {"a": 1}}, {"data": 2, "priority": 5}])
    body = stamped(call.body, b"s" * 16, 7, 5)
    request = decode_request(body)
    assert isinstance(request, PlainPushBatch)
    assert (request.session, request.n, request.done_below) == (b"s" * 16, 7, 5)
    assert [job.priority for job in request.jobs] == [0, 5]


def test_a_batch_with_options_is_read_whole() -> None:
    """The fast way is only for those that have none."""
    call = prepare_push_batch("q", [{"data": 1, "delay": 5}])
    request = decode_request(call.body)
    assert request.jobs[0].delay == 5


@pytest.mark.parametrize("fields", [1, 12, 13, 15, 16, 40])
def test_a_stamp_fits_maps_of_any_size(fields: int) -> None:
    """MessagePack has another header from 16 entries on."""
    body = body_of(**{f"f{number}": number for number in range(fields)})
    found = msgspec.msgpack.decode(stamped(body, b"s" * 16, 300, 2))
    assert len(found) == fields + 3
    assert (found["f0"], found["session"], found["n"], found["done_below"]) == (
        0, b"s" * 16, 300, 2,
    )  # fmt: skip


def test_what_a_call_settles_is_known_before_it_is_sent() -> None:
    """Its lease ends with its answer."""
    assert prepare(leases.Fail(id=5, token=9)).settles == (5,)
    assert prepare(leases.Release(ids=[5, 6], tokens=[1, None])).tokens == [1, None]
    assert prepare(leases.SetProgress(id=5, progress=1)).settles == ()


def test_one_shards_batch_is_not_copied() -> None:
    """A batch pulled from one queue is one shard's, and the common case."""
    ids = [4, 8, 12]
    ((same, tokens),) = by_shard(ids, 4, [1, 2, 3])
    assert same is ids
    assert tokens == [1, 2, 3]


def test_a_mixed_batch_is_split_with_its_columns() -> None:
    """Each shard gets its ids, tokens and results, in line."""
    groups = list(by_shard([4, 5, 8], 4, [1, 2, 3], None))
    assert groups == [([4, 8], [1, 3], None), ([5], [2], None)]


def test_success_is_seen_at_a_glance() -> None:
    """`ok` stands first in every reply of the server; anybody else's is read in full."""
    assert verdict_of(body_of(ok=True, id=1)).error is None
    assert verdict_of(body_of(id=1, ok=True)).error is None


def test_an_error_becomes_its_class() -> None:
    """Code and text survive; an unknown code is still an error."""
    verdict = verdict_of(body_of(ok=False, error="Duplicate job with key: k", code="duplicate"))
    assert isinstance(verdict.error, DuplicateJob)
    assert not verdict.retryable
    unknown = verdict_of(body_of(ok=False, error="new", code="from-the-future", retryable=True))
    assert type(unknown.error) is FlashQError
    assert unknown.retryable
    assert isinstance(verdict_of(b"\xc1").error, BadMessage)
