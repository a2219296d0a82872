"""Who may ask over HTTP: tokens on every door of it, and operators without tokens."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.conftest import StartServer
from tests.gateway.http_client import HttpClient, base_of
from tests.server import Server

OPERATORS = (
    "/server/restart",
    "/server/reset-metrics",
    "/server/clear-completed",
    "/settings/auth",
    "/settings/cleanup/run",
    "/queues/q/drain",
    "/queues/q/clean",
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """Return a server that asks for a token."""
    server = Server("--shards", "1", "--auth-tokens", "one,two")
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


@pytest.mark.parametrize(
    "path", ["/stats", "/events", "/queues/q/jobs", "/metrics/prometheus", "/settings", "/workers"]
)
def test_without_a_token_nothing_is_told(guarded: Server, path: str) -> None:
    """Also not streams and figures, which older servers gave to everybody."""
    with HttpClient(guarded) as http:
        refused = http.refused("GET", path)
    assert refused == (401, "authentication_required", "Authentication required")


# No more than a few: an address that tries too often is not even told.
@pytest.mark.parametrize("shown", ["three", "one,two", "ÖNE"])
def test_a_wrong_token_is_refused(guarded: Server, shown: str) -> None:
    """As a header and in the address."""
    with HttpClient(guarded) as http:
        header = {"authorization": b"Bearer " + shown.encode()}
        for options in ({"headers": header}, {"params": {"token": shown}}):
            refused = http.refused("GET", "/stats", **options)
            assert (refused.status, refused.code) == (401, "token_invalid")


@pytest.mark.parametrize("token", ["one", "two"])
def test_any_token_opens_everything(guarded: Server, token: str) -> None:
    """As Bearer, or in the address for those who cannot set headers."""
    with HttpClient(guarded, token=token) as http:
        assert http.push("q")
        assert http.post("/server/clear-completed") == 0
    with HttpClient(guarded) as http:
        assert "queued" in http.get("/stats", token=token)
        lower = {"authorization": f"bearer {token}"}
        assert http.ask("GET", "/stats", headers=lower)


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json"]
)
def test_what_tells_nothing_of_jobs_needs_no_token(guarded: Server, path: str) -> None:
    """Orchestrators have none, and the pages ask for one themselves."""
    assert httpx.get(base_of(guarded) + path).status_code == 200


@pytest.mark.parametrize("query", ["", "?token=", "?token=three"])
@pytest.mark.parametrize("path", ["/ws", "/ws/q", "/ws/dashboard"])
def test_a_websocket_is_refused_before_it_is_one(guarded: Server, path: str, query: str) -> None:
    """With 401 and the text of older servers."""
    address = base_of(guarded).replace("http://", "ws://") + path + query
    with pytest.raises(InvalidStatus) as refused, connect(address):
        pass
    response = refused.value.response
    assert response.status_code == 401
    assert response.body == b"Invalid or missing token"
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/ws?token=two", "/ws/dashboard?token=one"])
def test_a_websocket_with_a_token_is_let_in(guarded: Server, path: str) -> None:
    """The token is in the address, because browsers cannot set headers there."""
    address = base_of(guarded).replace("http://", "ws://") + path
    with connect(address) as listener:
        listener.ping().wait(5)


@pytest.mark.parametrize("path", OPERATORS)
def test_without_tokens_a_page_of_another_site_may_not_stop_the_server(
    doors: Server, path: str
) -> None:
    """Every origin may ask for jobs; a page somewhere on the web is still no operator."""
    with HttpClient(doors) as http:
        port = http.base.rpartition(":")[2]
        for headers in (
            {"origin": "https://elsewhere.example"},
            {"origin": "null"},
            {"host": f"elsewhere.example:{port}"},
            {"host": f"elsewhere.example:{port}", "origin": f"http://elsewhere.example:{port}"},
        ):
            refused = http.refused("POST", path, headers=headers)
            assert (refused.status, refused.code) == (403, "not_allowed")


def test_without_tokens_the_servers_own_page_may(doors: Server) -> None:
    """The dashboard's requests carry the origin that they go to."""
    with HttpClient(doors) as http:
        headers = {"origin": http.base}
        assert http.ask("POST", "/settings/cleanup/run", headers=headers)


def _own_address() -> str | None:
    """Return an address of this host that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith(("127.", "0.")) else str(address)


@pytest.mark.skipif(_own_address() is None, reason="this host has a loopback only")
def test_without_tokens_another_host_is_no_operator(start_server: StartServer) -> None:
    """Who opens a server to the network without tokens lets others work, not shut it down."""
    address = _own_address()
    server = start_server("--host", str(address), "--insecure", "--shards", "1")
    with HttpClient(server) as http:
        assert http.push("q")
        for method, path in (("POST", "/server/shutdown"), ("DELETE", "/queues/q/obliterate")):
            refused = http.refused(method, path)
            assert (refused.status, refused.code) == (403, "not_allowed")
        assert http.state(http.push("q")) == "waiting"
