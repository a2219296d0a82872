"""What a webhook is sent, and where to it may be sent.

Owns body, signatures and headers of a delivery, and the reading of its URL. It sends nothing:
`webhook_post` does. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

from msgspec import Raw, Struct

from flashq.errors import BadMessage
from flashq.protocol.codec import encode_json, transcode
from flashq.protocol.webhooks import Delivery, WebhookLease

SIGNATURE: Final = "X-FlashQ-Signature"
TIMESTAMP: Final = "X-FlashQ-Timestamp"
SIGNATURE_V2: Final = "X-FlashQ-Signature-V2"
DELIVERY: Final = "X-FlashQ-Delivery"

_PORTS: Final = {"http": 80, "https": 443}


class _Body(Struct):
    """The members in the order in which they are sent: that of the alphabet."""

    data: Raw | None
    error: str | None
    event: str
    job_id: int
    queue: str
    timestamp: int


class Target(Struct, frozen=True):
    """Where a webhook leads to.

    Args:
        host: a name or an address, without brackets.
        port: its TCP port.
        is_secure: TLS.
        host_header: as the request names it.
        path: with the query.
    """

    host: str
    port: int
    is_secure: bool
    host_header: str
    path: str


def target_of(url: str) -> Target:
    """Take a URL apart that the coordinator has let in."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or _PORTS[parts.scheme]
    return Target(parts.hostname or "", port, parts.scheme == "https", parts.netloc, path)


def body_of(delivery: Delivery) -> bytes:
    """Return the body that tells of a delivery: compact JSON, its keys in alphabetical order."""
    data = None
    if delivery.data is not None:
        try:
            data = Raw(transcode(bytes(delivery.data), to_json=True))
        except BadMessage:  # JSON has no form for it; that something happened still counts
            data = None
    return encode_json(
        _Body(
            data,
            delivery.error,
            delivery.event,
            delivery.job_id,
            delivery.queue,
            delivery.timestamp,
        )
    )


def headers_of(
    lease: WebhookLease, delivery: Delivery, body: bytes, now_s: int
) -> list[tuple[str, str]]:
    """Return the headers of a request that are about its content.

    Args:
        lease: its webhook.
        delivery: what it tells; a repeat of the same has the same name, so that a receiver can
            know it again.
        body: what is signed.
        now_s: the wall clock, Unix seconds.
    """
    headers = [
        ("Content-Type", "application/json"),
        (DELIVERY, f"{lease.webhook}-{delivery.delivery}"),
        (TIMESTAMP, str(now_s)),
    ]
    if lease.secret is not None:
        key = lease.secret.encode()
        headers.append((SIGNATURE, _signature(key, body)))
        headers.append((SIGNATURE_V2, _signature(key, b"%d.%b" % (now_s, body))))
    return headers


def _signature(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()
