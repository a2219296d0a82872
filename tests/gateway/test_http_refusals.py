"""Every request that cannot be carried out: its status, and words in the envelope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.http_client import JSON, HttpClient
from tests.server import Server

MIB = 1024 * 1024


@pytest.fixture
def http(doors: Server) -> Iterator[HttpClient]:
    """Return a client of the server that tests share."""
    with HttpClient(doors) as client:
        yield client


BODY_ROUTES = (
    ("POST", "/queues/q/jobs"),
    ("POST", "/queues/q/jobs/batch"),
    ("POST", "/queues/q/flows"),
    ("POST", "/jobs/1/ack"),
    ("POST", "/jobs/1/fail"),
    ("POST", "/jobs/ack"),
    ("POST", "/jobs/1/progress"),
    ("PUT", "/jobs/1"),
    ("POST", "/queues/q/rate-limit"),
    ("POST", "/queues/q/clean"),
    ("POST", "/crons/c"),
    ("POST", "/workers/w/heartbeat"),
    ("POST", "/webhooks/incoming/q"),
    ("POST", "/cluster/load-balance-strategy"),
)


@pytest.mark.parametrize(("method", "path"), BODY_ROUTES)
def test_a_body_has_to_say_that_it_is_json(http: HttpClient, method: str, path: str) -> None:
    """Form posts and bodies without a type are 415."""
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-json"}):
        refused = http.refused(method, path, content=b'{"data":1}', headers=headers)
        assert (refused.status, refused.code) == (415, "content_type_invalid")


@pytest.mark.parametrize(("method", "path"), BODY_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"nonsense",
        b'{"data":1}}',
        b'{"data":1},{"data":2}',
        b'{"data":1,}',
        b'{,"data":1}',
        b'{"data":"\xff"}',
        b'{"data":"\x01"}',
        b'{"data":"\\ud800"',
        b"{'data':1}",
        b'\xef\xbb\xbf{"data":1}',
        b"\x81\xa4data\x01",
        b'{"data":' + b"[" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_json_is_400(
    http: HttpClient, method: str, path: str, body: bytes
) -> None:
    """And nothing of it is put together into something that is."""
    refused = http.refused(method, path, content=body, headers=JSON)
    assert (refused.status, refused.code) == (400, "bad_message")


@pytest.mark.parametrize(
    "path", ["/queues/q/dlq/retry", "/jobs/1/heartbeat", "/queues/q/config", "/webhooks/dead/retry"]
)
@pytest.mark.parametrize("body", [b'{"id":1', b"nonsense", b" "])
def test_a_body_that_may_be_left_out_is_refused_when_it_is_no_json(
    http: HttpClient, path: str, body: bytes
) -> None:
    """One that was cut off may have named one of many: all of them are not meant."""
    refused = http.refused("POST", path, content=body, headers=JSON)
    assert (refused.status, refused.code) == (400, "bad_message")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null", b"true"])
def test_a_body_that_is_no_object_is_422(http: HttpClient, body: bytes) -> None:
    """It is JSON, but not of that shape."""
    for path in ("/queues/q/jobs", "/jobs/1/ack"):
        refused = http.refused("POST", path, content=body, headers=JSON)
        assert (refused.status, refused.code) == (422, "invalid")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/queues/q/jobs", {}),
        ("POST", "/queues/q/jobs", {"data": 1, "priority": "high"}),
        ("POST", "/queues/q/jobs", {"data": 1, "priority": 1.5}),
        ("POST", "/queues/q/jobs", {"data": 1, "delay": -1}),
        ("POST", "/queues/q/jobs", {"data": 1, "tags": "one"}),
        ("POST", "/queues/q/jobs", {"data": 1, "cmd": "DRAIN"}),
        ("POST", "/queues/q/jobs/batch", {"jobs": {}}),
        ("POST", "/queues/q/jobs/batch", {"jobs": [{"priority": 1}]}),
        ("POST", "/queues/q/flows", {"data": 1}),
        ("POST", "/queues/q/rate-limit", {}),
        ("POST", "/queues/q/rate-limit", {"limit": -1}),
        ("POST", "/queues/q/concurrency", {"limit": "many"}),
        ("POST", "/jobs/1/progress", {"message": "no number"}),
        ("POST", "/jobs/1/priority", {"priority": 2**31}),
        ("POST", "/jobs/1/move-to-delayed", {}),
        ("POST", "/jobs/ack", {"ids": [1, "two"]}),
        ("POST", "/jobs/ack", {"ids": 1}),
        ("PUT", "/jobs/1", {}),
        ("POST", "/crons/c", {"queue": "q"}),
        ("POST", "/workers/w/heartbeat", {"queues": "all"}),
        ("POST", "/cluster/load-balance-strategy", {"strategy": 5}),
    ],
)
def test_json_of_the_wrong_shape_is_422(
    http: HttpClient, method: str, path: str, body: Any
) -> None:
    """A field that is missing or of another type is named."""
    refused = http.refused(method, path, body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.error.startswith("Invalid: ")


def test_a_payload_of_the_largest_size_fits(http: HttpClient, queue: str) -> None:
    """1 MiB, and the body around it."""
    assert http.push(queue, "x" * (MIB - 2))


def test_a_payload_beyond_it_is_413(http: HttpClient, queue: str) -> None:
    """In the words that clients' tests match on."""
    refused = http.refused("POST", f"/queues/{queue}/jobs", {"data": "x" * MIB})
    assert (refused.status, refused.code) == (413, "payload_too_large")
    assert "too large" in refused.error


@pytest.mark.parametrize("size", [2 * MIB + 1, 3 * MIB])
def test_a_body_beyond_two_mib_is_413(http: HttpClient, queue: str, size: int) -> None:
    """Announced or not, and the next request on the connection is served."""
    body = b'{"data":"' + b"x" * (size - 11) + b'"}'

    def parts() -> Iterator[bytes]:
        yield body

    for content in (body, parts()):
        refused = http.refused("POST", f"/queues/{queue}/jobs", content=content, headers=JSON)
        assert (refused.status, refused.code) == (413, "message_too_large")
    assert http.push(queue)


def test_a_batch_beyond_a_thousand_is_413(http: HttpClient, queue: str) -> None:
    """Jobs to push and ids to acknowledge alike."""
    jobs = [{"data": n} for n in range(1001)]
    for path, body in (
        (f"/queues/{queue}/jobs/batch", {"jobs": jobs}),
        ("/jobs/ack", {"ids": list(range(1, 1002))}),
    ):
        refused = http.refused("POST", path, body)
        assert (refused.status, refused.code) == (413, "batch_too_large")
    assert len(http.post(f"/queues/{queue}/jobs/batch", {"jobs": jobs[:1000]})) == 1000


@pytest.mark.parametrize("job_id", ["abc", "-1", "1.5", "9007199254740992", "1e3", "%20", "١"])
@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/result", "/jobs/{}/state"])
def test_a_path_id_that_is_none_is_400(http: HttpClient, path: str, job_id: str) -> None:
    """It is no unsigned whole number up to 2**53 - 1."""
    refused = http.refused("GET", path.format(job_id))
    assert (refused.status, refused.code) == (400, "parameter_invalid")


@pytest.mark.parametrize(
    "path",
    [
        "/queues/q/jobs?count=many",
        "/queues/q/jobs?count=-1",
        "/queues/q/jobs?count=",
        "/queues/q/jobs?timeout=1.5",
        "/jobs?limit=x",
        "/jobs?offset=-1",
        "/queues/q/dlq?count=all",
        "/jobs/1/wait?timeout=soon",
    ],
)
def test_a_query_value_that_is_none_is_400(http: HttpClient, path: str) -> None:
    """It has to be a whole number."""
    refused = http.refused("GET", path)
    assert (refused.status, refused.code) == (400, "parameter_invalid")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/queues//jobs", "/jobs/1/nothing", "/static/none.js"]
)
def test_an_unknown_path_is_404(http: HttpClient, path: str) -> None:
    """In the envelope, unlike the empty body of older servers."""
    refused = http.refused("GET", path)
    assert (refused.status, refused.code) == (404, "path_unknown")


def test_a_wrong_method_is_405(http: HttpClient) -> None:
    """With the methods that there are."""
    response = http.http.delete("/stats")
    assert response.status_code == 405
    assert response.json()["code"] == "method_not_allowed"
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/queues/bad name!/jobs", {"data": 1}, 400, "queue_name_invalid"),
        ("POST", "/queues/" + "q" * 257 + "/jobs", {"data": 1}, 400, "queue_name_too_long"),
        ("POST", "/jobs/77/ack", {}, 404, "job_not_found"),
        ("POST", "/jobs/77/cancel", None, 404, "job_not_found"),
        ("GET", "/jobs/77/wait?timeout=1", None, 404, "wait_job_not_found"),
        ("GET", "/jobs/77/children", None, 404, "parent_not_found"),
        ("POST", "/jobs/77/heartbeat", None, 409, "job_not_active"),
        ("POST", "/queues/q/flows", {"data": 1, "children": []}, 400, "flow_empty"),
        ("POST", "/queues/q/clean", {"grace": 0, "state": "lost"}, 400, "state_invalid"),
        ("POST", "/queues/q/jobs", {"data": 1, "depends_on": [3]}, 404, "unknown_dependency"),
        ("POST", "/crons/c", {"queue": "q", "data": 1, "schedule": "now"}, 400, "cron_invalid"),
    ],
)
def test_what_the_server_refuses_keeps_its_code(
    http: HttpClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    """The envelope is for programs that test `ok`, the status for everybody else."""
    refused = http.refused(method, path, body)
    assert (refused.status, refused.code) == (status, code)


def test_a_duplicate_is_409(http: HttpClient, queue: str) -> None:
    """In the words that clients match on."""
    http.push(queue, unique_key="k")
    refused = http.refused("POST", f"/queues/{queue}/jobs", {"data": 1, "unique_key": "k"})
    assert refused == (409, "duplicate", "Duplicate job with key: k")


def test_a_wait_that_is_over_is_408(http: HttpClient, queue: str) -> None:
    """Its text has the words that clients match on."""
    job_id = http.push(queue)
    refused = http.refused("GET", f"/jobs/{job_id}/wait?timeout=1")
    assert (refused.status, refused.code) == (408, "wait_timeout")
    assert "Timeout waiting" in refused.error
