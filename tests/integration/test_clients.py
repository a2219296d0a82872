"""Every method of both clients against a real server, by one scenario for both."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from flashq import errors
from flashq.client.async_client import AsyncClient
from flashq.client.results import Event, PartialBatchError
from flashq.client.sync_client import Client
from flashq.protocol.registry import COMMANDS
from tests.server import Server


class Blocking:
    """An AsyncClient whose methods are called like those of a Client; notes which were."""

    def __init__(self, make: Callable[[str], Any], url: str) -> None:
        self.url = url
        self._runner = asyncio.Runner()
        self.called: set[str] = set()
        self._client = self._run(make, url)

    def _run(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        async def within_the_loop() -> Any:
            result = call(*arguments, **options)
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(within_the_loop())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        self.called.add(name)
        return lambda *arguments, **options: self._run(method, *arguments, **options)

    def next_event(self, subscription: Any) -> Any:
        """Return the next event of a subscription."""
        get = getattr(subscription, "get", None) or subscription.__anext__
        return self._run(get)

    def end(self) -> None:
        """Close the client and its loop."""
        self._run(self._client.close)
        self._runner.close()


@pytest.fixture(params=[Client, AsyncClient])
def client(request: pytest.FixtureRequest, shared_server: Server) -> Iterator[Blocking]:
    """Return each of the two clients in turn."""
    client = Blocking(request.param, shared_server.url)
    yield client
    client.end()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a prefix for queues of the test's own."""
    return f"clients-{os.getpid()}-{abs(hash(request.node.name)) % 10**8}"


def about_jobs(client: Blocking, name: str) -> None:
    """One job's life, with all that can be asked and said about it."""
    job_id = client.push(name, {"n": 1}, priority=3, tags=["a"], job_id=f"{name}-1", ttl=60_000)
    found = client.get_job(job_id)
    assert (found.state, found.data, found.priority, found.tags) == ("waiting", {"n": 1}, 3, ("a",))
    assert client.get_job_by_custom_id(f"{name}-1").id == job_id
    assert client.get_job_by_custom_id(f"{name}-1", name).id == job_id
    client.update(job_id, {"n": 2})
    client.change_priority(job_id, 4)
    job = client.pull(name, 1000)
    assert (job.data, job.priority, job.attempts) == ({"n": 2}, 4, 0)
    client.heartbeat(job)
    client.progress(job, 50, "half")
    assert (client.get_progress(job).progress, client.get_progress(job).message) == (50, "half")
    client.log(job, "said", level="warn")
    assert [(entry.message, entry.level) for entry in client.get_logs(job)] == [("said", "warn")]
    client.move_to_delayed(job, 3_600_000)
    assert client.get_state(job_id) == "delayed"
    client.promote(job_id)
    job = client.pull(name)
    assert client.release([job]) == 1
    with pytest.raises(errors.LeaseLost):
        client.ack(job)
    job = client.pull(name)
    client.ack(job, {"r": 1})
    assert client.get_result(job_id) == client.finished(job_id) == {"r": 1}
    assert client.get_job(4) is None


def about_batches(client: Blocking, name: str) -> None:
    """Many jobs at a time, half accepted ones included."""
    ids = client.push_batch(name, [{"data": n, "unique_key": str(n)} for n in range(5)])
    with pytest.raises(PartialBatchError) as caught:
        client.push_batch(name, [{"data": 1, "unique_key": "1"}, {"data": 2}])
    assert caught.value.ids[0] is None
    client.cancel(caught.value.ids[1])
    assert [job.id for job in client.get_jobs_batch([*ids, 4])] == ids
    page = client.get_jobs(name, "waiting", limit=2, offset=1)
    assert ([job.id for job in page], page.total) == ([ids[3], ids[2]], 5)
    jobs = client.pull_batch(name, 3, 1000)
    assert client.ack_batch(jobs, results=[1, 2, 3]) == 3
    assert client.ack_batch(jobs) == 0
    counts = client.get_job_counts(name)
    assert (counts.waiting, counts.active, counts.completed) == (2, 0, 3)
    assert client.count(name) == 2
    assert client.clean(name, 0, "completed", limit=1) == 1
    assert client.drain(name) == 2
    assert client.pull(name, 0) is None
    assert client.pull_batch(name, 5, 5) == []


def about_dead_letters(client: Blocking, name: str) -> None:
    """Failures, and what becomes of them."""
    job_id = client.push(name, 1, max_attempts=1)
    client.fail(client.pull(name), "no luck")
    (dead,) = client.get_dlq(name, 10)
    assert (dead.id, dead.error) == (job_id, "no luck")
    with pytest.raises(errors.JobFailed):
        client.finished(job_id)
    assert client.retry_dlq(name, job_id) == 1
    client.discard(job_id)
    assert client.retry_dlq(name) == 1
    client.discard(job_id)
    assert client.purge_dlq(name) == 1


def about_flows(client: Blocking, name: str) -> None:
    """A parent that waits for its children."""
    child = {"queue": f"{name}-child", "data": 1, "tags": ["c"]}
    flow = client.push_flow(name, {"p": 1}, [child, child], priority=2)
    family = client.get_children(flow.parent_id)
    assert (family.children_ids, family.completed, family.total) == (flow.children_ids, 0, 2)
    assert client.ack_batch(client.pull_batch(f"{name}-child", 2)) == 2
    assert client.pull(name, 10_000).id == flow.parent_id


def about_queues(client: Blocking, name: str) -> None:
    """What limits a queue."""
    client.push(name, 1)
    client.pause(name)
    assert client.is_paused(name)
    client.resume(name)
    client.set_rate_limit(name, 5)
    client.set_concurrency(name, 6)
    (info,) = [queue for queue in client.list_queues() if queue.name == name]
    assert (info.pending, info.rate_limit, info.concurrency_limit) == (1, 5, 6)
    client.clear_rate_limit(name)
    client.clear_concurrency(name)
    assert client.queue_config(name, keep_completed_count=7).keep_completed_count == 7
    assert client.obliterate(name) == 1


def about_the_server(client: Blocking, name: str) -> None:
    """Crons, figures, events, tokens."""
    assert client.connect().shard_count == 4
    client.auth("any")
    client.add_cron(name, name, {"c": 1}, schedule="0 3 * * *", tz="Europe/Berlin", limit=5)
    (cron,) = [cron for cron in client.list_crons() if cron.name == name]
    assert (cron.data, cron.tz, cron.limit) == ({"c": 1}, "Europe/Berlin", 5)
    client.delete_cron(name)
    with pytest.raises(errors.CronNotFound):
        client.delete_cron(name)
    webhook = client.add_webhook("https://example.com/", ["failed"], queue=name, secret="s")
    (listed,) = [one for one in client.list_webhooks() if one.id == webhook]
    assert (listed.signed, listed.secret) == (True, None)
    assert client.webhook_dead(webhook) == []
    assert client.retry_webhook(webhook) == 0
    assert client.pull_deliveries(os.urandom(16), 1) is None
    with pytest.raises(errors.WebhookLeaseLost):
        client.deliveries_done(1)
    client.delete_webhook(webhook)
    assert len(client.stats().shards) == 4
    client.pull(name, timeout=0)
    assert name in [queue for worker in client.list_workers() for queue in worker.queues]
    assert client.metrics().metrics.total_pushed >= 0
    assert all(point.timestamp for point in client.metrics_history())
    events = client.subscribe(name, ["pushed"])
    heard = threading.Event()

    def push_until_heard() -> None:
        with Client(client.url) as other:
            while not heard.wait(0.02):
                other.push(name, "event")

    pushing = threading.Thread(target=push_until_heard)
    pushing.start()
    try:
        event = client.next_event(events)
    finally:
        heard.set()
        pushing.join()
    assert isinstance(event, Event)
    assert (event.event, event.queue, event.data) == ("pushed", name, ["event"])


SCENES = (
    about_jobs,
    about_batches,
    about_dead_letters,
    about_flows,
    about_queues,
    about_the_server,
)


def test_every_method_does_what_it_says(client: Blocking, name: str) -> None:
    """On both clients, and with the registry as the list of what there is."""
    for number, scene in enumerate(SCENES):
        scene(client, f"{name}-{number}")
    client.close()
    assert {command.method for command in COMMANDS} <= client.called


@pytest.mark.parametrize(
    "data",
    [
        None, True, -1, 2**63, 1.5, "é", b"\0\xff", [1, [2]], {"a": {"b": None}},
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), {"when": datetime(1970, 1, 1, tzinfo=UTC)},
    ],
    ids=repr,
)  # fmt: skip
def test_payloads_and_results_come_back_as_they_went_in(
    client: Blocking, name: str, data: Any
) -> None:
    """Whatever MessagePack holds; bytes and times too."""
    job_id = client.push(name, data)
    job = client.pull(name)
    assert (job.id, job.data) == (job_id, data)
    client.ack(job, data)
    assert client.get_result(job_id) == data


def test_what_cannot_be_encoded_is_a_type_error_and_nothing_is_sent(
    client: Blocking, name: str
) -> None:
    """The connection goes on."""
    with pytest.raises(TypeError):
        client.push(name, object())
    with pytest.raises(TypeError):
        client.push_batch(name, [{"data": 1}, {"data": object()}])
    assert client.count(name) == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c, q: c.push("a b", 1), errors.QueueNameInvalid),
        (lambda c, q: c.push("", 1), errors.QueueNameEmpty),
        (lambda c, q: c.push("x" * 300, 1), errors.QueueNameTooLong),
        (lambda c, q: c.push(q, "x" * 2_000_000), errors.PayloadTooLarge),
        (lambda c, q: c.push_batch(q, [{"data": 1}] * 10_001), errors.BatchTooLarge),
        (lambda c, q: [c.push(q, 1, unique_key="k") for _ in "12"], errors.DuplicateJob),
        (lambda c, q: [c.push(q, 1, debounce_id="d") for _ in "12"], errors.Debounced),
        (lambda c, q: c.push_flow(q, 1, []), errors.FlowEmpty),
        (lambda c, q: c.get_children(4), errors.ParentNotFound),
        (lambda c, q: c.ack(4), errors.JobNotFound),
        (lambda c, q: c.heartbeat(4), errors.JobNotActive),
        (lambda c, q: c.promote(c.push(q, 1)), errors.WrongState),
        (lambda c, q: c.finished(4), errors.WaitJobNotFound),
        (lambda c, q: c.finished(c.push(q, 1), 5), errors.WaitTimeout),
        (lambda c, q: c.push(q, 1, depends_on=[4]), errors.DependencyForgotten),
        (lambda c, q: c.clean(q, 0, "active"), errors.StateInvalid),
        (lambda c, q: c.add_cron(q, q, 1, schedule="never"), errors.CronInvalid),
        (lambda c, q: c.push(q, 1, priority=2**40), errors.InvalidRequest),
    ],
)
def test_a_refusal_is_the_exception_of_its_code(
    client: Blocking, name: str, call: Callable[[Any, str], Any], error: type[Exception]
) -> None:
    """Typed, with the server's own words; the client works on."""
    with pytest.raises(error) as caught:
        call(client, name)
    assert type(caught.value) is error
    assert str(caught.value)
    assert client.count(name) >= 0


def test_a_pull_that_died_with_its_loop_holds_nothing(shared_server: Server, name: str) -> None:
    """1. A loop is closed while a pull waits in it. 2. The session goes on in the next loop. 3. The
    job that the pull would bring reaches the one that is made there."""
    client = AsyncClient(shared_server.url)
    first = asyncio.new_event_loop()
    first.run_until_complete(client.connect())
    pull = first.create_task(client.pull(name, 60_000))
    first.run_until_complete(client.count(name))  # which leaves after the pull
    pull._log_destroy_pending = False  # type: ignore[attr-defined]
    first.close()

    async def go_on() -> Any:
        job_id = await client.push(name, 1)
        job = await client.pull(name, 30_000)
        assert job is not None
        assert job.id == job_id
        await client.ack(job)
        state = await client.get_state(job_id)
        await client.close()
        return state

    assert asyncio.run(go_on()) == "completed"
    del pull
