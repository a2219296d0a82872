"""Jobs of queues that an asker may not name are answered as jobs that do not exist.

A token for some queues only has its door name them as `within`; the shard knows the jobs' queues.
What is asked here comes from the registry, so that a new command is asked too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from flashq.errors import FieldTooLarge
from flashq.protocol.command import Command, Scope
from flashq.protocol.internal import DependencyAnswer, Watch
from flashq.protocol.registry import COMMANDS
from flashq.shard.sight import Sight
from tests.unit.shard.harness import ALICE, BOB, Shard

MINE: Final = ["mail-*", "x"]
ABSENT: Final = 77_777
TEXT: Final = "<id>"

_OTHERS: Final[dict[str, Any]] = {
    "queue": "x",
    "data": 1,
    "delay": 5,
    "priority": 3,
    "message": "m",
    "progress": 50,
    "session": BOB,
    "leases": [],
    "children": [{"queue": "x", "data": 1}],
}
"""What a request has to say besides the job it names."""


def _fields(command: Command) -> list[msgspec.inspect.Field]:
    info = msgspec.inspect.type_info(command.request)
    assert isinstance(info, msgspec.inspect.StructType)
    return list(info.fields)


def _is_of_ids(kind: Any) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_is_of_ids, kind.types))
    if isinstance(kind, msgspec.inspect.ListType):
        return _is_of_ids(kind.item_type)
    return isinstance(kind, msgspec.inspect.IntType)


def _is_list(kind: Any) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_is_list, kind.types))
    return isinstance(kind, msgspec.inspect.ListType)


_NAMES: Final = frozenset({"id", "job_id", "parent_id", "ids", "leases", "depends_on", "jobs"})


def _naming() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each command with each of its fields that name a job, as word and fields; the id's
    place holds TEXT."""
    for command in COMMANDS:
        if command.word == "GETJOBBYCUSTOMID" or command.scope is Scope.COORDINATOR:
            continue  # its `job_id` is a text; the others are not for shards
        said = {field.name for field in _fields(command)}
        for field in _fields(command):
            if field.name == "jobs":
                named: Any = [{"data": 1, "depends_on": [TEXT]}]
            elif field.name not in _NAMES or not _is_of_ids(field.type):
                continue
            else:
                named = [TEXT] if _is_list(field.type) else TEXT
            if field.name == "depends_on" and command.word == "FLOW":
                continue  # a flow has none
            needed = [f.name for f in _fields(command) if f.required and f.name != field.name]
            more = {"data"} & said if command.word != "PUSHB" else set()
            fields = {name: _OTHERS[name] for name in sorted({*needed, *more} & _OTHERS.keys())}
            if command.word == "WAITJOB":
                fields["timeout"] = 0
            yield command.word, {**fields, field.name: named}
            if "token" in said:
                yield command.word, {**fields, field.name: named, "token": 1 << 32}
            if "tokens" in said:
                yield command.word, {**fields, field.name: named, "tokens": [1 << 32]}


CASES: Final = list(_naming())


def _with_id(value: Any, job_id: int) -> Any:
    if isinstance(value, dict):
        return {key: _with_id(each, job_id) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_id(each, job_id) for each in value]
    return job_id if value == TEXT else value


def _told(answer: Any, job_id: int) -> str:
    """Return an answer without the number that the question had in it."""
    return repr(answer).replace(str(job_id), TEXT)


def _foreign(shard: Shard) -> dict[str, int]:
    """Return a job of a queue that is not ours, in each state."""
    queue = "other"
    failed = shard.make_failed(queue=queue)
    completed = shard.make_completed(result="secret", queue=queue)
    gone = shard.make_completed(queue=queue, remove_on_complete=True)
    cancelled = shard.push(queue=queue)
    shard.ask("CANCEL", id=cancelled)
    active = shard.push(queue=queue)
    shard.ask("PULL", queue=queue, session=ALICE, n=1)
    first = shard.push(queue="first")
    children = [{"queue": queue, "data": "secret"}]
    flow = shard.ask("FLOW", queue=queue, data=1, children=children)
    return {
        "failed": failed,
        "completed": completed,
        "gone": gone,
        "cancelled": cancelled,
        "active": active,
        "parked": shard.push(queue=queue, depends_on=[first]),
        "delayed": shard.push(queue=queue, delay=10**6),
        "waiting": shard.push(queue=queue, data="secret"),
        "parent": flow["parent_id"],
        "child": flow["children_ids"][0],
    }


@pytest.mark.parametrize(("word", "fields"), CASES, ids=lambda each: str(each)[:60])
def test_a_foreign_job_is_answered_as_one_that_does_not_exist(
    word: str, fields: dict[str, Any]
) -> None:
    """In the same words, and nothing happens to it. A token of an older epoch finds out nothing
    either: a worker that names one is given what a crash may have lost."""
    asked = 0
    for state in _foreign(Shard(epoch=5)):
        shard = Shard(epoch=5)
        job_id = _foreign(shard)[state]
        before = repr(shard.state.index.get(job_id))
        answers = []
        for each in (job_id, ABSENT):
            corr = shard.send(word, **_with_id(fields, each), within=MINE)
            answers.append(_told(shard.answer(corr), each))
            asked += 1
        assert answers[0] == answers[1], state
        assert "secret" not in answers[0]
        assert repr(shard.state.index.get(job_id)) == before, state
    assert asked == 20


def test_every_command_that_names_jobs_is_asked() -> None:
    """The list is derived: this says that it is not empty."""
    words = {word for word, _ in CASES}
    assert words >= {
        *("GETJOB", "GETSTATE", "GETRESULT", "WAITJOB", "GETJOBSBATCH", "GETCHILDREN", "GETLOGS"),
        *("ACK", "ACKB", "FAIL", "RELEASE", "HEARTBEAT", "PROGRESS", "GETPROGRESS"),
        *("MOVETODELAYED", "CANCEL", "CHANGEPRIORITY", "PROMOTE", "UPDATEJOB", "DISCARD", "LOG"),
        *("PUSH", "PUSHB", "SESSIONHEARTBEAT", "RETRYDLQ"),
    }  # fmt: skip


class TestMine:
    def test_one_of_these_queues_is_there(self, shard: Shard) -> None:
        job_id = shard.push(queue="mail-1")
        assert shard.ask("GETSTATE", id=job_id, within=MINE)["state"] == "waiting"
        dependent = shard.push(queue="x", depends_on=[job_id], within=MINE)
        assert shard.state_of(dependent) == "waitingchildren"

    def test_foreign_ones_among_many_are_left_out(self, shard: Shard) -> None:
        mine, foreign = shard.push(queue="a"), shard.push(queue="b")
        shard.ask("PULLB", queue="a", count=1)
        shard.ask("PULLB", queue="b", count=1)
        asked = [mine, foreign, mine + 40]
        assert shard.ask("ACKB", ids=asked, within=["a"])["lost"] == asked[1:]
        assert shard.state_of(foreign) == "active"
        jobs = shard.ask("GETJOBSBATCH", ids=asked, within=["a"])["jobs"]
        assert [job["id"] for job in jobs] == [mine]

    def test_a_repeat_is_answered_after_the_job_is_gone(self, shard: Shard) -> None:
        job_id = shard.push(queue="a", remove_on_complete=True)
        shard.ask("PULL", queue="a")
        said: dict[str, Any] = {"id": job_id, "within": ["a"], "session": ALICE, "n": 3}
        assert shard.ask("ACK", **said) == shard.ask("ACK", **said)


class TestFlows:
    def test_children_of_other_queues_are_not_shown(self, shard: Shard) -> None:
        """Neither their bodies nor their ids, wherever a flow is shown."""
        children = [{"queue": "a", "data": 1}, {"queue": "b", "data": "secret"}]
        said: dict[str, Any] = {"queue": "a", "data": 0, "children": children, "job_id": "flow"}
        parent, (mine, foreign) = (shard.ask("FLOW", **said)[key] for key in _FLOW)
        told = shard.ask("GETCHILDREN", parent_id=parent, within=["a"])
        assert told["children_ids"] == [mine]
        assert [job["id"] for job in told["children"]] == [mine]
        assert shard.ask("FLOW", **said, within=["a"])["children_ids"] == [mine]
        assert shard.ask("FLOW", **said)["children_ids"] == [mine, foreign]
        job = shard.ask("GETJOB", id=parent, within=["a"])["job"]
        assert job["children_ids"] == [mine]
        listed = shard.ask("GETJOBS", queue="a", within=["a"])["jobs"]
        assert [each.get("children_ids") for each in listed] == [None, [mine]]
        shard.check_recovery()

    def test_a_parent_of_another_queue_is_not_named(self, shard: Shard) -> None:
        flow = shard.ask("FLOW", queue="b", data=0, children=[{"queue": "a", "data": 1}])
        (child,) = flow["children_ids"]
        assert shard.ask("GETJOB", id=child)["job"]["parent_id"] == flow["parent_id"]
        assert "parent_id" not in shard.ask("GETJOB", id=child, within=["a"])["job"]
        pulled = shard.ask("PULL", queue="a", within=["a"], timeout=0)["job"]
        assert "parent_id" not in pulled


_FLOW: Final = ("parent_id", "children_ids")


class TestOtherShards:
    def test_a_dependency_there_is_asked_after_with_what_may_be_seen(self) -> None:
        shard = Shard(0, 2)
        shard.send("PUSH", queue="x", data=1, depends_on=[41], within=MINE)
        (mail,) = shard.state.mailboxes[1].pending
        assert mail[2] == Watch(41, 2, tuple(MINE))

    @pytest.mark.parametrize("queue", ["b", None])
    def test_a_foreign_one_never_existed(self, queue: str | None) -> None:
        shard = Shard(0, 2)
        job_id = 998 if queue is None else shard.push(queue=queue)
        assert shard.mail(1, 1, Watch(job_id, 47, ("a", "mail-*")))
        (mail,) = shard.state.mailboxes[1].pending
        assert mail[2] == DependencyAnswer(job_id, 47, "unknown")


def test_many_queues_with_long_names_are_too_many() -> None:
    """What a request may cost is bounded, also where each part of it is."""
    sight = Sight(["*a*b"])
    names = [f"{n}".rjust(256, "a") for n in range(257)]
    assert not any(map(sight.has, names[:-1]))
    with pytest.raises(FieldTooLarge, match="long names"):
        sight.has(names[-1])
    assert not sight.has(names[0]), "it has been looked at"
    assert not Sight(["b"]).has("a" * 5000)
