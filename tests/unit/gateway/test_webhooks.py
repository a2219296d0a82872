"""What a webhook is sent, to the byte."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from msgspec import Raw

from flashq.gateway.webhooks import (
    DELIVERY,
    SIGNATURE,
    SIGNATURE_V2,
    TIMESTAMP,
    body_of,
    headers_of,
    target_of,
)
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.webhooks import Delivery, WebhookLease

NOW_S = 1_800_000_000


def delivery(data: Any = None, **fields: Any) -> Delivery:
    """Something to tell."""
    given: dict[str, Any] = {
        "delivery": 9,
        "event": "completed",
        "queue": "mail",
        "job_id": 4,
        "timestamp": 5,
    }
    if data is not None:
        given["data"] = Raw(encode_msgpack(data))
    return Delivery(**(given | fields))


def lease(secret: str | None) -> WebhookLease:
    """A webhook that is leased."""
    return WebhookLease(
        token=1, webhook="wh_7", url="http://x/", secret=secret, lease_ms=1, deliveries=[]
    )


def test_the_body_is_compact_with_its_keys_in_order() -> None:
    """Receivers sign what they read; some compare bytes that they have put together themselves."""
    assert (
        body_of(delivery({"to": "é", "b": b"\0"}))
        == (
            '{"data":{"to":"é","b":"AA=="},"error":null,"event":"completed","job_id":4,'
            '"queue":"mail","timestamp":5}'
        ).encode()
    )
    assert body_of(delivery(error="why", event="failed")) == (
        b'{"data":null,"error":"why","event":"failed","job_id":4,"queue":"mail","timestamp":5}'
    )


def test_what_json_cannot_say_is_told_without_its_data() -> None:
    """That it happened still counts."""
    assert body_of(delivery({(1, 2): "a key of two"})).startswith(b'{"data":null,')


def test_a_signature_is_that_of_the_older_server_and_another_one_covers_the_time() -> None:
    """Lower-case hexadecimal without a prefix; the second one makes a replay noticeable."""
    body = body_of(delivery())
    headers = dict(headers_of(lease("sécret"), delivery(), body, NOW_S))
    key = "sécret".encode()
    assert headers == {
        "Content-Type": "application/json",
        DELIVERY: "wh_7-9",
        TIMESTAMP: str(NOW_S),
        SIGNATURE: hmac.new(key, body, hashlib.sha256).hexdigest(),
        SIGNATURE_V2: hmac.new(key, b"%d." % NOW_S + body, hashlib.sha256).hexdigest(),
    }


def test_without_a_secret_nothing_is_signed() -> None:
    """As before."""
    names = [name for name, _ in headers_of(lease(None), delivery(), b"{}", NOW_S)]
    assert names == ["Content-Type", DELIVERY, TIMESTAMP]


def test_a_url_is_taken_apart_for_the_request() -> None:
    """Ports and paths that it does not say are the usual ones."""
    plain = target_of("http://example.com")
    assert (plain.host, plain.port, plain.is_secure, plain.path) == ("example.com", 80, False, "/")
    full = target_of("https://example.com:8443/a/b?c=d#e")
    assert (full.port, full.is_secure, full.path) == (8443, True, "/a/b?c=d")
    assert full.host_header == "example.com:8443"
    assert target_of("http://[::1]:8080/x").host == "::1"
