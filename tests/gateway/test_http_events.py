"""Events over SSE and WebSocket, as browsers read them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from flashq.gateway.websocket import HEARD_BYTES_MAX
from tests.conftest import StartServer
from tests.gateway.http_client import TIMEOUT_S, HttpClient, SseEvent, base_of, sse_events
from tests.server import Server, eventually, resident_bytes

MIB: Final = 1024 * 1024


@pytest.fixture
def http(doors: Server) -> Iterator[HttpClient]:
    """Return a client of the server that tests share."""
    with HttpClient(doors) as client:
        yield client


class Stream:
    """What a stream brings, one after the other.

    Args:
        events: yields it.
    """

    def __init__(self, events: Iterator[SseEvent]) -> None:
        self._events: Final = events

    def next(self) -> SseEvent:
        """Return the next event."""
        return next(self._events)


@contextmanager
def stream(http: HttpClient, path: str, last_id: str | None = None) -> Iterator[Stream]:
    """Open a stream."""
    headers = {} if last_id is None else {"last-event-id": last_id}
    with http.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(sse_events(response))


def test_a_queues_stream_tells_a_jobs_life(http: HttpClient, doors: Server, queue: str) -> None:
    """One event for each thing that happens, of that queue only, in the form of older servers."""
    with HttpClient(doors) as other, stream(http, f"/events/{queue}") as told:
        other.push(f"{queue}-other")
        job_id = other.push(queue, {"n": 1}, max_attempts=1)
        other.pull(queue)
        other.post(f"/jobs/{job_id}/progress", {"progress": 30})
        other.post(f"/jobs/{job_id}/fail", {"error": "no"})
        found: dict[str, SseEvent] = {}
        while "failed" not in found:
            event = told.next()
            if event.data["job_id"] == job_id:
                found[str(event.kind)] = event
    pushed = found["pushed"]
    assert pushed.id
    assert pushed.data["event_type"] == "pushed"
    assert pushed.data["queue"] == queue
    assert pushed.data["data"] == {"n": 1}
    assert pushed.data["timestamp"] > 1_700_000_000_000
    assert not {"error", "progress"} & pushed.data.keys()
    assert found["progress"].data["progress"] == 30
    assert found["failed"].data["error"] == "no"


def test_a_batch_is_told_job_by_job(http: HttpClient, doors: Server, queue: str) -> None:
    """Also when it was pushed in one request."""
    with HttpClient(doors) as other, stream(http, f"/events/{queue}") as told:
        ids = other.post(f"/queues/{queue}/jobs/batch", {"jobs": [{"data": n} for n in range(500)]})
        assert [told.next().data["job_id"] for _ in ids] == ids


def test_a_payload_over_several_lines_is_one_line(
    http: HttpClient, doors: Server, queue: str
) -> None:
    """A line break in it would end the message in the middle."""
    with HttpClient(doors) as other, stream(http, f"/events/{queue}") as told:
        other.http.post(
            f"/queues/{queue}/jobs",
            content=b'{"data": {\n  "a": 1,\r\n  "b": [ ]\n}}',
            headers={"content-type": "application/json"},
        )
        assert told.next().data["data"] == {"a": 1, "b": []}


def test_who_comes_back_goes_on_where_he_was(http: HttpClient, doors: Server, queue: str) -> None:
    """What happened in between is told first, nothing twice and nothing left out."""
    with HttpClient(doors) as other:
        with stream(http, f"/events/{queue}") as told:
            first = other.push(queue, 1)
            event = told.next()
            assert event.data["job_id"] == first
        between = [other.push(queue, n) for n in range(5)]
        with stream(http, f"/events/{queue}", event.id) as told:
            assert [told.next().data["job_id"] for _ in between] == between
            later = other.push(queue, "later")
            assert told.next().data["job_id"] == later


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_what_happens_once_a_stream_has_begun_is_never_missed(
    start_server: StartServer, kind: str
) -> None:
    """By the only listener of the whole server, of whom no shard knew before; many times."""
    server = start_server("--log-level", "warning")
    address = base_of(server).replace("http://", "ws://")
    with HttpClient(server) as http, HttpClient(server) as other:
        for number in range(25):
            queue = f"q-{number}"
            if kind == "sse":
                with stream(http, f"/events/{queue}") as told:
                    job_id = other.push(queue)
                    assert told.next().data["job_id"] == job_id
            else:
                with connect(f"{address}/ws/{queue}") as listener:
                    job_id = other.push(queue)
                    assert json.loads(listener.recv(timeout=TIMEOUT_S))["job_id"] == job_id


@pytest.mark.parametrize("last_id", ["0123456789ab-7", "nonsense", "-", "9" * 400])
def test_who_comes_back_from_elsewhere_is_told_that_he_missed_something(
    http: HttpClient, doors: Server, queue: str, last_id: str
) -> None:
    """From another gateway, or from before this one was started anew."""
    with stream(http, f"/events/{queue}", last_id) as told:
        assert told.next().kind == "missed"


def test_who_does_not_read_is_told_and_let_go(http: HttpClient, doors: Server, queue: str) -> None:
    """More happens than is kept: the stream ends with a notice, and nothing has piled up."""
    where = urlsplit(base_of(doors))
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(TIMEOUT_S)
        slow.connect((where.hostname or "", where.port or 0))
        request = f"GET /events/{queue} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        slow.sendall(request.encode())
        received = slow.recv(1024)
        jobs = [{"data": "x" * 1000} for _ in range(1000)]
        for _ in range(25):
            http.post(f"/queues/{queue}/jobs/batch", {"jobs": jobs})
        while part := slow.recv(1024 * 1024):
            received = received[-4096:] + part
    assert b"event: dropped\ndata: {" in received
    http.delete(f"/queues/{queue}")


def test_listeners_that_do_not_read_cost_a_bound_together(start_server: StartServer) -> None:
    """Forty streams and sockets of which nobody reads, and 90 MB of events: each held what had
    piled up in one piece, 1.5 GB together, and never gave it back."""
    server = start_server("--shards", "1")
    gateway = server.pids()["flashq-gateway"]
    where = urlsplit(base_of(server))
    address = (where.hostname or "", where.port or 0)
    slow = []
    with HttpClient(server) as http:
        for n in range(40):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(address)
            upgrade = (
                "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            )
            path = ("/ws/q", "/events/q")[n % 2]
            more = upgrade if n % 2 == 0 else ""
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
            one.settimeout(TIMEOUT_S)
            assert one.recv(12).startswith(b"HTTP/1.1 ")
            slow.append(one)
        before = resident_bytes(gateway)
        most = 0
        for _ in range(90):
            http.push("q", "x" * 1_000_000)
            most = max(most, resident_bytes(gateway))
        assert most - before < 250 * MIB
        assert http.get("/stats")["queued"] == 90
    for one in slow:
        one.close()


def test_events_over_websocket(doors: Server, http: HttpClient, queue: str) -> None:
    """One frame for each event; what the client sends is ignored."""
    address = base_of(doors).replace("http://", "ws://")
    with connect(f"{address}/ws/{queue}") as one, connect(f"{address}/ws") as all_:
        for listener in (one, all_):
            listener.send("anything")
            listener.send(b"anything")
        job_id = http.push(queue, {"n": 2})
        for listener in (one, all_):
            event = _event_of(listener, job_id)
            assert (event["event_type"], event["queue"]) == ("pushed", queue)
            assert event["data"] == {"n": 2}


def until_closed(listener: ClientConnection) -> Iterator[Any]:
    """Yield what a socket brings until it ends, whoever has ended it."""
    with suppress(ConnectionClosed):
        while True:
            yield listener.recv(timeout=TIMEOUT_S)


def test_bytes_that_are_no_text_end_a_socket_and_leave_no_trace(start_server: StartServer) -> None:
    """Anybody may send them in a frame of text; a trace of the stack in the log helps nobody."""
    server = start_server("--shards", "1")
    address = base_of(server).replace("http://", "ws://")
    for path in ("/ws", "/ws/q", "/ws/dashboard"):
        for sent in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
            with connect(address + path) as listener:
                with listener.protocol_mutex:
                    listener.protocol.send_text(sent)
                    listener.send_data()
                list(until_closed(listener))
                assert listener.close_code == 1007
    with connect(address + "/ws") as listener:
        listener.send("x" * (HEARD_BYTES_MAX + 1))
        list(until_closed(listener))
        assert listener.close_code == 1009
    assert server.terminate() == 0
    assert "Traceback" not in server.log()


def _event_of(listener: ClientConnection, job_id: int) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = json.loads(listener.recv(timeout=TIMEOUT_S))
        if event["job_id"] == job_id:
            return event


def test_the_dashboards_figures_over_websocket(doors: Server, http: HttpClient, queue: str) -> None:
    """At once, and then every second."""
    http.push(queue)
    http.post("/workers/w-1/heartbeat", {"queues": [queue], "concurrency": 2})
    with connect(base_of(doors).replace("http://", "ws://") + "/ws/dashboard") as dashboard:
        figures = json.loads(dashboard.recv(timeout=TIMEOUT_S))
        assert {"queued", "processing", "delayed", "dlq"} <= figures["stats"].keys()
        assert {"stats", "metrics", "queues", "workers", "metrics_history", "timestamp"} <= (
            figures.keys()
        )
        while "w-1" not in [worker["id"] for worker in figures["workers"]] or (
            queue not in [known["name"] for known in figures["queues"]]
        ):  # what others were told less than a second ago is told again
            figures = json.loads(dashboard.recv(timeout=TIMEOUT_S))


def test_a_dashboard_of_many_queues_costs_what_one_of_few_does(start_server: StartServer) -> None:
    """An open dashboard moved 350 MB in 10 s where there were 100,000 queues, and everybody else
    at its gateway waited meanwhile: frames had all of them, twice."""
    server = start_server("--shards", "2")
    count = 3000
    with HttpClient(server) as http, closing(server.dealer()) as dealer:
        for n in range(count):
            dealer.send("PUSH", queue=f"{'long' * 50}-{n}", data=1)
        eventually(lambda: http.get("/stats")["queued"] == count, "all jobs")
        assert len(http.http.get("/queues").content) < 1024 * 1024
        listed = http.ask("GET", "/queues")
        assert (len(listed["data"]), listed["total"]) == (1000, count)
        assert listed["next"] == listed["data"][-1]["name"]
        rest = http.ask("GET", "/queues", params={"after": listed["next"], "limit": 5000})
        assert len(rest["data"]) == count - 1000
        assert "next" not in rest
        found = http.ask("GET", "/queues", params={"search": "-299"})
        assert found["total"] == 11
        assert len(http.get("/metrics")["queues"]) == 1000
        address = base_of(server).replace("http://", "ws://") + "/ws/dashboard"
        with connect(address) as dashboard:
            frame = str(dashboard.recv(timeout=TIMEOUT_S))
        assert len(frame) < 128 * 1024
        assert (len(json.loads(frame)["queues"]), json.loads(frame)["queues_total"]) == (200, count)
        page = http.http.get("/metrics/prometheus").text
        assert f"flashq_queues {float(count)}" in page


def test_listeners_are_told_when_the_gateway_stops(start_server: StartServer) -> None:
    """Streams end and sockets are closed, so that clients go elsewhere."""
    server = start_server("--shards", "1")
    address = base_of(server)
    with (
        httpx.stream("GET", f"{address}/events", timeout=TIMEOUT_S) as response,
        connect(address.replace("http://", "ws://") + "/ws") as listener,
    ):
        assert response.status_code == 200
        listener.ping().wait(5)
        assert server.terminate() == 0
        list(response.iter_lines())
        assert list(listener) == []
        assert listener.close_code in (1001, 1012)
