"""The client's rules of conversation, against a scripted server: no sockets, time by hand."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from flashq.client.greeting import HELLO_TIMEOUT_MIN_MS
from flashq.client.happenings import (
    Completed,
    Connected,
    Disconnected,
    EventsInterrupted,
    Malformed,
    NoticeReceived,
    ServerClosing,
    SubscriptionRefused,
    TokenRefused,
)
from flashq.client.results import EventArrived
from flashq.errors import (
    AuthenticationRequired,
    BadMessage,
    Busy,
    ConnectionClosed,
    MessageTooLarge,
    RequestTimeout,
    TokenInvalid,
)
from flashq.protocol import crons, jobs, leases, queues, server, sessions
from flashq.protocol.framing import (
    DELIVERY,
    REPLY,
    ROUTE_ANY,
    ROUTE_COORDINATOR,
    ROUTE_ROUTER,
    pack_header,
)
from tests.unit.client.script import SHARDS, Script, connected, holding

QUEUE_SHARD = crc32(b"q") % SHARDS
DATA: Any = {"a": 1}
PULL = leases.PullBatch(queue="q", count=10, timeout=60_000)


def push(**options: Any) -> Any:
    """Return a push request."""
    return jobs.Push(queue="q", data=DATA, **options)


def large(size: int) -> Any:
    """Return a payload of about that many bytes."""
    return b"x" * size


# --- hello


def test_nothing_is_sent_before_hello_is_answered() -> None:
    """Without the number of shards nothing can be routed."""
    script = Script()
    script.connection.opened(script.now)
    script.request(push())
    hello = script.sent_one()
    assert hello.body["session"] == script.connection.session
    script.hello(hello)
    assert script.sent_one().word == "PUSH"
    assert any(isinstance(event, Connected) for event in script.events())


def test_a_token_is_shown_before_anything_else() -> None:
    """A hello too would be refused before it."""
    script = Script(token="secret")
    script.connection.opened(script.now)
    script.request(push())
    auth = script.sent_one()
    assert auth.body == {"cmd": "AUTH", "token": "secret"}
    script.answer(auth)
    script.hello()
    assert script.sent_one().word == "PUSH"


def test_a_refused_token_is_every_requests_error_until_another_is_shown() -> None:
    """The server's "Authentication required" would hide what is wrong."""
    script = Script(token="wrong")
    script.connection.opened(script.now)
    script.request(push())
    script.refuse(script.sent_one(), "token_invalid")
    assert isinstance(script.outcome().error, TokenInvalid)
    script.request(push())
    assert isinstance(script.outcome().error, TokenInvalid)
    script.connection.use_token("right")
    script.request(sessions.Auth(token="right"))
    script.tick()
    script.answer(script.sent_one())
    script.hello()
    script.answer(script.sent_one())
    script.request(push())
    assert script.sent_one().word == "PUSH"


def test_a_server_that_asks_for_a_token_says_so_at_once() -> None:
    """Story: a client without one waited for its time-out, and was told of no server."""
    script = Script()
    script.connection.opened(script.now)
    script.request(push())
    script.refuse(script.sent_one(), "authentication_required")
    happened = script.events()
    assert [type(one) for one in happened] == [Completed, TokenRefused]
    script.request(push())
    assert isinstance(script.outcome().error, AuthenticationRequired)
    script.connection.use_token("right")
    script.tick()
    assert script.sent_one().word == "AUTH"


def test_a_wrong_token_shown_by_hand_is_answered_too() -> None:
    """Before a hello the request for it never leaves; its outcome is that of the set-up."""
    script = Script(token="wrong")
    script.connection.opened(script.now)
    script.refuse(script.sent_one(), "token_invalid")
    script.connection.use_token("worse")
    script.request(sessions.Auth(token="worse"))
    script.tick()
    script.refuse(script.sent_one(), "token_invalid")
    assert isinstance(script.outcome().error, TokenInvalid)


def authenticated() -> Script:
    """Return a connection that has shown its token and said hello."""
    script = Script(token="secret")
    script.connection.opened(script.now)
    script.answer(script.sent_one())
    script.hello()
    script.events()
    return script


def test_another_router_is_shown_the_token_and_the_request_again() -> None:
    """A router was killed; the next one refuses what comes before the token, and nobody is told."""
    script = authenticated()
    for _ in range(2):
        script.request(push())
    first, second = script.sent()
    script.refuse(first, "authentication_required")
    script.refuse(second, "authentication_required")
    assert script.completed() == []
    auth = script.sent_one()
    assert auth.word == "AUTH"
    script.answer(auth)
    script.hello()
    again = script.sent()
    assert [(one.word, one.corr) for one in again] == [("PUSH", first.corr), ("PUSH", second.corr)]
    for one in again:
        script.answer(one, id=4)
    assert len(script.completed()) == 2


def test_a_heartbeat_that_is_refused_shows_the_token_again() -> None:
    """An idle client finds the other router that way."""
    script = authenticated()
    script.tick(2000)
    (beat,) = script.sent()
    script.refuse(beat, "authentication_required")
    assert script.sent_one().word == "AUTH"


def test_attempts_beyond_the_limit_are_made_later() -> None:
    """Somebody else on this host has shown wrong tokens; ours is right."""
    script = Script(token="secret")
    script.connection.opened(script.now)
    script.refuse(script.sent_one(), "too_many_attempts", retryable=True)
    assert script.sent() == []
    script.tick(10)
    assert script.sent_one().word == "AUTH"


def test_a_busy_hello_is_said_again() -> None:
    """A router that is full, or starting, is asked again with backoff."""
    script = Script()
    script.connection.opened(script.now)
    script.refuse(script.sent_one(), "busy", retryable=True)
    assert script.sent() == []
    script.tick(10)
    script.hello()
    script.request(push())
    assert script.sent_one().word == "PUSH"


def test_a_hello_that_is_refused_for_good_fails_what_waits_and_is_tried_on() -> None:
    """A caller must learn why, and the next server may be another version."""
    script = Script()
    script.connection.opened(script.now)
    script.request(push())
    script.refuse(script.sent_one(), "bad_message")
    assert isinstance(script.outcome().error, BadMessage)
    script.tick(10)
    script.hello()


def test_a_silent_router_is_left_for_a_fresh_socket() -> None:
    """A hello can be lost with the socket's peer; then time-outs grow."""
    script = Script()
    script.connection.opened(script.now)
    script.sent()
    script.tick(HELLO_TIMEOUT_MIN_MS)
    assert any(isinstance(event, Disconnected) for event in script.events())
    script.connection.opened(script.now)
    assert script.sent_one().word == "HELLO"
    script.tick(HELLO_TIMEOUT_MIN_MS)
    assert script.events() == []
    script.tick(HELLO_TIMEOUT_MIN_MS)
    assert any(isinstance(event, Disconnected) for event in script.events())


# --- routing


@pytest.mark.parametrize(
    ("request_", "route"),
    [
        (push(), QUEUE_SHARD),
        (leases.Ack(id=7), 3),
        (leases.AckBatch(ids=[5, 9, 13]), 1),
        (leases.AckBatch(ids=[5, 6]), ROUTE_ANY),
        (jobs.GetChildren(parent_id=6), 2),
        (jobs.GetLogs(job_id=6), 2),
        (jobs.GetJobByCustomId(job_id="mine"), ROUTE_ANY),
        (jobs.GetJobByCustomId(job_id="mine", queue="q"), QUEUE_SHARD),
        (queues.ListQueues(), ROUTE_ANY),
        (server.Stats(), ROUTE_ANY),
        (crons.ListCrons(), ROUTE_COORDINATOR),
        (sessions.Unsubscribe(queue="q"), ROUTE_ROUTER),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else hex(value),
)
def test_a_request_names_its_shard(request_: Any, route: int) -> None:
    """The router needs no look into a body whose client knows where it belongs."""
    script = connected()
    script.request(request_)
    assert script.sent_one().route == route


def test_pending_requests_share_a_message() -> None:
    """One message for all that is pending: a message costs more than a request."""
    script = connected()
    for _ in range(5):
        script.request(push())
    assert len(script.connection.data_to_send()) == 1


def test_messages_stay_below_the_servers_bound() -> None:
    """What does not fit goes in another message, what never fits is refused here."""
    script = connected()
    for _ in range(3):
        script.request(jobs.Push(queue="q", data=b"x" * 2000))  # type: ignore[arg-type]
    assert [len(message) // 2 for message in script.connection.data_to_send()] == [2, 1]
    script.request(jobs.Push(queue="q", data=b"x" * 6000))  # type: ignore[arg-type]
    assert script.connection.data_to_send() == []
    assert isinstance(script.outcome().error, MessageTooLarge)


# --- protection


def test_only_changes_carry_session_and_number() -> None:
    """Reads can be repeated as they are, and need no memory of them in the shard."""
    script = connected()
    script.request(push())
    script.request(jobs.GetJob(id=4))
    script.request(PULL)
    first, read, pull = script.sent()
    assert first.body["session"] == script.connection.session
    assert (first.body["n"], first.body["done_below"]) == (1, 1)
    assert "n" not in read.body
    assert (pull.body["n"], pull.body["done_below"]) == (2, 1)


def test_a_request_that_already_has_many_fields_is_stamped_too() -> None:
    """A map of more than 15 entries has another header in MessagePack."""
    script = connected()
    options = {
        "delay": 1, "ttl": 2, "timeout": 3, "max_attempts": 4, "backoff": 5, "jitter": 0.5,
        "unique_key": "u", "tags": ["t"], "lifo": True, "stall_timeout": 6, "job_id": "j",
    }  # fmt: skip
    script.request(push(**options))
    script.request(push(**options, debounce_id="d", debounce_ttl=7, keep_completed_age=8))
    for sent in script.sent():
        assert sent.body["jitter"] == 0.5
        assert sent.body["session"] == script.connection.session


def test_done_below_is_the_lowest_number_outstanding() -> None:
    """The server forgets answers below it, so it may never pass one that is still awaited."""
    script = connected()
    script.request(push())
    script.request(push())
    first, second = script.sent()
    script.answer(second, id=8)
    script.request(push())
    assert script.sent_one().body["done_below"] == 1
    script.answer(first, id=4)
    script.request(push())
    assert script.sent_one().body["done_below"] == 3


# --- answers


def test_an_answer_comes_once() -> None:
    """A second copy of a reply, and one to nobody, are ignored."""
    script = connected()
    script.request(push())
    sent = script.sent_one()
    script.answer(sent, id=4)
    script.answer(sent, id=8)
    script.reply(999_999, {"ok": True, "id": 12})
    assert script.outcome().corr == sent.corr


def test_a_garbled_message_is_reported_and_dropped() -> None:
    """Half a pair, or a version from the future, ends nothing but itself."""
    script = connected()
    script.connection.receive([b"half"], script.now)
    script.connection.receive([b"\x09" + b"0" * 11, b"\x80"], script.now)
    assert [type(event) for event in script.events()] == [Malformed, Malformed]


def test_a_delivery_that_cannot_be_read_fails_its_pull() -> None:
    """Nobody may wait for a reply that has already come."""
    script = connected()
    script.request(PULL)
    script.answer(script.sent_one(), DELIVERY, jobs=17)
    assert isinstance(script.outcome().error, BadMessage)


@pytest.mark.parametrize("code", ["busy", "starting", "shutting_down", "storage_unavailable"])
def test_what_did_not_happen_is_tried_again(code: str) -> None:
    """Backoff doubles from 10 ms, under the same number."""
    script = connected()
    script.request(push())
    first = script.sent_one()
    for wait in (10, 20, 40):
        script.refuse(first, code, retryable=True)
        script.tick(wait - 1)
        assert script.sent() == []
        script.tick(1)
        again = script.sent_one()
        assert (again.corr, again.body["n"]) == (first.corr, first.body["n"])
    script.answer(first, id=4)
    assert script.outcome().error is None


def test_what_never_happens_surfaces_as_its_own_error() -> None:
    """At the deadline the caller hears `busy`, not a time-out: nothing happened."""
    script = connected()
    script.request(push(), timeout=5)
    script.refuse(script.sent_one(), "busy", retryable=True)
    script.tick(5)
    assert isinstance(script.outcome().error, Busy)


# --- time


def test_a_request_without_an_answer_times_out() -> None:
    """The outcome is unknown, and the text says what of."""
    script = connected()
    script.request(push(), timeout=500)
    script.sent()
    assert script.connection.next_deadline() == script.now + 500
    script.tick(499)
    assert script.completed() == []
    script.tick(1)
    error = script.outcome().error
    assert isinstance(error, RequestTimeout)
    assert "PUSH" in str(error)


def test_a_request_that_was_never_sent_says_so() -> None:
    """Without a server nothing happened, which a caller can act on."""
    script = Script()
    script.connection.opened(script.now)
    script.request(push(), timeout=100)
    script.tick(100)
    error = script.outcome().error
    assert isinstance(error, ConnectionClosed)
    assert "not sent" in str(error)


def test_a_pull_that_timed_out_gives_back_what_it_still_brings() -> None:
    """1. The pull's deadline passes. 2. Its jobs arrive after all. Nobody would ever run them, and
    heartbeats must not keep them from others."""
    script = connected()
    script.request(PULL, timeout=100)
    pull = script.sent_one()
    script.tick(100)
    assert isinstance(script.outcome().error, RequestTimeout)
    script.deliver(pull, (4, 1), (8, 2))
    release = script.sent_one()
    assert release.word == "RELEASE"
    assert (release.body["ids"], release.body["tokens"]) == ([4, 8], [1, 2])
    script.answer(release, count=2)
    assert script.events() == []  # nobody asked for it, nobody hears of it
    assert script.connection.leases_held == 0


def test_a_second_copy_of_a_delivery_releases_nothing_that_is_held() -> None:
    """A repeated pull is answered twice with the same leases: they are being worked on."""
    script = connected()
    script.request(PULL)
    pull = script.sent_one()
    script.deliver(pull, (4, 1))
    script.deliver(pull, (4, 1))
    assert script.sent() == []
    assert script.connection.leases_held == 1


def test_an_abandoned_pull_gives_back_what_it_brings() -> None:
    """A cancelled coroutine or an interrupted thread does not take the jobs."""
    script = connected()
    corr = script.request(PULL)
    pull = script.sent_one()
    script.connection.abandon(corr)
    script.deliver(pull, (4, 1))
    assert script.sent_one().body["ids"] == [4]


def test_fast_requests_do_not_pile_up_until_their_deadlines() -> None:
    """A million requests with 30 s each must not leave a million entries behind."""
    script = connected()
    for _ in range(1000):
        script.request(push())
        script.answer(script.sent_one(), id=4)
    assert len(script.connection._requests._deadlines) < 200


# --- bounds


def test_outstanding_requests_are_bounded() -> None:
    """A loop that never waits meets an error, not the end of memory."""
    script = connected(requests_max=2)
    for _ in range(3):
        script.request(push())
    error = script.outcome().error
    assert isinstance(error, Busy)
    assert "2 requests" in str(error)


def test_outstanding_bytes_are_bounded() -> None:
    """So do few large ones."""
    script = connected(requests_bytes_max=450)
    for _ in range(3):
        script.request(jobs.Push(queue="q", data="x" * 100))  # type: ignore[arg-type]
    assert "bytes" in str(script.outcome().error)
    assert len(script.sent()) == 2


# --- subscriptions


def subscribed(queue: str = "q") -> tuple[Script, int]:
    """Return a script with a subscription, and its corr."""
    script = connected()
    corr = script.connection.subscribe(queue, frozenset(["completed"]), script.now, 1000)
    sent = script.sent_one()
    assert (sent.word, sent.route, sent.corr) == ("SUBSCRIBE", ROUTE_ROUTER, corr)
    script.answer(sent)
    assert script.outcome().corr == corr
    return script, corr


EVENT = {
    "seq": 1, "shard": 0, "epoch": 1, "event": "completed", "queue": "q", "at": 5, "ids": [4],
}  # fmt: skip


def test_events_come_with_the_subscriptions_queue() -> None:
    """Gaps likewise: nothing is dropped silently."""
    script, corr = subscribed()
    script.notify(corr, notice="event", event={**EVENT, "data": [{"r": 1}, None]})
    script.notify(corr, notice="gap", shard=0, first_missed=2, next=5)
    event, gap = script.events()
    assert isinstance(event, NoticeReceived)
    assert isinstance(event.notice, EventArrived)
    assert event.queue == "q"
    assert event.notice.event.ids == [4]
    assert event.notice.event.data == [{"r": 1}, None]
    assert isinstance(gap, NoticeReceived)


def test_a_subscription_outlives_its_connection() -> None:
    """And says that something may have been missed meanwhile."""
    script, corr = subscribed()
    script.connection.opened(script.now)
    script.hello()
    assert script.sent_one().corr == corr
    assert EventsInterrupted("q") in script.events()


def test_a_subscription_that_is_refused_later_is_told() -> None:
    """A listener must not wait for ever for events that nobody sends."""
    script, corr = subscribed()
    script.connection.opened(script.now)
    script.hello()
    script.refuse(script.sent_one(), "not_allowed")
    assert any(isinstance(event, SubscriptionRefused) for event in script.events())
    script.notify(corr, notice="event", event=EVENT)
    assert script.events() == []


def test_notices_after_the_end_of_a_subscription_are_ignored() -> None:
    """They were on their way."""
    script, corr = subscribed()
    script.connection.unsubscribed("q")
    script.notify(corr, notice="event", event=EVENT)
    script.notify(notice="closing")
    assert script.events() == [ServerClosing()]


# --- the end


def test_goodbye_goes_to_every_shard_that_keeps_something_for_us() -> None:
    """Jobs go back at once, answers are forgotten; who waits hears that it is over."""
    script = holding((4, 11))
    script.request(push())
    script.sent()
    script.connection.close()
    assert {sent.route for sent in script.sent()} == {QUEUE_SHARD, ROUTE_ROUTER}
    assert isinstance(script.outcome().error, ConnectionClosed)
    assert script.connection.farewell_pending


def test_a_farewell_ends_with_the_routers_answer() -> None:
    """Then the socket can be closed without losing it."""
    script = connected()
    script.connection.close()
    script.answer(script.sent_one())
    assert not script.connection.farewell_pending
    script.request(push())
    assert isinstance(script.outcome().error, ConnectionClosed)
    assert script.connection.next_deadline() is None


def test_a_connection_that_never_was_needs_no_farewell() -> None:
    """Closing must not take a second when there is no server."""
    script = Script()
    script.connection.opened(script.now)
    script.sent()
    script.connection.close()
    assert not script.connection.farewell_pending


def test_jobs_are_not_given_back_after_goodbye() -> None:
    """Goodbye has given back everything already."""
    script = connected()
    corr = script.request(PULL)
    pull = script.sent_one()
    script.connection.abandon(corr)
    script.connection.close()
    script.sent()
    script.deliver(pull, (4, 1))
    assert script.sent() == []


def test_a_reply_in_several_pairs_is_read_whole() -> None:
    """Servers coalesce too."""
    script = connected()
    first, second = script.request(push()), script.request(push())
    script.sent()
    frames = []
    for corr in (first, second):
        frames += [pack_header(REPLY, 0, corr), b"\x82\xa2ok\xc3\xa2id\x04"]
    script.connection.receive(frames, script.now)
    assert [outcome.corr for outcome in script.completed()] == [first, second]
