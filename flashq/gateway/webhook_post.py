"""One HTTP request to a webhook, and the status of its answer.

Owns the connection. A name is resolved here, and the connection is made to the very address that
was judged, so that a name which resolves otherwise a moment later leads nowhere else. Redirects are
not followed, and of an answer nothing but its status is read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Final

import httptools

from flashq.addresses import is_public
from flashq.gateway.webhooks import Target
from flashq.version import __version__

HEAD_BYTES_MAX: Final = 64 * 1024
READ_BYTES: Final = 4096
ADDRESSES_MAX: Final = 4
"""How many addresses of a name are tried."""
_FINAL_STATUS: Final = 200


class PostFailed(Exception):
    """The request got no answer; the text says why."""


class NotPublic(PostFailed):
    """The target is none that may be told anything."""


class _Status:
    """Takes what the parser finds: only that a head is complete."""

    def __init__(self) -> None:
        self.is_complete = False

    def on_headers_complete(self) -> None:
        self.is_complete = True


async def post(
    target: Target,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    timeout_s: float,
    allow_private: bool,
) -> int:
    """Send a request, and return the status of its answer.

    Args:
        target: where to.
        headers: those about the content.
        body: the content.
        timeout_s: for all of it.
        allow_private: also to addresses that are not public.

    Raises:
        PostFailed: there was no answer in time, or the address is none that may be told anything.
    """
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await resolve(target, allow_private=allow_private)
            return await _exchange(target, addresses, _head(target, headers, body) + body)
    except TimeoutError:
        raise PostFailed(f"no answer within {timeout_s:g} s") from None
    except (OSError, httptools.HttpParserError) as error:
        raise PostFailed(str(error) or type(error).__name__) from error


async def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """Return the addresses of a target that may be connected to.

    Args:
        target: where to.
        allow_private: also addresses that are not public.

    Raises:
        NotPublic: it has none that is.
        PostFailed: it has no address.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise PostFailed(f"{target.host} cannot be resolved: {error}") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    allowed = [one for one in addresses if allow_private or is_public(one)]
    if not allowed:
        raise NotPublic(
            f"{target.host} is {addresses[0]}, which is not a public address "
            "(setting: webhook_private_targets)"
        )
    return allowed[:ADDRESSES_MAX]


def _head(target: Target, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.host_header}",
        f"User-Agent: flashq/{__version__}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _exchange(target: Target, addresses: list[str], request: bytes) -> int:
    reader, writer = await _connect(target, addresses)
    try:
        writer.write(request)
        # The answer may come before all of the request has been read, and settles it then.
        return await _status(reader)
    finally:
        writer.transport.abort()


async def _connect(
    target: Target, addresses: list[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for address in addresses[:-1]:
        try:
            return await _open(target, address)
        except OSError:
            continue
    return await _open(target, addresses[-1])


async def _open(target: Target, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not target.is_secure:
        return await asyncio.open_connection(address, target.port)
    return await asyncio.open_connection(
        address, target.port, ssl=_tls(), server_hostname=target.host
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _status(reader: asyncio.StreamReader) -> int:
    """Read an answer up to the end of its head; those of the kind "go on" are passed over."""
    received = 0
    status = _Status()
    parser = httptools.HttpResponseParser(status)
    while True:
        data = await reader.read(READ_BYTES)
        received += len(data)
        if not data or received > HEAD_BYTES_MAX:
            raise PostFailed(
                "the connection was closed without an answer"
                if not data
                else f"the head of the answer is larger than {HEAD_BYTES_MAX} bytes"
            )
        parser.feed_data(data)
        if status.is_complete:
            code = parser.get_status_code()
            if code >= _FINAL_STATUS:
                return code
            status.is_complete = False
