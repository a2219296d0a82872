"""A shard without sockets: what goes wrong between the engine and its conversations."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.ids import job_id, shard_of_queue
from flashq.protocol.codec import decode, encode_msgpack
from flashq.protocol.framing import (
    INTERNAL,
    ROUTE_COORDINATOR,
    pack_header,
    pack_heard,
    pack_wish,
    pairs,
    unpack_header,
)
from flashq.protocol.internal import (
    Append,
    CheckpointSafe,
    CheckpointSlice,
    Fetch,
    Granted,
    Happened,
    Heeded,
    Internal,
    Mail,
    Recovered,
    Reserve,
    ReservedUpTo,
    Resumed,
    Safe,
    ShardHello,
    Wanted,
    decode_internal,
    encode_internal,
)
from flashq.protocol.limits import MIB, EngineLimits
from flashq.shard.identity import Identity
from flashq.shard.journal import ASYNC_LAG_MS, BLOB_BYTES_MAX, READ_WAIT_MS
from flashq.shard.lifecycle import ACTIVE, WAITING
from flashq.shard.node import REPEAT_MS, Node

WALL_MS, MONO_MS = 1_700_000_000_000, 1_000_000
QUEUE = next(name for name in map(str, range(100)) if not shard_of_queue(name, 2))


def serving(
    level: str = "async",
    *,
    before: Internal | None = None,
    piece_by_piece: bool = False,
    limits: EngineLimits | None = None,
    log: list[tuple[int, int, bytes]] | None = None,
) -> Node:
    """Return a node that has nothing and serves.

    Args:
        before: what it is told between grant and recovery.
        piece_by_piece: it has its grant, and what it recovers is still to come.
        limits: of its engine.
        log: what it recovers.
    """
    node = Node(
        Identity(
            shard=0,
            shard_count=2,
            config_hash="",
            limits=limits or EngineLimits(),
            level=level,
            version="",
            checkpoint_log_bytes=1 << 20,
            message_bytes_max=1 << 20,
            drain_timeout_ms=1000,
        )
    )
    node.observe(WALL_MS, MONO_MS)
    node.tick()
    tell(node, Granted(epoch=1, incarnation=1, reserved=0))
    if before is not None:
        tell(node, before)
    if piece_by_piece:
        return node
    tell(node, Recovered(epoch=1, cursor=0, log=log or []))
    tell(node, ReservedUpTo(epoch=1, upto=1_000_000))
    assert node.is_serving
    node.flush()
    tell(node, Safe(epoch=1, seq=node.engine.state.seq))  # that it has begun
    return node


def tell(node: Node, message: Internal) -> None:
    """Give it a message of the coordinator."""
    node.receive_coordinator(
        [pack_header(INTERNAL, ROUTE_COORDINATOR, 0), encode_internal(message)]
    )


def ask(node: Node, corr: int, **request: Any) -> None:
    """Give it a request of a client."""
    node.receive_front(b"client", [pack_header(0, 0, corr), encode_msgpack(request)])


def answers(node: Node) -> dict[int, Any]:
    """Return what it answers, by corr."""
    node.flush()
    sent, node.out.front = node.out.front, []
    return {
        unpack_header(header).corr: decode(body, dict)
        for _, frames in sent
        for header, body in pairs(frames)
    }


def test_a_piece_of_the_recovery_that_got_lost_is_asked_for_again() -> None:
    """A shard said hello for ever, was granted the epoch that it had already, and never served
    (simulated seed 14). A piece that comes twice, or for an older grant, is taken once."""
    node = serving(piece_by_piece=True)
    tell(node, Recovered(epoch=1, cursor=7))
    assert Fetch(epoch=1, cursor=7) in said(node)
    tell(node, Granted(epoch=1, incarnation=1, reserved=0))
    assert said(node) == [Fetch(epoch=1, cursor=7)]
    tell(node, Recovered(epoch=1, cursor=7))
    tell(node, Recovered(epoch=0, at=7, cursor=0))
    assert said(node) == []
    tell(node, Recovered(epoch=1, at=7, cursor=0))
    assert [type(message) for message in said(node)] == [Reserve]
    tell(node, Recovered(epoch=1, at=7, cursor=0))
    assert said(node) == []


def test_a_drain_that_waits_for_storage_sleeps_meanwhile() -> None:
    """A completed job became too old while the shard drained: it woke up for it without a pause
    until storage had the log (simulation, 172)."""
    node = serving("durable")
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1, keep_completed_age=100)
    ask(node, 2, cmd="PULL", queue=QUEUE, timeout=0)
    ask(node, 3, cmd="ACK", id=job_id(1, 0, 2))
    node.flush()
    node.stop()
    node.observe(WALL_MS + 200, MONO_MS + 200)
    node.tick()
    node.flush()
    node.tidy()
    due_ms = node.next_deadline_ms()
    assert due_ms is not None
    assert due_ms > MONO_MS + 200


def test_log_that_got_lost_is_sent_again_under_a_steady_load() -> None:
    """One blob got lost. What came after it was answered each time with what is safe, so that the
    shard heard enough never to ask, and nothing durable was answered any more (simulation, 76)."""
    node = serving("durable")
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1)
    lost = [message for message in said(node) if isinstance(message, Append)][1:]
    heard: list[Any] = []
    for turn in range(1, 4):
        node.observe(WALL_MS, MONO_MS + turn * REPEAT_MS // 2)
        ask(node, 1 + turn, cmd="PUSH", queue=QUEUE, data=1)
        node.tick()
        heard += said(node)
        tell(node, Safe(epoch=1, seq=1))
    assert any(isinstance(message, ShardHello) for message in heard)
    tell(node, Resumed(last_seq=1))
    assert said(node)[0] == lost[0]


def test_statistics_are_complete_also_when_their_request_lets_a_delayed_job_go() -> None:
    """
    1. A pull is parked, and a delayed job is there for it.
    2. The first thing that comes after the job is due asks for statistics: with it the job goes
       out, and the pull is answered after the statistics.
    3. The statistics name the shard all the same.
    """
    node = serving()
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1, delay=100)
    ask(node, 2, cmd="PULLB", queue=QUEUE, count=5, timeout=60_000)
    assert answers(node)[1]["ok"]
    tell(node, Safe(epoch=1, seq=2))
    node.observe(WALL_MS + 100, MONO_MS + 100)
    ask(node, 3, cmd="STATS")
    told = answers(node)
    assert [shard["shard"] for shard in told[3]["shards"]] == [0]
    assert [job["data"] for job in told[2]["jobs"]] == [1]


def test_changes_wait_for_storage_and_then_are_refused() -> None:
    """
    1. Storage confirms nothing. A push waits for its answer, for as long as it takes.
    2. After 30 s further pushes are refused at once, and can be repeated: nothing happened.
    3. Storage confirms: the first push is answered, and another one is taken on.
    """
    node = serving(level="durable")
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1)
    assert answers(node) == {}
    node.observe(WALL_MS, MONO_MS + EngineLimits().storage_wait_ms + 1)
    node.tick()
    assert answers(node) == {}
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=2)
    refused = answers(node)[2]
    assert (refused["code"], refused["retryable"]) == ("storage_unavailable", True)
    tell(node, Safe(epoch=1, seq=2))
    assert answers(node)[1]["ok"]
    ask(node, 3, cmd="PUSH", queue=QUEUE, data=3)
    node.flush()
    tell(node, Safe(epoch=1, seq=3))
    assert answers(node)[3]["ok"]


def test_a_job_that_waits_for_storage_on_its_way_out_is_not_handed_out_again() -> None:
    """
    1. A pull is parked. A push gives it a job, and storage confirms nothing: the job stays here.
    2. The session's heartbeats go on. They cannot name what it has not got.
    3. Storage confirms: the job goes out, once, and its lease is good. It once had gone back to the
       queue at the second heartbeat, so that it went out twice, and was done twice.
    """
    node = serving(level="durable")
    session = bytes(16)
    ask(node, 1, cmd="PULL", queue=QUEUE, timeout=60_000, session=session)
    ask(node, 2, cmd="PULL", queue=QUEUE, timeout=60_000, session=session)
    ask(node, 3, cmd="PUSH", queue=QUEUE, data=1)
    for beat in range(1, 5):
        node.observe(WALL_MS, MONO_MS + beat * 2000)
        ask(node, 10 + beat, cmd="SESSIONHEARTBEAT", session=session, leases=[])
        node.tick()
        assert answers(node) == {10 + beat: {"ok": True}}
    tell(node, Safe(epoch=1, seq=3))
    told = answers(node)
    assert told.keys() == {1, 3}
    job = told[1]["job"]
    ask(node, 20, cmd="ACK", id=job["id"], token=job["token"])
    node.flush()
    tell(node, Safe(epoch=1, seq=4))
    assert answers(node)[20]["ok"]


@pytest.mark.parametrize(
    "pull",
    [{"cmd": "PULL"}, {"cmd": "PULLB", "count": 2}, {"cmd": "PULLB", "count": 2, "columns": True}],
    ids=["one", "many", "columns"],
)
def test_what_could_not_be_delivered_comes_back(pull: dict[str, Any]) -> None:
    """In whichever form the jobs stood in the reply."""
    node = serving()
    ask(node, 1, cmd="PUSHB", queue=QUEUE, payloads=[1, 2])
    ask(node, 2, queue=QUEUE, timeout=0, **pull)
    node.flush()
    (_, frames) = node.out.front.pop()
    node.out.front.clear()
    assert node.engine.state.counts[ACTIVE]
    node.undeliverable(frames)
    assert not node.engine.state.counts[ACTIVE]
    assert node.engine.state.counts[WAITING] == 2


def test_the_time_of_a_lease_begins_when_its_job_can_leave() -> None:
    """A worker without session that gets its job after 25 s of a storage that is away has all of
    its stall time left."""
    node = serving(level="durable")
    ask(node, 1, cmd="PULL", queue=QUEUE, timeout=60_000)
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=1)
    late_ms = MONO_MS + EngineLimits().stall_timeout_ms
    node.observe(WALL_MS, late_ms)
    node.tick()
    assert answers(node) == {}
    tell(node, Safe(epoch=1, seq=3))
    job = answers(node)[1]["job"]
    node.observe(WALL_MS, late_ms + EngineLimits().stall_timeout_ms - 1)
    node.tick()
    ask(node, 3, cmd="GETSTATE", id=job["id"])
    assert answers(node)[3]["state"] == "active"
    node.observe(WALL_MS, late_ms + EngineLimits().stall_timeout_ms)
    node.tick()
    ask(node, 4, cmd="GETSTATE", id=job["id"])
    node.flush()
    tell(node, Safe(epoch=1, seq=4))
    assert answers(node)[4]["state"] == "waiting"


def test_a_full_log_is_replaced_by_a_checkpoint_and_then_changes_go_on() -> None:
    """
    1. The log of all shards has reached its bound. This shard, which has its share of it, takes a
       checkpoint, though by itself it would not yet; changes are refused, and say why.
    2. What was under way is answered, and reading goes on.
    3. The coordinator says that there is room again: changes are taken on.
    """
    limits = EngineLimits(log_bytes_max=1 << 20)
    node = serving(level="durable", limits=limits)
    said(node)
    ask(node, 1, cmd="PUSH", queue=QUEUE, data="x" * (limits.log_bytes_max // 4))
    node.tidy()
    assert [type(message) for message in said(node)] == [Append]
    tell(node, Safe(epoch=1, seq=2, log_full=True))
    assert answers(node)[1]["ok"]
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=2)
    ask(node, 3, cmd="COUNT", queue=QUEUE)
    told = answers(node)
    assert (told[2]["code"], told[2]["retryable"]) == ("busy", True)
    assert "1048576 bytes" in told[2]["error"]
    assert told[3]["ok"]
    node.tidy()
    (piece,) = said(node)
    assert isinstance(piece, CheckpointSlice)
    assert piece.last
    tell(node, CheckpointSafe(epoch=1, generation=piece.generation, last=True))
    node.tidy()
    assert said(node) == []  # there is nothing more to replace
    tell(node, Safe(epoch=1, seq=2))
    node.flush()
    ask(node, 4, cmd="PUSH", queue=QUEUE, data=4)
    node.flush()
    tell(node, Safe(epoch=1, seq=3))
    assert answers(node)[4]["ok"]


def test_log_that_was_recovered_counts_for_the_next_checkpoint() -> None:
    """A shard that is killed before each checkpoint would make its log longer for ever."""
    before = serving()
    ask(before, 1, cmd="PUSHB", queue=QUEUE, jobs=[{"data": "x" * (1 << 19)}] * 2)
    log = [message for message in said(before) if isinstance(message, Append)]
    node = serving(log=[(append.first_seq, append.last_seq, append.records) for append in log])
    node.tidy()
    assert any(isinstance(message, CheckpointSlice) for message in said(node))


def said(node: Node) -> list[Any]:
    """Return what it says to the coordinator."""
    node.flush()
    sent, node.out.coordinator = node.out.coordinator, []
    return [decode_internal(body) for frames in sent for _, body in pairs(frames)]


def test_a_coordinator_that_was_started_anew_hears_of_an_idle_shard_at_once() -> None:
    """Else a cron's job would wait until the shard has been idle for long enough to greet; one that
    does not serve yet greets until it is answered anyway."""
    node = serving()
    said(node)
    node.connected()
    [hello] = said(node)
    assert isinstance(hello, ShardHello)
    assert (hello.shard, hello.epoch) == (0, 1)
    beginning = serving(piece_by_piece=True)
    said(beginning)
    beginning.connected()
    assert said(beginning) == []


def test_what_webhooks_want_leaves_once_it_is_safe_and_from_the_answer_on() -> None:
    """
    1. A webhook is made: the shard says that it follows, so that its maker can be answered.
    2. A job is pushed. What is to be told of it waits, like the push's own answer, for the log.
    3. The webhook is removed: nothing more is told.
    """
    node = serving(level="durable")
    said(node)
    tell(node, Wanted(version=5, pairs=[(QUEUE, "pushed")]))
    assert said(node) == [Heeded(shard=0, version=5)]
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1)
    (append,) = said(node)
    assert isinstance(append, Append)
    assert append.awaited is True
    tell(node, Safe(epoch=1, seq=2))
    (mail,) = said(node)
    assert isinstance(mail, Mail)
    assert isinstance(mail.body, Happened)
    assert (mail.number, mail.body.event, mail.body.data) == (1, "pushed", [b"\x01"])
    tell(node, Wanted(version=6, pairs=[]))
    assert said(node) == [Heeded(shard=0, version=6)]
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=2)
    tell(node, Safe(epoch=1, seq=3))
    assert not [message for message in said(node) if isinstance(message, Mail)]


def test_what_webhooks_want_may_be_known_before_there_is_a_state() -> None:
    """It stands behind the grant, and counts from the first request on."""
    node = serving(before=Wanted(version=5, pairs=[(None, "*")]))
    said(node)
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1)
    said(node)
    tell(node, Safe(epoch=1, seq=2))
    (mail,) = said(node)
    assert isinstance(mail, Mail)
    assert isinstance(mail.body, Happened)
    assert mail.body.event == "pushed"


def test_async_answers_wait_while_storage_lags_also_in_a_shard_that_knew_nothing_durable() -> None:
    """
    1. At level async a push is answered at once.
    2. Storage does not come after: once the oldest record is too old, answers wait for it.
    3. What tells of nothing in the log is answered all the same.
    """
    node = serving()
    ask(node, 1, cmd="PUSH", queue=QUEUE, data=1)
    assert 1 in answers(node)
    node.observe(WALL_MS, MONO_MS + ASYNC_LAG_MS + 1)
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=2)
    ask(node, 3, cmd="STATS")
    assert list(answers(node)) == [3]
    tell(node, Safe(epoch=1, seq=3))
    assert list(answers(node)) == [2]


def test_async_answers_wait_at_once_when_there_is_no_coordinator() -> None:
    """What is written then is in this process alone, however young it is.

    1. The connection to the coordinator ends. A push waits; a read of what is safe does not.
    2. There is another coordinator, which has the log: the push is answered, and the next at once.
    """
    node = serving()
    ask(node, 1, cmd="COUNT", queue=QUEUE)
    node.disconnected()
    ask(node, 2, cmd="COUNT", queue=QUEUE)
    assert list(answers(node)) == [1, 2]
    ask(node, 3, cmd="PUSH", queue=QUEUE, data=1)
    assert list(answers(node)) == []
    node.connected()
    assert list(answers(node)) == []
    tell(node, Safe(epoch=1, seq=node.engine.state.seq))
    assert list(answers(node)) == [3]
    ask(node, 4, cmd="PUSH", queue=QUEUE, data=1)
    assert list(answers(node)) == [4]


def test_a_read_of_what_is_not_safe_is_refused_when_storage_stays_away() -> None:
    """
    1. At level durable a push waits for storage, and reads of what it has changed with it.
    2. Storage does not come. After a while the reads are refused, by the time that `next_deadline`
       says, and so is each further one, at once: nobody waits for ever.
    3. The push still waits, and is answered with its success; what is safe is read again.
    """
    node = serving("durable")
    ask(node, 1, cmd="COUNT", queue=QUEUE)
    assert list(answers(node)) == [1]
    ask(node, 2, cmd="PUSH", queue=QUEUE, data=1)
    ask(node, 3, cmd="COUNT", queue=QUEUE)
    ask(node, 4, cmd="GETJOB", id=12345)
    assert list(answers(node)) == []
    due_ms = node.next_deadline_ms()
    assert due_ms is not None
    while due_ms <= MONO_MS + READ_WAIT_MS:
        node.observe(WALL_MS, due_ms)
        node.tick()
        assert list(answers(node)) == []
        due_ms = node.next_deadline_ms()
        assert due_ms is not None
    node.observe(WALL_MS, due_ms)
    refused = answers(node)
    assert {corr: answer["code"] for corr, answer in refused.items()} == dict.fromkeys(
        (3, 4), "storage_unavailable"
    )
    ask(node, 5, cmd="COUNT", queue=QUEUE)
    ask(node, 6, cmd="STATS")
    assert {corr: answer["ok"] for corr, answer in answers(node).items()} == {5: False, 6: True}
    tell(node, Safe(epoch=1, seq=node.engine.state.seq))
    ask(node, 7, cmd="COUNT", queue=QUEUE)
    told = answers(node)
    assert list(told) == [2, 7]
    assert told[2]["ok"]
    assert told[7]["count"] == 1


def test_a_repeat_of_a_change_is_never_refused_as_a_read() -> None:
    """What was carried out gets its answer, and the same again for each copy."""
    node = serving("durable")
    session = bytes(16)
    for corr in (1, 2):
        ask(node, corr, cmd="PUSH", queue=QUEUE, data=1, session=session, n=1)
    ask(node, 3, cmd="ACK", id=12345, session=session, n=2)
    node.observe(WALL_MS, MONO_MS + READ_WAIT_MS + 1)
    assert answers(node) == {}
    tell(node, Safe(epoch=1, seq=node.engine.state.seq))
    told = answers(node)
    assert [told[corr]["ok"] for corr in (1, 2, 3)] == [True, True, False]
    assert told[3]["code"] != "storage_unavailable"


def test_what_is_written_in_one_turn_is_cut_into_blobs_of_a_bounded_size() -> None:
    """Storage writes a blob as a whole, and everybody waits for a large one."""
    node = serving(limits=EngineLimits(payload_bytes_max=8 * MIB))
    said(node)
    for corr in range(10):
        ask(node, corr, cmd="PUSH", queue=QUEUE, data="x" * (BLOB_BYTES_MAX // 4))
    assert len(answers(node)) == 10
    blobs = [message for message in said(node) if isinstance(message, Append)]
    assert max(len(blob.records) for blob in blobs) <= BLOB_BYTES_MAX
    assert [blob.first_seq for blob in blobs[1:]] == [blob.last_seq + 1 for blob in blobs[:-1]]
    assert blobs[-1].last_seq == node.engine.state.seq


def test_whoever_asks_is_told_and_again_when_the_stream_stands() -> None:
    """What is published before the stream stands reaches nobody."""
    node, wish = serving(), pack_wish(1, "mail")
    node.subscribed(b"\x01" + wish)
    assert node.out.events == [pack_heard(0, wish)]
    node.subscribed(b"\x01")
    assert node.out.events == 2 * [pack_heard(0, wish)]
    node.subscribed(b"\x00" + wish)
    node.subscribed(b"\x00")
    node.subscribed(b"\x01")
    assert len(node.out.events) == 2
