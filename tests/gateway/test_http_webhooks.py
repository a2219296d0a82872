"""Webhooks over HTTP: the routes of the older server, and those for what could not be told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.http_client import HttpClient
from tests.server import Server, eventually

URL = f"http://{'x' * 64}.invalid/hook"
"""Nobody can have such a name: no resolver is even asked for it."""


@pytest.fixture
def http(doors: Server) -> Iterator[HttpClient]:
    """Return a client of the server that tests share."""
    with HttpClient(doors) as client:
        yield client


def test_a_webhook_is_made_listed_and_removed(http: HttpClient, queue: str) -> None:
    """The id is the data; the list has no secrets; removing says whether there was one."""
    body = {"url": URL, "events": ["completed", "job.failed"], "queue": queue, "secret": "s"}
    webhook = http.post("/webhooks", body)
    assert webhook.startswith("wh_")
    (found,) = [one for one in http.get("/webhooks") if one["id"] == webhook]
    assert {name: found[name] for name in body} == body | {"secret": None}
    assert found["signed"] is True
    assert http.delete(f"/webhooks/{webhook}") is True
    assert http.delete(f"/webhooks/{webhook}") is False
    assert webhook not in [one["id"] for one in http.get("/webhooks")]


def test_what_is_no_webhook_is_refused_in_the_envelope(http: HttpClient) -> None:
    """An address that leads nowhere, and an event that never happens."""
    for body in ({"url": "x", "events": ["*"]}, {"url": URL, "events": ["finished"]}):
        refusal = http.refused("POST", "/webhooks", body)
        assert (refusal.status, refusal.code) == (422, "webhook_invalid")
    assert http.refused("POST", "/webhooks", {"url": URL}).status == 422
    assert http.refused("GET", "/webhooks/dead", params={"webhook": "wh_1"}).status == 404


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9", "localhost", "[::1]", "10.1.2.3", "0x7f.1", "[64:ff9b:1::7f00:1]"]
)
def test_a_private_address_is_refused_with_the_setting_that_allows_it(
    http: HttpClient, host: str
) -> None:
    """It was taken with 200, and nothing was ever sent to it."""
    refusal = http.refused("POST", "/webhooks", {"url": f"http://{host}/", "events": ["*"]})
    assert (refusal.status, refusal.code) == (422, "webhook_invalid")
    assert "webhook_private_targets" in refusal.error
    assert host not in str(http.get("/webhooks"))


def test_an_attempt_that_failed_is_seen_in_the_list(http: HttpClient, queue: str) -> None:
    """And what is dead could be told again."""
    webhook = http.post("/webhooks", {"url": URL, "events": ["pushed"], "queue": queue})
    http.post(f"/queues/{queue}/jobs", {"data": 1})

    def last_error() -> str | None:
        (found,) = [one for one in http.get("/webhooks") if one["id"] == webhook]
        error = found["last_error"]
        assert error is None or isinstance(error, str)
        return error

    assert "cannot be resolved" in (eventually(last_error, "a failed attempt") or "")
    dead = http.ask("GET", "/webhooks/dead", params={"webhook": webhook})
    assert (dead["data"], dead["total"]) == ([], 0)
    assert http.post("/webhooks/dead/retry", {"webhook": webhook}) == 0
    assert http.post("/webhooks/dead/retry") == 0
    assert http.delete(f"/webhooks/{webhook}") is True
