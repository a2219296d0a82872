"""Tokens before whole servers: each role at each door, other tokens on SIGHUP, limits, restarts."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from flashq.client.results import Event
from flashq.client.sync_client import Client
from flashq.errors import AuthenticationRequired, FlashQError, NotAllowed, TokenInvalid
from flashq.tokens import ATTEMPTS_MAX, entry_text
from tests.contract.dealer import Dealer
from tests.gateway.clients import LineClient, ServerSaid
from tests.gateway.grpc_client import GrpcClient
from tests.gateway.http_client import TIMEOUT_S, HttpClient, base_of
from tests.gateway.site import address_of, path_of
from tests.server import Server, eventually

GRPC_SCHEME: Final = "grpc://"
MINE: Final = "mail-in"
OTHER: Final = "secret"
ROLES: Final = ("admin", "producer", "worker", "read")
ALLOWED: Final[dict[str, set[str]]] = {
    "push": {"admin", "producer"},
    "pull": {"admin", "worker"},
    "counts": set(ROLES),
    "pause": {"admin"},
    "ack": {"admin", "worker"},
    "cron": {"admin"},
}
"""Which roles may do what."""


def write_tokens(path: Path) -> None:
    """Write a tokens file: each role for all queues, and for some of them."""
    text = "".join(entry_text(f"{role}-all", role) for role in ROLES)
    text += "".join(entry_text(f"{role}-mail", role, ["mail-*"]) for role in ROLES)
    path.touch(0o600)
    path.write_text(text)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that nobody disturbs, with a tokens file and a plain token."""
    directory = tmp_path_factory.mktemp("tokens")
    write_tokens(directory / "tokens.toml")
    run_dir = Path(tempfile.mkdtemp(prefix="fq", dir="/tmp"))
    server = Server(
        *("--shards", "2", "--tokens-file", str(directory / "tokens.toml")),
        *("--auth-tokens", "plain", "--unix-socket", f"{run_dir}/doors.sock"),
        run_dir=run_dir,
    )
    try:
        server.wait_ready()
        yield server
        assert "-all" not in server.log()
    finally:
        server.close()
        shutil.rmtree(run_dir)


# --- the doors

COMMANDS: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "push": lambda queue: {"cmd": "PUSH", "queue": queue, "data": 1},
    "pull": lambda queue: {"cmd": "PULL", "queue": queue, "timeout": 0},
    "counts": lambda queue: {"cmd": "COUNT", "queue": queue},
    "pause": lambda queue: {"cmd": "PAUSE", "queue": queue},
    "ack": lambda _queue: {"cmd": "ACK", "id": 4},
    "cron": lambda _queue: {"cmd": "CRONDELETE", "name": "none"},
}


def by_zmq(url: str, token: str, what: str, queue: str) -> str:
    """Ask the router."""
    with closing(Dealer(url)) as dealer:
        assert dealer.ask("AUTH", token=token) == {"ok": True}
        reply = dealer.ask(**COMMANDS[what](queue))
    return "ok" if reply["ok"] else str(reply["error"])


def by_lines(address: tuple[str, int] | str, token: str, what: str, queue: str) -> str:
    """Ask the door of the older protocol."""
    client = LineClient(address)
    try:
        client.ask("AUTH", token=token)
        client.ask(**COMMANDS[what](queue))
    except ServerSaid as error:
        return str(error)
    finally:
        client.close()
    return "ok"


def by_http(server: Server, token: str, what: str, queue: str) -> str:
    """Ask the door for HTTP."""
    method, path, body = {
        "push": ("POST", f"/queues/{queue}/jobs", {"data": 1}),
        "pull": ("GET", f"/queues/{queue}/jobs?timeout=0", None),
        "counts": ("GET", f"/queues/{queue}/count", None),
        "pause": ("POST", f"/queues/{queue}/pause", None),
        "ack": ("POST", "/jobs/4/ack", {}),
        "cron": ("DELETE", "/crons/none", None),
    }[what]
    with HttpClient(server, token=token) as http:
        response = http.http.request(method, path, json=body)
    return "ok" if response.status_code == 200 else str(response.json()["error"])


def is_let_in(answer: str) -> bool:
    """Tell whether a request got as far as its shard, whatever that said."""
    return answer == "ok" or "not found" in answer


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", ["zmq", "ipc", "tcp", "unix", "http"])
def test_a_role_counts_at_every_door(guarded: Server, door: str, role: str) -> None:
    """Each is told the same: what its role allows, and that the rest takes another."""
    ask: dict[str, Callable[[str], str]] = {
        "zmq": lambda what: by_zmq(guarded.url, f"{role}-all", what, MINE),
        "ipc": lambda what: by_zmq(guarded.ipc_url, f"{role}-all", what, MINE),
        "tcp": lambda what: by_lines(address_of(guarded), f"{role}-all", what, MINE),
        "unix": lambda what: by_lines(path_of(guarded), f"{role}-all", what, MINE),
        "http": lambda what: by_http(guarded, f"{role}-all", what, MINE),
    }
    for what, roles in ALLOWED.items():
        answer = ask[door](what)
        if role in roles:
            assert is_let_in(answer), (what, answer)
        else:
            assert answer.startswith("Not allowed: it takes a token for "), (what, answer)
    if role == "admin":
        with Client(guarded.ipc_url, token="plain") as client:
            client.resume(MINE)


@pytest.mark.parametrize("door", ["zmq", "tcp", "unix", "http"])
def test_a_tokens_queues_count_at_every_door(guarded: Server, door: str) -> None:
    """By name, and by the ids of jobs: those of other queues do not exist for it."""
    ask: dict[str, Callable[[str, str, str], str]] = {
        "zmq": lambda token, what, queue: by_zmq(guarded.url, token, what, queue),
        "tcp": lambda token, what, queue: by_lines(address_of(guarded), token, what, queue),
        "unix": lambda token, what, queue: by_lines(path_of(guarded), token, what, queue),
        "http": lambda token, what, queue: by_http(guarded, token, what, queue),
    }
    assert ask[door]("producer-mail", "push", "mail-x") == "ok"
    assert ask[door]("worker-mail", "pull", "mail-x") == "ok"
    for token, what in (
        ("producer-mail", "push"),
        ("worker-mail", "pull"),
        ("read-mail", "counts"),
    ):
        assert ask[door](token, what, OTHER) == "Not allowed: the token is not for this queue"
    refused = "Not allowed: the token is for some queues only, and this is about all"
    assert ask[door]("admin-mail", "cron", OTHER) == refused


def test_jobs_of_other_queues_do_not_exist(guarded: Server) -> None:
    """Over HTTP and the client; their ids are easily guessed."""
    with Client(guarded.ipc_url, token="plain") as client:
        job_id = client.push(OTHER, {"n": 1})
        mine = client.push("mail-9", 1)
    with Client(guarded.ipc_url, token="admin-mail") as client:
        assert client.get_state(mine) == "waiting"
        with pytest.raises(FlashQError, match="not found"):
            client.cancel(job_id)
    with HttpClient(guarded, token="read-mail") as http:
        assert http.get(f"/jobs/{job_id}") == {"state": "unknown", "result": None}
        assert http.state(mine) == "waiting"
        assert http.refused("GET", "/events").status == 403
        assert http.refused("GET", "/stats").status == 403
    with Client(guarded.ipc_url, token="plain") as client:
        assert client.get_state(job_id) == "waiting"


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_counts_over_grpc(guarded: Server, role: str) -> None:
    """In calls and in streams."""
    address = next(
        line.removeprefix(GRPC_SCHEME) for line in guarded.lines if line.startswith(GRPC_SCHEME)
    )
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "push": ("Push", {"queue": "mail-g", "data": b"1"}),
        "ack": ("Ack", {"id": 4}),
        "counts": ("Stats", {}),
    }
    async with GrpcClient(address, [("token", f"{role}-all")]) as client:
        for what, (name, fields) in calls.items():
            code = await client.start(name, **fields).code()
            is_refused = code is grpc.StatusCode.PERMISSION_DENIED
            assert is_refused is (role not in ALLOWED[what]), (what, code)
        stream = client.start("StreamJobs", queue="mail-nothing")
        if role in ALLOWED["pull"]:
            await stream.initial_metadata()
            stream.cancel()
        else:
            assert await stream.code() is grpc.StatusCode.PERMISSION_DENIED
    async with GrpcClient(address, [("token", f"{role}-mail")]) as client:
        for error in (
            await client.refused("Push", queue=OTHER, data=b"1"),
            await client.refused("Stats"),
        ):
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED


# --- other tokens


def test_sighup_reads_the_tokens_again(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    """Who is taken out is out at once, on connections that stand; the server goes on."""
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    path.write_text(entry_text("old", "admin"))
    server = start_server("--shards", "1", "--tokens-file", str(path))
    before = server.pids()
    with Client(server.ipc_url, token="old") as client, HttpClient(server, token="old") as http:
        client.push("q", 1)
        line = LineClient(address_of(server))
        line.ask("AUTH", token="old")
        path.write_text(entry_text("new", "admin"))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.log().count("tokens read again") == 2, "both programs' word")
        with pytest.raises(TokenInvalid):
            client.push("q", 2)
        with pytest.raises(ServerSaid, match="Authentication required"):
            line.ask("STATS")
        line.close()
        assert http.refused("GET", "/stats").code == "token_invalid"
        client.auth("new")
        assert client.count("q") == 1
    path.write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.log().count("stay as they were") == 2, "both programs' complaint")
    with Client(server.ipc_url, token="new") as client:
        assert client.count("q") == 1
    assert server.pids() == before
    assert server.terminate() == 0


def test_streams_end_when_their_token_is_taken_away(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    """At once, though nothing happens that they would tell; those of others go on."""
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    kept = entry_text("kept", "read")
    path.write_text(entry_text("old", "admin") + kept)
    server = start_server("--shards", "1", "--tokens-file", str(path))
    address = base_of(server)
    sockets = address.replace("http://", "ws://")
    with (
        httpx.stream("GET", f"{address}/events?token=old", timeout=TIMEOUT_S) as stream,
        connect(f"{sockets}/ws?token=old") as socket,
        connect(f"{sockets}/ws/dashboard?token=old") as dashboard,
        connect(f"{sockets}/ws?token=kept") as other,
    ):
        path.write_text(entry_text("new", "admin") + kept)
        server.process.send_signal(signal.SIGHUP)
        assert not any(line.startswith("data:") for line in stream.iter_lines())
        for one in (socket, dashboard):
            with pytest.raises(ConnectionClosedError, match="1008"):
                list(one)
        with Client(server.ipc_url, token="new") as client:
            job_id = client.push("q", 1)
        assert json.loads(other.recv(timeout=TIMEOUT_S))["job_id"] == job_id


# --- wrong tokens


OTHERS: Final = [f"other-{number}" for number in range(20)]
"""Right tokens that nobody has shown yet; one that was let in is let in again."""
TOO_MANY: Final = "too_many_attempts"


def use_up_attempts(show: Callable[[str], str]) -> None:
    """Show as many wrong tokens as one address may; `show` returns the code of a refusal."""
    for _ in range(ATTEMPTS_MAX):
        assert show("wrong") == "token_invalid"


def see_that_even_a_right_one_is_refused(show: Callable[[str], str]) -> None:
    """See that an address has shown too many wrong tokens. With time it may show another one, so on
    a slow machine it takes more of them, and of right ones, until they meet the limit."""
    for other in OTHERS:
        while (code := show("wrong")) == "token_invalid":
            pass
        assert code == TOO_MANY
        if show(other) == TOO_MANY:
            return
    raise AssertionError("every right token was let in")


def test_wrong_tokens_are_limited_at_each_door(start_server: Callable[..., Server]) -> None:
    """By address, whatever connection they come on; whoever was let in before stays so."""
    server = start_server("--shards", "1", "--auth-tokens", ",".join(["right", *OTHERS]))

    def http_code(token: str) -> str:
        response = http.http.get("/stats", headers={"authorization": f"Bearer {token}"})
        code = str(response.json().get("code", ""))
        assert (response.status_code == 429) == (code == TOO_MANY)
        return code

    def lines_code(token: str) -> str:
        line = LineClient(address_of(server))
        try:
            line.ask("AUTH", token=token)
        except ServerSaid as error:
            is_limited = str(error).startswith("Too many attempts with a wrong token")
            return TOO_MANY if is_limited else "token_invalid"
        finally:
            line.close()
        return ""

    def zmq_code(token: str) -> str:
        with closing(Dealer(server.url)) as dealer:
            return str(dealer.ask("AUTH", token=token).get("code", ""))

    with HttpClient(server, token="right") as http, Client(server.url, token="right") as client:
        client.push("q", 1)
        http.get("/stats")
        use_up_attempts(http_code)
        see_that_even_a_right_one_is_refused(http_code)
        http.get("/stats")
        see_that_even_a_right_one_is_refused(lines_code)
        use_up_attempts(zmq_code)
        see_that_even_a_right_one_is_refused(zmq_code)
        with closing(Dealer(server.ipc_url)) as dealer:
            assert dealer.ask("AUTH", token=OTHERS[-1]) == {"ok": True}
        client.push("q", 1)
    assert "wrong" not in server.log()


# --- the client


def test_the_client_goes_on_with_its_token_when_the_router_is_another(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Story: a router that was started anew knows nobody's token. Client, gateway and subscription
    show theirs again, and no caller is told."""
    server = start_server("--shards", "2", "--auth-tokens", "right")
    monkeypatch.setenv("FLASHQ_URL", server.ipc_url)
    monkeypatch.setenv("FLASHQ_TOKEN", "right")
    with Client() as client, HttpClient(server, token="right") as http:
        events = client.subscribe("*", "pushed")
        first = client.push("q", 1)
        assert http.state(first) == "waiting"
        for _ in range(2):
            server.kill("flashq-router")
            job = client.pull("q")
            assert job is not None
            client.ack(job)
            client.push("q", 2)
            assert http.get("/stats")["processing"] == 0
        eventually(lambda: isinstance(events.get(1000), Event), "an event")
    with pytest.raises(TokenInvalid), Client(token="wrong"):
        pass
    monkeypatch.delenv("FLASHQ_TOKEN")
    with pytest.raises(AuthenticationRequired), Client():
        pass


def test_a_client_with_a_token_works_against_an_open_server(shared_server: Server) -> None:
    """Whoever has one configured need not know whether it is asked for."""
    with Client(shared_server.ipc_url, token="whatever") as client:
        client.push("mail-open", 1)


def test_what_a_role_does_not_allow_is_an_exception_of_its_own(guarded: Server) -> None:
    """And the client goes on."""
    with Client(guarded.ipc_url, token="read-all") as client:
        with pytest.raises(NotAllowed):
            client.push("mail-in", 1)
        assert client.list_queues() is not None


def test_a_subscription_misses_nothing_that_is_pushed_after_it(
    start_server: Callable[..., Server],
) -> None:
    """Story: SUBSCRIBE was answered before the shards knew of it, and the first events were lost.
    Each round is the first listener again."""
    server = start_server("--shards", "4", "--auth-tokens", "right")
    with Client(server.ipc_url, token="right") as client:
        for number in range(20):
            events = client.subscribe("*", "pushed")
            job_id = client.push(f"q-{number}", 1)
            item = events.get(10_000)
            assert isinstance(item, Event), item
            assert item.ids == [job_id]
            events.close()
