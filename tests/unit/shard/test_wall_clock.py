"""What a wall clock that is set back does to a shard: next to nothing."""

from __future__ import annotations

import pytest

from tests.unit.shard.harness import Shard


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_set_back_makes_no_delay_longer_by_that(shard: Shard, restarted: bool) -> None:
    """1. the machine's clock is an hour ahead, and a job is pushed; 2. it is corrected, and
    maybe the shard is killed; 3. a job with a delay of a second is pushed: it once waited for
    an hour and a second, and so did retries, in each next process too."""
    shard.push("other")
    if restarted:
        shard = shard.crash(downtime_ms=-3_600_000)
    else:
        shard.now_ms -= 3_600_000
    job_id = shard.push(delay=1000)
    shard.advance(1000)
    assert shard.state_of(job_id) == "delayed"
    shard.advance(143)
    assert shard.state_of(job_id) == "waiting"
