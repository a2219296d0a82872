"""What a shard tells the coordinator for webhooks: in the entry of the change, or not at all."""

from __future__ import annotations

from flashq.protocol import records as r
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.internal import COORDINATOR, Happened
from flashq.shard.hooks import Hooks
from tests.unit.shard.harness import ALICE, NOW_MS, Shard


def told(shard: Shard) -> list[Happened]:
    """What is in the mailbox for the coordinator."""
    box = shard.state.mailboxes.get(COORDINATOR)
    found = [] if box is None else [body for _, _, body in box.pending]
    assert all(isinstance(body, Happened) for body in found)
    return [body for body in found if isinstance(body, Happened)]


def hooked(*pairs: tuple[str | None, str], **options: str) -> Shard:
    """A shard that was told what is wanted."""
    shard = Shard(**options)  # type: ignore[arg-type]
    shard.engine.tell(Hooks(pairs))
    return shard


def test_pairs_match_by_queue_and_event() -> None:
    """Of one queue, of all queues, of all events; nothing else."""
    hooks = Hooks([("mail", "failed"), (None, "completed"), ("audit", "*")])
    assert hooks.want("failed", "mail")
    assert hooks.want("completed", "mail")
    assert hooks.want("completed", "other")
    assert not hooks.want("failed", "other")
    assert not hooks.want("pushed", "mail")
    assert hooks.want("pushed", "audit")
    assert hooks.want("expired", "audit")
    assert not Hooks(())


def test_a_change_and_its_message_are_one_entry() -> None:
    """A crash between them would lose the message, or tell of what never was."""
    shard = hooked(("mail", "pushed"), ("mail", "completed"))
    job = shard.ask("PUSH", queue="mail", data={"a": 1})["id"]
    pushed = shard.log[-1]
    assert [type(record) for record in pushed.records] == [r.Pushed, r.Sent]
    shard.ask("PULL", queue="mail", timeout=0)
    shard.ask("ACK", id=job, result=5)
    assert told(shard) == [
        Happened("pushed", "mail", NOW_MS, [job], None, [encode_msgpack({"a": 1})]),
        Happened("completed", "mail", NOW_MS, [job], None, [encode_msgpack(5)]),
    ]


def test_a_json_payload_is_told_in_messagepack() -> None:
    """The coordinator keeps one encoding."""
    shard = hooked((None, "pushed"))
    shard.ask("PUSH", queue="mail", data={"a": 1}, json=True)
    (happened,) = told(shard)
    assert happened.data == [encode_msgpack({"a": 1})]


def test_a_batch_is_one_message() -> None:
    """As it is one record in the log."""
    shard = hooked((None, "*"))
    ids = shard.ask("PUSHB", queue="mail", jobs=[{"data": n} for n in range(3)])["ids"]
    (happened,) = told(shard)
    assert (happened.ids, happened.data) == (ids, [b"\x00", b"\x01", b"\x02"])


def test_progress_is_told_with_its_number() -> None:
    """In the place of the payload, for there is no other."""
    shard = hooked((None, "progress"))
    job = shard.ask("PUSH", queue="mail", data=1)["id"]
    shard.ask("PULL", queue="mail", timeout=0, session=ALICE, n=1)
    shard.ask("PROGRESS", id=job, progress=40, message="almost")
    (happened,) = told(shard)
    assert happened.data == [encode_msgpack({"progress": 40, "message": "almost"})]


def test_nothing_is_told_of_what_nobody_wants() -> None:
    """Another queue, another event, and after the webhook is gone."""
    shard = hooked(("mail", "failed"))
    shard.ask("PUSH", queue="mail", data=1)
    shard.ask("PUSH", queue="other", data=1)
    shard.engine.tell(Hooks(()))
    job = shard.ask("PULL", queue="mail", timeout=0)["job"]["id"]
    shard.ask("FAIL", id=job, error="why")
    assert told(shard) == []
    assert not shard.events


def test_a_job_of_level_memory_is_told_of_durably() -> None:
    """The job itself is in no log, and the message is."""
    shard = hooked((None, "pushed"))
    shard.ask("PUSH", queue="mail", data=1, durability="memory")
    assert [type(record) for record in shard.log[-1].records] == [r.Sent]
    assert len(told(shard)) == 1
