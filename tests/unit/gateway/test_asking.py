"""What the gateway reads of a request, and where it sends it."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from flashq.errors import BadMessage, InvalidRequest
from flashq.gateway.asking import Ask, read_ask
from flashq.ids import shard_of_queue
from flashq.protocol.codec import decode_request
from flashq.protocol.framing import ROUTE_ANY, ROUTE_COORDINATOR

SHARDS = 8


def ask_of(*, binary: bool = False, **fields: Any) -> Ask:
    """Return a request as it is read."""
    body = msgpack.packb(fields) if binary else json.dumps(fields).encode()
    return read_ask(body, json=not binary)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ({"cmd": "PUSH", "queue": "a", "data": 1}, shard_of_queue("a", SHARDS)),
        ({"cmd": "GETJOB", "id": 13}, 5),
        ({"cmd": "GETCHILDREN", "parent_id": 13}, 5),
        ({"cmd": "LOG", "job_id": 13, "message": "m"}, 5),
        ({"cmd": "ACKB", "ids": [13, 21]}, 5),
        ({"cmd": "ACKB", "ids": [13, 14]}, ROUTE_ANY),
        ({"cmd": "ACKB", "ids": []}, ROUTE_ANY),
        ({"cmd": "GETJOBS"}, ROUTE_ANY),
        ({"cmd": "GETJOBS", "queue": "a"}, shard_of_queue("a", SHARDS)),
        ({"cmd": "GETJOBBYCUSTOMID", "job_id": "x"}, ROUTE_ANY),
        ({"cmd": "STATS"}, ROUTE_ANY),
        ({"cmd": "CRON", "name": "n", "queue": "a", "data": 1}, ROUTE_COORDINATOR),
        ({"cmd": "UPDATE", "id": 13, "data": 1}, 5),
    ],
    ids=str,
)
def test_a_request_goes_to_whom_it_is_for(fields: dict[str, Any], route: int, binary: bool) -> None:
    """The same shard that the router would choose, without its having to read the body."""
    assert ask_of(binary=binary, **fields).route(SHARDS) == route


@pytest.mark.parametrize("word", ["PUSH", "ACK", "GETCHILDREN"])
def test_one_that_says_no_shard_is_refused(word: str) -> None:
    """In the words of a decoder that misses the field."""
    with pytest.raises(InvalidRequest, match="missing field"):
        ask_of(cmd=word).route(SHARDS)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b'{"cmd":', b'{"cmd":"STATS"} {}', b"{" * 100_000]
)
def test_what_is_no_map_is_refused(body: bytes) -> None:
    """However deep or short it is."""
    with pytest.raises((InvalidRequest, BadMessage)):
        read_ask(body, json=True)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 1000, 70_000])
def test_a_batch_is_counted(count: int, binary: bool) -> None:
    """Without making an object of any job."""
    ask = ask_of(binary=binary, cmd="PUSHB", queue="q", jobs=[{"data": 1}] * count)
    assert ask.jobs_count == count


def test_jobs_that_are_no_list_count_as_none() -> None:
    """The shard says what is wrong with them."""
    assert ask_of(binary=True, cmd="PUSHB", queue="q", jobs={"a": 1}).jobs_count == 0


@pytest.mark.parametrize(
    ("fields", "wait_ms"),
    [
        ({"cmd": "PULL", "queue": "q"}, 60_000),
        ({"cmd": "PULL", "queue": "q", "timeout": 5}, 5),
        ({"cmd": "WAITJOB", "id": 1}, 30_000),
        ({"cmd": "WAITJOB", "id": 1, "timeout": 2**60}, 24 * 3600 * 1000),
        ({"cmd": "PUSH", "queue": "q", "data": 1, "timeout": 5}, 0),
    ],
    ids=str,
)
def test_how_long_an_answer_may_take(fields: dict[str, Any], wait_ms: int) -> None:
    """A push's `timeout` is the job's, not the request's."""
    assert ask_of(**fields).wait_ms == wait_ms


@pytest.mark.parametrize("binary", [False, True])
def test_the_asker_is_named_as_the_holder(binary: bool) -> None:
    """A worker of an older kind knows no tokens, so that the gateway adds them."""
    ask = ask_of(binary=binary, cmd="ACK", id=5, result=None)
    assert not ask.name_leases({6: 1})
    assert ask.name_leases({5: 77})
    assert decode_request(ask.body, json=not binary).token == 77
    batch = ask_of(binary=binary, cmd="ACKB", ids=[5, 6])
    assert batch.name_leases({6: 88})
    assert decode_request(batch.body, json=not binary).tokens == [None, 88]


def test_a_token_that_was_given_stays() -> None:
    """The asker knows better which delivery it means."""
    assert not ask_of(cmd="ACK", id=5, token=1).name_leases({5: 77})
    assert not ask_of(cmd="ACKB", ids=[5], tokens=[1]).name_leases({5: 77})
    assert not ask_of(cmd="GETJOB", id=5).name_leases({5: 77})


def test_whose_leases_a_request_ends() -> None:
    """Those of the jobs that are in nobody's hands after it."""
    assert ask_of(cmd="ACK", id=5).ends_leases_of() == (5,)
    assert ask_of(cmd="RELEASE", ids=[5, 6]).ends_leases_of() == [5, 6]
    assert ask_of(cmd="PROGRESS", id=5, progress=1).ends_leases_of() == ()


def test_an_added_field_wins() -> None:
    """Whatever the request says, the session is the gateway's."""
    ask = ask_of(cmd="PULL", queue="q", timeout=None)
    ask.add(timeout=9)
    assert decode_request(ask.body, json=True).timeout == 9
