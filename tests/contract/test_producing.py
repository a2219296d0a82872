"""PUSH, PUSHB, FLOW and GETCHILDREN, and the refusals of a push in the order of their checks."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.contract.dealer import Dealer
from tests.contract.refusals import refused
from tests.contract.states import NEVER_PUSHED, job_in, pull, push

PAYLOAD_BYTES_MAX: Final = 1024 * 1024
NAME_EMPTY: Final = "Queue name cannot be empty"
NAME_TOO_LONG: Final = "Queue name too long (max 256 chars)"
NAME_BAD: Final = (
    "Queue name must contain only alphanumeric characters, underscores, hyphens, or dots"
)
BAD_NAMES: Final = {
    "": NAME_EMPTY,
    "x" * 257: NAME_TOO_LONG,
    "é" * 129: NAME_TOO_LONG,
    "a b": NAME_BAD,
    "a:b": NAME_BAD,
    "a/b": NAME_BAD,
    "a@b": NAME_BAD,
    "a\n": NAME_BAD,
    "a\0b": NAME_BAD,
}


@pytest.mark.covers("PUSH")
@pytest.mark.parametrize("data", [None, True, 0, -1, 1.5, "é", [], {}, {"a": [1, {"b": None}]}])
def test_any_payload_comes_back_as_it_went_in(dealer: Dealer, queue: str, data: Any) -> None:
    """The payload is the caller's own; null is one too."""
    job_id = push(dealer, queue, data=data)
    job = pull(dealer, queue)
    assert (job["id"], job["data"]) == (job_id, data)
    assert type(job["data"]) is type(data)


@pytest.mark.covers("PUSH")
@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_a_bad_queue_name_is_refused_in_the_words_clients_know(dealer: Dealer, name: str) -> None:
    """Empty first, then too long (in bytes), then characters."""
    text = BAD_NAMES[name]
    assert refused(dealer, "PUSH", queue=name, data=1) == text
    assert refused(dealer, "PUSHB", queue=name, jobs=[{"data": 1}]) == text
    assert refused(dealer, "FLOW", queue=name, data=1, children=[{"queue": "x", "data": 1}]) == text


@pytest.mark.parametrize("name", ["队列", "a", "x" * 256, "é" * 128, "A-1_b.c", "٣"])
def test_letters_and_digits_of_any_script_make_a_name(dealer: Dealer, name: str) -> None:
    """Up to 256 bytes."""
    job_id = push(dealer, name)
    assert dealer.ask("CANCEL", id=job_id) == {"ok": True}


@pytest.mark.covers("PUSH", "PUSHB")
def test_a_payload_above_one_mebibyte_is_refused_with_its_size(dealer: Dealer, queue: str) -> None:
    """Measured as it was received; exactly the bound is taken."""
    text = "Job data too large ({} bytes, max 1048576 bytes)"
    overhead = len(dealer.pair(0, "x" * 70_000)[1]) - 70_000
    fits = "x" * (PAYLOAD_BYTES_MAX - overhead)
    too_large = text.format(PAYLOAD_BYTES_MAX + 1)
    assert refused(dealer, "PUSH", queue=queue, data=fits + "x") == too_large
    reply = dealer.ask("PUSHB", queue=queue, jobs=[{"data": 1}, {"data": fits + "x"}])
    assert (reply["ids"][0] > 0, reply["ids"][1]) == (True, None)
    assert [error["error"] for error in reply["errors"]] == [too_large]
    push(dealer, queue, data=fits, priority=1)
    assert pull(dealer, queue)["data"] == fits
    assert dealer.ask("COUNT", queue=queue)["count"] == 1


@pytest.mark.covers("PUSH")
def test_a_repeated_custom_id_gives_the_first_job(dealer: Dealer, queue: str) -> None:
    """Waiting, active and completed alike, and nothing of the first job changes."""
    first = push(dealer, queue, job_id="mine", data=1)
    assert push(dealer, queue, job_id="mine", data=2) == first
    assert pull(dealer, queue)["data"] == 1
    assert push(dealer, queue, job_id="mine", data=3) == first
    dealer.ask("ACK", id=first)
    assert push(dealer, queue, job_id="mine", data=4) == first
    assert dealer.ask("COUNT", queue=queue)["count"] == 0
    assert push(dealer, f"{queue}-other", job_id="mine") != first


@pytest.mark.covers("PUSH", "PUSHB")
def test_a_taken_unique_key_is_refused_by_name(dealer: Dealer, queue: str) -> None:
    """Taken until the job ends, also by an entry of a batch; then free again."""
    job_id = push(dealer, queue, unique_key="k")
    text = "Duplicate job with key: k"
    assert refused(dealer, "PUSH", queue=queue, data=1, unique_key="k") == text
    reply = dealer.ask(
        "PUSHB", queue=queue, jobs=[{"data": 1, "unique_key": "k"}, {"data": 2, "unique_key": "l"}]
    )
    assert reply["ids"][0] is None
    assert reply["errors"] == [{"index": 0, "error": text, "code": "duplicate"}]
    assert refused(dealer, "PUSH", queue=queue, data=1, unique_key="l").endswith("l")
    assert pull(dealer, queue)["id"] == job_id
    dealer.ask("ACK", id=job_id)
    push(dealer, queue, unique_key="k")


@pytest.mark.covers("PUSH")
def test_a_debounced_push_is_refused_before_all_else(dealer: Dealer, queue: str) -> None:
    """Within the window, whatever its custom id or key would say; a longer window is not begun."""
    text = "Debounced: job with id 'd' was pushed recently"
    push(dealer, queue, debounce_id="d", debounce_ttl=3_600_000, job_id="c", unique_key="u")
    again = {"debounce_id": "d", "job_id": "c", "unique_key": "u"}
    assert refused(dealer, "PUSH", queue=queue, data=1, **again) == text
    push(dealer, f"{queue}-other", debounce_id="d")


@pytest.mark.covers("PUSHB")
def test_a_batch_answers_in_line_with_its_entries(dealer: Dealer, queue: str) -> None:
    """Rising ids in the order of the entries; each entry may say all that a push may."""
    jobs: list[dict[str, Any]] = [{"data": n} for n in range(50)]
    jobs[7] |= {"priority": 9, "tags": ["seven"]}
    reply = dealer.ask("PUSHB", queue=queue, jobs=jobs)
    assert list(reply) == ["ok", "ids"]
    assert reply["ids"] == sorted(reply["ids"])
    assert len(set(reply["ids"])) == 50
    job = pull(dealer, queue)
    assert (job["id"], job["data"], job["tags"]) == (reply["ids"][7], 7, ["seven"])


@pytest.mark.covers("PUSHB")
def test_a_batch_may_be_nothing_but_payloads(dealer: Dealer, queue: str) -> None:
    """`payloads` stands in the place of `jobs`, wherever in the request, and never beside it."""
    long = "x" * (1 << 20)
    plain = dealer.ask("PUSHB", payloads=[{"n": 1}, None, 7], queue=queue)
    later = dealer.ask("PUSHB", queue=queue, payloads=[8, long])
    assert [type(entry) for entry in later["ids"]] == [int, type(None)]
    assert later["errors"][0]["index"] == 1
    assert [pull(dealer, queue)["data"] for _ in range(4)] == [{"n": 1}, None, 7, 8]
    assert plain["ids"] == sorted(plain["ids"])
    assert dealer.ask("PUSHB", payloads=[], queue=queue) == {"ok": True, "ids": []}
    both = "`payloads` stands in the place of `jobs`, not beside it"
    assert both in refused(dealer, "PUSHB", queue=queue, jobs=[{"data": 1}], payloads=[1])
    assert "missing field `jobs`" in refused(dealer, "PUSHB", queue=queue)


@pytest.mark.covers("PUSHB")
def test_a_batch_above_its_bound_is_refused_whole(dealer: Dealer, queue: str) -> None:
    """10,000 are taken, one more is not, and then nothing is."""
    jobs = [{"data": 1}] * 10_001
    text = "Batch too large (10001 jobs, max 10000)"
    assert refused(dealer, "PUSHB", queue=queue, jobs=jobs) == text
    assert dealer.ask("COUNT", queue=queue)["count"] == 0
    assert len(dealer.ask("PUSHB", queue=queue, jobs=jobs[1:])["ids"]) == 10_000
    assert dealer.ask("DRAIN", queue=queue) == {"ok": True, "count": 10_000}
    assert dealer.ask("PUSHB", queue=queue, jobs=[]) == {"ok": True, "ids": []}


@pytest.mark.covers("FLOW", "GETCHILDREN")
def test_a_flow_runs_its_parent_after_its_children(dealer: Dealer, queue: str) -> None:
    """Children in order, over several shards; the parent is told when the last one is done."""
    children = [{"queue": f"{queue}-{n}", "data": n, "priority": n} for n in range(3)]
    flow = dealer.ask("FLOW", queue=queue, data={"p": 1}, children=children, priority=4)
    assert list(flow) == ["ok", "parent_id", "children_ids"]
    parent = flow["parent_id"]
    assert len(set(flow["children_ids"])) == 3
    for n, child in enumerate(flow["children_ids"]):
        job = pull(dealer, f"{queue}-{n}")
        assert (job["id"], job["data"], job["parent_id"]) == (child, n, parent)
        assert job.get("priority", 0) == n
        family = dealer.ask("GETCHILDREN", parent_id=parent)
        assert list(family) == [
            "ok", "parent_id", "children", "children_ids", "completed", "total",
        ]  # fmt: skip
        assert (family["parent_id"], family["total"]) == (parent, 3)
        assert family["children_ids"] == flow["children_ids"]
        if n < 2:
            dealer.ask("ACK", id=child)
    dealer.ask("ACKB", ids=[flow["children_ids"][2]])
    job = dealer.ask("PULL", queue=queue, timeout=10_000)["job"]
    assert (job["id"], job["data"], job["priority"]) == (parent, {"p": 1}, 4)
    assert job["children_completed"] == 3


@pytest.mark.covers("FLOW")
def test_a_flow_takes_the_typescript_clients_name_for_its_payload(
    dealer: Dealer, queue: str
) -> None:
    """`parent_data`, and the parent's options beside it."""
    flow = dealer.ask(
        "FLOW",
        queue=queue,
        parent_data={"p": 2},
        children=[{"queue": queue, "data": 1}],
        tags=["t"],
        max_attempts=2,
    )
    job = dealer.ask("GETJOB", id=flow["parent_id"])["job"]
    assert (job["data"], job["tags"], job["max_attempts"]) == ({"p": 2}, ["t"], 2)


@pytest.mark.covers("FLOW", "GETCHILDREN")
def test_a_flow_without_children_and_children_without_a_flow(dealer: Dealer, queue: str) -> None:
    """Each has its own words."""
    empty = refused(dealer, "FLOW", queue=queue, data=1, children=[])
    assert empty == "Flow must have at least one child"
    job_id = job_in(dealer, queue, "waiting")
    for other in (job_id, 4):
        text = refused(dealer, "GETCHILDREN", parent_id=other)
        assert text == f"Parent job {other} not found"


@pytest.mark.covers("PUSH")
def test_a_dependency_of_another_shard_holds_a_job_back_until_it_is_done(
    dealer: Dealer, queue: str
) -> None:
    """The reply is a normal success; the state is called `waitingchildren`."""
    first = [push(dealer, f"{queue}-{n}") for n in range(3)]
    job_id = push(dealer, queue, depends_on=first)
    assert dealer.ask("GETSTATE", id=job_id)["state"] == "waitingchildren"
    for n, dependency in enumerate(first):
        assert pull(dealer, f"{queue}-{n}")["id"] == dependency
        dealer.ask("ACK", id=dependency)
    assert dealer.ask("PULL", queue=queue, timeout=10_000)["job"]["id"] == job_id


@pytest.mark.covers("PUSH", "PUSHB")
def test_a_dependency_that_can_never_be_met_is_refused(dealer: Dealer, queue: str) -> None:
    """It would be waited for for ever. Of an id older than what is remembered nobody can say
    whether it ever was."""
    never = push(dealer, f"{queue}-other") + 4_000_000
    texts = {
        never: f"unknown dependency: job {never} never existed",
        NEVER_PUSHED: f"dependency no longer known: job {NEVER_PUSHED} ended too long ago",
    }
    for job_id, text in texts.items():
        assert refused(dealer, "PUSH", queue=queue, data=1, depends_on=[job_id]) == text
        reply = dealer.ask("PUSHB", queue=queue, jobs=[{"data": 1, "depends_on": [job_id]}])
        assert reply["ids"] == [None]
        assert [error["error"] for error in reply["errors"]] == [text]
    assert dealer.ask("GETJOBS", queue=queue)["total"] == 0
