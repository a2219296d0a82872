"""A whole server from its start to its drain: refusals, drains, many shards, queues and doors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashq.client.sync_client import Client
from tests.contract.dealer import Dealer
from tests.integration.programs import Site
from tests.server import PATIENT, Server, eventually, resident_bytes

StartServer = Callable[..., Server]
MIB = 1024 * 1024


def test_it_prints_its_endpoints_and_then_ready(start_server: StartServer) -> None:
    """Whoever starts it reads where to connect; its directory is for its user only."""
    server = start_server()
    assert server.lines[-1] == "ready"
    assert server.url in server.lines
    assert server.ipc_url in server.lines
    assert server.run_dir.stat().st_mode & 0o777 == 0o700
    programs = {"flashq-coordinator", "flashq-router", "flashq-gateway"}
    assert server.pids().keys() == programs | {f"flashq-shard {shard}" for shard in range(4)}


def test_every_door_serves_the_same(start_server: StartServer) -> None:
    """TCP, ipc and a shard's own socket, by the client and by hand."""
    server = start_server()
    with Client(server.url) as by_tcp, Client(server.ipc_url) as by_ipc:
        assert by_tcp.connect().epochs == by_ipc.connect().epochs
        job_id = by_tcp.push("q", 1)
        job = by_ipc.pull("q", 0)
        assert job is not None
        assert job.id == job_id
        by_tcp.ack(job)
    direct = Dealer(server.shard_url(job_id % 4))
    assert direct.ask("GETSTATE", id=job_id)["state"] == "completed"
    assert direct.ask("HELLO", session=os.urandom(16))["shard_count"] == 4
    direct.close()


def test_a_client_is_never_refused_right_after_ready(start_server: StartServer) -> None:
    """Ready means ready: over both doors, for many clients at once, in their first moment."""
    for _ in range(3):
        server = start_server()
        clients = [Client(url) for url in (server.ipc_url, server.url) * 20]
        assert [client.push("q", 1) > 0 for client in clients] == [True] * 40
        for client in clients:
            client.close()


def test_a_second_server_in_the_same_directory_is_refused(start_server: StartServer) -> None:
    """A second bind on a live socket would succeed and steal its traffic: the locks stand before.
    The first one serves on."""
    first = start_server()
    second = Server("--shards", "4", run_dir=first.run_dir)
    try:
        assert second.process.wait(30) == 1
        complaint = next(line for line in second.log().splitlines() if "runs already" in line)
        held = {"router", "coordinator", *(f"shard-{shard}" for shard in range(4))}
        assert complaint.startswith("flashq serve: flashq-")
        assert any(f"{name} runs already: process" in complaint for name in held), complaint
        assert "ready" not in second.lines
    finally:
        second.close()
    with Client(first.url) as client:
        assert client.push("q", 1)
    assert first.terminate() == 0


def test_a_port_in_use_is_one_sentence(start_server: StartServer) -> None:
    """And the programs that had started already are gone."""
    port = start_server().url.rsplit(":", 1)[1]
    patience = ("--drain-timeout-ms", "30000")  # on a slow machine some are still importing
    second = Server("--shards", "2", "--zmq-port", port, *patience)
    try:
        assert second.process.wait(60) == 1
        assert f"cannot listen on tcp://127.0.0.1:{port}" in second.log()
        assert "is killed" not in second.log()
        assert second.pids() == {}
    finally:
        second.close()


def test_a_shard_with_other_settings_is_refused() -> None:
    """It would answer by other bounds than its sisters: the coordinator compares a hash."""
    site = Site()
    try:
        site.start("coordinator").until_ready()
        environ = {name: value for name, value in os.environ.items() if "FLASHQ" not in name}
        environ |= {"FLASHQ_RUN_DIR": str(site.run_dir), "FLASHQ_SHARDS": "2"}
        command = [sys.executable, "-c", "from flashq.shard.process import main; main()"]
        shard = subprocess.run(
            [*command, "--index", "1", "--payload-bytes-max", "1000"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert shard.returncode == 1
        assert "ready" not in shard.stdout
        complaint = shard.stderr.strip()
        assert complaint.startswith("flashq-shard 1: ")
        assert "settings" in complaint
    finally:
        site.close()


def test_sigterm_ends_it_with_work_in_flight(start_server: StartServer) -> None:
    """
    1. Thousands of requests are under way, and pulls are parked, when SIGTERM comes.
    2. Each request has one answer: done, or shutting down; the client hears that it closes.
    3. It exits with 0, soon, and nothing crashed.
    """
    server = start_server()
    dealer, idle = server.dealer(), server.dealer()
    idle.ask("HELLO", session=os.urandom(16))
    idle.send("PULL", queue="empty")
    asked = [dealer.send("PUSH", queue=f"q{n % 50}", data=n) for n in range(3000)]
    server.process.send_signal(signal.SIGTERM)
    answers = [dealer.answer(corr) for corr in asked[:100]]
    assert all(answer["ok"] for answer in answers)
    assert idle.notice() == {"notice": "closing"}
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log()
    assert "is killed" not in server.log()
    for one in (dealer, idle):
        one.close()


def test_a_shard_that_drains_loses_nothing_that_it_acknowledged(start_server: StartServer) -> None:
    """
    1. A shard is told to go by SIGTERM in the middle of a flood of pushes.
    2. Its successor has every job whose push was answered with an id, and no other.
    """
    server = start_server()
    dealer = server.dealer()
    before = server.epochs()
    session = os.urandom(16)
    pushes = [
        {"queue": "q", "data": n, "session": session, "n": n, "route": 3} for n in range(1, 2001)
    ]
    asked = [dealer.send("PUSH", **push) for push in pushes[:1000]]
    server.signal("flashq-shard 3", signal.SIGTERM)
    asked += [dealer.send("PUSH", **push) for push in pushes[1000:]]
    server.wait_epoch(3, before[3])
    ids: dict[int, int] = {}
    while len(ids) < len(pushes):  # repeat what was refused, or lost between the two
        for n, push in enumerate(pushes):
            answer = dealer.answers.pop(asked[n], None)
            if answer is None or not answer["ok"]:
                answer = dealer.ask("PUSH", **push)
            if answer["ok"]:
                ids[n] = answer["id"]
    assert dealer.ask("COUNT", queue="q")["count"] == len(set(ids.values())) == 2000
    dealer.close()


def test_a_drained_server_leaves_its_directory_to_the_next(start_server: StartServer) -> None:
    """Also when the first one was killed without a word: locks go with their process."""
    directory = Path(tempfile.mkdtemp(prefix="fq", dir="/tmp"))
    try:
        for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            server = start_server(run_dir=directory)
            with Client(server.ipc_url) as client:
                assert client.push("q", 1)
            server.process.send_signal(end)
            assert server.process.wait(20) == (-9 if end is signal.SIGKILL else 0)
            eventually(lambda server=server: not server.pids(), "the end of every program")  # type: ignore[misc]
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def test_32_shards_share_the_work_and_their_memory(start_server: StartServer) -> None:
    """The default: every shard gets queues, and each answers for its own."""
    server = start_server("--shards", "32", *PATIENT)
    dealer = server.dealer()
    asked = [dealer.send("PUSH", queue=f"q{n}", data=n) for n in range(1000)]
    ids = [dealer.answer(corr)["id"] for corr in asked]
    assert {job_id % 32 for job_id in ids} == set(range(32))
    assert len(dealer.ask("LISTQUEUES")["queues"]) == 1000
    assert dealer.ask("STATS")["queued"] == 1000
    for _ in range(1000 // 50):
        reply = dealer.ask("ACKB", ids=[])
        assert reply["ids"] == [0]
    batch = dealer.ask("GETJOBSBATCH", ids=ids)
    assert [job["id"] for job in batch["jobs"]] == ids
    assert server.terminate() == 0
    dealer.close()


def test_ten_thousand_queues(start_server: StartServer) -> None:
    """One job in each: all are listed, counted and served, and none costs much."""
    server = start_server(*PATIENT)
    before = sum(resident_bytes(pid) for pid in server.pids().values())
    dealer = server.dealer()
    names = [f"tenant-{n}.mail" for n in range(10_000)]
    asked = [dealer.send("PUSH", queue=name, data=n) for n, name in enumerate(names)]
    assert all(dealer.answer(corr)["ok"] for corr in asked)
    listed = dealer.ask("LISTQUEUES", limit=10_000)["queues"]
    assert sorted(queue["name"] for queue in listed) == sorted(names)
    assert {queue["pending"] for queue in listed} == {1}
    assert dealer.ask("STATS")["queued"] == 10_000
    asked = [dealer.send("PULL", queue=name, timeout=0) for name in names]
    jobs = [dealer.answer(corr)["job"] for corr in asked]
    assert [job["data"] for job in jobs] == list(range(10_000))
    assert dealer.ask("ACKB", ids=[job["id"] for job in jobs])["ids"] == [10_000]
    after = sum(resident_bytes(pid) for pid in server.pids().values())
    assert after - before < 200 * MIB
    dealer.close()


def test_a_silent_shard_is_named_and_the_rest_is_given(start_server: StartServer) -> None:
    """
    1. One shard is stopped with SIGSTOP: it neither dies nor answers.
    2. Each request to all shards is answered at its deadline with what the others have.
    3. When it goes on it is asked again, and nothing is missing; its jobs are where they were.
    """
    server = start_server("--gather-timeout-ms", "150")
    dealer = server.dealer()
    ids: list[int] = []
    while {job_id % 4 for job_id in ids} != set(range(4)):
        name = f"q{len(ids)}"
        ids.append(dealer.ask("PUSH", queue=name, data=1, job_id=f"c{len(ids)}")["id"])
    silent = ids[-1] % 4
    rest = [job_id for job_id in ids if job_id % 4 != silent]

    def ask(cmd: str, **fields: Any) -> dict[str, Any]:
        """Ask until no other shard was too slow for so short a deadline."""

        def answered() -> dict[str, Any]:
            reply = dealer.ask(cmd, **fields)
            return reply if reply.get("missing_shards") == [silent] else {}

        return eventually(answered, f"an answer to {cmd} that only shard {silent} is missing from")

    server.signal(f"flashq-shard {silent}", signal.SIGSTOP)
    try:
        assert len(ask("LISTQUEUES")["queues"]) == len(rest)
        assert ask("STATS")["queued"] == len(rest)
        assert ask("METRICS")["ok"]
        jobs = ask("GETJOBS")
        assert {job["id"] for job in jobs["jobs"]} == set(rest)
        assert jobs["total"] == len(rest)
        assert [job["id"] for job in ask("GETJOBSBATCH", ids=ids)["jobs"]] == rest
        assert ask("GETJOBBYCUSTOMID", job_id="c0")["ok"]
        assert ask("ACKB", ids=ids)["ok"]
        with Client(server.url) as client:
            eventually(
                lambda: client.list_queues().missing_shards == [silent],
                "the same from the client",
            )
    finally:
        server.signal(f"flashq-shard {silent}", signal.SIGCONT)
    eventually(lambda: "missing_shards" not in dealer.ask("STATS"), "every shard again")
    assert dealer.ask("STATS")["queued"] == len(ids)
    dealer.close()


@pytest.mark.parametrize("title", ["flashq-shard 1", "flashq-coordinator"])
def test_a_program_that_was_stopped_for_a_while_goes_on(
    start_server: StartServer, title: str
) -> None:
    """
    1. A program stands still for longer than a session may be silent (a laptop that slept).
    2. The client waits, has its answers late, and still holds what it held: time in which the
       server did not run counts against nobody.
    """
    silence_s = 3  # and a client that stalls for less is not missed
    session = ("--session-timeout-ms", str(silence_s * 1000), "--heartbeat-interval-ms", "200")
    server = start_server(*session)
    with Client(server.url) as client:
        queues = [f"q{n}" for n in range(8)]
        jobs = [job for queue in queues if client.push(queue, 1) and (job := client.pull(queue))]
        pid = server.signal(title, signal.SIGSTOP)
        try:
            deadline = os.times().elapsed + silence_s + 0.5
            eventually(lambda: os.times().elapsed > deadline, "a while")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert client.ack_batch(jobs) == 8
        assert server.pids()[title] == pid
