"""Webhooks of a whole server: told once, in order, also when its programs are killed meanwhile."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flashq.client.sync_client import Client
from flashq.errors import WebhookInvalid
from tests.conftest import StartServer
from tests.server import Server, eventually

GATEWAY = "flashq-gateway"
FAST = (
    *("--shards", "4", "--webhook-private-targets", "true", "--webhook-lease-ms", "5000"),
    *("--webhook-timeout-ms", "30000", "--webhook-backoff-ms", "10", "--webhook-attempts-max", "3"),
)
"""Quick where nobody has to be: a gateway that stalls keeps its lease, and who is slow to answer
while a program is started again is not told twice for it."""
SECRET = "tell nobody"


class Told(NamedTuple):
    """One request that a receiver got."""

    name: str
    """Of the delivery."""
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """What it says."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Receiver:
    """Somebody's HTTP server on loopback, which notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        #: the next answers; 204 when there are none
        self.statuses: list[int] = []
        #: cleared, requests are noted and not answered
        self.answers = threading.Event()
        self.answers.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Note a request and answer it."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = dict(self.headers.items())
                receiver.told.append(Told(headers["X-FlashQ-Delivery"], headers, body))
                receiver.answers.wait(30)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                """Bear that whoever asked was killed meanwhile."""
                try:
                    super().handle()
                except ConnectionError:
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook?x=1"

    def wait(self, count: int) -> list[Told]:
        """Wait for so many requests."""
        eventually(lambda: len(self.told) >= count, f"{count} requests of {len(self.told)}")
        return self.told

    def close(self) -> None:
        """End."""
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def client(start_server: StartServer) -> Iterator[Client]:
    """A client of a server that may tell loopback."""
    with Client(start_server(*FAST).url) as client:
        yield client


def numbers(told: list[Told]) -> list[Any]:
    """The payloads of what was told."""
    return [one.event["data"] for one in told]


def until_told(client: Client, receiver: Receiver, count: int) -> None:
    """Wait until so much has been told, and nothing is left to be told."""
    receiver.wait(count)
    eventually(
        lambda: not any(one.pending for one in client.list_webhooks()), "every webhook to be told"
    )


def test_a_webhook_is_told_once_and_in_order_of_what_happens(
    client: Client, receiver: Receiver
) -> None:
    """Right from the answer to its making on: pushes, results and errors, signed; of its queue and
    events only."""
    client.add_webhook(
        receiver.url, ["pushed", "job.completed", "failed"], queue="mail", secret=SECRET
    )
    client.push("other", 0)
    good = client.push("mail", {"to": "é"})
    job = client.pull("mail")
    assert job is not None
    client.ack(job, {"sent": True})
    bad = client.push("mail", 2, max_attempts=1)
    job = client.pull("mail")
    assert job is not None
    client.fail(job, "no route")
    until_told(client, receiver, 4)
    assert [(one.event["event"], one.event["job_id"]) for one in receiver.told] == [
        ("pushed", good), ("completed", good), ("pushed", bad), ("failed", bad),
    ]  # fmt: skip
    first, completed, _, failed = receiver.told
    assert first.body.startswith('{"data":{"to":"é"},"error":null,"event":"pushed",'.encode())
    assert completed.event["data"] == {"sent": True}
    assert (failed.event["data"], failed.event["error"]) == (None, "no route")
    for told in receiver.told:
        signed = hmac.new(SECRET.encode(), told.body, hashlib.sha256).hexdigest()
        assert told.headers["X-FlashQ-Signature"] == signed
        both = told.headers["X-FlashQ-Timestamp"].encode() + b"." + told.body
        signed = hmac.new(SECRET.encode(), both, hashlib.sha256).hexdigest()
        assert told.headers["X-FlashQ-Signature-V2"] == signed


def test_what_fails_is_tried_again_then_dead_and_told_at_request(
    client: Client, receiver: Receiver
) -> None:
    """Two failures are nothing; three are the death of a delivery, and others come behind it."""
    webhook = client.add_webhook(receiver.url, ["pushed"], queue="mail")
    receiver.statuses = [500, 302, 200, 500, 500, 500]
    for n in range(3):
        client.push("mail", n)
    until_told(client, receiver, 7)
    assert numbers(receiver.told) == [0, 0, 0, 1, 1, 1, 2]
    assert len({one.name for one in receiver.told}) == 3
    (dead,) = client.webhook_dead(webhook)
    assert (dead.attempts, dead.reason) == (3, "answered with status 500")
    assert client.retry_webhook(webhook, dead.delivery) == 1
    until_told(client, receiver, 8)
    assert numbers(receiver.told)[7:] == [1]
    assert client.webhook_dead() == []


def test_a_private_address_is_refused_unless_the_settings_allow_it(
    start_server: StartServer, receiver: Receiver, tmp_path: Path
) -> None:
    """A webhook must not reach what trusts the server's own host: none is made that does, and one
    that was made while the settings allowed it is not told any more."""
    storage = ("--storage", f"sqlite:///{tmp_path}/flashq.db", "--data-dir", str(tmp_path))
    allowing = start_server(*FAST, *storage)
    with Client(allowing.url) as client:
        webhook = client.add_webhook(receiver.url, ["*"])
    assert allowing.terminate() == 0
    once = ("--shards", "4", "--webhook-attempts-max", "1")
    with Client(start_server(*once, *storage).url) as client:
        with pytest.raises(WebhookInvalid, match="webhook_private_targets"):
            client.add_webhook(receiver.url, ["*"])
        client.push("mail", 1)
        (dead,) = eventually(lambda: client.webhook_dead(webhook), "a dead delivery")
    assert dead.reason.startswith("127.0.0.1 is 127.0.0.1, which is not a public address")
    assert receiver.told == []


def test_a_gateway_that_is_killed_leaves_one_delivery_in_doubt(
    start_server: StartServer, receiver: Receiver
) -> None:
    """It dies while the receiver is at work on 2. The next gateway tells 2 again, under the same
    name, so that the receiver can know it; 0 and 1 are not told again, and nothing is lost."""
    server = start_server(*FAST)
    with Client(server.ipc_url) as client:
        client.add_webhook(receiver.url, ["pushed"])
        client.push("mail", 0)
        client.push("mail", 1)
        until_told(client, receiver, 2)
        receiver.answers.clear()
        for n in range(2, 6):
            client.push("mail", n)
        receiver.wait(3)
        server.kill(GATEWAY)
        receiver.answers.set()
        until_told(client, receiver, 7)
    assert numbers(receiver.told) == [0, 1, 2, 2, 3, 4, 5]
    assert receiver.told[2].name == receiver.told[3].name


def durable(start_server: StartServer, directory: Path) -> Server:
    """Start a server that keeps what it has in a file."""
    storage = ("--storage", f"sqlite:///{directory}/flashq.db", "--data-dir", str(directory))
    return start_server(*FAST, *storage)


@pytest.mark.parametrize("victim", ["flashq-coordinator", "flashq-router", "flashq-shard"])
def test_whatever_else_is_killed_everything_is_told_once(
    start_server: StartServer, receiver: Receiver, tmp_path: Path, victim: str
) -> None:
    """While the receiver is at work on 0, so that its gateway has something to report."""
    server = durable(start_server, tmp_path)
    with Client(server.ipc_url) as client:
        client.add_webhook(receiver.url, ["pushed"])
        receiver.answers.clear()
        job = client.push("mail", 0)
        receiver.wait(1)
        client.push_batch("mail", [{"data": n} for n in range(1, 20)])
        title = f"{victim} {job % 4}" if victim.endswith("shard") else victim
        server.kill(title)
        receiver.answers.set()
        client.push("mail", 20)
        until_told(client, receiver, 21)
    assert numbers(receiver.told) == list(range(21))


def test_a_server_that_is_started_anew_goes_on_where_it_was(
    start_server: StartServer, receiver: Receiver, tmp_path: Path
) -> None:
    """Webhooks, what they are still to be told, and their secrets survive."""
    server = durable(start_server, tmp_path)
    with Client(server.ipc_url) as client:
        receiver.statuses = [500] * 3
        webhook = client.add_webhook(receiver.url, ["pushed"], secret=SECRET)
        client.push("mail", 0)
        eventually(lambda: client.webhook_dead(webhook), "a dead delivery")
        receiver.answers.clear()
        client.push("mail", 1)
        receiver.wait(4)
    server.close()
    receiver.answers.set()
    with Client(durable(start_server, tmp_path).ipc_url) as client:
        assert client.retry_webhook() == 1
        until_told(client, receiver, 6)
        client.push("mail", 2)
        until_told(client, receiver, 7)
        (found,) = client.list_webhooks()
        assert (found.id, found.signed, found.secret) == (webhook, True, None)
    assert numbers(receiver.told)[3:] == [1, 1, 0, 2]
    assert "X-FlashQ-Signature" in receiver.told[-1].headers
