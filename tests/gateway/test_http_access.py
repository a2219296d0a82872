"""Who may ask over HTTP: tokens on every door of it, and operators without tokens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.conftest import StartServer
from tests.gateway.http_client import HttpClient, base_of
from tests.gateway.site import address_of
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


FOREIGN = (
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"host": "evil.example"},
    {"host": "evil.example:6790", "origin": "http://evil.example:6790"},
    {"host": "127.0.0.1.evil.example"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_neither_reads_nor_changes_anything(
    doors: Server, queue: str, headers: dict[str, str]
) -> None:
    """Any page can send a browser on this host to an open server: with a form, an image, `fetch`,
    or under a name of its own that was made to lead here."""
    with HttpClient(doors) as http:
        job_id = http.push(queue)
        for method, path, body in (
            ("GET", f"/queues/{queue}/jobs?timeout=0", None),
            ("GET", f"/jobs/{job_id}", None),
            ("GET", "/queues", None),
            ("GET", "/events", None),
            ("GET", "/metrics/prometheus", None),
            ("POST", f"/jobs/{job_id}/cancel", None),
            ("POST", f"/queues/{queue}/dlq/retry", None),
            ("POST", f"/queues/{queue}/jobs", {"data": 1}),
            ("POST", f"/webhooks/incoming/{queue}", {"data": 1}),
            ("POST", "/workers/w/heartbeat", {"queues": []}),
        ):
            refused = http.refused(method, path, body, headers=headers)
            assert (refused.status, refused.code) == (403, "not_allowed"), path
            answer = http.http.request(method, path, headers=headers)
            assert "access-control-allow-origin" not in answer.headers
        assert http.state(job_id) == "waiting"
        assert len(http.get("/jobs", queue=queue)) == 1


@pytest.mark.parametrize("path", ["/ws", "/ws/q", "/ws/dashboard"])
@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null"])
def test_a_websocket_of_another_site_is_refused(doors: Server, path: str, origin: str) -> None:
    """Browsers let any page open one, and say whose it is."""
    address = base_of(doors).replace("http://", "ws://") + path
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(address, additional_headers={"origin": origin}),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_websocket_of_the_servers_own_page_is_let_in(doors: Server) -> None:
    """The dashboard's."""
    base = base_of(doors)
    address = base.replace("http://", "ws://") + "/ws/dashboard"
    with connect(address, additional_headers={"origin": base}) as feed:
        assert feed.recv(30)


def test_preflight_lets_nobody_in(doors: Server) -> None:
    """A browser then does not even send what it has asked for."""
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = httpx.options(base_of(doors) + "/queues/q/jobs", headers=headers)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_pages_are_given_under_the_servers_own_names_only(doors: Server) -> None:
    """And say so; whether the server lives may be asked under any name, as balancers do."""
    headers = {"host": "evil.example"}
    for path in ("/", "/docs", "/openapi.json", "/static/js/api.js"):
        answer = httpx.get(base_of(doors) + path, headers=headers)
        assert answer.status_code == 403
        assert "http_hosts" in answer.json()["error"]
    assert httpx.get(base_of(doors) + "/health/live", headers=headers).status_code == 200


def test_head_takes_no_job(doors: Server, queue: str) -> None:
    """Who asks for the head of an answer only would lose the job in its body."""
    with HttpClient(doors) as http:
        job_id = http.push(queue)
        assert http.http.head(f"/queues/{queue}/jobs").status_code == 405
        assert http.state(job_id) == "waiting"


def test_a_page_that_posts_to_the_tcp_port_has_nothing_carried_out(
    doors: Server, queue: str
) -> None:
    """Its request line is another protocol, and ends the connection; a command in its body would
    else be a line like others."""
    with HttpClient(doors) as http:
        for method in ("POST", "GET", "PUT", "OPTIONS", "X"):
            with socket.create_connection(address_of(doors), timeout=30) as raw:
                command = f'{{"cmd":"PUSH","queue":"{queue}","data":1}}'
                head = f"{method} / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n"
                with suppress(ConnectionError):
                    raw.sendall(f"{head}\n{command}\n{command}\n".encode())
                    assert b'"ok":true' not in raw.makefile("rb").read()
        assert http.get("/jobs", queue=queue) == []


def test_the_settings_let_a_site_in(start_server: StartServer) -> None:
    """Its preflight is answered, and its requests; another site's are not."""
    site, other = "https://ops.example", "https://evil.example"
    server = start_server("--shards", "1", "--http-origins", site, "--http-hosts", "q.example")
    preflight = {
        "access-control-request-method": "PUT",
        "access-control-request-headers": "authorization, x-anything",
    }
    with HttpClient(server) as http:
        for origin, status in ((site, 200), (other, 403)):
            headers = {"origin": origin, "sec-fetch-site": "cross-site"}
            assert http.http.get("/stats", headers=headers).status_code == status
            for path in ("/stats", "/queues/q/jobs", "/nowhere"):
                answer = http.http.options(path, headers={**preflight, "origin": origin})
                allowed = answer.headers.get("access-control-allow-origin")
                assert allowed == (site if status == 200 else None)
        headers = {"origin": site}
        assert http.http.get("/nowhere", headers=headers).headers["access-control-allow-origin"]
        assert http.http.get("/stats", headers={"host": "q.example"}).status_code == 200
        assert http.http.get("/stats", headers={"host": "r.example"}).status_code == 403


def test_a_token_in_an_address_never_reaches_a_log(start_server: StartServer) -> None:
    """Neither that of a stream or a socket, which have to show it there, nor a wrong one; nor where
    a request fails."""
    server = start_server("--auth-tokens", "tell-nobody", "--shards", "1", "--log-level", "debug")
    base = base_of(server)
    for path in ("/stats", "/nowhere", "/queues/%00/jobs", "/events/q", "/jobs/x/state"):
        for token in ("tell-nobody", "hush-hush"):
            with suppress(httpx.HTTPError), httpx.stream("GET", f"{base}{path}?token={token}"):
                pass
            with suppress(InvalidStatus), connect(f"{base.replace('http', 'ws')}/ws?token={token}"):
                pass
    raw = b"GET /ws?token=tell-nobody HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n"
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as half:
        half.sendall(raw + b"\0")
    server.terminate()
    said = server.log() + "".join(server.lines)
    assert said
    assert "tell-nobody" not in said
    assert "hush-hush" not in said


@pytest.mark.parametrize("path", OPERATORS)
def test_without_tokens_a_page_of_another_site_may_not_stop_the_server(
    doors: Server, path: str
) -> None:
    """It may not even ask for jobs."""
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
