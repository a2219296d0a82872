"""A server that was never reached: how long a request waits for it, and what its error says."""

from __future__ import annotations

from flashq.client.requests import CONNECT_TIMEOUT_MS
from flashq.errors import ConnectionClosed, RequestTimeout
from flashq.protocol.leases import Pull
from flashq.protocol.queues import Pause
from tests.unit.client.script import Script

ADDRESS = "tcp://127.0.0.1:1"


def test_a_server_that_was_never_reached_ends_a_request_early() -> None:
    """A pull that may take a minute too: most often the address is wrong. The error names it, what
    was tried and for how long, and nothing is sent later."""
    script = Script(address=ADDRESS)
    script.connection.opened(script.now)
    script.request(Pull(queue="q"), timeout=65_000)
    script.tick(CONNECT_TIMEOUT_MS - 1)
    assert script.completed() == []
    script.tick(1)
    error = script.outcome().error
    assert isinstance(error, ConnectionClosed)
    for told in (ADDRESS, f"{CONNECT_TIMEOUT_MS} ms", "say hello", "PULL was not sent"):
        assert told in error.text
    script.connection.opened(script.now)
    script.sent()
    assert script.connection.outstanding == 0


def test_a_server_that_is_reached_in_time_gives_everything_its_whole_time() -> None:
    """1. It answers hello just before a request would end. 2. The request has all of its time."""
    script = Script(address=ADDRESS)
    script.connection.opened(script.now)
    script.request(Pause(queue="q"), timeout=30_000)
    script.tick(900)
    script.hello()
    script.sent()
    script.events()
    script.tick(29_099)
    assert script.completed() == []
    script.tick(1)
    error = script.outcome().error
    assert isinstance(error, RequestTimeout)
    assert "outcome is unknown" in error.text
    assert f"PAUSE to {ADDRESS}" in error.text


def test_closing_says_what_is_known_of_a_call_under_way() -> None:
    """A change that was sent may have been carried out; one that was not sent was not."""
    script = Script(address=ADDRESS)
    script.connection.opened(script.now)
    script.request(Pause(queue="q"))
    script.hello()
    script.sent()
    script.request(Pause(queue="q"))
    script.events()
    script.connection.close()
    texts = [event.error.text for event in script.completed() if event.error is not None]
    assert texts == [
        "this client was closed; whether PAUSE was carried out is not known",
        "this client was closed; PAUSE was not sent",
    ]
