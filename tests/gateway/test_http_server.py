"""What the HTTP door tells and does about the server itself: health, figures, pages, operators."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartServer
from tests.gateway.http_client import HttpClient
from tests.server import Server, eventually


@pytest.fixture
def http(doors: Server) -> Iterator[HttpClient]:
    """Return a client of the server that tests share."""
    with HttpClient(doors) as client:
        yield client


# --- health


def test_a_server_that_works_is_healthy(http: HttpClient) -> None:
    """In the words of older servers, and for orchestrators."""
    health = http.get("/health")
    assert health["status"] == "healthy"
    assert health["problems"] == []
    assert {"node_id", "is_leader", "cluster_enabled", "postgres_connected"} <= health.keys()
    assert http.get("/health/live") == {"status": "alive"}
    assert http.get("/health/ready") == {"status": "ready"}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("flashq-shard 2", "shard 2"),
        ("flashq-coordinator", "the coordinator"),
        ("flashq-router", "the router"),
    ],
)
def test_who_does_not_answer_is_named(start_server: StartServer, title: str, name: str) -> None:
    """A program that hangs is not healthy, although all processes are there."""
    server = start_server()
    with HttpClient(server) as http:
        http.push("q")
        pid = server.signal(title, signal.SIGSTOP)
        try:
            response = http.http.get("/health")
            body = response.json()
            assert response.status_code == 503
            assert (body["ok"], body["code"]) == (False, "unhealthy")
            assert name in body["error"]
            assert body["data"]["status"] == "unhealthy"
            assert any(name in problem for problem in body["data"]["problems"])
            assert http.get("/health/live") == {"status": "alive"}
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: http.http.get("/health").status_code == 200, "health")


def test_totals_do_not_go_back_while_a_shard_is_silent(start_server: StartServer) -> None:
    """`rate()` would make jobs of it that never were."""
    server = start_server("--gather-timeout-ms", "300")
    with HttpClient(server) as http:
        for n in range(40):
            http.push(f"q-{n}")

        def figures() -> dict[str, float]:
            page = http.http.get("/metrics/prometheus").text
            return {
                f"{sample.name}{sample.labels.get('shard', '')}": sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }

        before = figures()
        assert before["flashq_jobs_pushed_total"] == 40
        pid = server.signal("flashq-shard 2", signal.SIGSTOP)
        try:
            during = figures()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (before["flashq_shard_up2"], during["flashq_shard_up2"]) == (1, 0)
        assert during["flashq_jobs_pushed_total"] == 40
        eventually(lambda: figures()["flashq_shard_up2"] == 1, "shard 2 again")
        assert figures()["flashq_jobs_pushed_total"] == 40


def test_a_gateway_without_its_router_is_not_ready(start_server: StartServer) -> None:
    """So that nobody is sent to it."""
    server = start_server("--shards", "1")
    with HttpClient(server) as http:
        pid = server.signal("flashq-router", signal.SIGSTOP)
        try:
            eventually(lambda: http.http.get("/health/ready").status_code == 503, "not ready")
            refused = http.refused("GET", "/health/ready")
            assert refused.error == "unhealthy: the router does not answer"
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: http.http.get("/health/ready").status_code == 200, "ready")


# --- figures


def test_prometheus_page_is_what_prometheus_reads(http: HttpClient, queue: str) -> None:
    """The older names, each declared with its type, and figures that fit."""
    http.push(queue)
    response = http.http.get("/metrics/prometheus")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    for name in ("pushed", "completed", "failed"):
        assert families[f"flashq_jobs_{name}"].type == "counter"
    for name in ("jobs_current", "queue_jobs", "workers_active", "latency_ms"):
        assert families[f"flashq_{name}"].type == "gauge"
    assert families["flashq_http_request_seconds"].type == "histogram"
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["flashq_queue_jobs", queue, "pending"] == 1
    assert values["flashq_jobs_pushed_total",] >= 1
    assert values["flashq_http_request_seconds_count", "PUSH", "ok"] >= 1
    shards = {key[1] for key in values if key[0] == "flashq_shard_jobs"}
    assert shards == {"0", "1", "2", "3"}


def test_history_and_machine_are_told(http: HttpClient) -> None:
    """In the form that older dashboards draw."""
    point = eventually(lambda: http.get("/metrics/history"), "history")[-1]
    assert point.keys() == {
        "timestamp", "queued", "processing", "completed", "failed", "throughput", "latency_ms",
    }  # fmt: skip
    machine = http.get("/system/metrics")
    assert machine["memory_used_mb"] > 1
    assert machine["memory_total_mb"] > machine["memory_used_mb"]
    assert 0 <= machine["cpu_percent"] <= 100
    assert machine["tcp_connections"] >= 1
    assert machine["process_id"] > 1


def test_workers_register_by_heartbeat(http: HttpClient) -> None:
    """The later heartbeat counts, and floats and null are taken as older workers write them."""
    beat = {"queues": ["a"], "concurrency": 4, "jobs_processed": 7}
    assert http.post("/workers/worker-a/heartbeat", beat) is None
    assert http.post("/workers/worker-a/heartbeat", {"queues": ["a", "b"], "concurrency": 5.0}) is (
        None
    )
    listed = http.ask("GET", "/workers")
    worker = next(worker for worker in listed["data"] if worker["id"] == "worker-a")
    assert worker["queues"] == ["a", "b"]
    assert (worker["concurrency"], worker["jobs_processed"]) == (5, 0)


# --- settings and operators


def test_settings_are_shown_without_secrets(start_server: StartServer) -> None:
    """How many tokens there are, and not which."""
    server = start_server("--shards", "1", "--auth-tokens", "sesame,open")
    with HttpClient(server, token="open") as http:
        response = http.http.get("/settings")
    settings = response.json()["data"]
    assert (settings["auth_enabled"], settings["auth_token_count"]) == (True, 2)
    assert settings["storage"] == "memory:"
    assert settings["database_url"] is None
    assert "sesame" not in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/settings/auth", {"tokens": ""}),
        ("/settings/database", {"url": "postgres://elsewhere"}),
        ("/settings/test-db", {"url": "postgres://elsewhere"}),
        ("/settings/queue-defaults", {"default_timeout": 5}),
        ("/settings/cleanup", {"max_completed_jobs": 1}),
        ("/server/restart", None),
        ("/server/reset-metrics", None),
    ],
)
def test_what_is_fixed_at_start_is_refused_with_a_way(
    http: HttpClient, path: str, body: Any
) -> None:
    """Older servers said yes and did nothing, or let anybody take the tokens away."""
    refused = http.refused("POST", path, body)
    assert (refused.status, refused.code) == (409, "not_supported")


def test_a_server_is_emptied(start_server: StartServer) -> None:
    """Part by part, and then as a whole."""
    with HttpClient(start_server()) as http:
        for name in ("a", "b", "c"):
            http.push(name)
            http.push(name, delay=60_000)
            http.push(name, max_attempts=1)
        assert http.post("/server/clear-queues") == 9
        for name in ("a", "b"):
            http.push(name, max_attempts=1)
            http.post(f"/jobs/{http.pull(name)['id']}/fail", {})
            http.push(name)
            http.post(f"/jobs/{http.pull(name)['id']}/ack", {})
        assert http.post("/server/clear-dlq") == 2
        assert http.post("/server/clear-completed") == 2
        http.push("a")
        http.post("/crons/nightly", {"queue": "a", "data": 1, "schedule": "0 0 3 * * *"})
        assert http.post("/server/reset") == "Server memory cleared"
        assert http.get("/crons") == []
        assert http.get("/stats")["queued"] == 0


def test_a_server_is_shut_down(start_server: StartServer) -> None:
    """It drains like on SIGTERM, once it has answered."""
    server = start_server()
    with HttpClient(server) as http:
        assert http.post("/server/shutdown") == "Server shutting down..."
    assert server.process.wait(20) == 0


def test_a_cluster_of_one_answers_older_dashboards(http: HttpClient) -> None:
    """One node, and no figures of others."""
    (node,) = http.get("/cluster/nodes")
    assert (node["node_id"], node["host"], node["is_leader"]) == ("standalone", "localhost", True)
    assert node["port"] == int(http.base.rpartition(":")[2])
    assert http.get("/cluster/nodes/metrics") == []
    assert http.get("/cluster/metrics")["total_nodes"] == 0
    assert http.get("/cluster/best-node") is None
    assert http.get("/cluster/sticky-node/any/key") is None
    assert http.get("/cluster/load-balance-strategy") == {"strategy": "LeastConnections"}
    path = "/cluster/load-balance-strategy"
    refused = http.refused("POST", path, {"strategy": "Random"})
    assert refused.error == "Cluster mode not enabled"
    assert http.refused("POST", path, {"strategy": "Best"}).status == 400


# --- pages


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/dashboard", "text/html"),
        ("/docs", "text/html"),
        ("/static/css/dashboard.css", "text/css"),
        ("/static/js/dashboard.js", "application/javascript"),
        ("/static/js/docs.js", "application/javascript"),
    ],
)
def test_pages_load_nothing_from_elsewhere(http: HttpClient, path: str, kind: str) -> None:
    """They work where there is no internet."""
    response = http.http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    text = response.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "http://" not in text


@pytest.mark.parametrize("path", ["/static/../http.py", "/static/%2e%2e/%2e%2e/config.py"])
def test_no_other_file_is_served(http: HttpClient, path: str) -> None:
    """Only those that were read at start have a name."""
    assert http.http.get(path).status_code == 404


def test_the_description_is_the_committed_one(http: HttpClient) -> None:
    """What programs are made from is what the server says."""
    committed = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert http.http.get("/openapi.json").json() == json.loads(committed.read_text())
