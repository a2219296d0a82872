"""The older protocol byte by byte: what clients match on, and no scenario can see.

Owns request ids on every kind of reply, the order of replies and of the keys in them, the kinds of
their values, and connections whose token is wrong.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from tests.gateway.clients import (
    BinaryTypeScriptClient,
    LineClient,
    PythonClient,
    ServerSaid,
    TypeScriptClient,
)
from tests.gateway.site import address_of
from tests.server import Server

INVALID: Final = "Invalid: "
UNREADABLE: Final = "MessagePack deserialize error: "

WRONG: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no such word": ({"cmd": "NOPE"}, "unknown variant"),
    "lower case": ({"cmd": "push", "queue": "q", "data": 1}, "unknown variant"),
    "no word": ({"queue": "q"}, "missing field `cmd`"),
    "null for a word": ({"cmd": None}, "invalid type"),
    "number for a word": ({"cmd": 5}, "invalid type"),
    "no payload": ({"cmd": "PUSH", "queue": "q"}, "missing field `data`"),
    "no queue": ({"cmd": "PUSH", "data": 1}, "missing field `queue`"),
    "no queue to pull from": ({"cmd": "PULL"}, "missing field `queue`"),
    "no id": ({"cmd": "ACK"}, "missing field `id`"),
    "no count": ({"cmd": "PULLB", "queue": "q"}, "missing field `count`"),
    "no jobs": ({"cmd": "PUSHB", "queue": "q"}, "missing field `jobs`"),
    "no payload in a batch": ({"cmd": "PUSHB", "queue": "q", "jobs": [{}]}, "missing field `data`"),
    "no events": ({"cmd": "SUBSCRIBE", "queue": "q"}, "missing field `events`"),
    "no token": ({"cmd": "AUTH"}, "missing field `token`"),
    "number for a queue": ({"cmd": "PUSH", "queue": 5, "data": 1}, "invalid type"),
    "text for an id": ({"cmd": "ACK", "id": "5"}, "invalid type"),
    "fraction for an id": ({"cmd": "GETJOB", "id": 1.5}, "invalid type"),
    "negative id": ({"cmd": "GETJOB", "id": -1}, "invalid type"),
    "null for an id": ({"cmd": "GETJOB", "id": None}, "`id`"),
    "text for a time": ({"cmd": "PUSH", "queue": "q", "data": 1, "delay": "5"}, "invalid type"),
    "negative time": ({"cmd": "PUSH", "queue": "q", "data": 1, "delay": -1}, "invalid type"),
    "fraction for a time": ({"cmd": "PUSH", "queue": "q", "data": 1, "ttl": 1.5}, "invalid type"),
    "too high": ({"cmd": "PUSH", "queue": "q", "data": 1, "priority": 2**31}, "invalid type"),
    "number for a flag": ({"cmd": "PUSH", "queue": "q", "data": 1, "lifo": 1}, "invalid type"),
    "text for a list": ({"cmd": "PUSH", "queue": "q", "data": 1, "tags": "x"}, "invalid type"),
    "number for a tag": ({"cmd": "PUSH", "queue": "q", "data": 1, "tags": [1]}, "invalid type"),
    "text for ids": ({"cmd": "ACKB", "ids": ["x"]}, "invalid type"),
    "object for a batch": ({"cmd": "PUSHB", "queue": "q", "jobs": {}}, "invalid type"),
    "negative limit": ({"cmd": "RATELIMIT", "queue": "q", "limit": -5}, "invalid type"),
    "number for a custom id": ({"cmd": "GETJOBBYCUSTOMID", "job_id": 5}, "invalid type"),
}
"""Requests of which nothing comes but words, and what those have in them."""


@pytest.fixture(params=[TypeScriptClient, BinaryTypeScriptClient])
def numbered(request: pytest.FixtureRequest, doors: Server) -> Iterator[TypeScriptClient]:
    """Return a client that gives every request an id, in each encoding."""
    with closing(request.param(address_of(doors))) as client:
        yield client


@pytest.fixture
def line(doors: Server) -> Iterator[LineClient]:
    """Return a client without ids."""
    with closing(LineClient(address_of(doors))) as client:
        yield client


class TestRequestIds:
    def test_every_refusal_has_its_requests_id_and_its_words(
        self, numbered: TypeScriptClient
    ) -> None:
        """Whether it is the gateway that finds the mistake or a shard; what follows is served."""
        begins = UNREADABLE if isinstance(numbered, BinaryTypeScriptClient) else INVALID
        for what, (request, words) in WRONG.items():
            numbered.write({**request, "reqId": what})
            reply = numbered.read()
            assert list(reply) == ["reqId", "ok", "error"], what
            assert (reply["reqId"], reply["ok"]) == (what, False)
            assert reply["error"].startswith(begins), (what, reply)
            assert words in reply["error"], (what, reply)
            numbered.write(request)
            assert numbered.read() == {"ok": False, "error": reply["error"]}, what
        assert numbered.ask("STATS")["ok"]

    @pytest.mark.parametrize("request_id", ["", "r1", "ünï", 'q"\\', 0, -7, 2**53, 1.5])
    def test_an_id_comes_back_as_it_was(self, numbered: TypeScriptClient, request_id: Any) -> None:
        """Strings are the rule; what else a client counts with is given back, too."""
        for request in ({"cmd": "COUNT", "queue": "q"}, {"cmd": "COUNT"}, {"cmd": "NOPE"}):
            numbered.write({**request, "reqId": request_id})
            reply = numbered.read()
            assert next(iter(reply)) == "reqId"
            assert reply["reqId"] == request_id
            assert type(reply["reqId"]) is type(request_id)

    def test_null_is_no_id(self, numbered: TypeScriptClient) -> None:
        """As it is no option either."""
        numbered.write({"cmd": "COUNT", "queue": "nobody", "reqId": None})
        assert numbered.read() == {"ok": True, "count": 0}

    @pytest.mark.parametrize("request_id", [True, [], {"a": 1}])
    def test_nothing_else_is_an_id(self, numbered: TypeScriptClient, request_id: Any) -> None:
        """The reply says so, and nothing was done."""
        numbered.write({"cmd": "COUNT", "queue": "q", "reqId": request_id})
        reply = numbered.read()
        assert list(reply) == ["ok", "error"]
        assert "reqId" in reply["error"]

    def test_what_nobody_can_read_keeps_the_id_that_can_be_seen(self, doors: Server) -> None:
        """A line that breaks off, and one that is too long."""
        with closing(LineClient(address_of(doors))) as client:
            client.socket.sendall(b'{"cmd":"PUSH","reqId":"r7","data":{\n')
            assert client.read_line()["reqId"] == "r7"
            client.socket.sendall(b'{"reqId":"r8","cmd":"PUSH","queue":"q","data":"')
            client.socket.sendall(b"x" * (17 << 20) + b'"}\n')
            reply = client.read_line()
            assert reply == {"reqId": "r8", "ok": False, "error": "Message too large"}


class TestNames:
    def test_a_queue_has_a_name(self, numbered: TypeScriptClient) -> None:
        """Where it is not part of a path it can be empty."""
        for cmd, more in (("PUSH", {"data": 1}), ("PUSHB", {"jobs": [{"data": 1}]})):
            with pytest.raises(ServerSaid, match=r"^Queue name cannot be empty$"):
                numbered.ask(cmd, queue="", **more)

    def test_the_older_documents_word_for_updating(
        self, numbered: TypeScriptClient, queue: str
    ) -> None:
        """It stands in their table of commands, though no client says it."""
        job_id = numbered.push(queue, 1)
        numbered.ask("UPDATE", id=job_id, data={"new": 1})
        job = numbered.pull(queue)
        assert job is not None
        assert job["data"] == {"new": 1}


class TestOrder:
    def test_an_ack_is_answered_before_its_slot_is_handed_on(
        self, numbered: TypeScriptClient, queue: str
    ) -> None:
        """A client that counts what it holds, between the reply to a pull and that to an ack, never
        sees more than the limit."""
        numbered.ask("SETCONCURRENCY", queue=queue, limit=1)
        numbered.push_batch(queue, [{"data": n} for n in range(31)])
        job = numbered.pull(queue, 1000)
        for _ in range(30):
            assert job is not None
            pull = numbered.send("PULL", queue=queue, timeout=10_000)
            ack = numbered.send("ACK", id=job["id"])
            replies = [numbered.read() for _ in range(2)]
            assert [reply["reqId"] for reply in replies] == [ack, pull]
            job = replies[1]["job"]

    def test_also_when_another_connection_takes_the_slot(self, doors: Server, queue: str) -> None:
        """A worker has a connection for each job that it works on at a time: when one of them has
        got the next job, the ack of the last one can be read at the other."""
        with (
            closing(TypeScriptClient(address_of(doors))) as holder,
            closing(TypeScriptClient(address_of(doors))) as waiter,
        ):
            holder.ask("SETCONCURRENCY", queue=queue, limit=1)
            holder.push_batch(queue, [{"data": n} for n in range(101)])
            job = holder.pull(queue, 1000)
            for _ in range(100):
                assert job is not None
                pull = waiter.send("PULL", queue=queue, timeout=10_000)
                ack = holder.send("ACK", id=job["id"])
                readable, _, _ = select.select([holder.socket, waiter.socket], [], [], 5)
                assert holder.socket in readable
                assert holder.answer(ack)["ok"]
                job = waiter.answer(pull)["job"]
                holder, waiter = waiter, holder

    def test_waits_do_not_hold_back_what_came_before_or_after(
        self, numbered: TypeScriptClient, queue: str
    ) -> None:
        """1. a push, a pull and two waits are sent at once; 2. the push is answered though the pull
        behind it waits; 3. what comes later is answered before all of them."""
        others = f"{queue}-others"
        pushed = numbered.send("PUSH", queue=queue, data=1)
        pull = numbered.send("PULL", queue=others, timeout=60_000)
        job_id = numbered.answer(pushed)["id"]
        waits = [numbered.send("WAITJOB", id=job_id, timeout=60_000) for _ in range(2)]
        assert numbered.pull(queue, 1000) is not None
        assert numbered.ask("ACK", id=job_id, result="r")["ok"]
        assert [numbered.answer(wait)["result"] for wait in waits] == ["r", "r"]
        later = numbered.push(others, 2)
        assert numbered.answer(pull)["job"]["id"] == later


class TestKeys:
    def test_ids_are_found_by_a_search_of_the_text(self, line: LineClient, queue: str) -> None:
        """One client reads no JSON: the reply to a push ends with its id, and a job begins with
        it."""
        line.write({"cmd": "PUSH", "queue": queue, "data": {"id": 5}})
        text = line.stream.readline().decode()
        assert text.startswith('{"ok":true,"id":')
        job_id = text.removeprefix('{"ok":true,"id":').removesuffix("}\n")
        assert job_id.isdigit()
        line.write({"cmd": "PULL", "queue": queue, "timeout": 0})
        text = line.stream.readline().decode()
        assert text.startswith(f'{{"ok":true,"job":{{"id":{job_id},"queue":"')
        line.write({"cmd": "PULLB", "queue": queue, "count": 1, "timeout": 0})
        assert line.stream.readline() == b'{"ok":true,"jobs":[],"job":null}\n'
        line.write({"cmd": "PULL", "queue": queue, "timeout": 0})
        assert line.stream.readline() == b'{"ok":true,"job":null}\n'
        line.write({"cmd": "ACK", "id": int(job_id)})
        assert line.stream.readline() == b'{"ok":true}\n'
        line.write({"cmd": "ACK", "id": int(job_id)})
        said = f'{{"ok":false,"error":"Job {job_id} not found"}}\n'
        assert line.stream.readline().decode() == said

    def test_frames_have_texts_and_small_numbers_in_their_own_kinds(
        self, doors: Server, queue: str
    ) -> None:
        """The TypeScript client would take a `bin` for an array of bytes."""
        with closing(BinaryTypeScriptClient(address_of(doors))) as client:
            client.push(queue, {"text": "é", "list": ["x"]}, tags=["t"], unique_key="k")
            client.write({"cmd": "PULL", "queue": queue, "timeout": 0, "reqId": "r"})
            size = int.from_bytes(client.stream.read(4), "big")
            body = client.stream.read(size)
        found = msgpack.unpackb(body, raw=False)
        assert not list(_of_kind(found, bytes))
        assert type(found["job"]["lifo"]) is bool
        assert not list(_of_kind(found["job"], float))

    def test_events_say_no_more_than_there_is(self, line: LineClient, queue: str) -> None:
        """A result that is none and a failure without a text have no key."""
        with closing(LineClient(line.address)) as listener:
            listener.ask("SUBSCRIBE", queue=queue, events=["completed", "failed"])
            for cmd in ("ACK", "FAIL"):
                job_id = line.push(queue, 1, max_attempts=1)
                line.pull(queue, 1000)
                line.ask(cmd, id=job_id)
                event = listener.read_line()["event"]
                assert list(event) == ["event_type", "queue", "job_id", "timestamp"]


def _of_kind(value: Any, kind: type) -> Iterator[Any]:
    """Yield every value of a kind in a value."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _of_kind(key, kind)
            yield from _of_kind(item, kind)
    elif isinstance(value, list):
        for item in value:
            yield from _of_kind(item, kind)


class TestIds:
    @pytest.mark.parametrize("storage", ["memory:", "sqlite"])
    def test_none_is_given_twice_over_a_restart(self, tmp_path: Path, storage: str) -> None:
        """Neither those of jobs that are gone nor, without a storage, those of all jobs; and every
        language's numbers can hold them."""
        url = storage if storage == "memory:" else f"sqlite:///{tmp_path}/jobs.db"
        given: set[int] = set()
        for _ in range(2):
            flags = ("--shards", "2", "--storage", url, "--data-dir", str(tmp_path))
            with closing(Server(*flags)) as server:
                server.wait_ready()
                with closing(PythonClient(address_of(server))) as client:
                    ids = [client.push(f"q{n}", n) for n in range(8)]
                    client.ask("OBLITERATE", queue="q7")
                assert server.terminate() == 0
            assert not given & set(ids)
            assert all(1 <= job_id < 2**53 for job_id in ids)
            given |= set(ids)


class TestFraming:
    @pytest.mark.parametrize("first", [b"{", b"\n", b"\r"])
    def test_three_bytes_begin_lines(self, doors: Server, first: bytes) -> None:
        """An empty line is a request that is none; then lines go on."""
        rest = json.dumps({"cmd": "COUNT", "queue": "nobody"}).encode()
        text = rest + b"\n" if first == b"{" else first.ljust(2, b"\n") + b"  " + rest + b" \r\n"
        with socket.create_connection(address_of(doors), timeout=5) as raw:
            raw.sendall(text)
            raw.shutdown(socket.SHUT_WR)
            *errors, last = raw.makefile("rb").read().splitlines()
        assert last == b'{"ok":true,"count":0}'
        assert all(json.loads(one)["error"].startswith(INVALID) for one in errors)

    @pytest.mark.parametrize("first", [b" ", b"\t", b"[", b"\x81"])
    def test_every_other_byte_begins_frames(self, doors: Server, first: bytes) -> None:
        """What is no frame then is told so in a frame, and the connection is closed."""
        with socket.create_connection(address_of(doors), timeout=5) as raw:
            raw.sendall(first.ljust(4, b"\xff"))
            answer = raw.makefile("rb").read()
        assert int.from_bytes(answer[:4], "big") == len(answer) - 4
        assert msgpack.unpackb(answer[4:]) == {"ok": False, "error": "Message too large"}


class TestTokens:
    def test_a_wrong_token_takes_nothing_away(self, guarded: Server) -> None:
        """Neither the connection nor what an earlier token has opened."""
        with closing(PythonClient(address_of(guarded))) as client:
            with pytest.raises(ServerSaid, match=r"^Authentication required$"):
                client.ask("PUSH", queue="q", data=1)
            with pytest.raises(ServerSaid, match=r"^Invalid: missing field `data`"):
                client.ask("PUSHB", queue="q", jobs=[{}])
            client.ask("AUTH", token="right")
            with pytest.raises(ServerSaid, match=r"^Invalid token$"):
                client.ask("AUTH", token="wrong")
            assert client.push("q", 1)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """Return a server that asks for a token."""
    server = Server("--shards", "1", "--auth-tokens", "right")
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
