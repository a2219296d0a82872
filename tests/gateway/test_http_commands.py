"""What commands have over HTTP only: routes, bodies, paths, and what stands beside the data."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from flashq.gateway.http_routes import command_routes
from flashq.protocol.registry import COMMANDS
from tests.conftest import StartServer
from tests.gateway.http_client import JSON, HttpClient
from tests.server import Server, eventually

NOT_OVER_HTTP = {
    "PULL",  # the same route as PULLB
    "WITHDRAW",  # by the end of the connection
    "METRICSHISTORY",  # shown by a route of the gateway's own
    "HELLO",
    "SESSIONHEARTBEAT",
    "GOODBYE",
    "AUTH",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "WEBHOOKPULL",  # between gateways and the coordinator
    "WEBHOOKDONE",
}


@pytest.fixture
def http(doors: Server) -> Iterator[HttpClient]:
    """Return a client of the server that tests share."""
    with HttpClient(doors) as client:
        yield client


def test_every_command_has_a_route() -> None:
    """Older servers had none for a dozen commands, so clients had to speak another protocol."""
    routed = {route.command.word for route in command_routes() if route.command is not None}
    assert {command.word for command in COMMANDS} - routed <= NOT_OVER_HTTP


# --- producing


def test_a_push_with_a_known_custom_id_shows_the_first_job(http: HttpClient, queue: str) -> None:
    """So that a repeat is not a second job."""
    first = http.ask("POST", f"/queues/{queue}/jobs", {"data": "first", "job_id": f"{queue}-1"})
    again = http.ask("POST", f"/queues/{queue}/jobs", {"data": "second", "job_id": f"{queue}-1"})
    assert again["id"] == first["id"]
    assert again["data"]["data"] == "first"
    assert again["data"]["custom_id"] == f"{queue}-1"


def test_the_queue_in_the_path_wins_over_one_in_the_body(http: HttpClient, queue: str) -> None:
    """A body may say anything about where the job goes; the path is what was asked."""
    body = {"queue": "elsewhere", "data": 1}
    assert http.post(f"/queues/{queue}/jobs", body)["queue"] == queue


def test_null_and_whole_floats_are_taken_as_they_are_meant(http: HttpClient, queue: str) -> None:
    """Typed clients write null for what was not given, and some write 5.0 for 5."""
    body = {"data": 1, "priority": 5.0, "delay": None, "tags": None, "lifo": None}
    job = http.post(f"/queues/{queue}/jobs", body)
    assert (job["priority"], job["tags"], job["lifo"]) == (5, [], False)


def test_a_payload_comes_back_as_the_text_that_it_was(http: HttpClient, queue: str) -> None:
    """Order of keys, large numbers and spaces: a payload is not ours to rewrite."""
    text = b'{"z": 12345678901234567890123, "a": 1.50}'
    http.http.post(
        f"/queues/{queue}/jobs",
        content=b'{"data":%b}' % text,
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert text in http.http.get(f"/queues/{queue}/jobs").content


def test_a_batch_says_of_each_entry_what_became_of_it(http: HttpClient, queue: str) -> None:
    """One bad entry does not take the others with it."""
    jobs = [{"data": 1, "unique_key": "k"}, {"data": 2, "unique_key": "k"}, {"data": 3}]
    batch = http.ask("POST", f"/queues/{queue}/jobs/batch", {"jobs": jobs})
    assert [isinstance(job_id, int) for job_id in batch["data"]] == [True, False, True]
    assert batch["errors"][0]["index"] == 1
    assert batch["errors"][0]["code"] == "duplicate"


# --- consuming


@pytest.mark.parametrize("parameters", [{"timeout": 0}, {"count": 0}, {"count": 5, "timeout": 1}])
def test_a_pull_of_nothing_ends(http: HttpClient, queue: str, parameters: dict[str, int]) -> None:
    """Older servers let it wait for ever, and `count=0` even with jobs there."""
    pulled = http.ask("GET", f"/queues/{queue}/jobs", params=parameters)
    assert (pulled["data"], pulled["jobs"], pulled["job"]) == ([], [], None)


def test_a_pull_waits_for_a_job(http: HttpClient, doors: Server, queue: str) -> None:
    """Nobody has to ask again and again."""
    found: list[dict[str, Any]] = []

    def pull() -> None:
        with HttpClient(doors) as other:
            found.append(other.pull(queue, timeout=8000))

    puller = threading.Thread(target=pull)
    puller.start()
    job_id = http.push(queue)
    puller.join()
    assert found[0]["id"] == job_id


def test_a_job_that_came_for_a_client_who_left_goes_to_the_next(
    http: HttpClient, queue: str
) -> None:
    """A connection that is closed while a pull waits takes no job with it."""
    where = urlsplit(http.base)
    with socket.create_connection((where.hostname or "", where.port or 0)) as gone:
        gone.sendall(
            f"GET /queues/{queue}/jobs?timeout=30000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        eventually(lambda: http.get("/stats")["shards"][_shard(queue)].get("waiters"), "a waiter")
    job_id = http.push(queue)
    assert http.pull(queue, timeout=8000)["id"] == job_id


@pytest.mark.parametrize("what", ["a pull", "a wait"])
def test_what_clients_who_left_have_asked_does_not_stay(
    start_server: StartServer, what: str
) -> None:
    """It stayed parked for up to a minute, and a job passed through all such pulls before somebody
    got it who was there."""
    server = start_server("--shards", "1")
    with HttpClient(server) as http:
        job_id = http.push("other")
        path = "/queues/q/jobs?timeout=60000" if what == "a pull" else f"/jobs/{job_id}/wait"
        where = urlsplit(http.base)
        address = (where.hostname or "", where.port or 0)
        gone = [socket.create_connection(address) for _ in range(50)]
        for one in gone:
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        def waiters() -> int:
            found = http.get("/stats")["shards"][0].get("waiters", 0)
            assert isinstance(found, int)
            return found

        eventually(lambda: waiters() == 50, "50 parked requests")
        for one in gone:
            one.close()
        eventually(lambda: waiters() == 0, "none of them any more")


def _shard(queue: str) -> int:
    import zlib

    return zlib.crc32(queue.encode()) % 4


def test_ack_keeps_the_result(http: HttpClient, queue: str) -> None:
    """It is there under the job's own path, and with the job."""
    job_id = http.push(queue)
    http.pull(queue)
    assert http.post(f"/jobs/{job_id}/ack", {"result": {"rows": 7}}) is None
    assert http.get(f"/jobs/{job_id}/result") == {"rows": 7}
    assert http.get(f"/jobs/{job_id}/wait") == {"rows": 7}
    shown = http.get(f"/jobs/{job_id}")
    assert (shown["id"], shown["state"], shown["result"]) == (job_id, "completed", {"rows": 7})


def test_many_are_acknowledged_at_once(http: HttpClient, queue: str) -> None:
    """The number that was, and beside it the ids that were not."""
    ids = [http.push(queue, n) for n in range(3)]
    http.get(f"/queues/{queue}/jobs", count=2)
    acked = http.ask("POST", "/jobs/ack", {"ids": ids})
    assert acked["data"] == 2
    assert acked["lost"] == [ids[2]]


def test_a_dead_letter_is_chosen_by_the_query(http: HttpClient, queue: str) -> None:
    """Without one it is all of them, and then a body that is no JSON is not read."""
    ids = [http.push(queue, n) for n in range(2)]
    for job_id in ids:
        http.post(f"/jobs/{job_id}/discard")
    assert http.post(f"/queues/{queue}/dlq/retry?id={ids[1]}") == 1
    assert [http.state(job_id) for job_id in ids] == ["failed", "waiting"]
    response = http.http.post(f"/queues/{queue}/dlq/retry", content=b"anything")
    assert response.json() == {"ok": True, "data": 1}


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", None), (b"anything", "text/plain"), (b"{", "application/json")]
)
def test_a_route_without_a_body_reads_none(
    http: HttpClient, queue: str, content: bytes, kind: str | None
) -> None:
    """Whatever a client's library puts there."""
    job_id = http.push(queue, delay=600_000)
    headers = {} if kind is None else {"content-type": kind}
    for path in (
        f"/queues/{queue}/pause",
        f"/queues/{queue}/resume",
        f"/jobs/{job_id}/promote",
        f"/jobs/{job_id}/discard",
        f"/queues/{queue}/drain",
    ):
        response = http.http.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["ok"]) == (200, True), path
    if kind != "application/json":  # what may have a body is read where it says that it is JSON
        other = http.push(queue)
        path = f"/jobs/{other}/cancel"
        assert http.http.post(path, content=content, headers=headers).is_success


def test_a_cancel_says_why_or_nothing(http: HttpClient, queue: str) -> None:
    """Older clients send no body, or one that is no JSON."""
    said, silent = http.push(queue), http.push(queue)
    http.post(f"/jobs/{said}/cancel", {"reason": "not needed"})
    assert http.http.post(f"/jobs/{silent}/cancel", content=b"anything").is_success
    assert [http.state(job_id) for job_id in (said, silent)] == ["cancelled", "cancelled"]
    jobs = {job["id"]: job for job in http.get("/jobs", queue=queue, state="cancelled")}
    assert jobs[said]["cancel_reason"] == "not needed"
    assert "cancel_reason" not in jobs[silent]
    assert jobs[silent]["cancelled_at"] >= jobs[silent]["created_at"]
    assert http.get(f"/queues/{queue}/counts")["cancelled"] == len(jobs) == 2


def test_a_heartbeat_may_say_of_which_delivery(http: HttpClient, queue: str) -> None:
    """By its token; without one the job is enough."""
    job_id = http.push(queue)
    job = http.pull(queue)
    assert http.post(f"/jobs/{job_id}/heartbeat") is None
    assert http.post(f"/jobs/{job_id}/heartbeat", {"token": job["token"]}) is None
    lost = http.refused("POST", f"/jobs/{job_id}/heartbeat", {"token": job["token"] + 1})
    assert (lost.status, lost.code) == (409, "lease_lost")


def test_a_job_is_given_back_without_an_attempt(http: HttpClient, queue: str) -> None:
    """A worker that stops is not a failure."""
    job_id = http.push(queue)
    http.pull(queue)
    assert http.post("/jobs/release", {"ids": [job_id]}) == 1
    assert http.pull(queue)["attempts"] == 0


# --- looking and changing


def test_a_job_that_never_was_is_no_error(http: HttpClient) -> None:
    """Older clients ask for jobs that are gone, and read the state."""
    assert http.get("/jobs/123456") == {"state": "unknown", "result": None}


NAMES = ("a\nb", "a\r\nb", "\n", "a\n", "/", "a/b", "a//b/", "%", "%2F", "100%25", "?", "a?b=c",
         "#", " ", "a b", ".a", "é", "日本", "\u2028", "a&b", "a+b", "jobs", "heartbeat",
         "x/heartbeat", "\x7f", "\\", "'\"")  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_any_kind_get_through_by_path(http: HttpClient, queue: str, name: str) -> None:
    """A name with the end of a line in it was 404: made by a body, and never to be removed by its
    path. What is made can be found and removed, and no name is taken for another route's."""
    name = f"{queue}{name}"
    path = quote(name, safe="")
    schedule = {"queue": queue, "data": 1, "schedule": "0 0 1 1 *"}
    http.post(f"/crons/{path}", schedule)
    assert [cron["name"] for cron in http.get("/crons") if cron["name"].startswith(queue)] == [name]
    assert http.delete(f"/crons/{path}") is True
    assert http.delete(f"/crons/{path}") is False
    job_id = http.push(queue, job_id=name)
    assert http.get(f"/jobs/by-custom-id/{path}")["id"] == job_id
    http.post(f"/workers/{path}/heartbeat", {"queues": [queue]})
    assert name in [worker["id"] for worker in http.get("/workers")]


@pytest.mark.parametrize(
    "path", ["/crons/", "/crons", "/jobs/by-custom-id/", "/workers//heartbeat"]
)
def test_an_empty_name_is_none(http: HttpClient, queue: str, path: str) -> None:
    """Where a path needs one, that is said; nothing is made under the name of nothing."""
    schedule = {"queue": queue, "data": 1, "schedule": "0 0 1 1 *"}
    assert http.refused("POST", path, schedule).status in (404, 405)
    assert "" not in [cron["name"] for cron in http.get("/crons")]


def test_a_job_is_found_by_its_custom_id(http: HttpClient, queue: str) -> None:
    """Custom ids may hold whatever an URL can carry."""
    custom = f"{queue}/order 7"
    job_id = http.push(queue, job_id=custom)
    path = f"/jobs/by-custom-id/{queue}%2Forder%207"
    assert http.get(path)["id"] == job_id
    assert http.get(path, queue=queue)["id"] == job_id
    assert http.get("/jobs/by-custom-id/nobody") == {"state": "unknown", "result": None}


# --- queues


def test_a_queue_is_removed_under_its_own_path(http: HttpClient, queue: str) -> None:
    """Older clients say `/obliterate` behind it."""
    http.push(queue)
    assert http.delete(f"/queues/{queue}") == 1
    assert http.delete(f"/queues/{queue}/obliterate") == 0


def test_a_queues_defaults_are_set_and_read(http: HttpClient, queue: str) -> None:
    """Without a body they are only read."""
    assert http.post(f"/queues/{queue}/config", {"keep_completed_count": 5})
    assert http.post(f"/queues/{queue}/config")["keep_completed_count"] == 5


def test_figures_stand_where_older_clients_read_them(http: HttpClient, queue: str) -> None:
    """The four counts, the metrics, and the queues beside the data."""
    http.push(queue)
    stats = http.ask("GET", "/stats")
    assert all(stats[name] == stats["data"][name] for name in ("queued", "processing", "dlq"))
    assert stats["delayed"] == stats["data"]["delayed"]
    metrics = http.ask("GET", "/metrics")
    assert metrics["data"] == metrics["metrics"]
    assert queue in [known["name"] for known in metrics["metrics"]["queues"]]


def test_anybodys_webhook_becomes_a_job(http: HttpClient, queue: str) -> None:
    """The body is the payload, whatever JSON it is."""
    for payload in ({"event": "paid"}, [1, "two"], None, "text"):
        response = http.http.post(
            f"/webhooks/incoming/{queue}", content=json.dumps(payload), headers=JSON
        )
        assert response.json()["data"]["data"] == payload
