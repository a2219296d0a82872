"""Arguments that no server would take, refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.sync_client import Client
from flashq.errors import InvalidRequest, JobFailed
from tests.unit.client.fake_server import FakeServer, error

WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda c: c.get_state("12"), TypeError, "not '12'"),
    (lambda c: c.cancel(True), TypeError, "not True"),
    (lambda c: c.ack(None), TypeError, "not None"),
    (lambda c: c.ack_batch(["12"]), TypeError, "not '12'"),
    (lambda c: c.release(12), TypeError, "list of Jobs"),
    (lambda c: c.promote(-1), ValueError, "-1"),
    (lambda c: c.promote(2**60), ValueError, "at most"),
    (lambda c: c.pause(5), TypeError, "queue"),
    (lambda c: c.push("q", 1, priority="high"), TypeError, "priority"),
    (lambda c: c.push("q", 1, delay=-1), InvalidRequest, "delay"),
    (lambda c: c.push("q", 1, tags="one"), TypeError, "tags"),
    (lambda c: c.push("q", 1, max_attempt=3), TypeError, "did you mean 'max_attempts'"),
    (lambda c: c.push_flow("q", 1, [], unique=3), TypeError, "did you mean 'unique_key'"),
    (lambda c: c.add_cron("n", "q", 1, max_atempts=3), TypeError, "did you mean 'max_attempts'"),
    (lambda c: c.set_rate_limit("q", "5"), TypeError, "limit"),
    (lambda c: c.push("q", {1, 2}), TypeError, "data has a set"),
    (lambda c: c.push("q", {"a": [frozenset()]}), TypeError, "data has a frozenset"),
    (lambda c: c.ack(4, {1}), TypeError, "result has a set"),
    (lambda c: c.push_batch("q", [{"data": {"a": {1}}}]), TypeError, "has a set"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_a_wrong_argument_is_named_and_not_sent(
    call: Callable[[Any], Any], kind: type[Exception], text: str
) -> None:
    """Where nobody listens: the error comes all the same, and at once."""
    client = Client("tcp://127.0.0.1:1")
    with pytest.raises(kind, match=text):
        call(client)
    assert client._io is None


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
async def test_so_it_is_by_the_asyncio_client(
    call: Callable[[Any], Any], kind: type[Exception], text: str
) -> None:
    """One text makes both."""
    client = AsyncClient("tcp://127.0.0.1:1")
    with pytest.raises(kind, match=text):
        await call(client)
    await client.close()


def test_a_wrong_argument_is_also_an_invalid_request() -> None:
    """For those that catch what the server would have said."""
    client = Client("tcp://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match="priority"):
        client.push("q", 1, priority="high")  # type: ignore[arg-type]


def test_a_failed_job_says_why(server: FakeServer) -> None:
    """The server's own words are those of older servers, without the reason."""
    server.answer("WAITJOB", lambda _: error("job_failed", "Job failed"))
    job = {"id": 4, "queue": "q", "data": 1, "error": "no route"}
    server.answer("GETJOB", lambda _: {"ok": True, "job": job, "state": "failed"})
    with Client(server.url) as client:
        with pytest.raises(JobFailed, match=r"^Job failed: no route$"):
            client.finished(4)
        server.answer("GETJOB", lambda _: {"ok": True, "job": None, "state": "unknown"})
        with pytest.raises(JobFailed, match=r"^Job failed$"):
            client.finished(4)
