"""Every scenario through every door; and what of it takes long, through all of them at once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import pytest

from flashq.gateway.http_commands import WAIT_MS
from flashq.gateway.session import SHORT_PULL_MS
from tests.contract.test_coverage import OLDER_WORDS
from tests.gateway import clients, scenarios, steps
from tests.gateway.doors import Door, OpenDoor, ZmqDoor, over_tcp, over_unix
from tests.gateway.grpc_door import SAYS, GrpcDoor
from tests.gateway.http_door import ROUTES, HttpDoor
from tests.gateway.scenarios import SCENARIOS, Scenario
from tests.gateway.steps import done, pull, push
from tests.server import PATIENCE_S, Server

ABOUT_CONNECTIONS: Final = {"AUTH", "SUBSCRIBE", "UNSUBSCRIBE"}
"""Words that are not about jobs: each door has its own way, and its own tests of it."""


def _grpc(server: Server) -> Door:
    return GrpcDoor(server, over_tcp("go")(server))


DOORS: Final[dict[str, OpenDoor]] = {
    "zeromq": ZmqDoor,
    "tcp-go": over_tcp("go"),
    "tcp-php": over_tcp("php"),
    "tcp-python": over_tcp("python"),
    "tcp-typescript": over_tcp("typescript"),
    "msgpack-typescript": over_tcp("typescript-binary"),
    "unix-python": over_unix("python"),
    "http": HttpDoor,
    "grpc": _grpc,
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: Server) -> Iterator[Door]:
    """Return a connection through each door."""
    opened = DOORS[request.param](doors)
    yield opened
    opened.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_scenario(door: Door, queue: str, scenario: Scenario) -> None:
    """What it says of itself. Its queues are gone afterwards, so that lists stay short."""
    scenario(door, queue)
    for name in (queue, f"{queue}-p"):
        door.ask("OBLITERATE", queue=name)


ENCODINGS: Final = ("zeromq", "tcp-go", "msgpack-typescript", "http", "grpc")
"""One door for each way in which a payload is written."""


@pytest.mark.parametrize("source", ENCODINGS)
def test_a_job_passes_from_every_door_to_every_other(
    doors: Server, queue: str, source: str
) -> None:
    """Payload, result and the text of a failure are the same on the other side."""
    data = {"text": "grüße 队列 \n", "n": [0, -1, 2**53, 1.5, None, True], "deep": {"a": [{}]}}
    with closing(DOORS[source](doors)) as producer:
        for name in ENCODINGS:
            with closing(DOORS[name](doors)) as worker:
                job_id = push(producer, queue, data, max_attempts=2, unique_key="ключ")
                job = pull(worker, queue)
                assert (job["id"], job["data"], job["unique_key"]) == (job_id, data, "ключ"), name
                done(worker, "FAIL", id=job_id, error="schief gegangen: ß")
                assert pull(producer, queue)["progress_msg"] == "schief gegangen: ß"
                done(worker, "ACK", id=job_id, result=data)
                assert producer.ask("GETRESULT", id=job_id)["result"] == data


IMPATIENT: Final = (
    ("tcp-go", "PULL"),
    ("tcp-php", "PULL"),
    ("tcp-python", "PULL"),
    ("tcp-python", "PULLB"),
    ("tcp-typescript", "PULLB"),
    ("msgpack-typescript", "PULLB"),
    ("unix-python", "PULL"),
    ("unix-python", "PULLB"),
    ("http", "PULL"),
    ("http", "PULLB"),
)
"""Clients that pull without saying for how long, and give up after 5 s."""


def test_a_pull_without_a_time_is_answered_before_its_client_gives_up(
    doors: Server, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them wait at once, so that it takes the time of one. What the server waits leaves them
    a fifth of their time; here they have more, since a slow machine may take longer than that."""
    assert max(SHORT_PULL_MS, WAIT_MS) <= 800 * clients.TIMEOUT_S
    monkeypatch.setattr(clients, "TIMEOUT_S", PATIENCE_S)

    def pull(name: str, cmd: str) -> None:
        door = DOORS[name](doors)
        if cmd == "PULL" and name.startswith("http"):
            assert door.ask("PULL", queue=queue) == {"job": None}
        elif cmd == "PULL":
            with pytest.raises(clients.ServerSaid, match="Timeout waiting"):
                door.ask("PULL", queue=queue)
        else:
            assert door.ask("PULLB", queue=queue, count=2) == {"jobs": [], "job": None}
        door.close()

    with ThreadPoolExecutor(len(IMPATIENT)) as pool:
        list(pool.map(lambda one: pull(*one), IMPATIENT))


def test_every_older_word_is_in_a_scenario() -> None:
    """So what is said of all doors is said of every command."""
    source = inspect.getsource(scenarios) + inspect.getsource(steps)
    words = set(re.findall(r'"([A-Z]+)"', source))
    assert words == set(OLDER_WORDS) - ABOUT_CONNECTIONS
    assert set(ROUTES) == words
    assert set(SAYS) < words
