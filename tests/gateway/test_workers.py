"""One list of workers, whatever door they use and whichever gateway is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from flashq.client.endpoint import client_name
from flashq.client.sync_client import Client
from tests.conftest import StartServer
from tests.gateway.clients import LineClient, TypeScriptClient, connected
from tests.gateway.http_client import TIMEOUT_S, base_of
from tests.gateway.site import address_of, another_gateway, path_of
from tests.server import eventually

SCHEME = "http://"


def workers(base: str) -> dict[str, dict[str, Any]]:
    """Return the workers that a gateway lists by their names, or by their ids without one."""
    listed = httpx.get(f"{base}/workers", timeout=TIMEOUT_S).json()["data"]
    return {one.get("name", one["id"]).partition(":")[0]: one for one in listed}


def test_workers_of_all_doors_and_gateways_are_in_one_list(
    start_server: StartServer, tmp_path: Path
) -> None:
    """1. A ZeroMQ client and connections over TCP and the Unix socket take jobs; two workers
    register, each at another gateway. 2. Both gateways list all five, each once. 3. The connections
    go: they are not listed any more."""
    path = str(tmp_path / "s")
    server = start_server("--heartbeat-interval-ms", "100", "--unix-socket", path)
    with another_gateway(server) as gateway:
        endpoints = gateway.endpoints()
        bases = [base_of(server), next(one for one in endpoints if one.startswith(SCHEME))]
        for number, base in enumerate(bases):
            beat = {"queues": ["q-0"], "concurrency": 3, "jobs_processed": 7}
            path = f"/workers/w-{number}/heartbeat"
            answer = httpx.post(base + path, json=beat, timeout=TIMEOUT_S)
            assert answer.json() == {"ok": True, "data": None}
        with (
            Client(server.url) as client,
            connected(TypeScriptClient, address_of(server)) as tcp,
            connected(LineClient, path_of(server)) as unix,
        ):
            for number in range(3):
                client.push(f"q-{number}", number)
                client.push(f"q-{number}", number)
                assert tcp.pull(f"q-{number}") is not None
            held = client.pull("q-0")
            assert held is not None
            assert unix.pull("q-1") is not None
            expected = {"w-0", "w-1", client_name(), "tcp/127.0.0.1", "unix"}
            eventually(
                lambda: all(workers(base).keys() == expected for base in bases), "all five, twice"
            )
            found = workers(bases[1])
            assert sorted(found["tcp/127.0.0.1"]["queues"]) == ["q-0", "q-1", "q-2"]
            held_by = {name: one["jobs_held"] for name, one in found.items() if "jobs_held" in one}
            assert held_by == {client_name(): 1, "tcp/127.0.0.1": 3, "unix": 1}
            assert (found["w-1"]["concurrency"], found["w-1"]["jobs_processed"]) == (3, 7)
            metrics = httpx.get(f"{bases[1]}/metrics/prometheus", timeout=TIMEOUT_S).text
            assert "flashq_workers_active 5.0" in metrics
        eventually(lambda: workers(bases[1]).keys() == {"w-0", "w-1"}, "only the registered ones")
