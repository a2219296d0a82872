"""Firings of crons: pushes that come by mail."""

from __future__ import annotations

import pytest
from msgspec import msgpack

from flashq.protocol.internal import COORDINATOR, Fire
from tests.unit.shard.harness import Shard


class TestFire:
    def test_a_crons_firing_is_a_push(self, shard: Shard) -> None:
        fire = Fire("cron", 1, 5, "q", b'{"a":1}', True, b"\x81\xa8priority\x07")
        assert shard.mail(COORDINATOR, 1, fire)
        assert shard.mail(COORDINATOR, 1, fire)  # sent again: taken, and nothing more
        job = shard.pull()
        assert (job["data"], job["priority"]) == ({"a": 1}, 7)
        assert shard.pull_ids() == []

    def test_carries_every_option(self, shard: Shard) -> None:
        """Retries, time-outs, tags, retention: what a push can say, a cron can."""
        said = {"max_attempts": 3, "backoff": 50, "timeout": 900, "tags": ["a"], "ttl": 8000}
        options = msgpack.encode({**said, "delay": 20, "keep_completed_age": 70})
        assert shard.mail(COORDINATOR, 1, Fire("cron", 1, 5, "q", b"\x01", False, options))
        assert shard.pull_ids() == []
        shard.advance(20)
        job = shard.job(shard.pull()["id"])
        assert {name: job[name] for name in said} == said
        assert job["keep_completed_age"] == 70

    @pytest.mark.parametrize("key", ["unique_key", "job_id", "debounce_id"])
    def test_one_that_a_key_makes_a_repeat_adds_no_job(self, shard: Shard, key: str) -> None:
        """A slow job is not overtaken by the next firing, and the mail goes on."""
        options = msgpack.encode({key: "one"})
        for number in (1, 2):
            fire = Fire("cron", 1, number, "q", b"\x01", False, options)
            assert shard.mail(COORDINATOR, number, fire)
        assert len(shard.pull_ids()) == 1

    def test_is_of_the_queues_level(self, shard: Shard) -> None:
        shard.ask("QUEUECONFIG", queue="q", durability="memory")
        shard.mail(COORDINATOR, 1, Fire("cron", 1, 5, "q", b"\x01", False, b"\x80"))
        assert shard.state.volatile_jobs == 1
        assert shard.crash().state.volatile_jobs == 0
