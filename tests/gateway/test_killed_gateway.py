"""SIGKILL of the gateway: no outcome changes, for clients that connect again and ask again.

Owns two proofs. Every scenario is played through every door of one gateway, which dies again and
again between two requests of everybody, or with a request of everybody before it that it has not
read: what comes of the scenario is the same. And a table says what a client sees that repeats a
request which was carried out, because the gateway died before the client had its reply.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from grpc import StatusCode

from tests.conftest import StartServer
from tests.gateway import clients
from tests.gateway.clients import Reply, ServerSaid
from tests.gateway.doors import Door, Listener, OpenDoor
from tests.gateway.grpc_client import GrpcClient, message
from tests.gateway.scenarios import SCENARIOS, a_listener_hears_of_a_jobs_life
from tests.gateway.steps import done, is_empty, pull, push, state
from tests.gateway.test_scenarios import DOORS
from tests.server import Server, eventually, free_ports

GATEWAY: Final = "flashq-gateway"
GATEWAY_DOORS: Final = (
    "tcp-typescript",
    "msgpack-typescript",
    "unix-python",
    "http",
    "grpc",
)
PATIENCE_S: Final = 40.0
"""How long a client waits for an answer here, where more than a hundred ask at the same moment."""
DEATHS: Final = 4
EVERY: Final = 4
"""Each scenario waits for a death at every fourth of its requests. At which it begins depends on
the door, so that there is a death before each of its first sixteen requests, through some door."""


def fixed_ports() -> tuple[str, ...]:
    """Return flags by which another gateway is where the one before it was."""
    tcp, http, grpc = map(str, free_ports(3))
    return ("--port", tcp, "--http-port", http, "--grpc-port", grpc)


class Deaths:
    """Kills the gateway when everybody who is under way has come to where they wait for it.

    Args:
        server: whose gateway; its supervisor starts another one.
        players: how many there are at first.
    """

    def __init__(self, server: Server, players: int) -> None:
        self._server: Final = server
        self._changed: Final = threading.Condition()
        self._players = players
        self._waiting = 0
        #: those who have been let go on since the gateway was stopped
        self._asking = 0
        #: how often all were let go on
        self._rounds = 0

    def wait(self) -> None:
        """Wait for the next death, if there is another one.

        The gateway is dead then, or it is about to be and reads nothing any more.
        """
        with self._changed:
            if self._rounds == DEATHS:
                return
            number = self._rounds
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._rounds > number)
            self._asking += 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Take part no longer."""
        with self._changed:
            self._players -= 1
            self._changed.notify_all()

    def run(self) -> None:
        """Let it die so often, every second time with a request of everybody before it."""
        try:
            self._run()
        finally:
            with self._changed:
                self._rounds = DEATHS
                self._changed.notify_all()

    def _run(self) -> None:
        for number in range(DEATHS):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting == self._players)
                assert self._players, "all were through before it died so often"
                is_before = number % 2 == 0
                if is_before:
                    self._server.kill(GATEWAY)
                else:
                    pid = self._server.signal(GATEWAY, signal.SIGSTOP)
                    eventually(lambda: _is_stopped(pid), "the gateway stopped")  # noqa: B023
                waiting, self._waiting, self._asking = self._waiting, 0, 0
                self._rounds += 1
                self._changed.notify_all()
                if not is_before:
                    self._changed.wait_for(lambda: self._asking == waiting)  # noqa: B023
                    self._server.kill(GATEWAY)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


class Interrupted:
    """A door that its user opens anew when it is gone, to ask again what had no answer.

    Args:
        server, open_door: whose door and which.
        deaths: waited for at some requests.
        phase: at which of them first.
    """

    def __init__(self, server: Server, open_door: OpenDoor, deaths: Deaths, phase: int) -> None:
        self._server: Final = server
        self._open: Final = open_door
        self._deaths: Final = deaths
        self._phase: Final = phase % EVERY
        self._asked = 0
        self._door: Door | None = None
        with self._opened() as door:
            self.job_keys: Final = door.job_keys
            self.shows_all_children: Final = door.shows_all_children
            self.is_older: Final = door.is_older

    @contextmanager
    def _opened(self) -> Iterator[Door]:
        """Give the door for one request; it is closed when it turns out to be gone."""
        if self._door is None:
            self._door = self._open(self._server)
        try:
            yield self._door
        except ConnectionError:
            self._door.close()
            self._door = None
            raise

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Ask until there is an answer."""
        if self._asked % EVERY == self._phase:
            self._deaths.wait()
        self._asked += 1

        def answers() -> list[Reply]:
            try:
                with self._opened() as door:
                    return [door.ask(cmd, **fields)]
            except (ConnectionError, FileNotFoundError):  # a Unix socket's path is gone for a while
                return []

        (reply,) = eventually(answers, f"an answer to {cmd}", within_s=PATIENCE_S)
        return reply

    def listen(self, queue: str) -> AbstractContextManager[Listener]:
        """What is told while nobody listens is not heard: no scenario with that is played."""
        raise AssertionError(queue)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._door is not None:
            self._door.close()


@pytest.mark.timeout(180)
def test_no_scenario_changes_when_the_gateway_dies_again_and_again(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scenarios through all doors at once, in one thread each; all of them wait for each death.

    What a client holds when its gateway dies stays its own until the gateway's sessions end, which
    here is longer than the test: so also an ACK that comes after the death finds its job.
    """
    monkeypatch.setattr(clients, "TIMEOUT_S", PATIENCE_S)
    server = start_server(
        *fixed_ports(),
        *("--unix-socket", str(tmp_path / "door.sock")),
        *("--session-timeout-ms", "120000", "--stall-timeout-ms", "120000"),
    )
    played = [one for one in SCENARIOS if one is not a_listener_hears_of_a_jobs_life]
    deaths = Deaths(server, len(played) * len(GATEWAY_DOORS))

    def play(number: int) -> None:
        place, which = divmod(number, len(GATEWAY_DOORS))
        name = GATEWAY_DOORS[which]
        try:
            with closing(Interrupted(server, DOORS[name], deaths, phase=which)) as door:
                played[place](door, f"{name}-{place}")
        except Exception as error:
            error.add_note(f"in {played[place].__name__} through {name}")
            raise
        finally:
            deaths.leave()

    count = len(played) * len(GATEWAY_DOORS)
    with ThreadPoolExecutor(count) as pool:
        playing = [pool.submit(play, number) for number in range(count)]
        deaths.run()
        errors = [error for one in playing if (error := one.exception()) is not None]
    if errors:
        raise ExceptionGroup("scenarios", errors)  # type: ignore[type-var]
    assert server.log().count(f"{GATEWAY} was killed by SIGKILL") == DEATHS


# --- requests that were carried out, and whose reply nobody read


class Repeat(NamedTuple):
    """A request that is sent again because its reply was lost.

    Args:
        cmd, fields: the request; "{job}" is the job's id, and "{queue}" the queue.
        before: what is done with the queue before it, to one job that is pushed then.
        again: what the repeat is answered with; None for just what the first was.
        after: how many jobs the queue has then, by state.
    """

    cmd: str
    fields: dict[str, Any]
    before: str = "pushed"
    again: str | Reply | None = None
    after: dict[str, int] = {}


WAITING: Final = {"waiting": 1}
ACTIVE: Final = {"active": 1}
JOB: Final = {"id": "{job}"}
QUEUE: Final = {"queue": "{queue}"}
PAYLOAD: Final = {**QUEUE, "data": 1}
REPEATS: Final[dict[str, Repeat]] = {
    # What says itself by which id it is known is done once, and answered alike.
    "push with a custom id": Repeat(
        "PUSH", {**PAYLOAD, "job_id": "{queue}-mine"}, "nothing", None, WAITING
    ),
    "batch with custom ids": Repeat(
        "PUSHB", {**QUEUE, "jobs": [{"data": 1, "job_id": "{queue}-mine"}]}, "nothing",
        after=WAITING,
    ),
    # What sets something to a value sets it to the same.
    "pause": Repeat("PAUSE", QUEUE, after=WAITING),
    "rate limit": Repeat("RATELIMIT", {**QUEUE, "limit": 0}, after=WAITING),
    "concurrency": Repeat("SETCONCURRENCY", {**QUEUE, "limit": 0}, after=WAITING),
    "priority": Repeat("CHANGEPRIORITY", {**JOB, "priority": 3}, after=WAITING),
    "payload": Repeat("UPDATEJOB", {**JOB, "data": 2}, after=WAITING),
    "progress": Repeat("PROGRESS", {**JOB, "progress": 5}, "pulled", after=ACTIVE),
    "heartbeat": Repeat("HEARTBEAT", JOB, "pulled", after=ACTIVE),
    "cron": Repeat(
        "CRON", {**PAYLOAD, "name": "{queue}", "schedule": "0 0 29 2 *"}, after=WAITING
    ),
    # What can be done once is done once, and the repeat is told that it is too late.
    "push with a unique key": Repeat(
        "PUSH", {**PAYLOAD, "unique_key": "k"}, "nothing", "Duplicate job with key: k", WAITING
    ),
    "ack": Repeat("ACK", JOB, "pulled", "Job {job} not found", {"completed": 1}),
    "batch of acks": Repeat(
        "ACKB", {"ids": ["{job}"]}, "pulled", {"ids": [0], "lost": ["{job}"]}, {"completed": 1}
    ),
    "failure": Repeat("FAIL", JOB, "pulled", "Job {job} not found", WAITING),
    "cancel": Repeat("CANCEL", JOB, "pushed", "Job {job} not found"),
    "delay": Repeat(
        "MOVETODELAYED", {**JOB, "delay": 600_000}, "pulled", "Job {job} not in processing",
        {"delayed": 1},
    ),
    "promotion": Repeat("PROMOTE", JOB, "delayed", "Job {job} is not delayed", WAITING),
    "discard": Repeat(
        "DISCARD", JOB, "pushed", "Job {job} not found or already in DLQ/completed", {"failed": 1}
    ),
    "drain": Repeat("DRAIN", QUEUE, "pushed", {"count": 0}),
    "clean": Repeat("CLEAN", {**QUEUE, "grace": 0, "state": "waiting"}, "pushed", {"count": 0}),
    "obliterate": Repeat("OBLITERATE", QUEUE, "pulled", {"count": 0}),
    "dead letter put back": Repeat("RETRYDLQ", QUEUE, "discarded", {"ids": [0]}, WAITING),
    "dead letters removed": Repeat("PURGEDLQ", QUEUE, "discarded", {"count": 0}),
}  # fmt: skip
TWICE: Final[dict[str, Repeat]] = {
    # At least once: nothing tells the repeat from another request like it.
    "push": Repeat("PUSH", PAYLOAD, "nothing", None, {"waiting": 2}),
    "batch": Repeat("PUSHB", {**QUEUE, "jobs": [{"data": 1}]}, "nothing", None, {"waiting": 2}),
    "flow": Repeat(
        "FLOW", {**PAYLOAD, "children": [PAYLOAD]}, "nothing", None,
        {"waiting": 2, "waitingparent": 2},
    ),
    "log": Repeat("LOG", {**JOB, "message": "said twice"}, after=WAITING),
}  # fmt: skip
BEFORE: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "nothing": (),
    "pushed": (("PUSH", PAYLOAD),),
    "delayed": (("PUSH", {**PAYLOAD, "delay": 600_000}),),
    "pulled": (("PUSH", PAYLOAD), ("PULL", {**QUEUE, "timeout": 0})),
    "discarded": (("PUSH", PAYLOAD), ("DISCARD", JOB)),
}


def _with_names(value: Any, queue: str, job_id: int | None) -> Any:
    """Return fields or a reply with the queue's and the job's names in them."""
    if isinstance(value, dict):
        return {key: _with_names(item, queue, job_id) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_names(item, queue, job_id) for item in value]
    if value == "{job}":
        return job_id
    return value.format(queue=queue, job=job_id) if isinstance(value, str) else value


def _said(door: Door, cmd: str, fields: dict[str, Any]) -> str | Reply:
    """Return a reply, or the text of an error."""
    try:
        return door.ask(cmd, **fields)
    except ServerSaid as error:
        return str(error)


def _another(server: Server, name: str) -> Door:
    """Return a door of the gateway that has taken the place of a dead one."""

    def opened() -> Door | None:
        door = None
        try:
            door = DOORS[name](server)
            door.ask("STATS")
        except ConnectionError:
            if door is not None:
                door.close()
            return None
        return door

    return eventually(opened, "another gateway")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def handing_out() -> Iterator[Server]:
    """Return a server that soon takes back what it has handed out to nobody."""
    quick = ("--session-timeout-ms", "3000", "--heartbeat-interval-ms", "300")
    server = Server("--shards", "2", *fixed_ports(), *quick, "--stall-timeout-ms", "3000")
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


def pulled_again(door: Door, queue: str) -> dict[str, Any]:
    """Take a job as soon as it comes back."""

    def pulled() -> Any:
        return door.ask("PULL", queue=queue)["job"]

    job = eventually(pulled, "the job again", within_s=PATIENCE_S)
    assert isinstance(job, dict)
    return job


def test_what_a_repeat_finds_whose_first_reply_was_lost(start_server: StartServer) -> None:
    """1. each request is carried out; 2. the gateway dies before anybody has seen the reply; 3. all
    are sent again through the next one."""
    server = start_server(*fixed_ports(), "--session-timeout-ms", "60000")
    repeats = REPEATS | TWICE
    jobs: dict[str, int | None] = {}
    first: dict[str, str | Reply] = {}
    with closing(DOORS["tcp-python"](server)) as door:
        for name, repeat in repeats.items():
            queue = name.replace(" ", "-")
            jobs[name] = None
            for cmd, fields in BEFORE[repeat.before]:
                reply = door.ask(cmd, **_with_names(fields, queue, jobs[name]))
                jobs[name] = reply.get("id", jobs[name])
            first[name] = _said(door, repeat.cmd, _with_names(repeat.fields, queue, jobs[name]))
            assert isinstance(first[name], dict), (name, first[name])
        server.kill(GATEWAY)
    with closing(_another(server, "tcp-python")) as door:
        for name, repeat in repeats.items():
            queue = name.replace(" ", "-")
            again = _said(door, repeat.cmd, _with_names(repeat.fields, queue, jobs[name]))
            if name in TWICE and first[name]:
                assert again != first[name], name
            elif repeat.again is None:
                assert again == first[name], name
            else:
                assert again == _with_names(repeat.again, queue, jobs[name]), name
            counts = door.ask("GETJOBCOUNTS", queue=queue)
            left = {state: count for state, count in counts.items() if type(count) is int and count}
            assert left == repeat.after, name
        logs = door.ask("GETLOGS", id=jobs["log"])["logs"]
        assert [log["message"] for log in logs] == ["said twice"] * 2


@pytest.mark.parametrize(("name", "attempts"), [("tcp-go", 0), ("http", 1), ("grpc", 1)])
def test_what_a_dead_gateway_had_handed_out_comes_again(
    handing_out: Server, name: str, attempts: int
) -> None:
    """1. one job is done, another one is pulled, and nobody sees it; 2. the gateway dies; 3. the
    other one comes again: when the gateway's sessions end, without an attempt, if it belonged to a
    connection; after its stall time-out, as an attempt, if it belonged to nobody. What is done
    stays done."""
    with closing(DOORS[name](handing_out)) as door:
        ids = [push(door, name), push(door, name)]
        assert pull(door, name)["id"] == ids[0]
        done(door, "ACK", id=ids[0])
        assert pull(door, name)["id"] == ids[1]
        handing_out.kill(GATEWAY)
    with closing(_another(handing_out, name)) as door:
        job = pulled_again(door, name)
        assert (job["id"], job["attempts"]) == (ids[1], attempts)
        done(door, "ACK", id=job["id"])
        assert [state(door, job_id) for job_id in ids] == ["completed"] * 2
        assert is_empty(door, name)


async def test_a_stream_that_a_dead_gateway_had_filled_comes_again(handing_out: Server) -> None:
    """1. a stream has brought two jobs, and three more are on their way; 2. the gateway dies;
    3. they are all handed out again, without an attempt."""
    address = next(line for line in handing_out.lines if line.startswith("grpc://"))
    async with GrpcClient(address.removeprefix("grpc://")) as client:
        jobs = [message("JobInput")(data=b"1") for _ in range(5)]
        pushed = await client.call("PushBatch", queue="streamed", jobs=jobs)
        stream = client.start("StreamJobs", None, queue="streamed", batch_size=5, prefetch=5)
        assert [(await stream.read()).id for _ in range(2)] == list(pushed.ids)[:2]
        await asyncio.to_thread(handing_out.kill, GATEWAY)
        assert await stream.code() is StatusCode.UNAVAILABLE
    with closing(await asyncio.to_thread(_another, handing_out, "tcp-go")) as door:
        found = [await asyncio.to_thread(pulled_again, door, "streamed") for _ in pushed.ids]
    assert sorted(job["id"] for job in found) == sorted(pushed.ids)
    assert {job["attempts"] for job in found} == {0}
