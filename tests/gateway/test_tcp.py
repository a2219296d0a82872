"""The door itself before a real server: connections and their ends, bad input, tokens, events."""

from __future__ import annotations

import json
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.conftest import StartServer
from tests.gateway.clients import (
    TIMEOUT_S,
    BinaryTypeScriptClient,
    LineClient,
    PythonClient,
    ServerSaid,
    TypeScriptClient,
    connected,
)
from tests.gateway.site import address_of, another_gateway, path_of
from tests.server import Server, eventually


@pytest.fixture
def line(doors: Server) -> Iterator[LineClient]:
    """Return a client without ids."""
    with connected(LineClient, address_of(doors)) as client:
        assert isinstance(client, LineClient)
        yield client


@pytest.fixture
def shared(doors: Server) -> Iterator[TypeScriptClient]:
    """Return a client that many callers share."""
    with connected(TypeScriptClient, address_of(doors)) as client:
        assert isinstance(client, TypeScriptClient)
        yield client


class TestSharedConnections:
    def test_an_ack_passes_a_pull_that_waits(self, shared: TypeScriptClient, queue: str) -> None:
        """SandboxedWorker has all its loops on one connection."""
        shared.push(queue, 1)
        job = shared.pull(queue, 1000)
        assert job is not None
        pull = shared.send("PULL", queue=queue, timeout=60_000)
        assert shared.ask("ACK", id=job["id"], result=None)["ok"]
        job_id = shared.push(queue, 2)
        assert shared.answer(pull)["job"]["id"] == job_id

    def test_pipelined_requests_keep_their_order(self, line: LineClient, queue: str) -> None:
        """Without ids only their order tells replies apart."""
        requests = [{"cmd": "PUSH", "queue": f"{queue}-{number % 7}", "data": number}
                    for number in range(300)]  # fmt: skip
        requests.insert(100, {"cmd": "PULL", "queue": f"{queue}-none", "timeout": 50})
        requests.insert(200, {"cmd": "NOPE"})
        line.socket.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in requests))
        replies = [line.read_line() for _ in requests]
        assert "job" in replies[100]
        assert "unknown variant" in replies[200]["error"]
        ids = [reply["id"] for reply in replies if "id" in reply]
        assert len(set(ids)) == 300

    def test_a_reply_of_many_megabytes(self, doors: Server, queue: str) -> None:
        """It comes through in both modes, and the connection goes on."""
        for kind in (TypeScriptClient, BinaryTypeScriptClient):
            with connected(kind, address_of(doors)) as client:
                client.push_batch(queue, [{"data": "x" * 500_000} for _ in range(12)])
                jobs = client.ask("PULLB", queue=queue, count=12, timeout=1000)["jobs"]
                assert [len(job["data"]) for job in jobs] == [500_000] * 12
                assert client.ask("ACKB", ids=[job["id"] for job in jobs])["ids"] == [12]


class TestText:
    @pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf"])
    @pytest.mark.parametrize("fields", [b'"data":"%b"', b'"data":{"%b":1},"priority":2'])
    def test_a_line_that_is_not_utf8_is_refused(
        self, line: LineClient, queue: str, text: bytes, fields: bytes
    ) -> None:
        """No reader of JSON could read the payload; the connection goes on."""
        start = b'{"cmd":"PUSH","queue":"%b",' % queue.encode()
        line.socket.sendall(start + fields % text + b"}\n")
        refusal = line.read_line()
        assert refusal["ok"] is False
        assert "utf-8" in refusal["error"].lower()
        assert line.ask("COUNT", queue=queue)["count"] == 0


class TestLineLimit:
    def test_a_hundred_jobs_fit_into_what_the_python_client_takes(
        self, doors: Server, queue: str
    ) -> None:
        """It asks for a hundred dead letters unless told otherwise, and reads no line of more than
        64 KiB. How large a payload is, is its caller's doing; all else is ours."""
        with connected(PythonClient, address_of(doors)) as client:
            jobs = [{"data": {"i": n}, "max_attempts": 2, "backoff": 0} for n in range(100)]
            ids = client.push_batch(queue, jobs)
            for _ in range(2):
                pulled = client.ask("PULLB", queue=queue, count=100)["jobs"]
                assert [job["id"] for job in pulled] == ids
                for job_id in ids:
                    client.ask("FAIL", id=job_id, error="it did not work")
            dead = client.ask("DLQ", queue=queue, count=100)["jobs"]
            assert {job["error"] for job in dead} == {"it did not work"}
            assert not any("history" in job for job in dead)
            assert len(client.ask("GETJOB", id=ids[0])["job"]["history"]) == 2


class TestEnds:
    @pytest.mark.parametrize("how", ["close", "vanish"])
    def test_a_gone_connection_gives_its_jobs_back_at_once(
        self, doors: Server, line: LineClient, queue: str, how: str
    ) -> None:
        """No attempt is counted: the worker was killed, and the job may not be to blame."""
        ids = line.push_batch(queue, [{"data": number} for number in range(3)])
        worker = LineClient(address_of(doors))
        assert worker.pull(queue, 1000) is not None
        assert len(worker.ask("PULLB", queue=queue, count=5, timeout=0)["jobs"]) == 2
        getattr(worker, how)()
        jobs: list[dict[str, Any]] = []

        def are_back() -> bool:
            jobs.extend(line.ask("PULLB", queue=queue, count=5, timeout=1000)["jobs"])
            return len(jobs) >= 3

        eventually(are_back, "the jobs again")
        assert sorted(job["id"] for job in jobs) == ids
        assert {job["attempts"] for job in jobs} == {0}

    @pytest.mark.parametrize("how", ["close", "vanish"])
    def test_a_job_that_takes_its_client_along_is_not_handed_out_for_ever(
        self, doors: Server, line: LineClient, queue: str, how: str
    ) -> None:
        """
        1. A worker crashes of a job, is started again, and takes the same job.
        2. With the third lost connection the job is a dead letter that says so.
        """
        job_id = line.ask("PUSH", queue=queue, data=1)["id"]
        for _ in range(3):
            worker = LineClient(address_of(doors))
            job = worker.pull(queue, 10_000)
            assert job is not None
            assert job["id"] == job_id
            getattr(worker, how)()
        dead = eventually(lambda: line.ask("DLQ", queue=queue)["jobs"], "a dead letter")
        assert dead[0]["id"] == job_id
        assert dead[0]["error"].startswith("poison")

    @pytest.mark.parametrize("how", ["close", "vanish"])
    def test_a_gone_connections_pull_takes_no_job(
        self, doors: Server, line: LineClient, queue: str, how: str
    ) -> None:
        """Neither for ever nor for a while."""
        gone = LineClient(address_of(doors))
        request = {"cmd": "PULL", "queue": queue, "timeout": 60_000}
        gone.socket.sendall(json.dumps(request).encode() + b"\n")
        eventually(lambda: _waiters(line) == 1, "the pull parked")
        getattr(gone, how)()
        eventually(lambda: _waiters(line) == 0, "the pull withdrawn")
        job_id = line.push(queue, 1)
        job = line.pull(queue, 1000)
        assert job is not None
        assert job["id"] == job_id

    def test_a_live_connection_keeps_its_job(self, start_server: StartServer, queue: str) -> None:
        """No older worker sends heartbeats; the gateway does, while the connection is there."""
        server = start_server("--session-timeout-ms", "3000", "--heartbeat-interval-ms", "300",
                              "--stall-timeout-ms", "3000")  # fmt: skip
        with (
            connected(LineClient, address_of(server)) as worker,
            connected(TypeScriptClient, address_of(server)) as other,
        ):
            worker.push(queue, 1)
            job = worker.pull(queue, 1000)
            assert job is not None
            assert other.pull(queue, 4000) is None
            worker.ask("ACK", id=job["id"])

    def test_a_last_line_without_its_end(self, doors: Server) -> None:
        """`printf '{"cmd":"STATS"}' | nc` is answered, and then closed."""
        with connected(LineClient, address_of(doors)) as client:
            client.socket.sendall(b'{"cmd":"STATS"}')
            client.socket.shutdown(socket.SHUT_WR)
            assert isinstance(client, LineClient)
            assert client.read_line()["ok"]
            assert client.stream.readline() == b""


def _waiters(client: LineClient) -> int:
    return sum(shard["waiters"] for shard in client.ask("STATS")["shards"])


class TestBadInput:
    def test_lines(self, line: LineClient) -> None:
        """What is no object at all; the connection goes on after each."""
        for sent in [
            b"\n",
            b"\r\n",
            b"{nonsense}\n",
            b"{}\n",
            b"[]\n",
            b"5\n",
            b"null\n",
            b'"text"\n',
            b'{"cmd":"STATS"\n',
            b'{"cmd":"STATS"} x\n',
            b'{"cmd":"STATS"}{"cmd":"STATS"}\n',
            b'{"cmd":"STATS","x":"\xff"}\n',
            b'{"cmd":"GOODBYE"}\n',  # a word of the other protocol
        ]:
            line.socket.sendall(sent)
            reply = line.read_line()
            assert list(reply) == ["ok", "error"], sent
            assert reply["error"].startswith("Invalid: "), (sent, reply)
        assert line.ask("STATS")["ok"]

    def test_frames(self, doors: Server) -> None:
        """The same in the binary mode, with its words."""
        stats = msgpack.packb({"cmd": "STATS"})
        with socket.create_connection(address_of(doors), timeout=5) as raw:
            stream = raw.makefile("rb")
            for body in [
                b"",
                b"\xc1",
                b"\xc0",
                b"\x80",
                b"\x90",
                b"\x05",
                stats[:-1],
                stats + b"\xc0",
                msgpack.packb({b"cmd": "STATS"}),
                msgpack.packb({1: 2}),
                msgpack.packb({"cmd": b"STATS"}),
            ]:
                raw.sendall(len(body).to_bytes(4, "big") + body)
                reply = msgpack.unpackb(stream.read(int.from_bytes(stream.read(4), "big")))
                assert list(reply) == ["ok", "error"], body
                assert reply["error"].startswith("MessagePack deserialize error: "), (body, reply)
            for size, body in ((17 << 20, b"x" * (17 << 20)), (len(stats), stats)):
                raw.sendall(size.to_bytes(4, "big") + body)
            reply = msgpack.unpackb(stream.read(int.from_bytes(stream.read(4), "big")))
            assert reply == {"ok": False, "error": "Message too large"}
            reply = msgpack.unpackb(stream.read(int.from_bytes(stream.read(4), "big")))
            assert reply["ok"], "the frame that was too long is skipped, and the next one served"

    def test_another_protocol_is_told_and_closed(self, doors: Server) -> None:
        """Somebody has mistaken the port for HTTP's."""
        with socket.create_connection(address_of(doors), timeout=5) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            stream = raw.makefile("rb")
            assert b"HTTP has a port of its own" in stream.read()

    def test_a_line_beyond_the_bound(self, line: LineClient) -> None:
        """It is answered once its bound is passed, skipped to its end, and costs no memory."""
        line.socket.sendall(b'{"cmd":"PUSH","queue":"q","data":"')
        for _ in range(17):
            line.socket.sendall(b"x" * (1 << 20))
        line.socket.sendall(b'"}\n{"cmd":"STATS"}\n')
        assert line.read_line() == {"ok": False, "error": "Message too large"}
        assert line.read_line()["ok"]

    def test_whole_floats_and_huge_times(self, line: LineClient, queue: str) -> None:
        """What a client can produce by its language's numbers is understood."""
        job_id = line.push(queue, 1, delay=0.0, ttl=2**64 - 1, priority=3.0)
        job = line.pull(queue, 1000)
        assert job is not None
        assert (job["id"], job["priority"]) == (job_id, 3)
        line.ask("ACK", id=float(job_id))


class TestTokens:
    def test_a_token_is_asked_for_on_each_connection(self, start_server: StartServer) -> None:
        """And on none of them twice; the gateway itself gets in to the router."""
        server = start_server("--auth-tokens", "one,two")
        with (
            connected(TypeScriptClient, address_of(server)) as client,
            connected(PythonClient, address_of(server)) as stranger,
        ):
            with pytest.raises(ServerSaid, match=r"^Authentication required$"):
                client.ask("STATS")
            with pytest.raises(ServerSaid, match=r"^Invalid token$"):
                client.ask("AUTH", token="three")
            client.ask("AUTH", token="two")
            client.ask("STATS")
            with pytest.raises(ServerSaid, match=r"^Authentication required$"):
                stranger.ask("STATS")


class TestEvents:
    def test_a_connection_can_listen(self, line: LineClient, doors: Server, queue: str) -> None:
        """One line for each event of the queue, payload and result included."""
        with connected(LineClient, address_of(doors)) as listener:
            assert isinstance(listener, LineClient)
            listener.ask("SUBSCRIBE", queue=queue, events=["pushed", "completed", "failed"])
            job_id = line.push(queue, {"a": 1})
            line.pull(queue, 1000)
            line.ask("ACK", id=job_id, result=[1])
            pushed, completed = (listener.read_line()["event"] for _ in range(2))
            assert pushed.pop("timestamp") <= completed.pop("timestamp")
            common = {"queue": queue, "job_id": job_id}
            assert pushed == {"event_type": "pushed", "data": {"a": 1}, **common}
            assert completed == {"event_type": "completed", "data": [1], **common}
            line.push(f"{queue}-other", 1)
            listener.ask("UNSUBSCRIBE", queue=queue)

    def test_an_event_after_the_answer_is_never_missed(
        self, start_server: StartServer, queue: str
    ) -> None:
        """The only listener of the whole server comes and goes: each time no shard knew of it
        before, and the job is pushed right after the answer."""
        server = start_server()
        with connected(LineClient, address_of(server)) as speaker:
            for number in range(40):
                with connected(LineClient, address_of(server)) as listener:
                    assert isinstance(listener, LineClient)
                    one = f"{queue}-{number}"
                    listener.ask("SUBSCRIBE", queue=one, events=["pushed"])
                    job_id = speaker.push(one, number)
                    assert listener.read_line()["event"]["job_id"] == job_id


class TestGateways:
    def test_a_killed_router_is_outlived(self, start_server: StartServer, queue: str) -> None:
        """A pull that waits, and a push that is asked meanwhile, are answered all the same."""
        server = start_server("--heartbeat-interval-ms", "200")
        with (
            connected(TypeScriptClient, address_of(server)) as worker,
            connected(TypeScriptClient, address_of(server)) as producer,
        ):
            assert isinstance(worker, TypeScriptClient)
            pull = worker.send("PULL", queue=queue, timeout=20_000)
            worker.ask("STATS")
            server.kill("flashq-router")
            job_id = producer.push(queue, 1)
            worker.socket.settimeout(20)
            assert worker.answer(pull)["job"]["id"] == job_id
            assert worker.ask("ACK", id=job_id)["ok"]

    def test_a_killed_shard_is_outlived(self, start_server: StartServer, queue: str) -> None:
        """Also the job that a connection holds: it is still its own."""
        server = start_server()
        with connected(LineClient, address_of(server)) as client:
            job_id = client.push(queue, 1)
            assert client.pull(queue, 1000) is not None
            server.restart_shard(job_id % 4)
            client.ask("ACK", id=job_id, result="kept")
            assert client.ask("GETRESULT", id=job_id)["result"] == "kept"

    def test_a_drain_answers_what_waits(self, start_server: StartServer, queue: str) -> None:
        """A worker that waits is told that there is nothing, before the server is gone."""
        server = start_server()
        with connected(LineClient, address_of(server)) as client:
            assert isinstance(client, LineClient)
            request = {"cmd": "PULL", "queue": queue, "timeout": 60_000}
            client.socket.sendall(json.dumps(request).encode() + b"\n")
            with connected(LineClient, address_of(server)) as other:
                assert isinstance(other, LineClient)
                eventually(lambda: _waiters(other) == 1, "the pull parked")
            server.process.send_signal(signal.SIGTERM)
            assert client.read_line() == {"ok": True, "job": None}
            assert client.stream.readline() == b""
        assert server.process.wait(20) == 0

    def test_connections_are_bounded(self, start_server: StartServer) -> None:
        """One too many is told so; when another goes there is room again."""
        server = start_server("--gateway-connections-max", "2")
        first, second = (LineClient(address_of(server)) for _ in range(2))
        first.ask("STATS")
        second.ask("STATS")
        third = LineClient(address_of(server))
        assert "too many connections" in third.read_line()["error"]
        third.close()
        first.close()

        def gets_in() -> bool:
            with connected(LineClient, address_of(server)) as fourth:
                return bool(fourth.exchange({"cmd": "STATS"}, TIMEOUT_S)["ok"])

        eventually(gets_in, "room for another")
        second.close()

    def test_running_out_of_descriptors_ends_nobody(
        self, start_server: StartServer, queue: str
    ) -> None:
        """1. more connections come than the process can have; 2. those that are in go on; 3. the
        others go, and new ones are let in."""
        server = start_server()
        with connected(LineClient, address_of(server)) as client:
            pid = server.pids()["flashq-gateway"]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
            crowd = [socket.create_connection(address_of(server)) for _ in range(100)]
            client.push(queue, 1)
            for one in crowd:
                one.close()

            def gets_in() -> bool:
                try:
                    with connected(LineClient, address_of(server)) as another:
                        return bool(another.exchange({"cmd": "STATS"}, TIMEOUT_S)["ok"])
                except ConnectionError:  # the crowd's descriptors are not all free yet
                    return False

            eventually(gets_in, "a new connection")
            assert server.pids()["flashq-gateway"] == pid

    def test_a_port_that_is_taken_is_named(self, doors: Server) -> None:
        """The process says so and ends."""
        host, port = address_of(doors)
        with another_gateway(doors, "--port", str(port)) as gateway:
            status, output = gateway.finish(20)
        assert status == 1
        assert f"cannot listen on tcp {host}:{port}" in output

    def test_another_number_of_shards_is_named(self, doors: Server) -> None:
        """Every request would go to the wrong one."""
        with another_gateway(doors, "--shards", "5") as gateway:
            status, output = gateway.finish(20)
        assert status == 1
        assert "shards is 5, but the server has 4" in output

    def test_a_unix_socket_that_is_in_use_is_named(self, doors: Server) -> None:
        """A second gateway must not take it away from the first."""
        with another_gateway(doors, "--unix-socket", path_of(doors)) as gateway:
            status, output = gateway.finish(20)
        assert status == 1
        assert "another process does" in output
        with connected(LineClient, path_of(doors)) as client:
            client.ask("STATS")

    def test_a_stale_unix_socket_is_replaced(self, doors: Server) -> None:
        """A gateway that was killed leaves one."""
        with tempfile.TemporaryDirectory(prefix="fqg", dir="/tmp") as directory:
            path = f"{directory}/stale.sock"
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(path)
            with another_gateway(doors, "--unix-socket", path) as gateway:
                gateway.address()
                with connected(LineClient, path) as client:
                    client.ask("STATS")
