"""The gateway's conversation with the router, by script."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgpack
import pytest

from flashq.errors import (
    BadMessage,
    Busy,
    ConfigError,
    InvalidRequest,
    ShuttingDown,
)
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import ANSWER_MS
from flashq.protocol.framing import (
    FULL,
    JSON,
    REPLY,
    ROUTE_ANY,
    ROUTE_ROUTER,
    pack_header,
)
from tests.unit.gateway.router import BEAT_MS, QUEUE, SHARD, SHARDS, Site, job


@pytest.fixture
def site() -> Site:
    """Return an upstream that has been greeted."""
    return Site()


class TestSetUp:
    def test_requests_wait_for_the_first_hello(self) -> None:
        """Nothing is lost that was asked before the server was there."""
        site = Site(greet=False)
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        hello = site.one()
        site.greet(hello)
        assert site.one().cmd == "PUSH"

    def test_a_token_is_shown_first(self) -> None:
        """A router that wants one answers nothing else before."""
        site = Site("secret", greet=False)
        auth = site.one()
        assert (auth.cmd, auth.fields["token"]) == ("AUTH", "secret")
        site.answer(auth)
        site.greet(site.one())
        assert site.upstream.ready

    def test_a_token_that_is_not_known_ends_it(self) -> None:
        """The process says so and ends, instead of trying for ever."""
        site = Site("wrong", greet=False)
        site.refuse(site.one(), "token_invalid")
        assert site.upstream.refused is not None

    def test_another_number_of_shards_ends_it(self) -> None:
        """Everything would go to the wrong shard."""
        site = Site(greet=False)
        hello = site.one()
        site.answer(hello, version="0", boot=1, shard_count=5, epochs=[], heartbeat_interval=1,
                    session_timeout=1, batch_jobs_max=1, payload_bytes_max=1,
                    message_bytes_max=1)  # fmt: skip
        assert isinstance(site.upstream.refused, ConfigError)

    def test_a_silent_router_gets_another_socket(self) -> None:
        """Hello, or two heartbeats, without an answer."""
        site = Site(greet=False)
        site.sent()
        site.pass_time(2000)
        assert site.upstream.must_reopen
        site.upstream.opened(site.now)
        site.greet(site.one())
        for _ in range(2):
            site.pass_time(BEAT_MS)
            assert site.one().cmd == "SESSIONHEARTBEAT"
        site.pass_time(BEAT_MS)
        assert site.upstream.must_reopen

    def test_a_router_that_is_busy_is_asked_again(self) -> None:
        """Its table of clients may be full for a moment."""
        site = Site(greet=False)
        site.refuse(site.one(), "busy", retryable=True)
        site.pass_time(200)
        site.greet(site.one())
        assert site.upstream.ready


class TestRequests:
    def test_a_body_goes_through_with_session_and_number(self, site: Site) -> None:
        """Only a change is numbered, in a session of the gateway for that shard."""
        site.ask(cmd="GETJOB", id=job(1))
        site.ask(cmd="ACK", id=job(1), result={"x": 1.5})
        read, change = site.sent()
        assert read.flags == JSON | FULL
        assert read.fields == {"cmd": "GETJOB", "id": job(1)}
        assert change.route == SHARD
        assert change.fields["result"] == {"x": 1.5}
        assert (change.fields["n"], change.fields["done_below"]) == (1, 1)
        site.answer(read, job=None)
        site.answer(change)
        assert site.replies == [({"ok": True, "job": None}, True), ({"ok": True}, True)]

    def test_a_parked_pull_does_not_hold_back_other_answers(self, site: Site) -> None:
        """1. a pull is parked; 2. pushes come and go: the shard may forget their answers."""
        site.ask(Holder(), cmd="PULL", queue=QUEUE, timeout=60_000)
        for n in range(1, 4):
            site.ask(binary=True, cmd="PUSH", queue=QUEUE, data=1)
            *_, push = site.sent()
            assert push.fields["done_below"] == n
            site.answer(push, id=1)

    def test_what_was_refused_for_now_is_sent_again(self, site: Site) -> None:
        """Under the same number, though nothing happened."""
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        push = site.one()
        site.refuse(push, "starting", retryable=True)
        assert site.sent() == []
        site.pass_time(10)
        again = site.one()
        assert (again.corr, again.fields["n"]) == (push.corr, push.fields["n"])
        site.answer(again, id=1)
        assert site.replies == [({"ok": True, "id": 1}, True)]

    def test_without_an_answer_there_is_an_error_in_time(self, site: Site) -> None:
        """Older clients give up after 5 s."""
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        push = site.one()
        site.pass_time(ANSWER_MS)
        ((reply, ok),) = site.replies
        assert not ok
        assert reply["code"] == "request_timeout"
        site.answer(push, id=1)
        assert len(site.replies) == 1

    def test_the_truth_about_a_refusal_at_the_deadline(self, site: Site) -> None:
        """Nothing happened, and that is what is told."""
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        site.refuse(site.one(), "busy", retryable=True)
        site.now = ANSWER_MS
        site.upstream.tick(site.now)
        ((reply, _),) = site.replies
        assert reply["code"] == "busy"

    def test_an_error_passes_through(self, site: Site) -> None:
        """The door decides how it says it."""
        site.ask(binary=True, cmd="PUSH", queue=QUEUE, data=1)
        site.refuse(site.one(), "duplicate")
        ((reply, ok),) = site.replies
        assert (reply["code"], ok) == ("duplicate", False)

    def test_a_success_whose_keys_stand_otherwise(self, site: Site) -> None:
        """Whoever wrote it, it is read."""
        site.ask(cmd="COUNT", queue=QUEUE)
        count = site.one()
        header = pack_header(REPLY | JSON, 0, count.corr)
        site.upstream.receive([header, b'{ "count":3, "ok" : true }'], site.now)
        assert site.replies == [({"ok": True, "count": 3}, True)]

    def test_a_new_session_for_one_that_is_forgotten(self, site: Site) -> None:
        """After a long silence. A copy that may have been carried out is not made anew."""
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        push = site.one()
        site.refuse(push, "session_expired")
        again = site.one()
        assert again.fields["session"] != push.fields["session"]
        assert again.fields["n"] > push.fields["n"]
        site.notice(notice="shard", shard=SHARD, epoch=2)
        repeat = site.one()
        assert repeat.fields["n"] == again.fields["n"]
        site.refuse(repeat, "session_expired")
        ((reply, _),) = site.replies
        assert reply["code"] == "session_expired"

    def test_what_cannot_be_taken_on(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """It raises, and leaves nothing behind."""
        with pytest.raises(InvalidRequest):
            site.ask(cmd="PUSH", data=1)
        monkeypatch.setattr("flashq.gateway.pending.REQUESTS_MAX", 0)
        with pytest.raises(Busy):
            site.ask(cmd="STATS")
        monkeypatch.undo()
        site.upstream.close()
        assert site.one().cmd == "GOODBYE"
        with pytest.raises(ShuttingDown):
            site.ask(cmd="STATS")
        assert site.upstream.outstanding == 0

    def test_what_is_not_flashqs_is_refused(self, site: Site) -> None:
        """The shell drops it, and says so."""
        with pytest.raises(BadMessage):
            site.upstream.receive([b"x", b"y"], site.now)
        with pytest.raises(BadMessage):
            site.upstream.receive([b"x"], site.now)


class TestRepeats:
    def test_a_restarted_shard_is_asked_again(self, site: Site) -> None:
        """What was under way there is repeated, parked pulls too; other shards are not troubled."""
        holder = Holder()
        site.ask(holder, cmd="PULL", queue=QUEUE, timeout=60_000)
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        site.ask(cmd="GETJOB", id=job(1) + 1)
        first = site.sent()
        site.notice(notice="shard", shard=SHARD, epoch=2)
        again = site.sent()
        assert [pair.corr for pair in again] == [pair.corr for pair in first[:2]]
        assert again[0].fields["session"] == first[0].fields["session"]
        site.notice(notice="shard", shard=SHARD, epoch=2)
        assert site.sent() == []

    def test_a_restarted_router_is_asked_again(self, site: Site) -> None:
        """Its heartbeat's answer tells; then hello, everything outstanding, and subscriptions."""
        site.subscribe("*")
        site.answer(site.one())
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        push = site.one()
        site.pass_time(BEAT_MS)
        site.answer(site.one(), boot=2, epochs=[1, 1, 1, 1], known=False)
        site.greet(site.one(), boot=2)
        pairs = site.sent()
        assert [pair.cmd for pair in pairs] == ["PUSH", "SUBSCRIBE"]
        assert pairs[0].corr == push.corr
        assert site.interruptions == 1

    def test_an_epoch_that_was_not_announced_is_in_the_heartbeat(self, site: Site) -> None:
        """An announcement may get lost."""
        site.ask(cmd="PUSH", queue=QUEUE, data=1)
        push = site.one()
        site.pass_time(BEAT_MS)
        epochs = [1] * SHARDS
        epochs[SHARD] = 7
        site.answer(site.one(), boot=1, epochs=epochs)
        assert site.one().corr == push.corr


class TestLeases:
    def test_a_pull_of_a_connection_has_a_session(self, site: Site) -> None:
        """One without a connection has a lease with a time of its own, and is not numbered."""
        site.ask(Holder(), cmd="PULL", queue=QUEUE)
        site.ask(cmd="PULL", queue=QUEUE)
        held, free = site.sent()
        assert "session" in held.fields
        assert "session" not in free.fields

    def test_heartbeats_name_what_each_connection_holds(self, site: Site) -> None:
        """A live connection that owns a job is alive."""
        one, other = Holder(), Holder()
        site.pull(one, (job(1), 10), (job(2), 10))
        site.ask(other, cmd="PULL", queue=QUEUE)
        site.sent()
        site.pass_time(BEAT_MS)
        router, *beats = site.sent()
        assert router.route == ROUTE_ROUTER
        named = sorted((beat.fields["leases"], beat.fields["tokens"]) for beat in beats
                       if "leases" in beat.fields)  # fmt: skip
        assert named == [([job(1), job(2)], [10, 10])]
        assert {beat.route for beat in beats} == {SHARD}
        assert len({beat.fields["session"] for beat in beats}) == 2

    def test_a_connection_has_a_name_for_people(self, site: Site) -> None:
        """The shard hears it with every heartbeat."""
        site.pull(Holder("tcp/10.0.0.7:4321"), (job(1), 10))
        site.pass_time(BEAT_MS)
        _, beat = site.sent()
        assert beat.fields["about"] == {"name": "tcp/10.0.0.7:4321"}

    def test_a_lease_that_is_lost_is_not_named_again(self, site: Site) -> None:
        """The shard says so in its answer."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.pass_time(BEAT_MS)
        _, beat = site.sent()
        site.answer(beat, lost=[job(1)])
        assert holder.leases == 0

    def test_an_ack_names_the_delivery_and_ends_the_lease(self, site: Site) -> None:
        """So that it counts although the shard has lost the record of the delivery."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.ask(holder, cmd="ACK", id=job(1))
        ack = site.one()
        assert ack.fields["token"] == 10
        assert holder.leases == 1
        site.answer(ack)
        assert holder.leases == 0

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("ACK", "Job {} not found"),
            ("FAIL", "Job {} not found"),
            ("HEARTBEAT", "Job {} not in processing"),
            ("MOVETODELAYED", "Job {} not in processing"),
            ("PROGRESS", "Job {} not found in processing"),
        ],
    )
    def test_a_lost_lease_is_told_in_the_older_words(
        self, site: Site, word: str, text: str
    ) -> None:
        """The client has named no lease and knows of none."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.ask(holder, cmd=word, id=job(1), progress=1, delay=1)
        site.refuse(site.one(), "lease_lost")
        ((reply, _),) = site.replies
        assert reply["error"] == text.format(job(1))

    def test_one_who_names_his_lease_is_told_that_it_is_lost(self, site: Site) -> None:
        """He knows what it means."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.ask(holder, cmd="ACK", id=job(1), token=9)
        site.refuse(site.one(), "lease_lost")
        ((reply, _),) = site.replies
        assert reply["code"] == "lease_lost"
        assert holder.leases == 0

    def test_a_gone_connection_gives_everything_back_at_once(self, site: Site) -> None:
        """Its jobs and its parked pulls, by the end of its session; later heartbeats are silent."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        pending = site.ask(holder, cmd="PULL", queue=QUEUE)
        pull = site.one()
        site.upstream.leave(holder, site.now)
        goodbye = site.one()
        assert (goodbye.cmd, goodbye.route) == ("GOODBYE", SHARD)
        assert goodbye.fields["session"] == b64decode(pull.fields["session"])
        site.answer(goodbye)
        assert site.upstream.outstanding == 0
        assert pending.done is None
        site.pass_time(BEAT_MS)
        assert [pair.route for pair in site.sent()] == [ROUTE_ROUTER]

    def test_a_connection_that_broke_off_names_what_it_had(self, site: Site) -> None:
        """Its jobs count as lost, but for what it was never sent; what it pulls goes back
        uncounted."""
        holder = Holder()
        site.pull(holder, (job(1), 10), (job(2), 10))
        site.ask(holder, cmd="ACK", id=job(2))
        site.answer(site.one())
        site.pull(holder, (job(3), 11), (job(4), 11))
        site.upstream.leave(holder, site.now, is_lost=True, unsent={job(4)})
        assert site.one().fields["lost"] == [job(1), job(3)]

    def test_a_goodbye_that_was_not_heard_is_said_again(self, site: Site) -> None:
        """A shard that is just starting would keep the jobs until the session is silent."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.upstream.leave(holder, site.now)
        site.refuse(site.one(), "starting", retryable=True)
        site.pass_time(10)
        assert site.one().cmd == "GOODBYE"

    def test_a_connection_that_pulled_nothing_says_nothing(self, site: Site) -> None:
        """Most connections only push. One that holds nothing any more is forgotten by the shard."""
        holder = Holder()
        site.ask(holder, cmd="PUSH", queue=QUEUE, data=1)
        site.answer(site.one(), id=job(1))
        site.upstream.leave(holder, site.now)
        assert site.sent() == []
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.ask(holder, cmd="ACK", id=job(1))
        site.answer(site.one())
        site.upstream.leave(holder, site.now)
        assert site.one().cmd == "GOODBYE"

    def test_a_delivery_that_nobody_could_take_goes_back(self, site: Site) -> None:
        """Its asker was gone when it came; nobody is said to hold the job."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        body = msgpack.packb({"ok": True, "job": {"id": job(1), "token": 10}})
        site.upstream.give_back(body, site.now, json=False)
        release = site.one()
        assert (release.cmd, release.fields["ids"], release.fields["tokens"]) == (
            "RELEASE", [job(1)], [10],
        )  # fmt: skip
        assert holder.leases == 0

    def test_a_delivery_that_nobody_waits_for_goes_back(self, site: Site) -> None:
        """1. a pull without a connection is abandoned; 2. its job comes all the same."""
        pending = site.ask(cmd="PULL", queue=QUEUE)
        pull = site.one()
        site.upstream.abandon(pending, site.now)
        site.deliver(pull, (job(1), 10))
        _, release = site.sent()
        assert release.cmd == "RELEASE"
        assert (release.fields["ids"], release.fields["tokens"]) == ([job(1)], [10])
        assert site.replies == []

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize(
        "asked",
        [
            {"cmd": "PULL", "queue": QUEUE},
            {"cmd": "PULLB", "queue": QUEUE, "count": 5, "timeout": 100},
            {"cmd": "WAITJOB", "id": job(1)},
        ],
    )
    def test_what_waits_is_taken_back_when_nobody_waits_for_it(
        self, site: Site, asked: dict[str, Any], binary: bool
    ) -> None:
        """It would stay parked for its whole time, and each job pass through all such requests
        before somebody gets it who is there."""
        first = site.ask(binary=binary, **asked)
        second = site.ask(binary=binary, **asked)
        one, two = site.sent()
        assert one.fields["ticket"] != two.fields["ticket"]
        site.upstream.abandon(first, site.now)
        withdraw = site.one()
        assert (withdraw.cmd, withdraw.route) == ("WITHDRAW", SHARD)
        ticket = one.fields["ticket"] if binary else b64decode(one.fields["ticket"])
        assert withdraw.fields["ticket"] == ticket
        site.answer(withdraw, count=1)
        site.upstream.abandon(second, site.now)
        site.answer(site.one(), count=1)
        assert site.upstream.outstanding == 0
        assert site.replies == []

    def test_a_wait_of_a_connection_that_is_gone_is_taken_back(self, site: Site) -> None:
        """It waits for no session."""
        holder = Holder()
        site.ask(holder, cmd="WAITJOB", id=job(1))
        ticket = site.one().fields["ticket"]
        site.upstream.leave(holder, site.now)
        withdraw = site.one()
        assert (withdraw.cmd, withdraw.route) == ("WITHDRAW", SHARD)
        assert withdraw.fields["ticket"] == b64decode(ticket)

    def test_what_does_not_wait_has_no_ticket(self, site: Site) -> None:
        """Nor a pull of a connection, which is taken back by the end of its session, nor what waits
        at the coordinator; what was not sent yet is not taken back."""
        site.ask(cmd="PULL", queue=QUEUE, timeout=0)
        site.ask(cmd="GETJOB", id=job(1))
        site.ask(cmd="WEBHOOKPULL", call=1, timeout=1000, binary=True)
        site.ask(Holder(), cmd="PULL", queue=QUEUE)
        assert not any("ticket" in pair.fields for pair in site.sent())
        site.upstream.abandon(site.ask(cmd="PULL", queue=QUEUE), site.now)
        assert site.sent() == []

    def test_a_second_copy_of_a_delivery_is_not_given_back(self, site: Site) -> None:
        """A repeat was answered too; the jobs are in good hands."""
        holder = Holder()
        site.ask(holder, cmd="PULL", queue=QUEUE)
        pull = site.one()
        site.deliver(pull, (job(1), 10))
        site.deliver(pull, (job(1), 10))
        assert site.sent() == []

    def test_an_abandoned_change_is_carried_out(self, site: Site) -> None:
        """It was taken on: a shard that is starting gets it again."""
        pending = site.ask(cmd="PUSH", queue=QUEUE, data=1)
        site.upstream.abandon(pending, site.now)
        site.refuse(site.one(), "starting", retryable=True)
        site.pass_time(10)
        site.answer(site.one(), id=1)
        assert site.replies == []
        assert site.upstream.outstanding == 0

    def test_a_batch_over_several_shards_settles_all(self, site: Site) -> None:
        """The router divides it."""
        holder = Holder()
        site.pull(holder, (job(1), 10))
        site.ask(holder, cmd="ACKB", ids=[job(1), job(1) + 1])
        batch = site.one()
        assert batch.route == ROUTE_ANY
        assert batch.fields["tokens"] == [10, None]
        site.answer(batch, ids=[2])
        assert holder.leases == 0
