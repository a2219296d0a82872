"""What a push may cost: debounce windows, and how deep its payload nests."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.shard.handlers import producing
from tests.unit.shard.harness import Shard


class TestDebounceBound:
    """Windows are state that a peer makes, and so are bounded."""

    def test_one_more_is_busy(self, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until one ends; pushes without a window go on, also those that one turns away."""
        monkeypatch.setattr(producing, "DEBOUNCES_MAX", 3)
        said: dict[str, Any] = {"queue": "q", "debounce_ttl": 1000}
        jobs = [{"data": n, "debounce_id": f"{n}", "debounce_ttl": 1000 + n} for n in range(4)]
        reply = shard.ask("PUSHB", queue="q", jobs=jobs)
        assert [job_id is None for job_id in reply["ids"]] == [False, False, False, True]
        assert reply["errors"][0]["code"] == "busy"
        for word in ("PUSH", "FLOW"):
            children = [{"queue": "q", "data": 1}]
            more: dict[str, Any] = {"children": children} if word == "FLOW" else {}
            assert shard.refuse(word, **said, **more, data=1, debounce_id="4")[0] == "busy"
            assert shard.refuse(word, **said, **more, data=1, debounce_id="1")[0] == "debounced"
        shard.push()
        shard.advance(1001)
        shard.push(debounce_id="4")

    def test_the_windows_of_a_queue_that_is_gone_leave_nothing(self, shard: Shard) -> None:
        """Though they would last for ever."""
        for n in range(1200):
            shard.push(data=n, debounce_id="x", debounce_ttl=2**50)
            shard.ask("OBLITERATE", queue="q")
        assert shard.state.debounces.count == 0
        assert len(shard.state.debounces) <= 1025


class TestDepth:
    """One job that nests too deep made lists unreadable for everybody."""

    @pytest.mark.parametrize("json", [False, True])
    def test_every_opaque_field_has_the_same_bound(self, shard: Shard, json: bool) -> None:
        """Payloads and results, wherever they stand."""
        job_id = shard.make_active()
        for levels, is_refused in ((100, False), (101, True), (900, True)):
            value: Any = "x" * 200
            for _ in range(levels):
                value = [value]
            asked: list[tuple[str, dict[str, Any]]] = [
                ("PUSH", {"queue": "q", "data": value}),
                ("PUSH", {"queue": "q", "data": value, "ttl": 10**9}),
                ("FLOW", {"queue": "q", "data": value, "children": [{"queue": "q", "data": 1}]}),
                ("FLOW", {"queue": "q", "data": 1, "children": [{"queue": "q", "data": value}]}),
                ("UPDATEJOB", {"id": job_id, "data": value}),
                ("ACKB", {"ids": [job_id], "results": [value]}),
            ]
            for word, fields in asked:
                answer = shard.answer(shard.send(word, json=json, **fields))
                assert answer is not None
                assert answer["ok"] is not is_refused, (word, levels)
                if is_refused:
                    assert "nests deeper than 100 levels" in answer["error"]
            for batch in ({"payloads": [1, value, 2]}, {"jobs": [{"data": 1}, {"data": value}]}):
                reply = shard.ask("PUSHB", queue="q", json=json, **batch)
                assert (reply["ids"][1] is None) == is_refused
                assert reply["ids"][0] is not None
            job_id = shard.make_active(queue=f"q{levels}")
            ack = shard.answer(shard.send("ACK", json=json, id=job_id, result=value))
            assert ack is not None
            assert ack["ok"] is not is_refused
            job_id = shard.make_active(queue=f"w{levels}")
